//! What the server's words mean, in the very words of Redis 7.

use ferroq_core::storage::Effect;

use super::*;

fn answer(line: &str) -> StorageError {
    let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("a reply");
    checked(&"here:6379".into(), value).expect_err("an error reply").into()
}

#[test]
fn an_error_reply_says_what_happened_to_the_data_and_what_to_do() {
    use Effect::{None, Unknown};
    use ErrorCode::*;
    const SHA: &str = "b5cccd4fa78d4f9036171baa026a5ca481976470";
    for (line, code, effect, says) in [
        ("OOM command not allowed when used memory > 'maxmemory'.", Full, None, "maxmemory"),
        ("READONLY You can't write against a read only replica.", Unavailable, None, "replica"),
        ("LOADING Redis is loading the dataset in memory", Unavailable, None, "loading"),
        ("MASTERDOWN Link with MASTER is down", Unavailable, None, "lost its master"),
        ("CLUSTERDOWN Hash slot not served", Unavailable, None, "Hash slot"),
        ("MOVED 1 127.0.0.1:7001", Unavailable, None, "moved"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable, None, "moved"),
        ("BUSY Redis is busy running a script.", Busy, None, "SCRIPT KILL"),
        ("MISCONF Errors writing to the AOF file: No space left on device", ReadOnly, None, "No space left"),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable, None, "min-replicas"),
        ("NOAUTH Authentication required.", Denied, None, "password"),
        ("NOPERM this user has no permissions to run the 'publish' command", Denied, None, "'publish'"),
        (
            "ERR The user executing the script can't run this command or subcommand",
            Denied,
            Unknown,
            "docs/redis-acl.md",
        ),
        (
            "NOPERM ACL failure in script: User a has no permissions to run the 'hset' command",
            Denied,
            Unknown,
            "'hset'",
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt, None, "namespace"),
        ("ERR unknown command 'waitaof', with args beginning with:", Unsupported, None, "waitaof"),
        ("ERR Unknown Redis command called from script", Unsupported, None, "lacks a command"),
        ("FERROQ_SCHEMA layout 9 is newer", SchemaTooNew, None, "layout 9 is newer"),
        ("FERROQ_INVALID no such act", Invalid, None, "no such act"),
        ("FERROQ_CORRUPT a blob can't be read", Corrupt, None, "a blob can't be read"),
        ("FERROQ_FORGOTTEN call", Forgotten, None, "call"),
        ("ERR user_script:1: attempt to index a nil value", Other, Unknown, "nil value"),
    ] {
        for line in [line.to_owned(), format!("{line} script: {SHA}, on @user_script:1.")] {
            let error = answer(&line);
            assert_eq!((error.code(), error.effect()), (code, effect), "{line}");
            let text = error.to_string();
            assert!(text.contains(says) && !text.contains(SHA) && !text.contains("@user_script"), "{line}: {text}");
        }
    }
}

#[test]
fn a_lost_answer_leaves_the_effect_unknown_and_a_failed_connect_does_not() {
    let place: Arc<str> = "here:6379".into();
    let io = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    let lost = StorageError::from(CallError::lost(&place, io()));
    assert_eq!((lost.code(), lost.effect()), (ErrorCode::Unavailable, Effect::Unknown));
    let silent = StorageError::from(CallError::silent(&place, Duration::from_secs(5)));
    assert_eq!((silent.code(), silent.effect()), (ErrorCode::Unavailable, Effect::Unknown));
    let refused = CallError::connecting(&place, &io());
    let refused = StorageError::from(refused);
    assert_eq!((refused.code(), refused.effect()), (ErrorCode::Unavailable, Effect::None));
    assert!(refused.is_retryable() && refused.to_string().contains("here:6379"));
    assert_eq!(StorageError::from(CallError::closed()).code(), ErrorCode::Closed);
}

#[test]
fn a_text_that_only_looks_like_a_scripts_is_left_alone() {
    assert_eq!(plain("bad script: name, on purpose"), "bad script: name, on purpose");
}
