//! Opens sockets to servers: TCP without delay and with keepalive, Unix, or TLS by rustls; and makes connections of them.
//! All attempts are bounded by `connect_timeout`, greeting included, so that a server which accepts and then says
//! nothing fails the attempt rather than the first command.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferroq_core::storage::{ErrorCode, StorageError};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::live::Live;
use super::tls::Tls;
use crate::error::{CallError, denied};
use crate::options::{Address, RedisOptions, Secret, Servers};

/// How many commands may wait to be written before callers wait too.
const QUEUED_COMMANDS: usize = 1024;
/// How many bytes to gather for one write at most.
const WRITE_BYTES: usize = 256 * 1024;

/// Everything needed to open a connection to any of the servers.
#[derive(Debug)]
pub(super) struct Dialer {
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    tls: Option<Tls>,
    connect_timeout: Duration,
    call_timeout: Duration,
}

/// An open socket of any kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Dialer {
    /// Reads the certificates.
    pub(super) fn new(options: &RedisOptions) -> Result<Self, StorageError> {
        let sentinel_login = match &options.servers {
            Servers::Sentinel { user, password, .. } => {
                login(user.as_deref(), password.as_ref().map(|Secret(password)| password.as_str()))
            }
            _ => RedisConnectionInfo::default(),
        };
        Ok(Dialer {
            login: login(options.user.as_deref(), options.password.as_deref()).set_db(options.database.into()),
            sentinel_login,
            tls: options.tls.as_ref().map(Tls::new).transpose()?,
            connect_timeout: options.connect_timeout,
            call_timeout: options.call_timeout,
        })
    }

    /// Connects, logs in, and hears from the server.
    pub(super) async fn dial(&self, address: &Address) -> Result<Live, CallError> {
        self.dial_as(&self.login, address).await
    }

    /// The same with a sentinel, which knows users of its own.
    pub(super) async fn dial_sentinel(&self, address: &Address) -> Result<Live, CallError> {
        self.dial_as(&self.sentinel_login, address).await
    }

    async fn dial_as(&self, login: &RedisConnectionInfo, address: &Address) -> Result<Live, CallError> {
        let place: Arc<str> = address.to_string().into();
        self.bounded(&place, async {
            let socket = self.socket(address).await.map_err(|error| CallError::connecting(&place, &error.into()))?;
            let config = AsyncConnectionConfig::new()
                .set_response_timeout(None)
                .set_pipeline_buffer_size(QUEUED_COMMANDS)
                .set_write_backpressure_boundary(WRITE_BYTES);
            let (connection, driver) = MultiplexedConnection::new_with_config(login, socket, config)
                .await
                .map_err(|error| Self::log_in_failed(&place, login.db(), &error))?;
            let live = Live::new(connection, driver, address.clone(), place.clone(), self.call_timeout);
            live.greet().await?;
            Ok(live)
        })
        .await
    }

    /// Connects and logs in for subscriptions.
    pub(super) async fn dial_pubsub(&self, address: &Address) -> Result<PubSub, CallError> {
        let place: Arc<str> = address.to_string().into();
        self.bounded(&place, async {
            let socket = self.socket(address).await.map_err(|error| CallError::connecting(&place, &error.into()))?;
            let pubsub = PubSub::new(&self.login, socket).await;
            pubsub.map_err(|error| Self::log_in_failed(&place, self.login.db(), &error))
        })
        .await
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Of what is sent then, only the choice of a database can be refused with an error of no kind of its own.
    fn log_in_failed(place: &Arc<str>, database: i64, error: &RedisError) -> CallError {
        match (error.kind(), error.detail()) {
            // The redis crate keeps what was said and not the code.
            (ErrorKind::Server(ServerErrorKind::ResponseError), Some(said)) if said.contains("no permission") => {
                CallError::not_connected(place, ErrorCode::Denied, denied(said))
            }
            (ErrorKind::Server(ServerErrorKind::ResponseError), Some(said)) if database != 0 => {
                CallError::not_connected(
                    place,
                    ErrorCode::Invalid,
                    format!("database {database} can't be used: {said}"),
                )
            }
            _ => CallError::connecting(place, error),
        }
    }

    async fn bounded<T>(
        &self,
        place: &Arc<str>,
        attempt: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::time::timeout(self.connect_timeout, attempt).await.unwrap_or_else(|_| {
            let why = format!("no answer within {:?}", self.connect_timeout);
            Err(CallError::not_connected(place, ErrorCode::Unavailable, why))
        })
    }

    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
        let each = share(self.connect_timeout, addresses.len());
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match tokio::time::timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(late) => failure = late.into(),
            }
        }
        Err(failure)
    }

    async fn socket(&self, address: &Address) -> io::Result<Box<dyn Socket>> {
        let (host, port) = match address {
            Address::Tcp { host, port } => (host.as_str(), *port),
            #[cfg(unix)]
            Address::Unix(path) => return Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Address::Unix(_) => return Err(io::Error::other("there are no Unix sockets on this system")),
        };
        let stream = self.tcp(host, port).await?;
        stream.set_nodelay(true)?;
        // For connections that wait for hours, so that a peer which vanished without a word is noticed.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => tls.wrap(host, stream).await,
        }
    }
}

/// How long each of a host's addresses may take, so that one that swallows packets leaves time for the next.
fn share(whole: Duration, addresses: usize) -> Duration {
    whole / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX)
}

fn login(user: Option<&str>, password: Option<&str>) -> RedisConnectionInfo {
    // CLIENT SETINFO would be one more right that every user needs.
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password);
    }
    login
}
