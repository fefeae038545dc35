//! What runs leave on their records: progress, log lines and checkpoints, under their lease, within limits.

use ferroq_core::job::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX, Progress};

use super::prelude::*;

topic! {
    ($) annotate, __conformance_annotate:
    progress_replaces_the_progress_before,
    log_lines_carry_their_run_and_time,
    the_last_log_lines_are_kept,
    a_log_line_is_cut_between_characters,
    a_checkpoint_comes_with_the_next_claim,
    a_checkpoint_replaces_the_one_before,
    a_note_may_hold_everything_at_once,
    an_empty_note_changes_nothing,
    each_note_gets_its_own_answer,
    notes_outlive_the_job_s_runs,
}

fn progress(done: u64) -> Note {
    let progress = Progress { done, total: 10, note: Some(format!("step {done} \"'%\u{5e9}")) };
    Note { progress: Some(progress), ..Note::default() }
}

fn log(lines: &[&str]) -> Note {
    Note { log: lines.iter().map(|line| (*line).to_owned()).collect(), ..Note::default() }
}

fn checkpoint(bytes: &[u8]) -> Note {
    Note { checkpoint: Some(Scene::bytes(bytes)), ..Note::default() }
}

async fn claimed(t: &Scene) -> Lease {
    t.put_one(t.spec()).await;
    t.claim_one().await.lease
}

async fn progress_replaces_the_progress_before(t: &mut Scene) {
    let lease = claimed(t).await;
    for done in [1, 7] {
        let seen = t.last_event().await;
        assert_eq!(t.annotate(lease, progress(done)).await, NoteAnswer::Noted);
        assert_eq!(t.record(lease.id).await.notes.progress, progress(done).progress);
        assert_eq!(t.happened_after(seen).await, [(EventKind::Progress, Some(lease.id))]);
    }
}

async fn log_lines_carry_their_run_and_time(t: &mut Scene) {
    let lease = claimed(t).await;
    let first_at = t.clock();
    t.annotate(lease, log(&["one", "two"])).await;
    t.settle(lease, fail(Duration::ZERO)).await;
    let lease = t.claim_one().await.lease;
    t.advance(SECOND);
    t.annotate(lease, log(&["three"])).await;
    let lines: Vec<_> =
        t.record(lease.id).await.notes.log.into_iter().map(|line| (line.at, line.run, line.text)).collect();
    let expected = [(first_at, 1, "one"), (first_at, 1, "two"), (t.clock(), 2, "three")];
    assert_eq!(lines, expected.map(|(at, run, text)| (at, run, text.to_owned())));
}

async fn the_last_log_lines_are_kept(t: &mut Scene) {
    let lease = claimed(t).await;
    let lines: Vec<String> = (0..LOG_LINES_MAX + 20).map(|n| format!("line {n}")).collect();
    for part in lines.chunks(50) {
        t.annotate(lease, Note { log: part.to_vec(), ..Note::default() }).await;
    }
    let kept: Vec<_> = t.record(lease.id).await.notes.log.into_iter().map(|line| line.text).collect();
    assert_eq!(kept, lines[20..]);
}

async fn a_log_line_is_cut_between_characters(t: &mut Scene) {
    let lease = claimed(t).await;
    t.annotate(lease, log(&[&"\u{65e5}".repeat(LOG_LINE_BYTES_MAX)])).await;
    assert_eq!(t.record(lease.id).await.notes.log[0].text, "\u{65e5}".repeat(LOG_LINE_BYTES_MAX / 3));
}

async fn a_checkpoint_comes_with_the_next_claim(t: &mut Scene) {
    let lease = claimed(t).await;
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(t.annotate(lease, checkpoint(&bytes)).await, NoteAnswer::Noted);
    t.let_leases_expire().await;
    let claim = t.claim_one().await;
    assert_eq!(claim.checkpoint, Some(Scene::bytes(&bytes)));
}

async fn a_checkpoint_replaces_the_one_before(t: &mut Scene) {
    let lease = claimed(t).await;
    t.annotate(lease, checkpoint(b"first")).await;
    t.annotate(lease, log(&["a line"])).await;
    assert_eq!(t.record(lease.id).await.notes.checkpoint, Some(Scene::bytes(b"first")), "unset leaves it");
    t.annotate(lease, checkpoint(b"")).await;
    assert_eq!(t.record(lease.id).await.notes.checkpoint, Some(Scene::bytes(b"")));
}

async fn a_note_may_hold_everything_at_once(t: &mut Scene) {
    let lease = claimed(t).await;
    let note = Note { log: vec!["a".to_owned()], checkpoint: Some(Scene::bytes(b"c")), ..progress(3) };
    assert_eq!(t.annotate(lease, note.clone()).await, NoteAnswer::Noted);
    let notes = t.record(lease.id).await.notes;
    assert_eq!((notes.progress, notes.checkpoint), (note.progress, note.checkpoint));
    assert_eq!(notes.log.len(), 1);
}

async fn an_empty_note_changes_nothing(t: &mut Scene) {
    let lease = claimed(t).await;
    t.annotate(lease, progress(1)).await;
    let before = t.record(lease.id).await;
    let seen = t.last_event().await;
    assert_eq!(t.annotate(lease, Note::default()).await, NoteAnswer::Noted);
    assert_eq!(t.record(lease.id).await, before);
    assert_eq!(t.happened_after(seen).await, []);
}

async fn each_note_gets_its_own_answer(t: &mut Scene) {
    t.put_many(2).await;
    let claims = t.claim(2).await;
    let nobody = Lease { id: JobId::new(), epoch: 1 };
    let stale = Lease { epoch: claims[0].lease.epoch - 1, ..claims[0].lease };
    let notes = vec![
        (claims[1].lease, progress(1)),
        (nobody, progress(2)),
        (stale, progress(3)),
        (claims[0].lease, log(&["x"])),
        (claims[1].lease, progress(5)),
    ];
    let answers = t.storage().annotate(&t.queue, notes).await.expect("annotate");
    let (noted, gone, lost) = (NoteAnswer::Noted, NoteAnswer::Gone, NoteAnswer::LeaseLost);
    assert_eq!(answers, [noted, gone, lost, noted, noted]);
    assert_eq!(t.record(claims[0].lease.id).await.notes.progress, None);
    assert_eq!(t.record(claims[1].lease.id).await.notes.progress, progress(5).progress, "the later one stays");
}

async fn notes_outlive_the_job_s_runs(t: &mut Scene) {
    let lease = claimed(t).await;
    let note = Note { log: vec!["a".to_owned()], checkpoint: Some(Scene::bytes(b"c")), ..progress(3) };
    t.annotate(lease, note.clone()).await;
    t.settle(lease, completed()).await;
    let notes = t.record(lease.id).await.notes;
    assert_eq!((notes.progress, notes.checkpoint, notes.log.len()), (note.progress, note.checkpoint, 1));
}
