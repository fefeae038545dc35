//! Every way to a server that a URL can name, walked from `ferroq::connect` to a job that ran: alone, with users and
//! databases, by a Unix socket, by TLS, by Sentinels and in a Cluster. And URLs that are wrong, which say so without showing
//! the password.

use std::path::PathBuf;

use ferroq::{ConnectError, Context, Job, JobResult, Worker};
use ferroq_core::storage::{Effect, ErrorCode};
use ferroq_tests::redis::cluster::Cluster;
use ferroq_tests::redis::options::ServerOptions;
use ferroq_tests::redis::sentinel::SentinelGroup;
use ferroq_tests::redis::server::{Server, shared};
use ferroq_tests::redis::tls::Certificates;
use ferroq_tests::wait::within;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Job)]
#[job(name = "test.double", queue = "sums", output = "u32")]
struct Double(u32);

async fn double(job: Double, _cx: Context) -> JobResult<u32> {
    Ok(job.0 * 2)
}

/// A job goes all the way on the store that the URL names.
async fn works(url: &str) {
    let client = ferroq::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let handle = client.enqueue(Double(21)).await.expect("enqueue");
    within("the job ends", Worker::new(&client).handle(double).run_until_idle()).await.expect("a worker");
    assert_eq!(within("the result is there", handle.wait()).await.expect("a result"), 42, "{url}");
}

async fn refused(url: &str) -> ConnectError {
    ferroq::connect(url).await.err().unwrap_or_else(|| panic!("{url} was taken"))
}

fn code(error: &ConnectError) -> ErrorCode {
    match error {
        ConnectError::Storage(error) => {
            assert_eq!(error.effect(), Effect::None);
            error.code()
        }
        other => panic!("not of the storage: {other}"),
    }
}

#[tokio::test]
async fn a_server_by_host_by_name_and_by_unix_socket() {
    let server = shared();
    works(&server.url_alone()).await;
    works(&format!("redis://localhost:{}/?namespace=by-name", server.port())).await;
    works(&format!("redis+unix://{}?namespace=by-socket", server.unix_socket().display())).await;
}

#[tokio::test]
async fn a_user_with_a_password_full_of_signs() {
    let server = Server::start(ServerOptions::new().password("p@ss:w/rd?#%").user("app on >h/@:nter2 ~* &* +@all"));
    let at = server.address();
    works(&format!("redis://:p%40ss%3Aw%2Frd%3F%23%25@{at}")).await;
    works(&format!("redis://app:h%2F%40%3Anter2@{at}")).await;
    for url in [format!("redis://app:wrong-one@{at}"), format!("redis://{at}")] {
        let error = refused(&url).await;
        assert_eq!(code(&error), ErrorCode::Denied, "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-one"));
    }
}

#[tokio::test]
async fn databases_and_namespaces_are_stores_of_their_own() {
    let server = Server::start(ServerOptions::new());
    let open = async |rest: &str| ferroq::connect(&format!("{}{rest}", server.url())).await.expect("connect");
    let first = open("/0").await;
    first.enqueue(Double(1)).await.expect("enqueue");
    for other in ["/3", "/0?namespace=other", "?db=3&namespace=third"] {
        let other = open(other).await;
        assert_eq!(other.queue("sums").expect("a name").counts().await.expect("counts").waiting, 0);
        other.enqueue(Double(2)).await.expect("enqueue");
    }
    assert_eq!(first.queue("sums").expect("a name").counts().await.expect("counts").waiting, 1);
    let error = refused(&format!("{}/99", server.url())).await;
    assert_eq!(code(&error), ErrorCode::Invalid);
    assert!(error.to_string().contains("database 99"), "{error}");
}

#[tokio::test]
async fn sentinels_name_the_master() {
    let group = SentinelGroup::start().await;
    works(&group.url_alone()).await;
    let one = format!("redis+sentinel://127.0.0.1:{}/mymaster/2", group.sentinels()[1].port());
    works(&one).await;
    let error = refused(&group.url().replace("mymaster", "nobody")).await;
    assert_eq!(code(&error), ErrorCode::Unavailable);
    assert!(error.to_string().contains("nobody"), "{error}");
    // A sentinel or a replica taken for the server is told what would be right.
    let error = refused(&format!("redis://127.0.0.1:{}", group.sentinels()[0].port())).await;
    assert!(error.to_string().contains("redis+sentinel://"), "{error}");
    let replica = group.servers().iter().find(|server| server.port() != group.master().expect("a master").port());
    let error = refused(&replica.expect("a replica").url()).await;
    assert!(error.to_string().contains("replica"), "{error}");
}

#[tokio::test]
async fn a_cluster_is_found_by_any_node() {
    let cluster = Cluster::start(false).await;
    works(&cluster.url_alone()).await;
    let node = &cluster.nodes()[1];
    works(&format!("redis+cluster://{}?namespace=by-one", node.address())).await;
    let error = refused(&node.url()).await;
    assert_eq!(code(&error), ErrorCode::Unsupported);
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
    let error = refused(&format!("redis+cluster://{}", shared().address())).await;
    assert_eq!(code(&error), ErrorCode::Unsupported);
    assert!(error.to_string().contains("not part of a cluster"), "{error}");
}

#[tokio::test]
async fn tls_with_an_authority_and_a_client_certificate_of_ones_own() {
    let ours = Certificates::new();
    let server = Server::start(ServerOptions::new().password("right").tls(ours.files("server", true)));
    let at = format!("127.0.0.1:{}", server.tls_port());
    works(&format!("rediss://:right@{at}/1?{}", ours.parameters())).await;
    let error = refused(&format!("rediss://:right@{at}?ca={}", ours.file("ca.pem").display())).await;
    assert_eq!(code(&error), ErrorCode::Unavailable, "without a certificate of ours: {error}");
    let theirs = Certificates::new();
    let error = refused(&format!("rediss://:right@{at}?{}", theirs.parameters())).await;
    assert!(error.to_string().contains("ertificate"), "an authority that did not sign it: {error}");
    let error = refused(&format!("rediss://:right@{at}?ca=/nowhere.pem")).await;
    assert_eq!(code(&error), ErrorCode::Invalid);
    assert!(error.to_string().contains("/nowhere.pem"), "{error}");
}

#[tokio::test]
async fn a_url_that_is_wrong_says_everything_that_is_and_never_the_password() {
    for (url, says) in [
        ("redis://ann:hunter2@localhost:port/x?namespace=No", &["a port", "database", "namespace"][..]),
        ("redis://ann:hun/ter/hunter2@localhost", &["%2F", "%40"]),
        ("redis://ann:hunter2@localhost?call_timout=5s", &["call_timout", "call_timeout"]),
        ("redis+sentinel://ann:hunter2@localhost", &["mymaster"]),
        ("redis+cluster://ann:hunter2@localhost/3", &["database 0"]),
        ("rediss://ann:hunter2@localhost?cert=/a", &["key"]),
    ] {
        let error = refused(url).await;
        assert_eq!(code(&error), ErrorCode::Invalid, "{url}");
        for says in says {
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error}");
    }
    let error = refused("reddis://ann:hunter2@localhost").await;
    assert!(error.to_string().contains("redis://") && !format!("{error:?}").contains("hunter2"), "{error}");
}

/// The page says of every parameter what it does, and of none that there is not.
#[tokio::test]
async fn the_page_for_operators_has_every_parameter_of_a_url_and_no_other() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/redis-operations.md");
    let page = std::fs::read_to_string(page).expect("docs/redis-operations.md is there");
    let error = refused("redis://localhost?no-such").await.to_string();
    let (_, known) = error.split_once("there are ").expect("it says which there are");
    let known = known.trim_end_matches(" (nothing was changed)");
    let mut known: Vec<&str> = known.split([',', ' ']).filter(|word| !word.is_empty() && *word != "and").collect();
    let (_, table) = page.split_once("| parameter | default |").expect("a table of parameters");
    let (table, _) = table.split_once("\n\n").expect("the end of the table");
    let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split(" | ").next());
    let mut told: Vec<&str> = rows.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`')).collect();
    known.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, known);
}
