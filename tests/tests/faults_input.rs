//! What users may hand in: values at the limit and one byte over it, and names chosen to break out of whatever they are
//! put into. What is taken comes back as it was given; what is refused is refused with a reason and leaves nothing.

use std::sync::{Arc, Mutex};

use ferroq_core::client::{Client, ClientError, JobHandle, WaitError};
use ferroq_core::codec::CodecError;
use ferroq_core::context::{Context, ContextError};
use ferroq_core::handler::JobResult;
use ferroq_core::job::{
    FailReason, Job, JobKind, JobSpec, JobState, LaneKey, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX_DEFAULT, Payload,
    QueueName, Tag,
};
use ferroq_core::policy::dedup::DedupMode;
use ferroq_core::storage::{Effect, EnqueueAnswer, JobFilter};
use ferroq_core::worker::Worker;
use ferroq_testkit::harness::audit;
use ferroq_tests::store::each;
use serde::{Deserialize, Serialize};

const QUEUE: &str = "work";

/// Text is as long as its length plus two quotes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Text(String);

impl Job for Text {
    const NAME: &'static str = "test.text";
    const QUEUE: &'static str = QUEUE;
    type Output = String;
}

impl Text {
    fn of_bytes(bytes: usize) -> Self {
        Text("x".repeat(bytes - 2))
    }
}

async fn give_back(job: Text, _cx: Context) -> JobResult<String> {
    Ok(job.0)
}

fn is_too_large(error: &ClientError, what: &str, bytes: usize) -> bool {
    matches!(error, ClientError::Codec(CodecError::TooLarge { what: found, bytes: size, .. }) if *found == what && *size == bytes)
}

#[tokio::test]
async fn a_payload_and_a_result_at_the_limit_pass_and_one_byte_more_is_refused() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let limit = PAYLOAD_BYTES_MAX_DEFAULT;
        let handle = client.enqueue(Text::of_bytes(limit)).await.expect("at the limit");
        let error = client.enqueue(Text::of_bytes(limit + 1)).await.expect_err("one over");
        assert!(is_too_large(&error, "payload", limit + 1), "{error}");
        assert_eq!((error.effect(), error.is_retryable()), (Effect::None, false));
        assert!(error.to_string().contains("store large data elsewhere"), "it says what to do: {error}");
        let error = client.enqueue_all([Text::of_bytes(9), Text::of_bytes(limit + 1)]).await.expect_err("one over");
        assert!(is_too_large(&error, "payload", limit + 1), "{error}");
        let counts = client.queue(QUEUE).expect("a name").counts().await.expect("counts");
        assert_eq!(counts.live(), 1, "{}: what was refused left nothing", store.name);
        Worker::new(&client).handle(give_back).run_until_idle().await.expect("run");
        assert_eq!(handle.wait().await.expect("it completes").len(), limit - 2, "{}", store.name);
        audit(store.storage.as_ref(), &QueueName::new(QUEUE).expect("a name")).await;
    }
}

#[tokio::test]
async fn a_payload_over_the_workers_limit_is_refused_before_it_is_read() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle = client.enqueue(Text::of_bytes(101)).await.expect("enqueue");
        let small = client.enqueue(Text::of_bytes(100)).await.expect("enqueue");
        let worker = Worker::new(&client.clone().with_payload_bytes_max(100));
        worker.handle(give_back).run_until_idle().await.expect("run");
        match handle.wait().await {
            Err(WaitError::Failed { reason: FailReason::Aborted, errors }) => {
                assert!(errors[0].message.contains("101 bytes"), "{}", errors[0].message);
            }
            other => panic!("{}: {other:?}", store.name),
        }
        assert_eq!(small.wait().await.expect("it completes").len(), 98);
    }
}

/// Returns and saves so many bytes.
#[derive(Serialize, Deserialize)]
struct Produce {
    result: usize,
    checkpoint: usize,
}

impl Job for Produce {
    const NAME: &'static str = "test.produce";
    const QUEUE: &'static str = QUEUE;
    type Output = Text;
}

async fn produce(job: Produce, cx: Context) -> JobResult<Text> {
    match cx.checkpoint(&Text::of_bytes(job.checkpoint)).await {
        Err(ContextError::Codec(CodecError::TooLarge { what: "checkpoint", .. })) if job.checkpoint == 101 => {}
        Ok(()) if job.checkpoint <= 100 => {}
        other => panic!("a checkpoint of {}: {other:?}", job.checkpoint),
    }
    Ok(Text::of_bytes(job.result))
}

#[tokio::test]
async fn a_result_or_checkpoint_over_the_limit_is_an_error_and_not_a_truncation() {
    for store in each().await {
        let client = Client::new(store.storage.clone()).with_payload_bytes_max(100);
        let fits = client.enqueue(Produce { result: 100, checkpoint: 100 }).await.expect("enqueue");
        let over = client.enqueue(Produce { result: 101, checkpoint: 101 }).await.expect("enqueue");
        Worker::new(&client).handle(produce).run_until_idle().await.expect("run");
        assert_eq!(fits.wait().await.expect("it completes").0.len(), 98, "{}", store.name);
        let record = fits.record().await.expect("record").expect("kept");
        assert_eq!(record.notes.checkpoint.expect("saved").len(), 100);
        match over.wait().await {
            Err(WaitError::Failed { reason: FailReason::Aborted, errors }) => {
                assert!(errors[0].message.contains("the result is 101 bytes"), "{}", errors[0].message);
            }
            other => panic!("{}: {other:?}", store.name),
        }
        let record = over.record().await.expect("record").expect("kept");
        assert_eq!((record.notes.checkpoint, record.notes.result), (None, None), "{}", store.name);
    }
}

#[tokio::test]
async fn json_ten_thousand_deep_fails_its_job_and_harms_nothing() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let queue = QueueName::new(QUEUE).expect("a name");
        let spec = JobSpec::new(queue.clone(), JobKind::new(Text::NAME).expect("a kind"), Payload::json(deep.clone()));
        let id = spec.id;
        let answers = client.enqueue_batch(vec![Arc::new(spec)]).await.expect("bytes are bytes to a storage");
        assert_eq!(answers, [EnqueueAnswer::Inserted]);
        Worker::new(&client).handle(give_back).run_until_idle().await.expect("run");
        let record = client.job(id).await.expect("job").expect("kept");
        assert_eq!((record.state, record.failure), (JobState::Failed, Some(FailReason::Aborted)), "{}", store.name);
        assert_eq!(record.spec.payload.bytes, deep, "{}: kept for whoever looks into it", store.name);
        audit(store.storage.as_ref(), &queue).await;
    }
}

/// Names that are allowed, and that something careless would trip over.
fn hostile() -> Vec<String> {
    let mut names: Vec<String> = [
        "it's \"quoted\"; DROP TABLE ferroq_jobs; --",
        "' OR '1'='1",
        "100% _like_ *glob* [a-z]? \\ /",
        "a:b::c:",
        "..",
        "../../etc/passwd",
        " leading and trailing ",
        "null",
        "-1",
        "$1 ?1 @a :b",
        "<script>alert(1)</script>",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{645}\u{631}\u{62d}\u{628}\u{627}",
        "right-to-left \u{202e}override",
        "e\u{301} and \u{e9}",
        "\u{1f980}\u{200d}\u{1f527}",
        "CaSe",
        "case",
        "\u{10ffff}",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(NAME_BYTES_MAX));
    names.push("\u{65e5}".repeat(NAME_BYTES_MAX / 3));
    names
}

/// Names that are refused, with a part of the reason.
fn refused() -> [(String, &'static str); 9] {
    [
        (String::new(), "empty"),
        ("line\nbreak".to_owned(), "control character"),
        ("carriage\rreturn".to_owned(), "control character"),
        ("tab\t".to_owned(), "control character"),
        ("nul\0".to_owned(), "control character"),
        ("\u{85}next line".to_owned(), "control character"),
        ("{slot}".to_owned(), "braces"),
        ("x".repeat(NAME_BYTES_MAX + 1), "129 bytes"),
        ("\u{65e5}".repeat(43), "129 bytes"),
    ]
}

/// What a handler saw of its job: (queue, lane, correlation id).
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

async fn look(_job: Text, cx: Context<Seen>) -> JobResult<String> {
    let lane = cx.spec().lane.name().unwrap_or_default().to_owned();
    let correlation = cx.correlation_id().map(|id| id.to_string()).unwrap_or_default();
    cx.state().lock().expect("seen").push((cx.queue().to_string(), lane, correlation));
    Ok(String::new())
}

#[tokio::test]
async fn hostile_names_come_back_as_they_were_given() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let seen = Seen::default();
        let mut worker = Worker::new(&client).state(seen.clone()).handle(look);
        for name in hostile() {
            let enqueue = |text: &str| {
                let job =
                    client.enqueue(Text(text.to_owned())).queue(&name).lane(&name).tag(&name).correlation_id(&name);
                job.dedup(&name, DedupMode::WhileKept)
            };
            let first = enqueue("first").await.unwrap_or_else(|error| panic!("{}: {name:?}: {error}", store.name));
            let second = enqueue("second").await.expect("enqueue");
            assert_eq!(second.answer(), EnqueueAnswer::Duplicate(first.id()), "{}: {name:?}", store.name);
            let queue = client.queue(&name).expect("a name");
            let tagged = JobFilter { tag: Some(Tag::new(&name).expect("a tag")), ..JobFilter::default() };
            let in_lane = JobFilter { lane: Some(LaneKey::new(&name).expect("a lane")), ..JobFilter::default() };
            for filter in [tagged, in_lane] {
                let found: Vec<_> = queue.all(filter).await.expect("list").iter().map(|record| record.id()).collect();
                assert_eq!(found, [first.id()], "{}: {name:?}", store.name);
            }
            worker = worker.queue(&name);
        }
        worker.run_until_idle().await.expect("run");
        let mut all = seen.lock().expect("seen").clone();
        all.sort();
        let mut expected: Vec<_> = hostile().into_iter().map(|name| (name.clone(), name.clone(), name)).collect();
        expected.sort();
        assert_eq!(all, expected, "{}", store.name);
        let queues: Vec<_> = client.queues().await.expect("queues").iter().map(|name| name.to_string()).collect();
        assert_eq!(queues, expected.into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), "{}", store.name);
        for name in hostile() {
            let queue = QueueName::new(&name).expect("a name");
            audit(store.storage.as_ref(), &queue).await;
            client.queue(&name).expect("a name").obliterate(false).await.expect("obliterate");
        }
        assert_eq!(client.queues().await.expect("queues"), [], "{}", store.name);
    }
}

#[tokio::test]
async fn a_refused_name_says_why_and_leaves_nothing() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        for (name, why) in refused() {
            let text = || client.enqueue(Text("x".to_owned()));
            let all = [
                text().queue(&name),
                text().lane(&name),
                text().tag(&name),
                text().correlation_id(&name),
                text().dedup(&name, DedupMode::UntilFinished),
            ];
            for enqueue in all {
                let error = enqueue.await.err().unwrap_or_else(|| panic!("{}: {name:?} was taken", store.name));
                assert!(error.to_string().contains(why), "{name:?}: {error}");
                assert_eq!((error.effect(), error.is_retryable()), (Effect::None, false));
            }
            let error = text().queue(&name).tag(&name).await.expect_err("both are wrong").to_string();
            assert_eq!(error.matches(why).count(), 2, "everything that is wrong is said: {error}");
            assert!(!error.chars().any(char::is_control), "the message itself is harmless: {error:?}");
            assert!(client.queue(&name).is_err(), "{name:?}");
            assert!(Worker::new(&client).queue(&name).handle(give_back).run_until_idle().await.is_err(), "{name:?}");
        }
        assert_eq!(client.queues().await.expect("queues"), [], "{}", store.name);
    }
}

#[tokio::test]
async fn an_id_that_nobody_has_is_no_error() {
    for store in each().await {
        let client = Client::new(store.storage.clone());
        let handle =
            JobHandle::<Text>::of(&client, QueueName::new("never").expect("a name"), ferroq_core::JobId::new());
        assert_eq!(handle.record().await.expect("a read"), None);
        assert!(matches!(handle.wait().await, Err(WaitError::Gone)), "{}", store.name);
        assert_eq!(client.queues().await.expect("queues"), [], "{}: waiting makes no queue", store.name);
    }
}
