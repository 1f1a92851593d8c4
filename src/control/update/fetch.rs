//! From a URL to bytes: resolved, judged, dialled where permitted, asked over TLS.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, NameServerConfigGroup, ResolveHosts, ResolverConfig,
};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::xfer::Protocol as Carrier;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use super::take::Validators;
use crate::control::config::{Update, unfit};
use crate::control::data::DataFault;
use crate::control::progress::Progress;
use crate::identify::{HostName, Protocol};
use crate::policy::{Claim, Permit, Policy, Question, Transport, Verdict};

/// Redirects that are followed; each is judged like the first address.
const REDIRECTS_MAX: usize = 5;

/// Addresses of one name that are judged and dialled at most.
const TRIED_MAX: usize = 16;

/// Time allowed for an answer of the resolver, and for a connect with its TLS handshake.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The longest head of an answer.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// The longest ETag that is kept.
const ETAG_MAX_BYTES: usize = 1 << 10;

/// Why a source did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The policy refuses the destination.
    #[error("{0}")]
    Refused(String),
    /// The name has no address, or nobody says.
    #[error("{0} has no address that the resolver knows")]
    Unresolved(String),
    /// Nobody answers at any permitted address.
    #[error("{at}: {said}")]
    Unreached {
        /// Who was dialled last.
        at: SocketAddr,
        /// What came of it.
        said: String,
    },
    /// The connection broke, or what came over it is no HTTP.
    #[error("the answer of {host} broke off: {said}")]
    Broken {
        /// Who answered.
        host: String,
        /// How it ended.
        said: String,
    },
    /// An answer that is no file.
    #[error("{url} answers with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("the redirect to {to} {why}")]
    Redirect {
        /// Where it points.
        to: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More bytes than are taken.
    #[error(
        "{url} is longer than {limit} bytes; set a larger [data.update] max_mib if it should be"
    )]
    Long {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// Not done in time.
    #[error("not done after {}s; set a larger [data.update] timeout if it should take so long", .0.as_secs())]
    Late(Duration),
    /// Another digest than the one that is asked for.
    #[error("has the digest {got}, and {wanted} is asked for")]
    Digest {
        /// Of the policy, or published beside the file.
        wanted: String,
        /// Of what came.
        got: String,
    },
    /// A digest or signature that cannot be read, or does not hold.
    #[error("{0}")]
    Unproven(&'static str),
    /// A file of ours cannot be written or read.
    #[error("{}: {error}", .path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another update writes the same file.
    #[error("{}: another update of it is under way", .0.display())]
    Busy(PathBuf),
    /// The reader refuses the file, or it is worse than the one there.
    #[error("{}", in_words(.0))]
    Data(Vec<DataFault>),
}

impl Fault {
    /// Whether somebody said no: the policy, or a check of the bytes. The rest is what could not be
    /// done.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::Redirect { .. }
            | Self::Long { .. }
            | Self::Digest { .. }
            | Self::Unproven(_)
            | Self::Data(_) => true,
            Self::Unresolved(_)
            | Self::Unreached { .. }
            | Self::Broken { .. }
            | Self::Status { .. }
            | Self::Late(_)
            | Self::Aside { .. }
            | Self::Busy(_) => false,
        }
    }

    pub(super) fn aside(path: &Path, error: io::Error) -> Self {
        Self::Aside { path: path.to_owned(), error }
    }
}

fn in_words(faults: &[DataFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An error with what caused it, as one line; what others wrote into it is escaped.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = inner.source();
    }
    said.escape_debug().to_string()
}

/// Asks for URLs, as far as a policy permits.
pub(super) struct Client<'a> {
    policy: &'a Policy,
    resolver: TokioResolver,
    tls: TlsConnector,
}

impl<'a> Client<'a> {
    /// To be made within the runtime that will ask. Asks `resolvers`, else those of the host.
    pub(super) fn new(
        policy: &'a Policy,
        resolvers: &[SocketAddr],
        update: &Update,
    ) -> Result<Self, String> {
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots(update.ca.as_deref())?)
                .with_no_client_auth();
        Ok(Self { policy, resolver: resolver(resolvers)?, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Judges where a URL leads, and dials nobody. The permits are those of the permitted addresses.
    pub(super) async fn judge(
        &self,
        url: &Url,
        judged: &mut Option<Verdict>,
    ) -> Result<Vec<Permit>, Fault> {
        let text = url.host_str().unwrap_or_default();
        let host = HostName::parse(text.as_bytes())
            .map_err(|bad| Fault::Redirect { to: url.to_string(), why: bad_name(bad) })?;
        let port = url.port_or_known_default().unwrap_or(443);
        let question = |address: IpAddr| Question {
            client: None,
            destination: SocketAddr::new(address, port),
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            // Resolved here, and the address that was resolved is the one that is dialled.
            name: Claim::Bound(&host),
            ech: false,
        };
        // The query for a name that no address could save never leaves.
        if let Some(verdict) = self.policy.decide_name(&question(Ipv6Addr::UNSPECIFIED.into())) {
            *judged = Some(verdict);
            return Err(self.refused(&verdict, &host));
        }
        let unresolved = || Fault::Unresolved(host.to_string());
        let answer =
            tokio::time::timeout(RESOLVE_PATIENCE, self.resolver.lookup_ip(format!("{host}.")));
        let answer = answer.await.ok().and_then(Result::ok).ok_or_else(unresolved)?;
        let (mut permits, mut refused) = (Vec::new(), None);
        for address in answer.iter().take(TRIED_MAX) {
            let verdict = self.policy.decide(&question(address.to_canonical()));
            match verdict.permit() {
                Ok(permit) => permits.push(permit),
                Err(denial) => refused = refused.or_else(|| Some(*denial.verdict())),
            }
        }
        match (permits.first(), refused) {
            (Some(permit), _) => *judged = Some(*permit.verdict()),
            (None, Some(verdict)) => {
                *judged = Some(verdict);
                return Err(self.refused(&verdict, &host));
            }
            (None, None) => return Err(unresolved()),
        }
        Ok(permits)
    }

    fn refused(&self, verdict: &Verdict, host: &HostName) -> Fault {
        let rule = verdict.rule().map(|rule| format!(" `{}`", self.policy.rule_name(rule)));
        let (reason, rule) = (verdict.reason(), rule.unwrap_or_default());
        let at = verdict.destination();
        let help = if at.ip().is_unspecified() {
            format!("{host}, whatever its address")
        } else {
            format!("`schengate explain --to {at} --host {host}` shows each step")
        };
        Fault::Refused(format!("{reason}{rule}: {} ({help})", reason.sentence()))
    }

    /// A connection to a permitted address of the URL's host.
    async fn connect(
        &self,
        url: &Url,
        judged: &mut Option<Verdict>,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut last = Fault::Unresolved(host.clone());
        for permit in self.judge(url, judged).await? {
            let verdict = *permit.verdict();
            *judged = Some(verdict);
            match tokio::time::timeout(CONNECT_PATIENCE, self.dial(&permit, &host)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    last = Fault::Unreached { at: permit.destination(), said: chain(&error) };
                }
                Err(_) => {
                    let said = "no answer in time".to_owned();
                    last = Fault::Unreached { at: permit.destination(), said };
                }
            }
        }
        Err(last)
    }

    async fn dial(&self, permit: &Permit, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(permit.destination()).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.tls.connect(name, stream).await
    }

    /// Asks for a URL, through its redirects; `None` where what `known` says of it still holds.
    pub(super) async fn get(
        &self,
        url: &Url,
        known: &Validators,
        judged: &mut Option<Verdict>,
    ) -> Result<Option<Answer>, Fault> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.ask(&url, known, judged).await?;
            let status = answer.response.status();
            if status == StatusCode::OK {
                return Ok(Some(answer));
            }
            if status == StatusCode::NOT_MODIFIED && !known.is_empty() {
                return Ok(None);
            }
            let location = answer.response.headers().get(header::LOCATION);
            let location = location.filter(|_| status.is_redirection());
            let Some(location) = location else {
                return Err(Fault::Status { url: url.to_string(), status: status.as_u16() });
            };
            let text = String::from_utf8_lossy(location.as_bytes());
            let next = url.join(&text).map_err(|_| Fault::Redirect {
                to: text.escape_debug().to_string(),
                why: "is no URL",
            })?;
            if let Some(why) = unfit(&next) {
                return Err(Fault::Redirect { to: next.to_string(), why });
            }
            url = next;
        }
        Err(Fault::Redirect { to: url.to_string(), why: "is one too many" })
    }

    async fn ask(
        &self,
        url: &Url,
        known: &Validators,
        judged: &mut Option<Verdict>,
    ) -> Result<Answer, Fault> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let stream = self.connect(url, judged).await?;
        let broken = |said: &dyn Error| Fault::Broken { host: host.clone(), said: chain(said) };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX_BYTES)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // It ends with the answer; what it has to say of its end, the answer says as well.
        tokio::spawn(async move { drop(connection.await) });
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let mut request = Request::get(target)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("schengate/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "*/*")
            .header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in known.conditions() {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok(Answer { url: url.to_string(), host, response })
    }

    /// All of a short text, such as a digest or a signature.
    pub(super) async fn small(
        &self,
        url: &Url,
        limit: u64,
        judged: &mut Option<Verdict>,
    ) -> Result<Vec<u8>, Fault> {
        let answer = self.get(url, &Validators::default(), judged).await?;
        let Some(answer) = answer else {
            return Err(Fault::Status { url: url.to_string(), status: 304 });
        };
        let mut bytes = Vec::new();
        answer.pour(&mut bytes, limit, |_| ()).await?;
        Ok(bytes)
    }
}

/// A file that is on its way.
pub(super) struct Answer {
    url: String,
    host: String,
    response: Response<Incoming>,
}

impl Answer {
    /// Its length, where the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        let length = self.response.headers().get(header::CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    }

    /// What tells this file from a later one at `url`.
    pub(super) fn validators(&self, url: &Url) -> Validators {
        let headers = self.response.headers();
        let etag = line(headers, header::ETAG).filter(|etag| etag.len() <= ETAG_MAX_BYTES);
        Validators::of(url, etag, line(headers, header::LAST_MODIFIED))
    }

    /// When the server says that it was last written.
    pub(super) fn modified(&self) -> Option<Timestamp> {
        let text = line(self.response.headers(), header::LAST_MODIFIED)?;
        let zoned = jiff::fmt::rfc2822::parse(&text).ok()?;
        Some(zoned.timestamp())
    }

    /// Writes it to a file, and gives its SHA-256 in hex.
    pub(super) async fn write(
        self,
        file: &mut File,
        limit: u64,
        progress: &dyn Progress,
    ) -> Result<String, Fault> {
        let mut into = Hashed { file, hash: Sha256::new() };
        self.pour(&mut into, limit, |bytes| progress.advance(bytes)).await?;
        Ok(into.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    async fn pour(
        mut self,
        into: &mut impl Write,
        limit: u64,
        told: impl Fn(u64),
    ) -> Result<(), Fault> {
        let long = || Fault::Long { url: self.url.clone(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(long());
        }
        let mut left = limit;
        let body = self.response.body_mut();
        while let Some(frame) = body.frame().await {
            let broken = |error: hyper::Error| Fault::Broken {
                host: self.host.clone(),
                said: chain(&error),
            };
            let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            left = left
                .checked_sub(length)
                .ok_or_else(|| Fault::Long { url: self.url.clone(), limit })?;
            into.write_all(&bytes).map_err(|error| Fault::aside(Path::new(&self.url), error))?;
            told(length);
        }
        Ok(())
    }
}

/// A header of one line of visible ASCII.
fn line(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What is written is hashed on the way.
struct Hashed<'f> {
    file: &'f mut File,
    hash: Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

const fn bad_name(_: crate::identify::BadName) -> &'static str {
    "has a host name that no host can have"
}

/// Whose certificates are believed.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let fault = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fault(&error))?;
            roots.add(certificate).map_err(|error| fault(&error))?;
        }
        if roots.is_empty() {
            return Err(fault(&"holds no certificate in PEM"));
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(format!(
            "this host has no CA certificates{why}; install some, or name a file: [data.update] ca"
        ));
    }
    Ok(roots)
}

/// As the data plane asks (`[names] resolvers`), whose resolver this plane cannot use.
fn resolver(resolvers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let mut builder = if resolvers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| format!("no resolver: {error}"))?
    } else {
        let each = |&at: &SocketAddr| {
            [Carrier::Udp, Carrier::Tcp].map(|carrier| NameServerConfig::new(at, carrier))
        };
        let servers: NameServerConfigGroup =
            resolvers.iter().flat_map(each).collect::<Vec<_>>().into();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioConnectionProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    Ok(builder.build())
}
