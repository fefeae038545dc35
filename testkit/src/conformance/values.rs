//! What callers put in comes out to the byte: hostile names, binary payloads, and very many jobs at once.

use ferroq_core::job::{
    CodecTag, CorrelationId, LaneKey, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX_DEFAULT, Payload, Tag, WorkerId,
};

use super::prelude::*;

topic! {
    ($) values, __conformance_values:
    hostile_queue_names_keep_their_queues_apart,
    hostile_kinds_keep_their_shelves_apart,
    hostile_keys_keep_their_holders_apart,
    hostile_tags_and_lanes_are_found_exactly,
    hostile_texts_are_kept_to_the_letter,
    payloads_are_kept_to_the_byte,
    a_payload_of_a_mebibyte_is_kept,
    ten_thousand_jobs_go_through_in_one_call_each,
    ten_thousand_leases_are_renewed_and_lost,
    ten_thousand_jobs_are_cancelled_by_id,
}

fn hostile() -> Vec<String> {
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "%",
        "_",
        "a%",
        "a_",
        "*",
        "?",
        "[a]",
        "'",
        "''",
        "\"",
        "`",
        ";",
        "--",
        "/*",
        "\\",
        "\\'",
        "'; DROP TABLE ferroq_jobs; --",
        "a:b",
        "a.b",
        "a/b",
        "a,b",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        "\u{202e}abc",
        "\u{e9}",
        "e\u{301}",
        "\u{df}",
        "ss",
        "\u{1f980}",
        "null",
        "NULL",
        "0",
        "00",
        "1e3",
        "$1",
        "?1",
        ":x",
        "@x",
        "\u{feff}a",
        "i",
        "\u{131}",
        "I",
    ];
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.push("x".repeat(NAME_BYTES_MAX));
    names.push("x".repeat(NAME_BYTES_MAX - 1));
    names.push(format!("{}\u{1f980}", "x".repeat(NAME_BYTES_MAX - 4)));
    names
}

async fn hostile_queue_names_keep_their_queues_apart(t: &mut Scene) {
    let mut names: Vec<_> = hostile().iter().map(|name| queue_name(name)).collect();
    let mut put = Vec::new();
    for name in &names {
        put.push(t.put_one(spec(name)).await);
    }
    for (name, id) in names.iter().zip(&put) {
        let counts = t.storage().counts(name).await.expect("counts");
        assert_eq!(counts.waiting, 1, "{name:?}");
        let claims = t.storage().claim(None, name, t.asking(10)).await.expect("claim").claims;
        assert_eq!(ids(&claims), [*id], "{name:?}");
        assert_eq!(&claims[0].spec.queue, name);
        let dump = dump_queue(t.storage(), name, 10).await;
        assert_eq!((dump.jobs.len(), dump.jobs[0].id()), (1, *id));
        let events = t.storage().events(name, EventCursor::default(), 10).await.expect("events").events;
        assert_eq!(events.len(), 2, "{name:?}");
    }
    names.sort();
    assert_eq!(t.storage().queues().await.expect("queues"), names);
}

async fn hostile_kinds_keep_their_shelves_apart(t: &mut Scene) {
    let kinds = hostile();
    let put = t.put(kinds.iter().map(|name| t.spec().of_kind(name))).await;
    assert_eq!(t.claim(1000).await, []);
    assert_eq!(t.counts().await.shelved.len(), kinds.len());
    for (name, id) in kinds.iter().zip(&put) {
        let answer = t.claim_as(t.asking_for(&[name], 10)).await;
        assert_eq!(ids(&answer.claims), [*id], "{name:?}");
        assert_eq!(answer.claims[0].spec.kind.as_str(), name);
    }
}

async fn hostile_keys_keep_their_holders_apart(t: &mut Scene) {
    let keys = hostile();
    let jobs = |mode| keys.iter().map(move |key| (key, mode));
    let put = t.put(jobs(DedupMode::UntilFinished).map(|(key, mode)| t.spec().dedup(key, mode))).await;
    let again = t.enqueue(jobs(DedupMode::WhileKept).map(|(key, mode)| t.spec().dedup(key, mode))).await;
    assert_eq!(again, put.iter().map(|id| EnqueueAnswer::Duplicate(*id)).collect::<Vec<_>>());
    t.act(put[4], Act::Cancel).await;
    let again = t.enqueue(jobs(DedupMode::WhileKept).map(|(key, mode)| t.spec().dedup(key, mode))).await;
    let inserted = again.iter().filter(|answer| **answer == EnqueueAnswer::Inserted).count();
    assert_eq!(inserted, 1, "only one key came free");
}

async fn hostile_tags_and_lanes_are_found_exactly(t: &mut Scene) {
    let names = hostile();
    let put = t
        .put(names.iter().map(|name| {
            let mut spec = t.spec().tag("every").tag(name);
            spec.lane = LaneKey::new(name).expect("a good lane");
            spec
        }))
        .await;
    for (name, id) in names.iter().zip(&put) {
        let tag = Some(Tag::new(name).expect("a good tag"));
        let by_tag = t.list(JobFilter { tag, ..JobFilter::default() }, 1000).await;
        assert_eq!(by_tag.iter().map(|record| record.id()).collect::<Vec<_>>(), [*id], "{name:?}");
        let lane = Some(LaneKey::new(name).expect("a good lane"));
        let by_lane = t.list(JobFilter { lane, ..JobFilter::default() }, 1000).await;
        assert_eq!(by_lane.iter().map(|record| record.id()).collect::<Vec<_>>(), [*id], "{name:?}");
    }
}

async fn hostile_texts_are_kept_to_the_letter(t: &mut Scene) {
    for text in hostile() {
        let worker = WorkerId::new(&text).expect("a good worker id");
        let correlation = CorrelationId::new(&text).expect("a good correlation id");
        let message = format!("{text}\0\n\t\u{1b}[31m{text}");
        let job = t.spec().options(|options| {
            options.correlation_id = Some(correlation.clone());
            options.trace_context = Some(message.clone());
        });
        let id = t.put_one(job.clone()).await;
        let claim = t.claim_as(ClaimSpec { worker: worker.clone(), ..t.asking(1) }).await.claims.remove(0);
        assert_eq!(*claim.spec, job);
        t.annotate(claim.lease, Note { log: vec![message.clone()], ..Note::default() }).await;
        let error = RunError::new(ErrorKind::Error, message.clone());
        t.settle(claim.lease, Outcome::Abort { error }).await;
        let record = t.record(id).await;
        assert_eq!((record.worker, &*record.spec), (Some(worker), &job));
        assert_eq!((&record.notes.errors[0].message, &record.notes.log[0].text), (&message, &message));
    }
}

async fn payloads_are_kept_to_the_byte(t: &mut Scene) {
    let all: Vec<u8> = (0..=255).collect();
    let payloads: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0, 0],
        all.clone(),
        all.iter().rev().copied().collect(),
        b"\xff\xfe\0'\"".to_vec(),
    ];
    for bytes in payloads {
        for (codec, version) in [(CodecTag::Json, 0), (CodecTag::Bincode, u16::MAX)] {
            let payload = Payload { codec, version, bytes: bytes.clone().into() };
            let mut job = t.spec();
            job.payload = payload.clone();
            let id = t.put_one(job).await;
            let claim = t.claim_one().await;
            assert_eq!(claim.spec.payload, payload);
            t.annotate(claim.lease, Note { checkpoint: Some(payload.clone()), ..Note::default() }).await;
            t.settle(claim.lease, Outcome::Completed { result: Some(payload.clone()) }).await;
            let record = t.record(id).await;
            assert_eq!(record.spec.payload, payload);
            assert_eq!((record.notes.checkpoint, record.notes.result), (Some(payload.clone()), Some(payload)));
        }
    }
}

async fn a_payload_of_a_mebibyte_is_kept(t: &mut Scene) {
    let bytes: Vec<u8> = (0..PAYLOAD_BYTES_MAX_DEFAULT).map(|n| (n % 251) as u8).collect();
    let id = t.put_one(t.spec().payload(bytes.clone())).await;
    let claim = t.claim_one().await;
    assert!(claim.spec.payload.bytes == bytes, "the claim's payload differs");
    t.settle(claim.lease, Outcome::Completed { result: Some(Scene::bytes(&bytes)) }).await;
    let record = t.record(id).await;
    assert!(record.spec.payload.bytes == bytes, "the record's payload differs");
    assert!(record.notes.result.is_some_and(|result| result.bytes == bytes), "the result differs");
}

const MANY: usize = 10_000;

async fn ten_thousand_jobs_go_through_in_one_call_each(t: &mut Scene) {
    let put = t.put_many(MANY).await;
    assert_eq!(t.counts().await.waiting, MANY as u64);
    let answer = t.claim_as(t.asking(MANY)).await;
    assert_eq!((ids(&answer.claims) == put, answer.more), (true, false), "all of them, in their order");
    let settlements = answer.claims.iter().map(|claim| settlement(claim.lease, completed())).collect();
    let answers = t.settle_all(settlements).await;
    assert!(answers.iter().all(|answer| *answer == settled(JobState::Completed)));
    assert_eq!(t.counts().await.completed, MANY as u64);
    t.advance(DAY);
    assert_eq!(t.sweep(MANY).await.pruned, MANY);
    assert_eq!(t.counts().await, QueueCounts::default());
}

async fn ten_thousand_leases_are_renewed_and_lost(t: &mut Scene) {
    t.put_many(MANY).await;
    let leases: Vec<_> = t.claim(MANY).await.iter().map(|claim| claim.lease).collect();
    let request = RenewRequest { queue: t.queue.clone(), leases: leases.clone(), term: TERM };
    let answers = t.storage().renew(request).await.expect("renew");
    assert_eq!(answers.len(), MANY);
    assert!(answers.iter().all(|answer| *answer == RenewAnswer::Renewed { cancel_requested: false }));
    t.attend_for(TERM).await;
    let first = t.sweep(MANY - 1).await;
    assert_eq!((first.stalled, first.more), (MANY - 1, true));
    let second = t.sweep(MANY).await;
    assert_eq!((second.stalled, second.more), (1, false));
    let answers = t.settle_all(leases.iter().map(|lease| settlement(*lease, completed())).collect()).await;
    assert!(answers.iter().all(|answer| *answer == SettleAnswer::LeaseLost));
    let answer = t.storage().obliterate(&t.queue, false, MANY).await.expect("obliterate");
    assert_eq!(answer, ObliterateAnswer::Done);
}

async fn ten_thousand_jobs_are_cancelled_by_id(t: &mut Scene) {
    let put = t.put_many(MANY).await;
    let report = t.act_on(Selection::Ids(put.clone()), Act::Cancel).await;
    assert_eq!(report.answers.len(), MANY);
    assert!(report.answers.iter().all(|(_, answer)| *answer == ActAnswer::Done(JobState::Cancelled)));
    let report = t.act_on(Selection::Ids(put), Act::Remove).await;
    assert!(report.answers.iter().all(|(_, answer)| *answer == ActAnswer::Done(JobState::Cancelled)));
}
