//! Resolves names, once for all that need it: what ties a name to its address, explicit requests, `data
//! update`. Lends its name servers to `[dns]`, which has questions of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::host::Host;
use super::question::Question;
use super::servers::{ANSWER_TIMEOUT, Servers};
use crate::broker::{self, Feed};
use crate::identify::HostName;
use crate::settings::Resolver as Server;

/// Questions of one name, where each answer is an alias of which nothing more is said.
const QUESTIONS_MAX: usize = 8;

/// Aliases that are followed within one answer.
const ALIASES_MAX: usize = 16;

/// One of the two kinds of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// IPv4, an A record.
    V4,
    /// IPv6, an AAAA record.
    V6,
}

impl Family {
    /// That of an address in canonical form.
    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The addresses of a name, and how long they are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttl: Duration,
}

/// Why a name has no address that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAddresses {
    /// The name has none.
    None,
    /// Nobody answered, or not in time, or there is nobody to ask.
    Unanswered,
}

/// Resolves names. Shared by all workers.
#[derive(Debug)]
pub struct Resolver(Source);

#[derive(Debug)]
enum Source {
    /// Who names the resolvers means these, and no file of this host.
    Named(Arc<Servers>),
    Host(Host),
}

impl Resolver {
    /// Asks these servers; without any, those that the host's configuration names. `tls` says who may
    /// vouch for those that are asked over TLS.
    #[must_use]
    pub fn new(servers: &[Server], tls: Option<Arc<ClientConfig>>) -> Self {
        Self(if servers.is_empty() {
            Source::Host(Host::new(broker::RESOLV, broker::HOSTS))
        } else {
            Source::Named(Arc::new(Servers::new(servers.to_vec(), tls)))
        })
    }

    /// As [`Resolver::new`], where another process opens the files of the host's configuration.
    #[must_use]
    pub fn told(servers: &[Server], tls: Option<Arc<ClientConfig>>, files: Feed) -> Self {
        // Who names the resolvers lets go of the files.
        if servers.is_empty() {
            Self(Source::Host(Host::told(files)))
        } else {
            Self::new(servers, tls)
        }
    }

    /// Whether there is anybody who could be asked.
    pub(crate) fn has_servers(&self) -> bool {
        !self.servers().is_empty()
    }

    /// The name servers.
    pub(crate) fn servers(&self) -> Arc<Servers> {
        match &self.0 {
            Source::Named(servers) => Arc::clone(servers),
            Source::Host(host) => host.now().0,
        }
    }

    /// What is known of a name without a question, where anything is; none is an answer as well.
    pub(crate) fn local(&self, name: &HostName, family: Family) -> Option<Vec<IpAddr>> {
        if let Some(loopback) = localhost(name, family) {
            return Some(vec![loopback]);
        }
        let Source::Host(host) = &self.0 else { return None };
        let (_, hosts) = host.now();
        let all = hosts.get(name.as_str())?;
        let own = all.iter().map(IpAddr::to_canonical).filter(|&ip| Family::of(ip) == family);
        Some(own.collect())
    }

    /// The name's addresses of one family, as the servers give them.
    pub(crate) async fn addresses(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<Addresses, NoAddresses> {
        let asked = timeout(ANSWER_TIMEOUT, self.followed(name, family)).await;
        asked.unwrap_or(Err(NoAddresses::Unanswered))
    }

    /// The name's addresses of both families, for who asks for nobody else; none where nobody says.
    pub(crate) async fn all(&self, name: &HostName) -> Vec<IpAddr> {
        let of = async |family| match self.local(name, family) {
            Some(local) => local,
            None => {
                self.addresses(name, family).await.map_or_else(|_| Vec::new(), |of| of.addresses)
            }
        };
        let (four, six) = tokio::join!(of(Family::V4), of(Family::V6));
        [four, six].concat()
    }

    async fn followed(&self, name: &HostName, family: Family) -> Result<Addresses, NoAddresses> {
        let servers = self.servers();
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        // With its final dot the name is never looked for in a search domain.
        let name = Name::from_ascii(format!("{name}."));
        let mut name = name.map_err(|_| NoAddresses::Unanswered)?;
        let mut ttl = u32::MAX;
        for _ in 0..QUESTIONS_MAX {
            let question = Question::own(Query::query(name.clone(), kind));
            let answer = servers.ask(&question, |_| true).await;
            match read(&answer.ok_or(NoAddresses::Unanswered)?, name, &mut ttl)? {
                Read::Found(addresses) => {
                    return Ok(Addresses { addresses, ttl: Duration::from_secs(ttl.into()) });
                }
                Read::Alias(other) => name = other,
            }
        }
        Err(NoAddresses::None)
    }
}

/// What an answer says.
enum Read {
    Found(Vec<IpAddr>),
    /// The name is another one, of which the answer says nothing.
    Alias(Name),
}

/// Reads the addresses of a name, along its aliases; `ttl` becomes the shortest on the way.
fn read(message: &Message, name: Name, ttl: &mut u32) -> Result<Read, NoAddresses> {
    let code = message.metadata.response_code;
    if code == ResponseCode::NXDomain {
        return Err(NoAddresses::None);
    }
    if code != ResponseCode::NoError {
        return Err(NoAddresses::Unanswered);
    }
    let mut owner = name.clone();
    for _ in 0..=ALIASES_MAX {
        let mut addresses = Vec::new();
        let mut alias = None;
        for record in message.answers.iter().filter(|record| record.name == owner) {
            if let RData::A(v4) = &record.data {
                addresses.push(v4.0.into());
            } else if let RData::AAAA(v6) = &record.data {
                addresses.push(v6.0.into());
            } else if let RData::CNAME(target) = &record.data {
                alias = Some(target.0.clone());
            } else {
                continue;
            }
            *ttl = (*ttl).min(record.ttl);
        }
        if !addresses.is_empty() {
            return Ok(Read::Found(addresses));
        }
        let Some(target) = alias else {
            // Nothing more: where the name is an alias and nobody says that it ends there, it is asked
            // about.
            let mut authority = message.authorities.iter();
            let ends = authority.any(|record| record.record_type() == RecordType::SOA);
            return if owner == name || ends {
                Err(NoAddresses::None)
            } else {
                Ok(Read::Alias(owner))
            };
        };
        owner = target;
    }
    Err(NoAddresses::None)
}

/// The loopback address, where the name is one of this host alone (RFC 6761 §6.3).
pub(crate) fn localhost(name: &HostName, family: Family) -> Option<IpAddr> {
    let name = name.as_str();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    is_local.then_some(match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use rustls::RootCertStore;

    use super::*;

    #[tokio::test]
    async fn a_resolver_over_tls_is_believed_only_with_its_own_certificate() {
        let (at, roots) = super::super::tls::server("dns.example").await;
        let asked = HostName::parse(b"pacs.example").unwrap();
        for (named, roots, believed) in [
            ("dns.example", roots.clone(), true),
            ("other.example", roots, false),
            ("dns.example", RootCertStore::empty(), false),
        ] {
            let tls = Some(HostName::parse(named.as_bytes()).unwrap());
            let client = super::super::tls::client(roots);
            let resolver = Resolver::new(&[Server { at, tls }], Some(client));
            let answer = resolver.addresses(&asked, Family::V4).await;
            let answer = answer.map(|answer| answer.addresses);
            let wanted = vec!["198.51.100.1".parse().unwrap()];
            let wanted = if believed { Ok(wanted) } else { Err(NoAddresses::Unanswered) };
            assert_eq!(answer, wanted, "{named}");
        }
    }

    #[test]
    fn a06_localhost_is_this_host_and_never_asked_about() {
        let at = "192.0.2.53:53".parse().unwrap();
        let resolver = Resolver::new(&[Server { at, tls: None }], None);
        let local =
            |name: &str, family| resolver.local(&HostName::parse(name.as_bytes()).unwrap(), family);
        for name in ["localhost", "LOCALHOST.", "a.b.localhost"] {
            assert_eq!(local(name, Family::V4), Some(vec![Ipv4Addr::LOCALHOST.into()]), "{name}");
            assert_eq!(local(name, Family::V6), Some(vec![Ipv6Addr::LOCALHOST.into()]), "{name}");
        }
        assert_eq!(local("notlocalhost", Family::V4), None);
        assert_eq!(local("localhost.example", Family::V4), None);
    }

    #[test]
    fn an_answer_is_read_along_its_own_aliases_only() {
        use hickory_proto::op::OpCode;
        use hickory_proto::rr::Record;
        use hickory_proto::rr::rdata::{A, CNAME};
        let name = |text: &str| Name::from_str(text).unwrap();
        let a = |owner: &str, last| {
            Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)))
        };
        let alias = |owner: &str, to: &str, ttl| {
            Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
        };
        let told = |records: Vec<Record>| {
            let mut message = Message::response(0, OpCode::Query);
            message.add_answers(records);
            let mut ttl = u32::MAX;
            match read(&message, name("a.example."), &mut ttl) {
                Ok(Read::Found(found)) => format!("{found:?} {ttl}"),
                Ok(Read::Alias(other)) => other.to_string(),
                Err(none) => format!("{none:?}"),
            }
        };
        let chain = || vec![alias("a.example.", "b.example.", 9), a("b.example.", 1)];
        assert_eq!(told(chain()), "[192.0.2.1] 9");
        // In another order, and with an address that is nobody's.
        assert_eq!(
            told(chain().into_iter().rev().chain([a("c.example.", 9)]).collect()),
            "[192.0.2.1] 9"
        );
        assert_eq!(told(vec![a("c.example.", 9)]), "None");
        assert_eq!(told(vec![alias("a.example.", "b.example.", 9)]), "b.example.");
        let turns =
            vec![alias("a.example.", "b.example.", 9), alias("b.example.", "a.example.", 9)];
        assert_eq!(told(turns), "None");
    }
}
