//! One connection, as the gateway would read it.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::identify::dtls::{DtlsReader, DtlsStep};
use crate::identify::quic::{QuicReader, QuicStep};
use crate::identify::starttls::{Upgrade, Via, upgrade};
use crate::identify::{
    Fault, HostName, Identity, NameSource, Protocol, Step, each_name, identify, udp_protocol,
};
use crate::policy::Transport;

/// TLS behind another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgraded {
    /// How the client came to it.
    pub via: Via,
    /// Offset of the TLS record in the client's stream.
    pub offset: usize,
}

/// One connection of a capture, or one raw first flight.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The file it stands in, as it was named.
    pub file: String,
    /// `10.0.0.1:5000>203.0.113.7:443`; `None` for a raw first flight, which has no addresses.
    pub flow: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The server's address and port.
    pub destination: Option<SocketAddr>,
    /// TCP or UDP.
    pub transport: Transport,
    /// What the first bytes are.
    pub proto: Protocol,
    /// The name that the gateway would take for its verdict, and from where.
    pub name: Option<(HostName, NameSource)>,
    /// Every name in a first flight with a [`Flow::fault`].
    pub names: Vec<HostName>,
    /// The name in the ClientHello; also in one that follows STARTTLS or a proxy's handshake, which
    /// the gateway judges by address (see [`Flow::upgraded`]).
    pub sni: Option<String>,
    /// The first Host of an HTTP request, else the authority of its target: as the client wrote
    /// it, control characters escaped.
    pub host: Option<String>,
    /// The ALPN list, each byte of a protocol as the character of that number.
    pub alpn: Vec<String>,
    /// The hello has the ECH extension.
    pub ech: bool,
    /// The hello has the ESNI extension.
    pub esni: bool,
    /// The version of the first long-header packet.
    pub quic_version: Option<String>,
    /// The first flight holds all that the gateway needs: a whole hello or request head, or
    /// another protocol. Not where no byte of the client is in the file.
    pub complete: bool,
    /// Why it could not be read to its end.
    pub fault: Option<Fault>,
    /// TLS follows behind a part in the clear.
    pub upgraded: Option<Upgraded>,
}

impl Flow {
    fn new(file: &str, transport: Transport, identity: &Identity<'_>) -> Self {
        let mut alpn = Vec::new();
        identity
            .alpn
            .each(|protocol| alpn.push(protocol.iter().copied().map(char::from).collect()));
        let sni = identity.name.filter(|(_, source)| *source != NameSource::HttpHost);
        let sni = sni.filter(|(_, source)| *source != NameSource::Connect);
        Self {
            file: file.to_owned(),
            flow: None,
            client: None,
            destination: None,
            transport,
            proto: identity.protocol,
            name: identity.name,
            names: Vec::new(),
            sni: sni.map(|(name, _)| name.to_string()),
            host: host(identity),
            alpn,
            ech: identity.ech,
            esni: identity.esni,
            quic_version: None,
            complete: identity.fault != Some(Fault::Incomplete),
            fault: identity.fault,
            upgraded: None,
        }
    }

    /// The flow of all that one client sent over TCP.
    #[must_use]
    pub fn of_stream(file: &str, seen: &[u8]) -> Self {
        let Step::Done(identity) = identify(seen, true) else {
            // `ended` is set, so there is always an answer; were there none, nothing is known.
            return Self::new(file, Transport::Tcp, &Identity::NOTHING);
        };
        let mut flow = Self::new(file, Transport::Tcp, &identity);
        flow.complete &= !seen.is_empty();
        if flow.fault.is_some() {
            each_name(seen, |name| flow.names.push(name));
        }
        let connect = identity.http.is_some_and(|head| head.method == b"CONNECT");
        if flow.proto == Protocol::Other || connect {
            flow.follow_upgrade(seen);
        }
        flow
    }

    /// The flow of what is known of one client's bytes. `lacks`: it sent others behind them.
    pub(super) fn of_client(file: &str, seen: &[u8], lacks: bool) -> Self {
        let mut flow = Self::of_stream(file, seen);
        if lacks && matches!(identify(seen, false), Step::NeedMore(_)) {
            flow.complete = false;
            flow.fault.get_or_insert(Fault::Incomplete);
        }
        flow
    }

    fn follow_upgrade(&mut self, seen: &[u8]) {
        let Upgrade::Tls { via, at } = upgrade(seen) else { return };
        let tls = seen.get(at..).unwrap_or_default();
        let Step::Done(identity) = identify(tls, true) else { return };
        let inner = Self::new(&self.file, Transport::Tcp, &identity);
        self.upgraded = Some(Upgraded { via, offset: at });
        self.sni = inner.sni;
        self.alpn = inner.alpn;
        self.ech = inner.ech;
        self.esni = inner.esni;
    }

    /// `{"file":...,"flow":...,"proto":...,"sni":...,"host":...,"alpn":[...],"ech":...,
    /// "quic_version":...,"complete":...,"fault":...,"starttls":...,"verdict":...,"reason":...}`;
    /// the last two are null without a `verdict` (its label and that of its reason). Write it with
    /// [`ascii_json`] where a terminal may read it.
    #[must_use]
    pub fn to_json(&self, verdict: Option<(&str, &str)>) -> Value {
        json!({
            "file": self.file,
            "flow": self.flow,
            "proto": self.proto.label(),
            "sni": self.sni,
            "host": self.host,
            "alpn": self.alpn,
            "ech": self.ech,
            "quic_version": self.quic_version,
            "complete": self.complete,
            "fault": self.fault.map(Fault::label),
            "starttls": self.upgraded.map(|upgraded| upgraded.via.label()),
            "verdict": verdict.map(|(action, _)| action),
            "reason": verdict.map(|(_, reason)| reason),
        })
    }
}

/// The first Host, else the authority of the target.
fn host(identity: &Identity<'_>) -> Option<String> {
    let head = identity.http?;
    let wire = head.host.or_else(|| head.target_authority())?;
    let mut text = String::new();
    for character in String::from_utf8_lossy(wire).chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    Some(text)
}

/// One line of JSON in printable ASCII: other characters, which JSON has in strings alone, are
/// written as `\u` escapes, so that nothing a client sent reaches a terminal as it is.
#[must_use]
pub fn ascii_json(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        if matches!(character, ' '..='~') {
            line.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            line.push_str(&format!("\\u{unit:04x}"));
        }
    }
    line
}

/// Reads the datagrams of one client.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    proto: Option<Protocol>,
    quic: QuicReader,
    dtls: DtlsReader,
    count: usize,
    /// One of them was not empty.
    sent: bool,
    cut: bool,
}

/// Datagrams of one flow that are looked at. A hello of 64 KiB takes about 55.
const DATAGRAMS_MAX: usize = 128;

/// Datagrams of another protocol that are looked at: the first may be junk, sent so that a reader
/// of the first alone sees nothing.
const OTHERS_MAX: usize = 16;

impl Datagrams {
    /// Whether the flow needs no more of them. `cut`: the capture lacks the end of this one.
    pub(super) fn push(&mut self, datagram: &[u8], cut: bool) -> bool {
        self.count += 1;
        self.sent |= !datagram.is_empty();
        self.cut |= cut;
        if self.proto.is_none() {
            self.proto = Some(udp_protocol(datagram)).filter(|proto| *proto != Protocol::Other);
        }
        let done = match self.proto {
            Some(Protocol::Quic) => self.quic.push(datagram) == QuicStep::Done,
            Some(_) => self.dtls.push(datagram) == DtlsStep::Done,
            None => self.count >= OTHERS_MAX,
        };
        done || self.count >= DATAGRAMS_MAX
    }

    /// Whether a datagram was cut short by the capture.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Memory held, in bytes.
    pub(super) fn held(&self) -> usize {
        self.quic.held() + self.dtls.held()
    }

    pub(super) fn flow(&self, file: &str) -> Flow {
        let identity = match self.proto {
            Some(Protocol::Quic) => self.quic.identity(),
            _ => self.dtls.identity(),
        };
        let mut flow = Flow::new(file, Transport::Udp, &identity);
        if flow.fault.is_some() {
            match self.proto {
                Some(Protocol::Quic) => self.quic.each_name(|name| flow.names.push(name)),
                _ => self.dtls.each_name(|name| flow.names.push(name)),
            }
        }
        if flow.proto == Protocol::Quic {
            flow.quic_version = self.quic.version().map(|version| version.to_string());
            // Without a fault and without a hello: a version that is not read.
            flow.complete = identity.tls_version != 0;
        }
        // A datagram that was cut may have begun anything, and cannot be decrypted.
        let is_read = identity.tls_version != 0 && identity.fault.is_none();
        if !self.sent || self.cut && !is_read {
            flow.complete = false;
        }
        if self.cut && !is_read {
            flow.fault.get_or_insert(Fault::Incomplete);
        }
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_is_ascii_and_means_the_same() {
        let value = json!({ "host": "a\u{1b}[31m\u{9b}\u{1f600}\"\u{7f}", "alpn": ["\u{80}"] });
        let line = ascii_json(&value);
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }

    #[test]
    fn tls_behind_starttls_has_its_name_and_gives_the_gateway_none() {
        let mut hello = b"STARTTLS\r\n".to_vec();
        hello.extend(crate::identify::tls::tests::hello(b"mail.example"));
        let flow = Flow::of_stream("x", &hello);
        assert_eq!((flow.proto, flow.name), (Protocol::Other, None));
        assert_eq!(flow.sni.as_deref(), Some("mail.example"));
        assert_eq!(flow.to_json(None)["starttls"], "starttls");
    }
}
