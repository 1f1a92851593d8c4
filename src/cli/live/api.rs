//! The way to the API: where it is, by the policy file or as it is told, and what is asked of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::common::PolicyFile;
use crate::control::admin::REQUEST;
use crate::control::config;
use crate::control::trust_roots;

/// How long an answer may take.
const TIME: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const BYTES_MAX: usize = 8 << 20;

/// The longest piece of a stream that is read.
const PIECE_MAX: usize = 4 << 20;

/// Arguments of whatever asks the API.
#[derive(Debug, clap::Args)]
pub(super) struct Reach {
    #[command(flatten)]
    file: PolicyFile,
    /// Where the API is, in place of what the policy file says: http://127.0.0.1:9643,
    /// https://gateway.example:9643 or unix:/run/schengate/admin.sock
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The file of the token, in place of [admin] token_file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Who vouches for the server, in place of [admin] certificate itself
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Where it is cannot be told.
    #[error("{0}")]
    Where(String),
    /// Nobody answers there.
    #[error("{at}: {what}; is the gateway running, and is this its [admin] address?")]
    Unreached {
        /// Where.
        at: String,
        /// Why not.
        what: String,
    },
    /// It answers that it does not.
    #[error("the gateway says: {1}")]
    Refused(StatusCode, String),
    /// What it says is no answer.
    #[error("{0}: this is not an answer of the API")]
    Strange(String),
}

impl Fault {
    /// Whether there is no such thing.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(StatusCode::NOT_FOUND, _))
    }
}

#[derive(Debug)]
enum Target {
    Tcp { at: SocketAddr, host: String, tls: Option<Arc<rustls::ClientConfig>> },
    Local(PathBuf),
}

/// The API of one gateway.
#[derive(Debug)]
pub(super) struct Api {
    target: Target,
    token: Option<String>,
}

impl Reach {
    /// The API that is meant.
    ///
    /// # Errors
    /// The policy file or one of the files that it names cannot be read.
    pub(super) fn api(&self) -> Result<Api, Fault> {
        let told = |path: &Path, error: std::io::Error| {
            Fault::Where(format!("{}: {error}", path.display()))
        };
        let token = |path: &Path| {
            let text = fs::read_to_string(path).map_err(|error| told(path, error))?;
            Ok::<_, Fault>(text.trim().to_owned())
        };
        if let Some(url) = &self.admin {
            let token = self.token_file.as_deref().map(token).transpose()?;
            return Ok(Api { target: self.target(url)?, token });
        }
        let loaded = config::load(self.file.taken());
        let admin = loaded.map_err(|faults| Fault::Where(faults.to_string()))?.config.admin;
        let token_file = self.token_file.as_deref().or(admin.token_file.as_deref());
        let token = token_file.map(token).transpose()?;
        if let Some(socket) = admin.socket.filter(|socket| socket.exists()) {
            return Ok(Api { target: Target::Local(socket), token });
        }
        let ip = match admin.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let at = SocketAddr::new(ip, admin.address.port());
        let tls = match &admin.tls {
            None => None,
            Some(tls) => {
                let vouches = self.ca.as_deref().unwrap_or(&tls.certificate);
                Some(client(Some(vouches))?)
            }
        };
        let host = admin.names.into_iter().next().filter(|_| tls.is_some());
        let host = host.unwrap_or_else(|| ip.to_string());
        Ok(Api { target: Target::Tcp { at, host, tls }, token })
    }

    fn target(&self, url: &str) -> Result<Target, Fault> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Target::Local(path.trim_start_matches("//").into()));
        }
        let help =
            "write http://127.0.0.1:9643, https://NAME:9643 or unix:/run/schengate/admin.sock";
        let wrong = |what: &str| Fault::Where(format!("--admin {url}: {what}; {help}"));
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed = url::Url::parse(&whole).map_err(|error| wrong(&error.to_string()))?;
        let is_tls = match parsed.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("another scheme")),
        };
        let host = parsed.host_str().ok_or_else(|| wrong("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = parsed.port().unwrap_or(9643);
        let found = (host.as_str(), port).to_socket_addrs();
        let mut found = found.map_err(|error| wrong(&error.to_string()))?;
        let at = found.next().ok_or_else(|| wrong("no address"))?;
        let tls = is_tls.then(|| client(self.ca.as_deref())).transpose()?;
        Ok(Target::Tcp { at, host, tls })
    }
}

fn client(ca: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Fault> {
    trust_roots::client(ca).map_err(|fault| Fault::Where(fault.to_string()))
}

/// Runs what asks.
///
/// # Errors
/// As what it runs, or where this host gives no runtime.
pub(super) fn block_on<T>(ask: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Fault::Where(error.to_string()))?.block_on(ask)
}

impl Api {
    fn at(&self) -> String {
        match &self.target {
            Target::Tcp { at, .. } => at.to_string(),
            Target::Local(path) => path.display().to_string(),
        }
    }

    fn unreached(&self, what: impl ToString) -> Fault {
        Fault::Unreached { at: self.at(), what: what.to_string() }
    }

    /// What a path below `/api/v1/` answers.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.ask(Method::GET, path).await
    }

    /// The same, of a request that changes something.
    pub(super) async fn change(&self, method: Method, path: &str) -> Result<Value, Fault> {
        self.ask(method, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Value, Fault> {
        let whole = async {
            let response = self.send(method, path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreached(error))?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = timeout(TIME, whole).await.map_err(|_| self.late())??;
        self.read(status, &body)
    }

    fn late(&self) -> Fault {
        self.unreached(format!("no answer in {} s", TIME.as_secs()))
    }

    fn read(&self, status: StatusCode, body: &[u8]) -> Result<Value, Fault> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| Fault::Strange(self.at()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let detail = answer["detail"].as_str().unwrap_or(status.as_str()).to_owned();
        Err(Fault::Refused(status, detail))
    }

    /// Has `see` look at each event of the stream, as long as it gives `true`. Ends as well where the
    /// gateway ends the stream.
    pub(super) async fn stream(
        &self,
        path: &str,
        mut see: impl FnMut(&str, &Value) -> bool,
    ) -> Result<bool, Fault> {
        let sent = timeout(TIME, self.send(Method::GET, path)).await;
        let response = sent.map_err(|_| self.late())??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let body = Limited::new(body, BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreached(error))?.to_bytes();
            return self.read(status, &body).map(|_| false);
        }
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreached(error))?;
            waiting.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
            while let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = waiting.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let (Some(kind), Some(data)) = (field("event: "), field("data: ")) else {
                    continue;
                };
                let data = serde_json::from_str(data).map_err(|_| Fault::Strange(self.at()))?;
                if !see(kind, &data) {
                    return Ok(false);
                }
            }
            if waiting.len() > PIECE_MAX {
                return Err(Fault::Strange(self.at()));
            }
        }
        Ok(true)
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, Fault> {
        match &self.target {
            Target::Local(socket) => {
                let stream = UnixStream::connect(socket).await;
                let stream = stream.map_err(|error| self.unreached(error))?;
                self.exchange(stream, method, path, "localhost").await
            }
            Target::Tcp { at, host, tls } => {
                let stream = TcpStream::connect(*at).await;
                let stream = stream.map_err(|error| self.unreached(error))?;
                let named = match host.parse::<Ipv6Addr>() {
                    Ok(ip) => format!("[{ip}]:{}", at.port()),
                    Err(_) => format!("{host}:{}", at.port()),
                };
                match tls {
                    None => self.exchange(stream, method, path, &named).await,
                    Some(tls) => {
                        let name = ServerName::try_from(host.clone());
                        let name = name.map_err(|error| self.unreached(error))?;
                        let shaken = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                        let stream = shaken.await.map_err(|error| self.unreached(error))?;
                        self.exchange(stream, method, path, &named).await
                    }
                }
            }
        }
    }

    async fn exchange<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        host: &str,
    ) -> Result<Response<Incoming>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|error| self.unreached(error))?;
        // Ends with the answer; what is wrong with it is told by whoever reads the answer.
        drop(tokio::spawn(connection));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(HOST, host)
            .header(REQUEST, "1");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| Fault::Where(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| self.unreached(error))
    }
}

/// A parameter of a request, where it is written.
pub(super) fn parameters<'p>(pairs: impl IntoIterator<Item = (&'p str, Option<String>)>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    query.finish()
}

/// A part of a path, in which nothing is taken for more than a text.
pub(super) fn part(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
