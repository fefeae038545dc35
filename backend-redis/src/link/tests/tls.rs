//! By TLS, with certificates made for the test.

use std::path::Path;

use ferroq_tests::redis::tls::Certificates;

use super::*;
use crate::options::TlsOptions;

fn start(ours: &Certificates, certificate: &str, wants_client: bool) -> Server {
    Server::start(ServerOptions::new().tls(ours.files(certificate, wants_client)))
}

fn options(server: &Server, tls: TlsOptions) -> RedisOptions {
    RedisOptions::new("127.0.0.1", server.tls_port()).tls(tls)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("read")
}

#[tokio::test]
async fn an_own_ca_is_trusted_and_no_other() {
    let ours = Certificates::new();
    let server = start(&ours, "server", false);
    let link = Link::open(&options(&server, TlsOptions::new().ca_file(ours.file("ca.pem")))).await.expect("open");
    link.call(&set("a", "1")).await.expect("set");
    assert_eq!(server.cli(&["GET", "a"]), "1");
    let (mut sink, mut stream) = link.subscriber().await.expect("subscriber");
    sink.subscribe("news").await.expect("subscribe");
    server.cli(&["PUBLISH", "news", "x"]);
    assert_eq!(stream.next().await.expect("a message").channel, "news");

    Link::open(&options(&server, TlsOptions::new().ca_pem(read(&ours.file("ca.pem"))))).await.expect("by text");
    let url = format!("rediss://127.0.0.1:{}?ca={}", server.tls_port(), ours.file("ca.pem").display());
    Link::open(&RedisOptions::from_url(&url).expect("a good URL")).await.expect("by URL");

    let theirs = Certificates::new();
    for tls in [TlsOptions::new().ca_file(theirs.file("ca.pem")), TlsOptions::new()] {
        let Err(error) = Link::open(&options(&server, tls)).await else { panic!("trusted somebody else") };
        assert_eq!(error.effect(), Effect::None);
        // A machine without any trusted certificate is told so.
        assert!(error.to_string().contains("ertificate"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let ours = Certificates::new();
    let server = start(&ours, "stranger", false);
    let error =
        Link::open(&options(&server, TlsOptions::new().ca_file(ours.file("ca.pem")))).await.expect_err("refused");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_the_server_wants_one() {
    let ours = Certificates::new();
    let server = start(&ours, "server", true);
    let tls = TlsOptions::new().ca_file(ours.file("ca.pem"));
    Link::open(&options(&server, tls.clone())).await.expect_err("no certificate");
    let by_files = tls.clone().client_files(ours.file("client.pem"), ours.file("client.key"));
    Link::open(&options(&server, by_files)).await.expect("by files");
    let by_text = tls.client_pem(read(&ours.file("client.pem")), read(&ours.file("client.key")));
    Link::open(&options(&server, by_text)).await.expect("by text");
}

#[tokio::test]
async fn a_plain_connection_to_a_tls_port_and_the_other_way_round_fail_in_time() {
    let ours = Certificates::new();
    let server = start(&ours, "server", false);
    let plain = RedisOptions::new("127.0.0.1", server.tls_port()).connect_timeout(Duration::from_secs(1));
    assert_eq!(Link::open(&plain).await.expect_err("plain").effect(), Effect::None);
    let tls = RedisOptions::new("127.0.0.1", server.port()).tls(TlsOptions::new().ca_file(ours.file("ca.pem")));
    let tls = tls.connect_timeout(Duration::from_secs(1));
    assert_eq!(Link::open(&tls).await.expect_err("tls").effect(), Effect::None);
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_an_error_at_once() {
    let ours = Certificates::new();
    let ca = ours.file("ca.pem");
    for (tls, says) in [
        (TlsOptions::new().ca_file("/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (TlsOptions::new().ca_pem("nonsense"), "no trusted certificate"),
        (TlsOptions::new().ca_file(&ca).client_pem(read(&ca), "nonsense"), "key"),
        (TlsOptions::new().ca_file(&ca).client_files(&ca, ours.file("client.key")), "certificate or key"),
    ] {
        let error = Link::open(&RedisOptions::new("127.0.0.1", 1).tls(tls)).await.expect_err(says);
        assert_eq!(error.code(), ErrorCode::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
