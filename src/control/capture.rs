//! The nftables and policy-routing rules that bring connections to the listeners.
//!
//! Everything lives in one table of its own, `inet schengate`, and one routing table, so that
//! [`Capture::down`] takes back exactly what [`Capture::up`] set. The guard ([`GUARD`]) is a table
//! apart: `up` loads it first in the gateway form, and nothing here ever removes it, because an
//! nft `tproxy` statement that finds no listener lets the packet pass on to be forwarded.
//!
//! The rules name protocols by `meta l4proto`, never by `ip6 nexthdr`: one extension header that a
//! client sets with one socket option makes the latter miss.

mod check;
mod fence;
mod keeper;
mod shortcut;

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub use self::check::{Check, Fences, Finding};
pub use self::fence::{Fence, LOOK_EVERY};
pub use self::keeper::{Keeper, State, Wanted, candidates};
pub use self::shortcut::{Counted, TABLE as SHORTCUT_TABLE, counted};
use crate::control::config::{Listen, ListenMode, Shortcut};

/// The guard's rules, as `systemd/schengate-guard.nft` holds them: a forward hook that drops all.
pub const GUARD: &str = include_str!("../../systemd/schengate-guard.nft");

/// Firewall mark of the packets that are handed to a transparent listener.
pub const MARK: u32 = 0x5347;

/// Number of the routing table, and preference of the rule, that deliver marked packets locally.
pub const ROUTE_TABLE: u32 = 21_319;

/// The user that the service runs as, where nobody says otherwise.
pub const USER: &str = "schengate";

/// Makes the table and deletes it: as the whole input it removes the table whether or not there is
/// one, before a table it empties it.
const EMPTY_TABLE: &str = "table inet schengate\ndelete table inet schengate\n";

/// Matches destinations that this machine, or nobody in particular, answers for.
const HERE: &str = "fib daddr type { local, broadcast, anycast, multicast }";

/// The answer to UDP that no listener takes (POLICY.md §4).
const REJECT_UDP: &str = "meta l4proto udp counter reject with icmpx type admin-prohibited";

/// Every UDP packet, whatever extension headers stand before it.
const ALL_UDP: &str = "meta l4proto udp";

/// The port of QUIC.
const HTTPS: u16 = 443;

/// UDP ports that the host form leaves alone: without DNS, DHCP and NTP a host has no network.
const HOST_UDP: &str = "53, 67, 68, 123, 546, 547";

/// Longest interface name that the kernel takes (`IFNAMSIZ` less the final NUL), in bytes.
const INTERFACE_MAX: usize = 15;

/// Whose connections are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Those that arrive from other machines: prerouting, TPROXY or REDIRECT.
    Gateway,
    /// Those that this host opens itself: the output hooks, REDIRECT.
    Host {
        /// The gateway's own user, whose connections are left alone: else it would capture what
        /// it dials, without end.
        exempt_uid: u32,
    },
}

/// Where captured packets go: a listener and how it learns the original destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    mode: ListenMode,
    address: SocketAddr,
}

/// IPv4 or IPv6, with the word that each tool has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `meta nfproto ipvN`, `ip -N`.
    fn digit(self) -> char {
        if self == Self::V4 { '4' } else { '6' }
    }

    /// Whether a socket on `address` gets this family's connections; `[::]` gets both.
    fn served_by(self, address: SocketAddr) -> bool {
        match address.ip() {
            IpAddr::V4(_) => self == Self::V4,
            IpAddr::V6(ip) => self == Self::V6 || ip.is_unspecified(),
        }
    }

    /// Whether the kernel has the family at all.
    fn exists(self) -> bool {
        self == Self::V4 || Path::new("/proc/sys/net/ipv6").exists()
    }
}

/// What is to be captured, and by which listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    form: Form,
    tcp: [Option<Target>; 2],
    udp: [Option<Target>; 2],
    interfaces: Vec<String>,
    /// The kernel judges by itself what the gateway tells it to; whether its address is then the
    /// one that destinations see.
    shortcut: Option<Masquerade>,
}

/// Whether destinations see the gateway's address instead of the client's.
type Masquerade = bool;

/// Why rules could not be made, set or taken back.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFault {
    /// No listener of the policy file can take captured connections.
    #[error("no [[listen]] takes what the {form} form captures; add one with {wanted}")]
    NoListener {
        /// `gateway` or `host`.
        form: &'static str,
        /// What to write.
        wanted: &'static str,
    },
    /// A listener sits where REDIRECT never delivers.
    #[error(
        "[[listen]] {address}: REDIRECT delivers to the address of the interface that a client \
         came in by; listen on [::] or 0.0.0.0"
    )]
    Unreachable {
        /// The listener.
        address: SocketAddr,
    },
    /// The short cut forwards what arrives, wherever it arrives.
    #[error(
        "the kernel short cut needs the clients' side by name, or it would forward what comes \
         from the far side: add --interface NAME"
    )]
    NoSide,
    /// A switch of the kernel cannot be set.
    #[error("{path} cannot be set")]
    Switch {
        /// The file below `/proc/sys`.
        path: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take the intervals of the short cut.
    #[error("the kernel did not take the intervals of the short cut")]
    Intervals(#[source] io::Error),
    /// Not the name of a network interface.
    #[error("{name:?} is no interface name: 1 to 15 bytes, no blank, quote, slash or control")]
    Interface {
        /// What was written.
        name: String,
    },
    /// The user whose connections are left alone is not there.
    #[error("no user {name:?} on this host; create it (systemd-sysusers) or name another")]
    NoUser {
        /// The user's name.
        name: String,
    },
    /// A rule of somebody else is where ours belongs.
    #[error("routing rule {ROUTE_TABLE} is taken: {found:?}; remove it, or move it elsewhere")]
    RuleTaken {
        /// What `ip rule` shows.
        found: String,
    },
    /// A program could not be started, or not be talked to.
    #[error("could not run `{command}`; is the package installed?")]
    NotRun {
        /// The command line.
        command: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ran and refused.
    #[error("`{command}` failed ({status}): {stderr}")]
    Refused {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it wrote.
        stderr: String,
    },
}

impl Capture {
    /// The capture that feeds these listeners; of several that fit, the first of each family.
    ///
    /// The gateway form takes TPROXY or REDIRECT listeners, the host form REDIRECT ones.
    ///
    /// # Errors
    /// [`CaptureFault::NoListener`] where no listener fits, [`CaptureFault::Unreachable`] where one
    /// fits and could not be reached.
    pub fn new(form: Form, listen: &[Listen]) -> Result<Self, CaptureFault> {
        let fits = |mode: ListenMode| match (form, mode) {
            (Form::Gateway, ListenMode::Tproxy) | (_, ListenMode::Redirect) => true,
            (Form::Host { .. }, ListenMode::Tproxy) | (_, ListenMode::Proxy) => false,
        };
        let find = |family: Family| {
            listen
                .iter()
                .find(|listen| fits(listen.mode) && family.served_by(listen.address))
                .map(|listen| Target { mode: listen.mode, address: listen.address })
        };
        let tcp = Family::ALL.map(find);
        for target in tcp.iter().flatten() {
            let reached = match form {
                _ if target.address.ip().is_unspecified() => true,
                Form::Gateway => target.mode == ListenMode::Tproxy,
                Form::Host { .. } => target.address.ip().is_loopback(),
            };
            if !reached {
                return Err(CaptureFault::Unreachable { address: target.address });
            }
        }
        if tcp.iter().all(Option::is_none) {
            let (form, wanted) = match form {
                Form::Gateway => ("gateway", "mode = \"tproxy\" or mode = \"redirect\""),
                Form::Host { .. } => ("host", "mode = \"redirect\""),
            };
            return Err(CaptureFault::NoListener { form, wanted });
        }
        Ok(Self { form, tcp, udp: [None; 2], interfaces: Vec::new(), shortcut: None })
    }

    /// Makes room for the kernel short cut (gateway form): what the gateway puts into its sets is
    /// forwarded by the kernel. Destinations see the gateway's address, unless the first listener
    /// keeps the clients'.
    ///
    /// # Errors
    /// [`CaptureFault::NoSide`] where no interface was named.
    pub fn with_shortcut(
        mut self,
        setting: Shortcut,
        listen: &[Listen],
    ) -> Result<Self, CaptureFault> {
        if setting == Shortcut::Off || self.form != Form::Gateway {
            return Ok(self);
        }
        if self.interfaces.is_empty() {
            return Err(CaptureFault::NoSide);
        }
        let mut captured = listen.iter().filter(|listen| listen.mode != ListenMode::Proxy);
        self.shortcut = Some(!captured.next().is_some_and(|listen| listen.keep_source));
        Ok(self)
    }

    /// Also hands UDP to a transparent UDP socket on `address`: all of it, but to a socket on port
    /// 443 that port only, since without a capability it can answer from no other. UDP that no
    /// socket takes is answered with ICMP "administratively prohibited"; browsers then use TCP.
    #[must_use]
    pub fn with_udp(mut self, address: SocketAddr) -> Self {
        for (family, slot) in Family::ALL.into_iter().zip(&mut self.udp) {
            if family.served_by(address) {
                *slot = Some(Target { mode: ListenMode::Tproxy, address });
            }
        }
        self
    }

    /// Captures only what arrives on these interfaces (gateway form). Without a list, what arrives
    /// from the far side is captured as well: name the clients' side wherever there is one.
    ///
    /// # Errors
    /// [`CaptureFault::Interface`] for a name that is none.
    pub fn on_interfaces(mut self, names: &[String]) -> Result<Self, CaptureFault> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\' | '/');
        for name in names {
            if name.is_empty() || name.len() > INTERFACE_MAX || name.chars().any(bad) {
                return Err(CaptureFault::Interface { name: name.clone() });
            }
        }
        self.interfaces = names.to_vec();
        Ok(self)
    }

    /// The rules of `inet schengate`, as `nft -f` takes them. Loading them replaces the table in
    /// one transaction: there is no moment without it.
    #[must_use]
    pub fn ruleset(&self) -> String {
        let chains = match self.form {
            Form::Gateway => self.gateway(),
            Form::Host { exempt_uid } => self.host(exempt_uid),
        };
        format!("{EMPTY_TABLE}table inet schengate {{\n{}}}\n", chains.concat())
    }

    /// Everything that [`Capture::up`] sets, for a person to read: the guard and the ruleset as
    /// `nft -f` takes them, the `ip` commands as comments.
    #[must_use]
    pub fn script(&self) -> String {
        let routing: String = self
            .routed()
            .flat_map(|family| [rule("add", family), route("replace", family)])
            .map(|arguments| format!("# ip {}\n", arguments.join(" ")))
            .collect();
        format!("{}{routing}{}{}", self.guard(), self.ruleset(), self.frame())
    }

    /// The guard of the gateway form.
    fn guard(&self) -> String {
        match (self.form, self.shortcut) {
            (Form::Host { .. }, _) => String::new(),
            (Form::Gateway, None) => GUARD.to_owned(),
            (Form::Gateway, Some(_)) => shortcut::guard(GUARD),
        }
    }

    /// The frame of the short cut, where there is one.
    fn frame(&self) -> String {
        self.shortcut.map_or_else(String::new, |masquerade| shortcut::frame(self, masquerade))
    }

    /// Sets the guard (gateway form), the routes and the rules, in this order. May be repeated.
    ///
    /// # Errors
    /// The first command that fails, with what it wrote. What was set before it stays: the guard
    /// then drops what is not captured.
    pub fn up(&self) -> Result<(), CaptureFault> {
        if self.form == Form::Gateway {
            // Rules that may mark before the guard lets marks through, and the other way round.
            if self.shortcut.is_none() {
                end_shortcut()?;
            }
            nft(&self.guard())?;
        }
        for family in Family::ALL.into_iter().filter(|family| family.exists()) {
            let routed = self.routed().any(|routed| routed == family);
            if routed { enroute(family)? } else { unroute(family)? }
        }
        // One transaction: what is marked is not captured, and nothing is marked by halves.
        nft(&format!("{}{}", self.ruleset(), self.frame()))?;
        if self.shortcut.is_some() { switch_forwarding("1") } else { Ok(()) }
    }

    /// Takes back the rules and the routes of either form, and leaves the guard. May be repeated.
    ///
    /// # Errors
    /// The first command that fails, with what it wrote.
    pub fn down() -> Result<(), CaptureFault> {
        end_shortcut()?;
        nft(EMPTY_TABLE)?;
        Family::ALL.into_iter().filter(|family| family.exists()).try_for_each(unroute)
    }

    /// The families that need marked packets delivered locally.
    fn routed(&self) -> impl Iterator<Item = Family> {
        let transparent = |target: &Option<Target>| {
            target.is_some_and(|target| target.mode == ListenMode::Tproxy)
        };
        Family::ALL
            .into_iter()
            .zip(self.tcp.iter().zip(&self.udp))
            .filter(move |(_, (tcp, udp))| transparent(tcp) || transparent(udp))
            .map(|(family, _)| family)
    }

    /// What enters from clients: to this machine, to a listener, or nowhere.
    fn gateway(&self) -> Vec<String> {
        let redirected = self.redirected();
        let mut rules = vec![hook("filter", "prerouting", "mangle")];
        let judged = self.shortcut.map(|_| format!("meta mark {:#x}", shortcut::MARK));
        rules.extend(judged.iter().map(|marked| format!("{marked} accept")));
        rules.extend(self.elsewhere());
        if self.routed().next().is_some() {
            // Established connections, and the ICMP errors that belong to them.
            rules.push(format!("socket transparent 1 meta mark set {MARK:#x} accept"));
        }
        rules.push(format!("{HERE} return"));
        for (family, target) in Family::ALL.into_iter().zip(&self.tcp) {
            if let Some(target) = target.filter(|target| target.mode == ListenMode::Tproxy) {
                rules.push(tproxy(family, "meta l4proto tcp", target.address));
            }
        }
        for (family, target) in Family::ALL.into_iter().zip(&self.udp) {
            rules.extend(target.map(|target| {
                let what = if target.address.port() == HTTPS { "udp dport 443" } else { ALL_UDP };
                tproxy(family, what, target.address)
            }));
        }
        if !redirected.is_empty() {
            // The dstnat hook comes later; ICMP errors of its connections are translated there.
            rules.push("meta l4proto { icmp, ipv6-icmp } ct state related return".to_owned());
        }
        for (family, _) in &redirected {
            rules.push(format!("meta nfproto ipv{} meta l4proto tcp return", family.digit()));
        }
        // From here on: a listener that is gone, or nothing that anybody can judge.
        rules.push(REJECT_UDP.to_owned());
        rules.push("counter drop".to_owned());
        let mut chains = vec![chain("prerouting", &rules)];
        if !redirected.is_empty() {
            let mut rules = vec![hook("nat", "prerouting", "dstnat")];
            rules.extend(judged.iter().map(|marked| format!("{marked} return")));
            rules.extend(self.elsewhere());
            rules.push(format!("{HERE} return"));
            rules.extend(redirected.iter().map(redirect));
            chains.push(chain("redirect_in", &rules));
        }
        chains
    }

    /// What this host opens itself: to the listener, or nowhere.
    fn host(&self, exempt_uid: u32) -> Vec<String> {
        // -100 is dstnat, a word that older nft takes in prerouting only.
        let mut out = vec![hook("nat", "output", "-100")];
        out.push(format!("meta skuid {exempt_uid} return"));
        out.push(format!("{HERE} return"));
        out.extend(self.redirected().iter().map(redirect));
        let leave = [
            hook("filter", "output", "filter"),
            format!("meta skuid {exempt_uid} accept"),
            // By now the destination of a redirected packet is this host.
            format!("{HERE} accept"),
            "ct direction reply accept".to_owned(),
            "meta l4proto { icmp, ipv6-icmp } accept".to_owned(),
            format!("udp dport {{ {HOST_UDP} }} accept"),
            REJECT_UDP.to_owned(),
            "meta l4proto tcp counter reject with tcp reset".to_owned(),
            "counter drop".to_owned(),
        ];
        vec![chain("redirect_out", &out), chain("leave", &leave)]
    }

    /// The rule that leaves alone what came in elsewhere; none where every interface counts.
    fn elsewhere(&self) -> Option<String> {
        let names: Vec<String> = self.interfaces.iter().map(|name| format!("{name:?}")).collect();
        (!names.is_empty()).then(|| format!("iifname != {{ {} }} return", names.join(", ")))
    }

    fn redirected(&self) -> Vec<(Family, SocketAddr)> {
        Family::ALL
            .into_iter()
            .zip(&self.tcp)
            .filter_map(|(family, target)| Some((family, (*target)?)))
            .filter(|(_, target)| target.mode == ListenMode::Redirect)
            .map(|(family, target)| (family, target.address))
            .collect()
    }
}

/// The number of a user, by the system's own tool, so that every user database counts.
///
/// # Errors
/// [`CaptureFault::NoUser`] where there is none, [`CaptureFault::NotRun`] without `id`.
pub fn user_id(name: &str) -> Result<u32, CaptureFault> {
    let no_user = || CaptureFault::NoUser { name: name.to_owned() };
    let output = run("id", &["-u", "--", name], None)?;
    if !output.status.success() {
        return Err(no_user());
    }
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| no_user())
}

/// Takes the short cut back, where there is one: its table, the marks that the guard lets through,
/// and the forwarding that was switched on for it.
fn end_shortcut() -> Result<(), CaptureFault> {
    let chains = checked("nft", &words("list chains"), None)?;
    if shortcut::standing(&chains).is_none() {
        return Ok(());
    }
    switch_forwarding("0")?;
    nft(&format!("{GUARD}{}", shortcut::EMPTY_TABLE))
}

/// Switches forwarding of both families, as far as the kernel has them.
fn switch_forwarding(to: &str) -> Result<(), CaptureFault> {
    const SWITCHES: [&str; 2] =
        ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    for path in SWITCHES.into_iter().filter(|path| Path::new(path).exists()) {
        std::fs::write(path, to).map_err(|source| CaptureFault::Switch { path, source })?;
    }
    Ok(())
}

fn chain(name: &str, rules: &[String]) -> String {
    format!("    chain {name} {{\n        {}\n    }}\n", rules.join("\n        "))
}

fn hook(kind: &str, hook: &str, priority: &str) -> String {
    format!("type {kind} hook {hook} priority {priority}; policy accept;")
}

fn tproxy(family: Family, what: &str, listener: SocketAddr) -> String {
    let to = match listener.ip() {
        ip if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let (digit, port) = (family.digit(), listener.port());
    let word = if family == Family::V4 { "ip" } else { "ip6" };
    let mark = format!("meta mark set {MARK:#x} accept");
    format!("meta nfproto ipv{digit} {what} tproxy {word} to {to}:{port} {mark}")
}

fn redirect((family, listener): &(Family, SocketAddr)) -> String {
    let (digit, port) = (family.digit(), listener.port());
    format!("meta nfproto ipv{digit} meta l4proto tcp redirect to :{port}")
}

fn rule(verb: &str, family: Family) -> Vec<String> {
    let what = format!("priority {ROUTE_TABLE} fwmark {MARK:#x} lookup {ROUTE_TABLE}");
    words(&format!("-{} rule {verb} {what}", family.digit()))
}

fn route(verb: &str, family: Family) -> Vec<String> {
    let what = format!("local default dev lo table {ROUTE_TABLE}");
    words(&format!("-{} route {verb} {what}", family.digit()))
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// What `ip rule` shows where our routing rule belongs: whether ours is there, and another's line.
fn rules_in_place(family: Family) -> Result<(bool, Option<String>), CaptureFault> {
    let list = format!("-{} rule list priority {ROUTE_TABLE}", family.digit());
    let shown = ip(&words(&list))?;
    let mark = format!("from all fwmark {MARK:#x} lookup {ROUTE_TABLE}");
    let is_ours = |line: &&str| line.contains(&mark);
    let other = shown.lines().find(|line| !is_ours(line)).map(|line| line.trim().to_owned());
    Ok((shown.lines().any(|line| is_ours(&line)), other))
}

/// Delivers marked packets of this family locally.
fn enroute(family: Family) -> Result<(), CaptureFault> {
    match rules_in_place(family)? {
        (_, Some(found)) => return Err(CaptureFault::RuleTaken { found }),
        (true, None) => {}
        (false, None) => drop(ip(&rule("add", family))?),
    }
    ip(&route("replace", family)).map(drop)
}

/// Removes our rule and route, where they are.
fn unroute(family: Family) -> Result<(), CaptureFault> {
    while rules_in_place(family)?.0 {
        ip(&rule("del", family))?;
    }
    // `show table N` is an error where nothing was ever put into N, so all tables are read.
    let all = ip(&words(&format!("-{} route show table all type local", family.digit())))?;
    let table = format!(" table {ROUTE_TABLE} ");
    if all.lines().any(|route| format!("{route} ").contains(&table)) {
        ip(&route("del", family))?;
    }
    Ok(())
}

fn ip(arguments: &[String]) -> Result<String, CaptureFault> {
    checked("ip", arguments, None)
}

fn nft(ruleset: &str) -> Result<(), CaptureFault> {
    checked("nft", &words("-f -"), Some(ruleset)).map(drop)
}

/// Runs a program to its end and gives back what it wrote, if it says that all went well.
fn checked(
    program: &str,
    arguments: &[String],
    input: Option<&str>,
) -> Result<String, CaptureFault> {
    let output = run(program, arguments, input)?;
    if !output.status.success() {
        return Err(CaptureFault::Refused {
            command: format!("{program} {}", arguments.join(" ")),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(
    program: &str,
    arguments: &[impl AsRef<str>],
    input: Option<&str>,
) -> Result<Output, CaptureFault> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let not_run = |source| CaptureFault::NotRun {
        command: format!("{program} {}", arguments.join(" ")),
        source,
    };
    let mut child = Command::new(program)
        .args(&arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        match stdin.write_all(input.as_bytes()) {
            // A program that refuses before it has read all: its own words say why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(not_run)?,
        }
    }
    child.wait_with_output().map_err(not_run)
}

#[cfg(test)]
mod tests;
