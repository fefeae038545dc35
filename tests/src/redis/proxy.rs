//! A TCP proxy that treats connections as badly as a network can: it cuts them after an exact number of bytes, holds them
//! open in silence, delays them and refuses them. It runs on threads of its own, so that it goes on while a test's
//! runtime is blocked, and it knows nothing of what it passes on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::port;
use crate::wait::DEADLINE;

/// What happens to what goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It passes.
    Pass,
    /// Once so many bytes of requests have gone to the server since the mode was set, counted over all connections, all
    /// connections that are open are cut, and no answer to those last bytes reaches a client. Connections that come later
    /// pass. With 0 the first byte is held back and cuts.
    CutAfterRequestBytes(u64),
    /// Once so many bytes of replies have gone to clients since the mode was set, counted over all connections, all
    /// connections that are open are cut. Connections that come later pass. With 0 the first byte is held back and cuts.
    CutAfterReplyBytes(u64),
    /// Connections are taken and stay open, and nothing goes through either way. What was sent meanwhile passes once
    /// another mode is set, even from clients that have hung up since.
    Silent,
    /// Every piece that is read waits for so long before it is passed on, each way.
    Delay(Duration),
    /// New connections are refused, as by a host on which nothing listens. Those that are open pass;
    /// [`cut_all`](Proxy::cut_all) ends them.
    Refuse,
}

/// What went through since the mode was last set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that were handed to the server.
    pub request_bytes: u64,
    /// Bytes that were handed to clients.
    pub reply_bytes: u64,
    /// Connections that clients opened.
    pub connections: u64,
    /// Whether the mode's cut has happened: 0 or 1.
    pub cuts: u64,
}

/// A proxy in front of a port of this machine. It ends when dropped, and all its connections with it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    port: u16,
    target: SocketAddr,
    state: Mutex<State>,
    /// Tells of each change of the mode, of the listener and of the connections.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    counters: Counters,
    listening: bool,
    ended: bool,
    next_id: u64,
    open: Vec<Connection>,
}

/// Both ends of a connection, to be shut from any thread.
#[derive(Debug)]
struct Connection {
    id: u64,
    client: TcpStream,
    /// Missing until the server was reached.
    server: Option<TcpStream>,
    /// Cut: what still comes from either end is read and dropped until that end hangs up.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

impl Proxy {
    /// A proxy in front of this port of loopback, which may have nobody listening yet. Everything passes.
    ///
    /// # Panics
    /// If there is no port for it.
    pub fn start(target_port: u16) -> Proxy {
        let mut taken = 0;
        let listener = loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port::free())) {
                Ok(listener) => break listener,
                Err(error) => assert!(taken < 20, "no port for the proxy: {error}"),
            }
            taken += 1;
        };
        let port = listener.local_addr().expect("a listener has an address").port();
        let state = State {
            mode: Mode::Pass,
            counters: Counters::default(),
            listening: true,
            ended: false,
            next_id: 0,
            open: Vec::new(),
        };
        let shared = Arc::new(Shared {
            port,
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || shared.accept(listener)
        });
        Proxy { shared, accepting: Some(accepting) }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The same URL, through the proxy.
    ///
    /// # Panics
    /// If the URL does not lead to the proxy's target.
    pub fn url(&self, url: &str) -> String {
        let target = self.shared.target.to_string();
        assert!(url.contains(&target), "{url} does not lead to {target}");
        url.replacen(&target, &self.address(), 1)
    }

    /// Sets the mode and starts the counters anew. It holds from here on: when this returns, new connections are refused
    /// or taken as the mode says.
    ///
    /// # Panics
    /// If the proxy can't have its port back after [`Mode::Refuse`].
    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state();
        state.mode = mode;
        state.counters = Counters::default();
        let listening = state.listening;
        drop(state);
        self.shared.changed.notify_all();
        if listening && mode == Mode::Refuse {
            // The thread waits for a connection and is to see that there shall be none.
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())));
        }
        self.shared
            .wait_until("the proxy listens, or does not", |state| state.listening == (state.mode != Mode::Refuse));
    }

    /// The mode. A cut that has happened has left [`Mode::Pass`].
    pub fn mode(&self) -> Mode {
        self.shared.state().mode
    }

    /// What went through since the mode was last set.
    pub fn counters(&self) -> Counters {
        self.shared.state().counters
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.state().open.iter().filter(|connection| !connection.cut).count()
    }

    /// Waits until the cut of [`Mode::CutAfterRequestBytes`] or [`Mode::CutAfterReplyBytes`] has happened.
    pub async fn cut_happens(&self) {
        crate::wait::until_so("the proxy cuts", || self.counters().cuts > 0).await;
    }

    /// Cuts all connections that are open; answers how many there were.
    pub fn cut_all(&self) -> usize {
        self.shared.state().cut_all(Direction::Request, || ())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        for connection in &state.open {
            connection.shut(Direction::Request, Shutdown::Both);
            connection.shut(Direction::Reply, Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // The thread may be waiting for a connection; or it has no listener, and then nobody needs to knock.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())));
        if let Some(accepting) = self.accepting.take() {
            // A panic of that thread has been printed, and must not become an abort here.
            drop(accepting.join());
        }
    }
}

impl Direction {
    fn other(self) -> Self {
        match self {
            Direction::Request => Direction::Reply,
            Direction::Reply => Direction::Request,
        }
    }
}

impl Connection {
    /// Shuts the end to which this direction leads.
    fn shut(&self, direction: Direction, how: Shutdown) {
        let end = match direction {
            Direction::Request => self.server.as_ref(),
            Direction::Reply => Some(&self.client),
        };
        if let Some(end) = end {
            // An end that has hung up is shut already.
            drop(end.shutdown(how));
        }
    }
}

impl State {
    /// Cuts every connection: first against this direction, then what is left `to_deliver`, then along it. Answers how
    /// many there were.
    ///
    /// Both ends see an end of stream, and no reset, which might overtake bytes that count as delivered.
    fn cut_all(&mut self, direction: Direction, to_deliver: impl FnOnce()) -> usize {
        let shut = |state: &State, direction| {
            let open = state.open.iter().filter(|connection| !connection.cut);
            open.map(|connection| connection.shut(direction, Shutdown::Write)).count()
        };
        shut(self, direction.other());
        to_deliver();
        let cut = shut(self, direction);
        self.open.iter_mut().for_each(|connection| connection.cut = true);
        cut
    }

    fn is_cut(&self, id: u64) -> bool {
        self.ended || self.open.iter().any(|connection| connection.id == id && connection.cut)
    }

    /// How many bytes may still pass before the cut, in the direction that the mode counts.
    fn allowance(&self, direction: Direction) -> Option<usize> {
        let (limit, passed) = match (self.mode, direction) {
            (Mode::CutAfterRequestBytes(limit), Direction::Request) => (limit, self.counters.request_bytes),
            (Mode::CutAfterReplyBytes(limit), Direction::Reply) => (limit, self.counters.reply_bytes),
            _ => return None,
        };
        Some(usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX))
    }

    fn count(&mut self, direction: Direction, bytes: usize) {
        match direction {
            Direction::Request => self.counters.request_bytes += bytes as u64,
            Direction::Reply => self.counters.reply_bytes += bytes as u64,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked with the proxy's state")
    }

    /// Takes connections for as long as the proxy lives.
    fn accept(self: Arc<Self>, mut listener: TcpListener) {
        loop {
            let Ok((client, _from)) = listener.accept() else { continue };
            let mut state = self.state();
            if state.ended {
                return;
            }
            if state.mode == Mode::Refuse {
                drop(client);
                close(listener);
                state.listening = false;
                self.changed.notify_all();
                let refusing = |state: &mut State| state.mode == Mode::Refuse && !state.ended;
                state = self.changed.wait_while(state, refusing).expect("nobody panicked with the proxy's state");
                if state.ended {
                    return;
                }
                // The port is none that the system gives to others, so it is still there.
                listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("the proxy's port");
                state.listening = true;
                self.changed.notify_all();
                continue;
            }
            let Ok(shut) = client.try_clone() else { continue };
            state.counters.connections += 1;
            let id = state.next_id;
            state.next_id += 1;
            state.open.push(Connection { id, client: shut, server: None, cut: false });
            drop(state);
            let shared = self.clone();
            thread::spawn(move || {
                // A connection that fails has been shut by whoever failed; nobody waits for a report.
                drop(shared.serve(id, client));
                shared.state().open.retain(|connection| connection.id != id);
            });
        }
    }

    /// Both directions of one connection, until both have ended.
    fn serve(&self, id: u64, client: TcpStream) -> std::io::Result<()> {
        if self.may_go_on(id).is_none() {
            return Ok(());
        }
        let server = TcpStream::connect(self.target)?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_write_timeout(Some(DEADLINE))?;
        }
        let shut = server.try_clone()?;
        let mut state = self.state();
        // It may have been cut on the way; then the server is not to hear of it.
        if state.is_cut(id) {
            return Ok(());
        }
        if let Some(connection) = state.open.iter_mut().find(|connection| connection.id == id) {
            connection.server = Some(shut);
        }
        drop(state);
        thread::scope(|scope| {
            scope.spawn(|| self.carry(id, Direction::Reply, &server, &client));
            self.carry(id, Direction::Request, &client, &server);
        });
        Ok(())
    }

    /// One direction of one connection, until its source hangs up.
    fn carry(&self, id: u64, direction: Direction, mut from: &TcpStream, to: &TcpStream) {
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut piece).unwrap_or(0);
            if read == 0 {
                break;
            }
            if self.pass(id, direction, &piece[..read], to).is_err() {
                // Nobody takes it any more, so nobody shall send.
                drop(from.shutdown(Shutdown::Both));
                break;
            }
        }
        // In silence not even the end goes through.
        self.may_go_on(id);
        drop(to.shutdown(Shutdown::Write));
    }

    fn pass(&self, id: u64, direction: Direction, piece: &[u8], mut to: &TcpStream) -> std::io::Result<()> {
        let Some(mut state) = self.may_go_on(id) else { return Ok(()) };
        let Some(allowance) = state.allowance(direction) else {
            state.count(direction, piece.len());
            // Without the lock: one client that does not read must not keep the others waiting.
            drop(state);
            return to.write_all(piece);
        };
        let part = &piece[..piece.len().min(allowance)];
        state.count(direction, part.len());
        if piece.len() < allowance {
            // With the lock, since another connection's bytes may bring the cut, and these count.
            return to.write_all(part);
        }
        let mut delivered = Ok(());
        state.cut_all(direction, || delivered = to.write_all(part));
        state.mode = Mode::Pass;
        state.counters.cuts = 1;
        delivered
    }

    /// Waits until the mode lets something through; nothing, if the connection was cut.
    fn may_go_on(&self, id: u64) -> Option<MutexGuard<'_, State>> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            if state.is_cut(id) {
                return None;
            }
            let left = match state.mode {
                // Another mode ends it, and the proxy's end does.
                Mode::Silent => DEADLINE,
                Mode::Delay(delay) => delay.saturating_sub(since.elapsed()),
                _ => return Some(state),
            };
            if left.is_zero() {
                return Some(state);
            }
            (state, _) = self.changed.wait_timeout(state, left).expect("nobody panicked with the proxy's state");
        }
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut(&State) -> bool) {
        let (_state, waited) = self
            .changed
            .wait_timeout_while(self.state(), DEADLINE, |state| !is_so(state))
            .expect("nobody panicked with the proxy's state");
        assert!(!waited.timed_out(), "waited {DEADLINE:?} in vain: {what}");
    }
}

/// Ends listening now. To drop the listener is not enough: a process that another thread is just starting has a copy of
/// it until it runs its program, and meanwhile connections would be taken.
fn close(listener: TcpListener) {
    let socket = TcpStream::from(OwnedFd::from(listener));
    // Where a listener can't be shut, that copy is what it comes to.
    drop(socket.shutdown(Shutdown::Both));
}
