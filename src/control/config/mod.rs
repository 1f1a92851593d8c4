//! The policy file: read, resolved, every fault at once (docs/policy.md §2).
//!
//! `reader` walks the TOML document and keeps each fault with its place; `resolve` and `rules` turn
//! its tables into the types below, in which nothing unsound can be written; `lint` looks at the
//! result once more for what is sound and still not meant.

mod audit;
mod codes;
mod credential;
mod error;
mod file;
mod hosts;
pub mod keys;
mod known;
mod lint;
mod listen;
mod net;
mod pack_key;
mod reader;
mod resolve;
mod rules;
mod services;
mod shadow;
mod share;
mod source_url;
mod time;
mod update;
mod zones;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use toml::de::DeTable;

pub use self::credential::{Credential, CredentialAt, CredentialSent};
use self::error::Wrong;
pub(crate) use self::error::nearest;
pub use self::error::{Fault, Faults, Lint, LintKind, Position, UnknownRegion};
pub use self::pack_key::{BadPackKey, PackKey};
use self::reader::{Reader, Table};
pub use self::source_url::SourceUrl;
pub(super) use self::source_url::{percent_encoded, unfit};
pub use self::update::{Digest, Signature, Update, UpdateSource};
pub use self::zones::{built_in, is_built_in};
use crate::account::View;
use crate::control::data::SourceInfo;
use crate::egress::NamesLimit;
use crate::evidence;
use crate::identify::{HostName, Protocol};
use crate::policy::{Action, Binding, Causes, Country, Ech, HostList, Memory, Mode, Transport};
pub use crate::settings::{Dns, Listen, ListenMode, Resolver};

/// Why a text is not a host name.
#[derive(Debug, thiserror::Error)]
pub enum NameFault {
    /// What the policy file would not take either.
    #[error("{what}; {help}")]
    Wrong {
        /// What is wrong.
        what: String,
        /// What to write.
        help: String,
    },
    /// It stands for many names.
    #[error("{0:?} is a pattern; write one name")]
    Pattern(String),
}

/// Reads a host name as the policy file does: case folded, a U-label converted.
///
/// # Errors
/// What is wrong and what to write.
pub fn host_name(text: &str) -> Result<HostName, NameFault> {
    let told = |Wrong { what, help }| NameFault::Wrong { what, help };
    match hosts::pattern(text).map_err(told)? {
        HostPattern { name, below: false } => Ok(name),
        HostPattern { .. } => Err(NameFault::Pattern(text.to_owned())),
    }
}

/// Reads a host pattern as the policy file does.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, String> {
    hosts::pattern(text).map_err(|Wrong { what, .. }| what)
}

/// What holds where no file is given, written out.
const DEFAULT: &str = include_str!("../../../config/default.toml");

/// The longest policy file; lists that need more go into a `host_file`.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// A policy that may be used, and what to say about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy.
    pub config: Config,
    /// The file as read, for its digest.
    pub text: String,
    /// What is sound and maybe not meant, in the order of the text.
    pub lints: Vec<Lint>,
    /// Regions that only a loaded provider table can still know. Where none does, the fault of each
    /// is a fault of the policy.
    pub unknown_regions: Vec<UnknownRegion>,
}

/// Reads a policy file, or what holds without one (`config/default.toml`).
///
/// # Errors
/// Every fault of the file and of the host files it names.
pub fn load(path: Option<&Path>) -> Result<Loaded, Faults> {
    open(path, false)
}

/// As [`load`], for an update: the files of services that it is to bring may be missing, and a rule
/// that names a service of such a file is left out.
///
/// # Errors
/// As [`load`].
pub fn load_to_fetch(path: Option<&Path>) -> Result<Loaded, Faults> {
    open(path, true)
}

fn open(path: Option<&Path>, fetching: bool) -> Result<Loaded, Faults> {
    let now = Timestamp::now();
    let Some(path) = path else {
        return read(DEFAULT, "the built-in policy".to_owned(), None, now, fetching);
    };
    let named = path.display().to_string();
    let fault = |wrong| Faults(vec![Fault::whole(&named, wrong)]);
    let bytes = file::read(path, FILE_MAX_BYTES).map_err(|Wrong { what, help }| {
        // The fault names the file already.
        let what = what.strip_prefix(&format!("{named} ")).unwrap_or(&what);
        fault(Wrong::new(what, help))
    })?;
    let text = String::from_utf8(bytes).map_err(|bad| {
        let sound = bad.as_bytes().get(..bad.utf8_error().valid_up_to()).unwrap_or_default();
        let sound = String::from_utf8_lossy(sound);
        let position = Reader::new(&sound, String::new(), PathBuf::new()).position(sound.len());
        let wrong = Wrong::new("the file is no UTF-8 from here on", "save the file as UTF-8");
        Faults(vec![Fault { position: Some(position), ..Fault::whole(&named, wrong) }])
    })?;
    read(&text, named, Some(path), now, fetching)
}

/// Reads the text of a policy file. `path` names it in faults, and what it names is relative to
/// `path`'s directory; without a path, to the current one.
///
/// # Errors
/// Every fault of the text and of the host files it names; one that is no TOML gives one fault.
pub fn parse(text: &str, path: Option<&Path>) -> Result<Loaded, Faults> {
    parse_at(text, path, Timestamp::now())
}

/// As [`parse`], with the lints of another instant (what has expired, what a zone holds).
///
/// # Errors
/// As [`parse`].
pub fn parse_at(text: &str, path: Option<&Path>, now: Timestamp) -> Result<Loaded, Faults> {
    let file = path.map_or_else(|| "<policy>".to_owned(), |path| path.display().to_string());
    read(text, file, path, now, false)
}

fn read(
    text: &str,
    file: String,
    path: Option<&Path>,
    now: Timestamp,
    fetching: bool,
) -> Result<Loaded, Faults> {
    let base = path.and_then(Path::parent).unwrap_or_else(|| Path::new("")).to_owned();
    let mut reader = Reader::new(text, file, base);
    reader.fetching = fetching;
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().unwrap_or_default().start;
            let help = "mend the TOML here: texts and durations stand in quotes, dates do not \
                        (2026-12-31), and a table or key is written once";
            reader.fault_at(at, "", Wrong::new(error.message(), help));
            return Err(Faults(reader.faults));
        }
    };
    let root = Table { path: String::new(), span: 0..0, entries: document.get_ref() };
    let resolved = resolve::config(&mut reader, &root, path);
    match resolved {
        Some((config, marks, unknown_regions)) if reader.faults.is_empty() => {
            let lints = lint::all(&reader, &config, &marks, now);
            Ok(Loaded { config, text: text.to_owned(), lints, unknown_regions })
        }
        _ => Err(reader.into_faults()),
    }
}

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
    /// `[admin]`.
    pub admin: Admin,
    /// `[capture]`.
    pub capture: Capture,
    /// `[data]`.
    pub data: Data,
    /// Where the services of its rules came from.
    pub services: Vec<SourceInfo>,
    /// `[audit]`; `None` where the lines on the log are the record.
    pub audit: Option<evidence::Settings>,
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

/// `example.eu` or `*.example.eu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// The name, without `*.`.
    pub name: HostName,
    /// Whether it stood behind `*.`: every name below it, and not itself.
    pub below: bool,
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
    /// Where `/metrics`, `/healthz`, `/readyz` and the status page are. Default 127.0.0.1:9643.
    pub address: SocketAddr,
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

/// `[data]`, file paths already relative to the policy file.
#[derive(Debug, Clone)]
pub struct Data {
    /// Where downloaded and built tables live.
    pub directory: PathBuf,
    /// Country tables, best first.
    pub country: Vec<Source>,
    /// AS tables, best first.
    pub asn: Vec<Source>,
    /// Provider region files.
    pub providers: Vec<Source>,
    /// Files of services that rules may name; for each family the first that holds it speaks alone.
    pub services: Vec<Source>,
    /// Who must have signed those files; `None`: nobody.
    pub services_key: Option<PackKey>,
    /// Age from which a table is `stale`.
    pub max_age: Option<Duration>,
    /// Share of a permitted country's addresses, in percent, that a table may lose against the one
    /// in use; one that lost more is refused. Default 20; 100 refuses none.
    pub max_loss: u8,
    /// Whether the address tables are built for speed or for size.
    pub memory: Memory,
    /// Which country of an mmdb record counts.
    pub country_field: CountryField,
    /// A pack of tables that stand before those of the lists. With one, a list that is not written
    /// is empty, and the tables in the program are those of the kinds that it does not hold.
    pub pack: Option<PathBuf>,
    /// Who must have signed the pack; `None`: nobody.
    pub pack_key: Option<PackKey>,
    /// Where `schengate data update` fetches files from; `None`: from nowhere.
    pub update: Option<Update>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/schengate"),
            country: vec![Source::Embedded],
            asn: vec![Source::Embedded],
            providers: vec![Source::Embedded],
            services: vec![Source::Embedded],
            services_key: None,
            max_age: None,
            max_loss: 20,
            memory: Memory::Fast,
            country_field: CountryField::Country,
            pack: None,
            pack_key: None,
            update: None,
        }
    }
}

/// `[data] country_field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountryField {
    /// Where the address is used.
    #[default]
    Country,
    /// Where its holder is registered. That says little about where bytes land (it is right for a
    /// third to a half of the space of the large clouds), and much about whose law reaches them.
    Registered,
}

impl CountryField {
    /// `country` or `registered_country`, as in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Registered => "registered_country",
        }
    }
}

/// One entry of a `[data]` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table built into the binary.
    Embedded,
    /// A file.
    File(PathBuf),
}
