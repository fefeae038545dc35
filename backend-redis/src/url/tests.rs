//! What URLs say, and what is said about wrong ones.

use ferroq_core::storage::ErrorCode;

use super::*;

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.into(), port }
}

fn parsed(url: &str) -> RedisOptions {
    RedisOptions::from_url(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn a_url_says_everything() {
    let options = parsed(
        "redis://ann:p%40ss%3A%2F@db.example:7000/3?namespace=mail&connect_timeout=250ms&call_timeout=10s\
         &wait_replicas=2&wait_timeout=300ms&accept_eviction=true",
    );
    assert_eq!(options.servers, Servers::One(tcp("db.example", 7000)));
    assert_eq!((options.user.as_deref(), options.password.as_deref()), (Some("ann"), Some("p@ss:/")));
    assert_eq!((options.database, options.namespace.as_str(), options.accept_eviction), (3, "mail", true));
    assert_eq!(options.connect_timeout, Duration::from_millis(250));
    assert_eq!(options.call_timeout, Duration::from_secs(10));
    let wait = WaitFor { replicas: 2, fsync: false, timeout: Duration::from_millis(300) };
    assert_eq!(options.replicas_wait, Some(wait));
}

#[test]
fn what_a_url_leaves_out_has_a_default() {
    let options = parsed("redis://localhost");
    assert_eq!(options.servers, Servers::One(tcp("localhost", 6379)));
    assert_eq!((options.user, options.password, options.database), (None, None, 0));
    assert_eq!(options.namespace, "ferroq");
    assert_eq!((options.connect_timeout, options.call_timeout), (Duration::from_secs(2), Duration::from_secs(5)));
    assert_eq!((options.replicas_wait, options.accept_eviction), (None, false));
    assert_eq!(parsed("redis://:secret@h").password.as_deref(), Some("secret"));
    assert_eq!(parsed("redis://[::1]:7000/").servers, Servers::One(tcp("::1", 7000)));
    assert_eq!(parsed("redis://[::1]").servers, Servers::One(tcp("::1", 6379)));
    let options = parsed("redis+unix:///run/re%20dis.sock?db=4");
    assert_eq!((options.servers, options.database), (Servers::One(Address::Unix("/run/re dis.sock".into())), 4));
}
#[test]
fn a_sentinel_url_names_hosts_and_a_master() {
    let options = parsed("redis+sentinel://u:p@a:1,b,c:3/mymaster/2?sentinel_user=s&sentinel_password=t");
    let (user, password) = (Some("s".into()), Some(Secret("t".into())));
    let sentinels = vec![tcp("a", 1), tcp("b", 26379), tcp("c", 3)];
    assert_eq!(options.servers, Servers::Sentinel { sentinels, master: "mymaster".into(), user, password });
    assert_eq!((options.user.as_deref(), options.database), (Some("u"), 2));
}
#[test]
fn a_cluster_url_names_hosts() {
    let options = parsed("redis+cluster://:p@a:1,b");
    assert_eq!(options.servers, Servers::Cluster(vec![tcp("a", 1), tcp("b", 6379)]));
}

#[cfg(feature = "tls")]
#[test]
fn a_tls_url_names_certificates() {
    let tls = parsed("rediss://h?ca=/a.pem&cert=/b.pem&key=/c.pem").tls.expect("TLS");
    assert!(tls.ca.is_some() && tls.client.is_some());
    assert!(parsed("rediss://h").tls.expect("TLS").ca.is_none());
}

#[test]
fn a_url_says_which_feature_it_needs() {
    for (url, feature, built_in) in
        [("rediss://h", "redis-tls", cfg!(feature = "tls")), ("rediss+cluster://h", "redis-tls", cfg!(feature = "tls"))]
    {
        match RedisOptions::from_url(url) {
            Ok(_) => assert!(built_in, "{url}"),
            Err(error) => {
                assert!(!built_in && error.to_string().contains(feature), "{url}: {error}");
                assert_eq!(error.code(), ErrorCode::Unsupported);
            }
        }
    }
}

#[test]
fn a_bad_url_is_refused_with_what_would_be_right() {
    for (url, says) in [
        ("http://h", "redis://"),
        ("localhost:6379", "redis://"),
        ("redis://", "a host is empty"),
        ("redis://h:0", "1 to 65535"),
        ("redis://h:99999", "1 to 65535"),
        ("redis://a,b", "redis+sentinel://"),
        ("redis://h/x", "database is not a number"),
        ("redis://h/-1", "database is not a number"),
        ("redis://h?db=x", "database is not a number"),
        ("redis://h?namespace=Mail", "a-z"),
        ("redis://h?namespace=", "1 to 32"),
        ("redis://h?call_timeout=5", "`500ms`"),
        ("redis://h?call_timeout=0s", "at least 1 ms"),
        ("redis://h?accept_eviction=yes", "`true`"),
        ("redis://h?wait_replicas=many", "not a number"),
        ("redis://h?wait_replicas=0", "wait for nothing"),
        ("redis://h?wait_timeout=1s", "wait_replicas"),
        ("redis://h?namspace=x", "\"namspace\" is not known"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h?ca=/a.pem", "rediss"),
        ("rediss://h?cert=/a.pem", "belong together"),
        ("redis://h?sentinel_user=u", "redis+sentinel://"),
        ("redis://ann@h", "no password"),
        ("redis://h%2/0", "%25"),
        ("redis+sentinel://h", "no name"),
        ("redis+cluster://h/1", "database 0"),
        ("redis+unix://run/redis.sock", "three slashes"),
        ("redis+unix://", "path"),
        ("redis://h#insecure", "#"),
    ] {
        let error = RedisOptions::from_url(url).expect_err(url);
        assert_eq!(error.code(), ErrorCode::Invalid, "{url}");
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let error = RedisOptions::from_url("redis://h:x/y?namespace=A&wait_fsync=no&z=1").expect_err("wrong").to_string();
    for says in ["a port", "database", "namespace", "wait_fsync", "\"z\""] {
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn no_error_and_no_debug_shows_a_password_however_it_is_misspelt() {
    for url in [
        "redis://ann:hunter2@h:x",
        "redis://ann:hunter2",
        "redis://:hunter2",
        "redis://ann:hun/hunter2@h",
        "redis://ann:hun?hunter2@h",
        "redis://ann:hun#hunter2@h",
        "redis://ann:1/hunter2",
        "redis://ann:1?hunter2=x@h",
        "redis://ann:hunter2%@h",
        "redis://ann:hunter2@h?sentinel_password=hunter2",
        "ann:hunter2@h",
        "rediss://ann:hunter2@h?ca=hunter2@x",
    ] {
        let error = RedisOptions::from_url(url).expect_err(url);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error}");
    }
    let options = RedisOptions::sentinel([("a", 1)], "m").password("hunter2").sentinel_password("hunter2");
    assert!(!format!("{options:?}").contains("hunter2"));
    assert!(!format!("{:?}", TlsOptions::new().client_pem("hunter2", "hunter2")).contains("hunter2"));
}
