//! Who may ask the API and the page, and change something by it.
//!
//! On loopback and on a Unix socket whoever is on this host may ask, unless a token is set. On another
//! address nobody may without TLS and a token or a certificate of their own; what a browser was led to
//! do by another site is refused everywhere: by the `Host` that a name turned to this address would
//! send (DNS rebinding), by the site that a request says it comes from, and by a header that no form
//! and no simple request of another site can carry.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, Uri};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use crate::control::config::{Admin, AdminTls};

/// The header of a request that changes something; its value does not matter.
pub const REQUEST: HeaderName = HeaderName::from_static("x-schengate-request");

/// Where a browser says that a request comes from (Fetch Metadata).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The shortest token, and the longest: 32 characters of 64 are 192 bits.
const TOKEN: std::ops::RangeInclusive<usize> = 32..=1024;

/// Why the admin listener cannot be served as the policy says.
#[derive(Debug, thiserror::Error)]
pub enum AccessFault {
    /// A file cannot be read.
    #[error("[admin] {key} {}: {what}", .path.display())]
    File {
        /// The key of the policy that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The certificate and the key do not fit, or cannot be used.
    #[error("[admin] certificate {}: {source}; name the certificate of this key", .path.display())]
    Tls {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// An address, and the digest of the certificate that it showed.
    Address(SocketAddr, Option<[u8; 32]>),
    /// A user of this host, by the Unix socket.
    Local(Option<u32>),
}

/// Who asks, in words for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who(String);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why somebody is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The address serves nothing but the metrics.
    Closed,
    /// The name by which it was asked is not its own.
    Host,
    /// Another site asks.
    Site,
    /// The token is missing, or another one.
    Token,
    /// A change without the header.
    Header,
}

impl Denied {
    /// What to do, in words.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Closed => {
                "The API and the page are not served on this address: ask on 127.0.0.1 or \
                 [admin] socket, or write certificate, key, and token_file or client_ca in [admin]."
            }
            Self::Host => {
                "This listener has another name: ask by its IP address or localhost, or write the \
                 name into [admin] names."
            }
            Self::Site => "Another site may not ask this listener.",
            Self::Token => "The token of [admin] token_file is needed, as Bearer or as a password.",
            Self::Header => {
                "A request that changes something needs the header X-Schengate-Request."
            }
        }
    }
}

/// What is asked of those who ask.
#[derive(Debug)]
pub struct Access {
    /// The digest of the token: to compare it tells nothing of the token.
    token: Option<[u8; 32]>,
    names: Vec<String>,
    /// Served on an address on which anybody can be, without TLS.
    is_closed: bool,
    tls: Option<Arc<ServerConfig>>,
}

impl Access {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// A file that cannot be read or used; nothing is served then.
    pub fn load(settings: &Admin) -> Result<Self, AccessFault> {
        let is_loopback = settings.address.ip().to_canonical().is_loopback();
        Ok(Self {
            token: settings.token_file.as_deref().map(token).transpose()?,
            names: settings.names.clone(),
            is_closed: !is_loopback && settings.tls.is_none(),
            tls: settings.tls.as_ref().map(server).transpose()?.map(Arc::new),
        })
    }

    /// How the address is served over TLS, where it is.
    pub(super) const fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.tls.as_ref()
    }

    /// Whether the address serves the metrics alone.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Who asks, where they may.
    pub(super) fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Who, Denied> {
        let is_change = !matches!(*method, Method::GET | Method::HEAD);
        if let Peer::Address(..) = peer {
            if self.is_closed {
                return Err(Denied::Closed);
            }
            let host = only(headers, &HOST).ok_or(Denied::Host)?;
            if !self.is_own(host) {
                return Err(Denied::Host);
            }
            let navigates = !is_change && only(headers, &MODE) == Some("navigate");
            let site = headers.get(&SITE).map(|site| site.as_bytes());
            if !navigates && !matches!(site, None | Some(b"same-origin" | b"none")) {
                return Err(Denied::Site);
            }
            if is_change && headers.contains_key(ORIGIN) && !is_same(headers, host) {
                return Err(Denied::Site);
            }
        }
        let user = self.user(headers)?;
        if is_change && !headers.contains_key(&REQUEST) {
            return Err(Denied::Header);
        }
        Ok(who(peer, user.as_deref()))
    }

    /// Whether a `Host` is this listener. A name of somebody else that leads here is none of these, and
    /// an address needs no name.
    fn is_own(&self, host: &str) -> bool {
        let Ok(uri) = host.parse::<hyper::http::uri::Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = uri.host();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        bare.parse::<IpAddr>().is_ok() || name == "localhost" || self.names.contains(&name)
    }

    /// The user that HTTP Basic names, where a token is asked for and given.
    fn user(&self, headers: &HeaderMap) -> Result<Option<String>, Denied> {
        let Some(wanted) = &self.token else { return Ok(None) };
        let given = only(headers, &AUTHORIZATION).ok_or(Denied::Token)?;
        let (scheme, value) = given.split_once(' ').ok_or(Denied::Token)?;
        let (user, token) = if scheme.eq_ignore_ascii_case("bearer") {
            (None, value.trim().as_bytes().to_vec())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64.decode(value.trim()).map_err(|_| Denied::Token)?;
            let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Denied::Token)?;
            let (user, token) = decoded.split_at(colon);
            let user = String::from_utf8_lossy(user);
            let user = user.chars().filter(|c| !c.is_control()).take(64).collect();
            (Some(user), token.get(1..).unwrap_or_default().to_vec())
        } else {
            return Err(Denied::Token);
        };
        if digest(&token) == *wanted { Ok(user) } else { Err(Denied::Token) }
    }
}

/// The one value of a header; `None` where there is none, or several.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

/// Whether `Origin` is the listener itself, as it was asked.
fn is_same(headers: &HeaderMap, host: &str) -> bool {
    let origin = only(headers, &ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
    origin.is_some_and(|origin| origin.authority().is_some_and(|it| it.as_str() == host))
}

fn who(peer: &Peer, user: Option<&str>) -> Who {
    let user = user.filter(|user| !user.is_empty());
    let user = user.map_or_else(String::new, |user| format!(", as {user}"));
    Who(match peer {
        Peer::Address(at, None) => format!("{at}{user}"),
        Peer::Address(at, Some(certificate)) => {
            let hex: String = certificate.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{at}, certificate sha256:{hex}{user}")
        }
        Peer::Local(Some(uid)) => format!("uid {uid}{user}"),
        Peer::Local(None) => format!("unix socket{user}"),
    })
}

pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The digest of the token in a file.
fn token(path: &Path) -> Result<[u8; 32], AccessFault> {
    let fault = |what: String| AccessFault::File { key: "token_file", path: path.to_owned(), what };
    let file = File::open(path).map_err(|error| fault(error.to_string()))?;
    let mode = file.metadata().map_err(|error| fault(error.to_string()))?.mode();
    if mode & 0o007 != 0 {
        return Err(fault("everybody on this host may read it: chmod o= it".to_owned()));
    }
    let mut text = String::new();
    let most = TOKEN.end() + 2;
    let read = file.take(most as u64).read_to_string(&mut text);
    read.map_err(|error| fault(error.to_string()))?;
    let token = text.trim_end_matches(['\r', '\n']);
    let is_token =
        TOKEN.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        let what =
            "is not a token: one line of 32 visible characters or more (`openssl rand -hex 32`)";
        return Err(fault(what.to_owned()));
    }
    Ok(digest(token.as_bytes()))
}

fn server(tls: &AdminTls) -> Result<ServerConfig, AccessFault> {
    let fault =
        |key, path: &Path, what: String| AccessFault::File { key, path: path.to_owned(), what };
    let chain = certificates(&tls.certificate)
        .map_err(|what| fault("certificate", &tls.certificate, what))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| fault("key", &tls.key, format!("no private key can be read: {error}")))?;
    let broken = |source| AccessFault::Tls { path: tls.certificate.clone(), source };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let wrong = |what: String| fault("client_ca", path, what);
            for certificate in certificates(path).map_err(wrong)? {
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| wrong(e.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(broken)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    if all.is_empty() { Err("no certificate can be read".to_owned()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use hyper::header::HeaderValue;

    use super::*;

    fn access(token: Option<&str>) -> Access {
        Access {
            token: token.map(|token| digest(token.as_bytes())),
            names: vec!["gateway.example".to_owned()],
            is_closed: false,
            tls: None,
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn peer() -> Peer {
        Peer::Address("127.0.0.1:4000".parse().unwrap(), None)
    }

    #[test]
    fn a_name_that_somebody_turned_to_this_address_is_not_answered() {
        let access = access(None);
        let of = |host: &str| access.admit(&Method::GET, &headers(&[("host", host)]), &peer());
        for own in ["127.0.0.1:9643", "[::1]:9643", "localhost", "LOCALHOST.:1", "Gateway.example"]
        {
            assert!(of(own).is_ok(), "{own}");
        }
        for other in
            ["rebound.example:9643", "localhost.rebound.example", "a@localhost", "", "::1:x"]
        {
            assert_eq!(of(other), Err(Denied::Host), "{other}");
        }
        let twice = headers(&[("host", "localhost"), ("host", "rebound.example")]);
        assert_eq!(access.admit(&Method::GET, &twice, &peer()), Err(Denied::Host));
        assert_eq!(access.admit(&Method::GET, &HeaderMap::new(), &peer()), Err(Denied::Host));
        assert!(access.admit(&Method::GET, &HeaderMap::new(), &Peer::Local(Some(0))).is_ok());
    }

    #[test]
    fn another_site_neither_reads_nor_changes() {
        let access = access(None);
        let with = |method: Method, more: &[(&'static str, &str)]| {
            let mut fields = vec![("host", "127.0.0.1:9643")];
            fields.extend_from_slice(more);
            access.admit(&method, &headers(&fields), &peer())
        };
        let (site, own) = ("sec-fetch-site", ("x-schengate-request", "1"));
        assert!(with(Method::GET, &[(site, "same-origin")]).is_ok());
        assert_eq!(with(Method::GET, &[(site, "cross-site")]), Err(Denied::Site));
        assert_eq!(with(Method::GET, &[(site, "same-site")]), Err(Denied::Site));
        assert!(with(Method::GET, &[(site, "cross-site"), ("sec-fetch-mode", "navigate")]).is_ok());
        assert_eq!(with(Method::POST, &[]), Err(Denied::Header));
        assert!(with(Method::POST, &[own]).is_ok());
        let origin = |origin| with(Method::POST, &[own, ("origin", origin)]);
        assert!(origin("http://127.0.0.1:9643").is_ok());
        assert_eq!(origin("http://127.0.0.1:9644"), Err(Denied::Site));
        assert_eq!(origin("null"), Err(Denied::Site));
        let navigates = [own, (site, "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(with(Method::POST, &navigates), Err(Denied::Site));
    }

    #[test]
    fn the_token_is_asked_for_in_both_forms_and_names_the_user() {
        let token = "0123456789abcdef0123456789abcdef";
        let access = access(Some(token));
        let with = |value: &str| {
            let headers = headers(&[("host", "localhost"), ("authorization", value)]);
            access.admit(&Method::GET, &headers, &peer())
        };
        assert!(with(&format!("Bearer {token}")).is_ok());
        let basic = |text: String| with(&format!("basic {}", BASE64.encode(text)));
        assert_eq!(basic(format!("anna:{token}")).unwrap().to_string(), "127.0.0.1:4000, as anna");
        for wrong in ["Bearer", "Bearer x", "Digest x", "Basic !", "Basic YQ=="] {
            assert_eq!(with(wrong), Err(Denied::Token), "{wrong}");
        }
        let none = headers(&[("host", "localhost")]);
        assert_eq!(access.admit(&Method::GET, &none, &peer()), Err(Denied::Token));
        let local = access.admit(&Method::GET, &HeaderMap::new(), &Peer::Local(Some(7)));
        assert_eq!(local, Err(Denied::Token));
    }

    #[test]
    fn an_address_where_anybody_can_be_serves_nothing_without_tls() {
        let admin = Admin::at("192.0.2.1:9643".parse().unwrap());
        let access = Access::load(&admin).unwrap();
        let asked = headers(&[("host", "192.0.2.1:9643")]);
        assert_eq!(access.admit(&Method::GET, &asked, &peer()), Err(Denied::Closed));
        let loopback = Admin::at("[::ffff:127.0.0.1]:9643".parse().unwrap());
        assert!(!Access::load(&loopback).unwrap().is_closed());
    }

    #[test]
    fn a_token_that_others_may_read_or_guess_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let admin = || Admin {
            token_file: Some(path.clone()),
            ..Admin::at("127.0.0.1:0".parse().unwrap())
        };
        assert!(Access::load(&admin()).unwrap_err().to_string().contains("token"));
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Access::load(&admin()).map(|_| ()).map_err(|fault| fault.to_string())
        };
        let good = "0123456789abcdef0123456789abcdef\n";
        assert!(write(good, 0o640).is_ok());
        assert!(write(good, 0o644).unwrap_err().contains("chmod"), "readable");
        for wrong in [
            "short\n",
            "",
            "two words of 32 characters or more",
            "0123456789abcdef0123456789abcde\u{e9}",
        ] {
            assert!(write(wrong, 0o600).unwrap_err().contains("openssl rand"), "{wrong}");
        }
    }
}
