//! What a sound policy file says: plain data, in which nothing unsound can be written.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use super::source_url::SourceUrl;
use crate::account::View;
use crate::control::data::{Data, PackKey, SourceInfo};
use crate::control::host_pattern::HostPattern;
use crate::egress::NamesLimit;
use crate::evidence;
use crate::identify::Protocol;
use crate::policy::{Action, Binding, Causes, Country, Ech, HostList, Mode, Transport};
use crate::report::distance::Position;
use crate::settings::{Dns, Lane, Listen, Resolver};

/// A policy file whose every part is known to be sound.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from; `None` is the built-in default.
    pub path: Option<PathBuf>,
    /// Lines of the file that are neither empty nor a comment.
    pub lines: usize,
    /// The host files that its rules name.
    pub host_files: Vec<PathBuf>,
    /// `[policy]`, complete.
    pub policy: Defaults,
    /// `[[group]]`, in file order.
    pub groups: Vec<Group>,
    /// Every zone that a list of this file may name: the built-in ones and `[zones]`.
    pub zones: Zones,
    /// `[[rule]]`, in file order.
    pub rules: Vec<Rule>,
    /// `[[operator]]`, in file order.
    pub operators: Vec<OperatorEntry>,
    /// `[[place]]`, in file order.
    pub places: Vec<Place>,
    /// `[names]`.
    pub names: Names,
    /// `[dns]`.
    pub dns: Option<Dns>,
    /// `[[listen]]`, in file order.
    pub listen: Vec<Listen>,
    /// `[[listen]]` with `mode = "lane"`: which flows the kernel carries once they are judged.
    pub lane: Option<Lane>,
    /// `[admin]`.
    pub admin: Admin,
    /// `[capture]`.
    pub capture: Capture,
    /// `[data]`.
    pub data: Data,
    /// `[data.update]`: where `schengate data update` fetches files from; `None`: from nowhere.
    pub update: Option<Update>,
    /// Where the services of its rules came from.
    pub services: Vec<SourceInfo>,
    /// `[audit]`; `None` where the lines on the log are the record.
    pub audit: Option<evidence::Settings>,
    /// `[audit] position`: where the gateway stands; `None` where nobody said.
    pub position: Option<Position>,
    /// `[log] connections`.
    pub log: View,
}

/// `[policy]`: the settings of every client that is in no group.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Where bytes may land.
    pub permit: ZoneList,
    /// Whose law may reach them; `None` leaves the axis unjudged.
    pub permit_law: Option<ZoneList>,
    /// What each cause leads to.
    pub on: Causes,
    /// How long a live connection that is no longer permitted may go on. Default 0 s.
    pub grace: Duration,
    /// Whether a file behind the policy that changes is taken up without a signal.
    pub watch: bool,
    /// A line for the person who was refused: whom to ask.
    pub contact: Option<String>,
    /// Where the person who was refused can ask for the destination.
    pub ask_url: Option<String>,
    /// Whether the country of an address's registrant counts as home where no operator is known
    /// (`registrant = "judge"`). By default it is shown only.
    pub registrant: bool,
}

/// `[[group]]`, with what it does not name already inherited, but for the mode after `until`.
#[derive(Debug, Clone)]
pub struct Group {
    /// Unique name.
    pub name: String,
    /// Its clients; a prefix belongs to one group only.
    pub clients: Vec<IpNet>,
    /// Mode until `until`; then the default policy's.
    pub mode: Mode,
    /// When `mode` ends.
    pub until: Option<Until>,
    /// As in [`Defaults`].
    pub permit: ZoneList,
    /// As in [`Defaults`].
    pub permit_law: Option<ZoneList>,
    /// As in [`Defaults`].
    pub on: Causes,
}

/// The end of a rule's or mode's validity: the first instant at which it holds no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Until(pub Timestamp);

/// One member of a zone or of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// `*`.
    Everywhere,
    /// A country code.
    Country(Country),
    /// Index into [`Zones::all`].
    Zone(usize),
}

/// A list of zones and codes: the union of `plus` less the union of `minus`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneList {
    /// Positive members; never empty in a sound file.
    pub plus: Vec<Term>,
    /// Members written with `-`.
    pub minus: Vec<Term>,
}

/// The zones by index; no zone holds itself.
#[derive(Debug, Clone, Default)]
pub struct Zones {
    /// Built-in zones first, then those of the file.
    pub all: Vec<Zone>,
}

/// A named set of countries.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Unique name.
    pub name: String,
    /// Its members.
    pub members: Members,
}

/// What a zone is made of.
#[derive(Debug, Clone)]
pub enum Members {
    /// A built-in zone: each member with the instants at which it joined and left.
    Dated(Vec<DatedMember>),
    /// A zone of the file, or a built-in name that stands for others.
    List(ZoneList),
}

/// A member of a built-in zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatedMember {
    /// The member.
    pub country: Country,
    /// First instant of membership; `None`: always.
    pub since: Option<Timestamp>,
    /// First instant after membership; `None`: open.
    pub until: Option<Timestamp>,
    /// What says so.
    pub source: String,
}

/// `[[rule]]`. A condition that is `None` was not written and holds for everything; a condition
/// that was written is never empty.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the keys of docs/policy.md §2")]
pub struct Rule {
    pub name: String,
    pub action: Action,
    pub from: Option<Vec<From>>,
    pub host: Option<HostList>,
    /// Each with what says so. Its hosts and prefixes are in `host` or `to`: a rule of services is one
    /// by host and one by prefix, of the same name.
    pub service: Option<Vec<String>>,
    pub to: Option<Vec<IpNet>>,
    pub location: Option<ZoneList>,
    pub law: Option<ZoneList>,
    pub operator: Option<Vec<String>>,
    pub asn: Option<Vec<u32>>,
    /// `provider:region`, each known.
    pub region: Option<Vec<String>>,
    pub port: Option<Vec<std::ops::RangeInclusive<u16>>>,
    pub transport: Option<Vec<Transport>>,
    pub protocol: Option<Vec<Protocol>>,
    /// First instant at which the rule holds.
    pub since: Option<Timestamp>,
    pub until: Option<Until>,
    pub basis: Option<String>,
    pub reason: Option<String>,
    pub owner: Option<String>,
    /// Line of the rule's header in the file, from 1.
    pub line: usize,
}

impl Rule {
    /// An allow or log rule with an owner and an end is a waiver.
    #[must_use]
    pub fn is_waiver(&self) -> bool {
        self.action != Action::Block && self.owner.is_some() && self.until.is_some()
    }
}

/// One value of `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Index into [`Config::groups`].
    Group(usize),
    /// A prefix.
    Net(IpNet),
}

/// `[[operator]]`.
#[derive(Debug, Clone)]
pub struct OperatorEntry {
    /// Operator id (lower case, `-`).
    pub name: String,
    /// Hosts it answers for.
    pub host: Vec<HostPattern>,
    /// Its prefixes.
    pub prefix: Vec<IpNet>,
    /// Its AS numbers.
    pub asn: Vec<u32>,
    /// Whose law reaches it.
    pub homes: Vec<Country>,
    /// Whose technology it runs on; shown, never judged.
    pub technology: Vec<Country>,
    /// What the entry rests on.
    pub evidence: Option<String>,
    /// When that was looked at.
    pub as_of: Option<Timestamp>,
}

/// `[[place]]`.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its prefixes.
    pub to: Vec<IpNet>,
    /// Where they are.
    pub location: PlaceLocation,
    /// Why the tables are overridden.
    pub reason: Option<String>,
}

/// What a `[[place]]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceLocation {
    /// `location = [...]`: all of these may be it (zones are taken as their members).
    Somewhere(ZoneList),
    /// `anycast = true`.
    Anycast,
}

/// `[names]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// How a name must be tied to the address before it can allow.
    pub binding: Binding,
    /// What a hello with the ECH extension is.
    pub ech: Ech,
    /// Who is asked for the addresses of a name; empty: the resolvers of the host.
    pub resolvers: Vec<Resolver>,
    /// The certificates that may vouch for resolvers that are asked over TLS, as PEM; `None`: those
    /// that the host trusts.
    pub resolver_ca: Option<PathBuf>,
    /// How long an answer ties a name to its addresses, where its TTL is shorter. Default 10 min,
    /// 0 s to a day.
    pub remember: Duration,
    /// `new_names` and `new_names_per_domain`: different names that one client may have asked about
    /// in a minute, in all and below one domain. Default 6,000 and 300; 1 to 1,000,000.
    pub limit: NamesLimit,
}

/// The types that are forwarded where `[dns] types` is not written: what browsers, mail and directory
/// clients need. TXT and NULL, whose answers carry what one likes, are not among them.
pub const DNS_TYPES: [&str; 10] =
    ["A", "AAAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB"];

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where `/metrics`, `/healthz`, `/readyz`, the API and the page are. Default 127.0.0.1:9643.
    pub address: SocketAddr,
    /// A Unix socket that answers the same.
    pub socket: Option<PathBuf>,
    /// The file of one line that whoever asks the API has to know.
    pub token_file: Option<PathBuf>,
    /// The chain that the address is served with over TLS, and its key, both as PEM.
    pub tls: Option<AdminTls>,
    /// Names by which a browser may ask, beside IP addresses and `localhost`; lower case.
    pub names: Vec<String>,
}

/// How the admin address is served over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    /// The certificates, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Who vouches for those who ask; without it, nobody has to show a certificate.
    pub client_ca: Option<PathBuf>,
}

impl Admin {
    /// On an address alone.
    #[must_use]
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, socket: None, token_file: None, tls: None, names: Vec::new() }
    }
}

/// `[capture]`: what the rules of `schengate capture` leave to the kernel, and whom they let this
/// machine's own programs ask without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capture {
    /// Which destinations the kernel judges by itself. Default none.
    pub shortcut: Shortcut,
    /// Time servers that programs of this host may ask (`capture --host`). Default none.
    pub ntp: Vec<IpAddr>,
    /// DHCP servers that they may ask by address; what goes to everybody on the link always passes.
    pub dhcp: Vec<IpAddr>,
}

/// `[capture] shortcut`: destinations whose verdict nothing but the address and the port can change,
/// for every client. The kernel counts them; no record is written of a connection to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shortcut {
    /// Every connection passes the gateway.
    #[default]
    Off,
    /// The kernel forwards the permitted ones; the refused ones pass the gateway, which refuses
    /// and records them.
    Permitted,
    /// The kernel forwards the permitted ones and refuses the refused ones.
    Address,
}

impl Shortcut {
    /// Every setting.
    pub const ALL: [Self; 3] = [Self::Off, Self::Permitted, Self::Address];

    /// `off`, `permitted` or `address`, as in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Permitted => "permitted",
            Self::Address => "address",
        }
    }
}

/// The `[data.update]` of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// CA certificates in PEM; `None`: those of the host.
    pub ca: Option<PathBuf>,
    /// Time allowed for one source, from the first query to the last byte. Default 10 min.
    pub timeout: Duration,
    /// The longest file that is taken, in bytes. Default 256 MiB, at most 1 GiB.
    pub max_bytes: u64,
    /// `[[data.update.source]]`, in file order; never empty.
    pub sources: Vec<UpdateSource>,
}

/// One file that is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateSource {
    /// Unique name, for `schengate data update NAME`.
    pub name: String,
    /// Where it is.
    pub url: SourceUrl,
    /// What the server wants to know of those who ask.
    pub credential: Option<Credential>,
    /// Where it goes: a file that `[data]` names as a table or as the pack.
    pub file: PathBuf,
    /// What its digest must be.
    pub digest: Option<Digest>,
    /// Who must have signed it.
    pub signature: Option<Signature>,
}

/// What the SHA-256 of a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// Written in the policy, lower-case hexadecimal.
    Is(String),
    /// Published beside the file, as `sha256sum` writes it, or the digest alone.
    At(SourceUrl),
}

/// An Ed25519 signature over the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The key of the one who signs.
    pub key: PackKey,
    /// Where the signature is: 64 bytes, or those in base64.
    pub url: SourceUrl,
}

/// What a source wants to know of those who ask. The policy names where it lies; it is read when it
/// is needed, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where it lies.
    pub at: CredentialAt,
    /// How it is sent.
    pub sent: CredentialSent,
}

/// Where a credential lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialAt {
    /// `credential`: a name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Named(String),
    /// `credential_file`: a file of one line.
    File(PathBuf),
}

/// How a credential is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSent {
    /// HTTP Basic (RFC 7617). Without a user, the credential is `user:password`.
    Basic(Option<String>),
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer,
    /// As the value of this header, lower case.
    Header(String),
    /// In the URL, where `{credential}` stands.
    Url,
}
