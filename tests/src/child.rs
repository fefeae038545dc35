//! A process of our own to be killed, stopped and continued. It gets its order as JSON in its first argument and says
//! on its standard output, line by line, how far it is; so a test never guesses.

use std::process::{ExitStatus, Stdio};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::wait::within;

/// A child process. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    pid: u32,
}

impl Child {
    /// Starts `program` with this order.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn spawn(program: &str, order: &impl Serialize) -> Self {
        let order = serde_json::to_string(order).expect("an order is JSON");
        let mut process = Command::new(program)
            .arg(order)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} can't be started: {error}"));
        let stdout = process.stdout.take().expect("stdout is piped");
        let pid = process.id().expect("it was just started");
        Child { process, lines: BufReader::new(stdout).lines(), pid }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it says a line that starts with `start`, and answers the rest of that line.
    ///
    /// # Panics
    /// If it ends without saying so.
    pub async fn says(&mut self, start: &str) -> String {
        within(&format!("the child says {start:?}"), async {
            while let Some(line) = self.lines.next_line().await.expect("read the child's output") {
                if let Some(rest) = line.strip_prefix(start) {
                    return rest.trim().to_owned();
                }
            }
            panic!("the child ended without saying {start:?}");
        })
        .await
    }

    /// Sends it a signal, such as `STOP`, `CONT` or `TERM`.
    ///
    /// # Panics
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(status.expect("the kill command").success(), "no process {} to signal", self.pid);
    }

    /// Kills it with SIGKILL and waits until it is dead.
    ///
    /// # Panics
    /// If it does not die.
    pub async fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ended_before = self.process.start_kill().is_err();
        self.exit().await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn exit(&mut self) -> ExitStatus {
        within("the child ends", self.process.wait()).await.expect("wait for the child")
    }
}
