//! What each fuzz target checks. The repository's tests run the same functions over the seeds.

mod datagrams;
mod files;
#[path = "../../tests/flights/mod.rs"]
mod flights;
mod packets;
mod streams;

pub use datagrams::{dtls, quic};
pub use files::{mmdb, pack, pcap, policy_file, table};
pub use packets::lane;
pub use streams::{connect_target, http, second, socks, starttls, tls};

use schengate::identify::{HostName, Identity, Protocol};

/// All that an answer says, to compare two.
type Summary = (Protocol, Option<String>, Option<&'static str>, bool, u16, Vec<Vec<u8>>);

fn summary(identity: &Identity<'_>) -> Summary {
    let mut alpn = Vec::new();
    identity.alpn.each(|protocol| alpn.push(protocol.to_vec()));
    let name = identity.name.map(|(name, _)| name.to_string());
    let fault = identity.fault.map(|fault| fault.label());
    (identity.protocol, name, fault, identity.ech, identity.tls_version, alpn)
}

fn consistent(identity: &Identity<'_>) {
    assert!(identity.name.is_none() || identity.fault.is_none(), "a fault leaves no name");
    identity.alpn.each(|protocol| assert!(!protocol.is_empty()));
    if let Some((name, _)) = identity.name {
        assert_eq!(HostName::parse(name.as_bytes()), Ok(name), "a name is in its one form");
    }
}

/// The first bytes, which say what is done to the others, and these.
fn directed<const N: usize>(data: &[u8]) -> Option<([usize; N], &[u8])> {
    let (directions, rest) = data.split_first_chunk::<N>()?;
    Some((directions.map(usize::from), rest))
}
