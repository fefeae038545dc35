//! Finds the master among servers that Sentinels watch over. All Sentinels are asked at once, since some may be gone with
//! the master; a Sentinel that was cut off may name the old one, so a server is taken only if it says itself that it is
//! the master.

use std::sync::Arc;

use ferroq_core::storage::ErrorCode;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::Value;

use super::dial::Dialer;
use super::live::Live;
use crate::error::CallError;
use crate::options::Address;

/// Connects to the server that is the master of this name now.
pub(super) async fn dial_master(dialer: &Dialer, sentinels: &[Address], master: &str) -> Result<Live, CallError> {
    let mut asked: FuturesUnordered<_> =
        sentinels.iter().map(|sentinel| async move { (sentinel, ask(dialer, sentinel, master).await) }).collect();
    let mut tried: Vec<Address> = Vec::new();
    let mut failures: Vec<String> = Vec::new();
    while let Some((sentinel, named)) = asked.next().await {
        match named {
            Ok(Some(address)) if tried.contains(&address) => {}
            Ok(Some(address)) => {
                match dial_if_master(dialer, &address).await {
                    Ok(Some(live)) => return Ok(live),
                    Ok(None) => failures.push(format!("{address} says that it is a replica")),
                    // Another server would not let us in either.
                    Err(error) if error.is_denied() => return Err(error),
                    Err(error) => failures.push(error.to_string()),
                }
                tried.push(address);
            }
            Ok(None) => failures.push(format!("the sentinel {sentinel} knows no master {master:?}")),
            Err(error) => failures.push(error.to_string()),
        }
    }
    let place: Arc<str> = format!("{master} (by sentinels)").into();
    Err(CallError::not_connected(&place, ErrorCode::Unavailable, failures.join("; ")))
}

/// Whom a Sentinel takes for the master.
async fn ask(dialer: &Dialer, sentinel: &Address, master: &str) -> Result<Option<Address>, CallError> {
    let live = dialer.dial_sentinel(sentinel).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let answer = live.call_alone(&ask, dialer.connect_timeout()).await?;
    let pair: Option<(String, u16)> = redis::from_redis_value(answer)
        .map_err(|_| CallError::unexpected(&live.place, "something that is no address when asked for the master"))?;
    Ok(pair.map(|(host, port)| Address::Tcp { host, port }))
}

/// Connects, unless the server is a replica.
async fn dial_if_master(dialer: &Dialer, address: &Address) -> Result<Option<Live>, CallError> {
    let live = dialer.dial(address).await?;
    let is_master = match live.call_alone(&redis::cmd("ROLE"), dialer.connect_timeout()).await {
        Ok(Value::Array(role)) => role.first().is_some_and(|role| *role == Value::BulkString(b"master".to_vec())),
        Ok(_) => false,
        // A user without the right to ask; a replica will refuse the first write.
        Err(error) if error.server_code() == Some("NOPERM") => true,
        Err(error) => return Err(error),
    };
    Ok(is_master.then_some(live))
}
