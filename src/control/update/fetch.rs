//! From a URL to bytes: resolved, judged, dialled where permitted, asked over TLS.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use url::Url;

use super::credential::Credential;
use super::fault::Fault;
use super::take::Validators;
use crate::control::config::{Names, Update, unfit};
use crate::control::progress::Progress;
use crate::control::trust_roots;
use crate::egress::permitted::{NotPermitted, resolve_and_judge};
use crate::egress::{Resolver, dial};
use crate::identify::{HostName, Protocol};
use crate::policy::{Claim, Lapsed, Permit, Policy, Question, Transport, Verdict};

/// Redirects that are followed; each is judged like the first address.
const REDIRECTS_MAX: usize = 5;

/// Time allowed for a connect with its TLS handshake.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The longest head of an answer.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// The longest ETag that is kept.
const ETAG_MAX_BYTES: usize = 1 << 10;

/// What is asked for. Its URL may hold a credential, so that `shown` stands for it in every text.
pub(super) struct Target<'t> {
    pub(super) url: Url,
    pub(super) shown: String,
    /// Sent to the origin of `url`, and to nobody else.
    pub(super) credential: Option<&'t Credential>,
}

/// A URL that a server named, as it is shown: neither its path nor its query, which may hold a
/// signature or a credential that it gave back.
fn elsewhere(url: &Url) -> String {
    format!("{}/...", url.origin().ascii_serialization())
}

/// Asks for URLs, as far as a policy permits.
pub(super) struct Client<'a> {
    policy: &'a Policy,
    resolver: Resolver,
    tls: Arc<ClientConfig>,
}

impl<'a> Client<'a> {
    /// To be made within the runtime that will ask. Asks the resolvers of `names`, else those of the host.
    ///
    /// # Errors
    /// Where nobody could vouch for those who are asked over TLS.
    pub(super) fn new(
        policy: &'a Policy,
        names: &Names,
        update: &Update,
    ) -> Result<Self, trust_roots::Fault> {
        let tls = trust_roots::client(update.ca.as_deref())?;
        let of_resolvers = trust_roots::of_resolvers(names)?;
        Ok(Self { policy, resolver: Resolver::new(&names.resolvers, of_resolvers), tls })
    }

    /// Judges where a URL leads, and dials nobody. The permits are those of the permitted addresses.
    pub(super) async fn judge(
        &self,
        url: &Url,
        judged: &mut Option<Verdict>,
    ) -> Result<Vec<Permit>, Fault> {
        let text = url.host_str().unwrap_or_default();
        let host = HostName::parse(text.as_bytes())
            .map_err(|bad| Fault::Redirect { to: elsewhere(url), why: bad_name(bad) })?;
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
        let found = resolve_and_judge(
            || Ok(self.policy),
            |policy| policy.decide_name(&question(Ipv6Addr::UNSPECIFIED.into())),
            async { Ok::<_, Infallible>(self.resolver.all(&host).await) },
            |policy, address| {
                let verdict = policy.decide(&question(address));
                Some((verdict, verdict))
            },
        );
        match found.await {
            Ok(found) => {
                *judged = found.addresses.first().map(|(_, verdict)| *verdict);
                Ok(found.addresses.into_iter().map(|(permit, _)| permit).collect())
            }
            Err(NotPermitted::Refused(_, verdict)) => {
                *judged = Some(verdict);
                Err(self.refused(&verdict, &host))
            }
            Err(NotPermitted::Lapsed(_)) => Err(Lapsed.into()),
            Err(NotPermitted::NoAddress) => Err(Fault::Unresolved(host.to_string())),
            Err(NotPermitted::Unresolved(_, never)) => match never {},
        }
    }

    fn refused(&self, verdict: &Verdict, host: &HostName) -> Fault {
        Fault::Refused {
            reason: verdict.reason(),
            rule: verdict.rule().map(|rule| self.policy.rule_name(rule).to_owned()),
            at: verdict.destination(),
            host: host.to_string(),
        }
    }

    /// A connection to a permitted address of the URL's host.
    async fn dialled(
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
                Ok(Err(source)) => last = Fault::Unreached { at: permit.destination(), source },
                Err(_) => {
                    let source = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                    last = Fault::Unreached { at: permit.destination(), source };
                }
            }
        }
        Err(last)
    }

    async fn dial(&self, permit: &Permit, host: &str) -> io::Result<TlsStream<TcpStream>> {
        dial::tls(permit, host.to_owned(), &self.tls).await
    }

    /// Asks for a URL, through its redirects; `None` where what `known` says of it still holds. Once a
    /// redirect has led to another origin (RFC 6454), no credential is sent any more.
    pub(super) async fn get(
        &self,
        target: &Target<'_>,
        known: &Validators,
        judged: &mut Option<Verdict>,
    ) -> Result<Option<Answer>, Fault> {
        let (mut url, mut shown) = (target.url.clone(), target.shown.clone());
        let mut credential = target.credential;
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.ask(&url, &shown, credential, known, judged).await?;
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
                return Err(Fault::Status { url: shown, status: status.as_u16() });
            };
            let next = url
                .join(&String::from_utf8_lossy(location.as_bytes()))
                .map_err(|_| Fault::Redirect { to: shown, why: "is not a URL" })?;
            shown = elsewhere(&next);
            if let Some(why) = unfit(&next) {
                return Err(Fault::Redirect { to: shown, why });
            }
            if next.origin() != url.origin() {
                if target.credential.is_some_and(|credential| credential.is_in(next.as_str())) {
                    let why = "would carry the credential to another server";
                    return Err(Fault::Redirect { to: shown, why });
                }
                credential = None;
            }
            url = next;
        }
        Err(Fault::Redirect { to: shown, why: "is one too many" })
    }

    async fn ask(
        &self,
        url: &Url,
        shown: &str,
        credential: Option<&Credential>,
        known: &Validators,
        judged: &mut Option<Verdict>,
    ) -> Result<Answer, Fault> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let stream = self.dialled(url, judged).await?;
        let broken = |source| Fault::Broken { host: host.clone(), source };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX_BYTES)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.into()))?;
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
        if let Some((name, value)) = credential.and_then(Credential::header) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| broken(error.into()))?;
        let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        Ok(Answer { shown: shown.to_owned(), host, response })
    }

    /// All of a short text, such as a digest or a signature.
    pub(super) async fn small(
        &self,
        target: &Target<'_>,
        limit: u64,
        judged: &mut Option<Verdict>,
    ) -> Result<Vec<u8>, Fault> {
        let answer = self.get(target, &Validators::default(), judged).await?;
        let Some(answer) = answer else {
            return Err(Fault::Status { url: target.shown.clone(), status: 304 });
        };
        let mut bytes = Vec::new();
        answer.pour(&mut bytes, limit, |_| ()).await?;
        Ok(bytes)
    }
}

/// A file that is on its way.
pub(super) struct Answer {
    shown: String,
    host: String,
    response: Response<Incoming>,
}

impl Answer {
    /// Its length, where the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        let length = self.response.headers().get(header::CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    }

    /// What tells this file from a later one at `url`, which holds no credential.
    pub(super) fn validators(&self, url: &str) -> Validators {
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
        let long = || Fault::Long { url: self.shown.clone(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(long());
        }
        let mut left = limit;
        let body = self.response.body_mut();
        while let Some(frame) = body.frame().await {
            let broken = |error: hyper::Error| Fault::Broken {
                host: self.host.clone(),
                source: error.into(),
            };
            let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            left = left
                .checked_sub(length)
                .ok_or_else(|| Fault::Long { url: self.shown.clone(), limit })?;
            into.write_all(&bytes).map_err(|error| Fault::aside(Path::new(&self.shown), error))?;
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
