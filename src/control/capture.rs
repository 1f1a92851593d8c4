//! The nftables and policy-routing rules that bring connections to the listeners.
//!
//! Everything lives in one table of its own, `inet schengate`, and one routing table, so that
//! [`Capture::down`] takes back exactly what [`Capture::up`] set. The guard ([`GUARD`]) is a table
//! apart: `up` loads it first in the gateway form, and nothing here ever removes it, because an
//! nft `tproxy` statement that finds no listener lets the packet pass on to be forwarded.
//!
//! The guard is two fences, neither of which one command reaches together with the other: the table,
//! and routing rules that prohibit what would be forwarded (`routing`).
//!
//! The rules name protocols by `meta l4proto`, never by `ip6 nexthdr`: one extension header that a
//! client sets with one socket option makes the latter miss; and by number, so that `nft` needs no
//! `/etc/protocols`.

mod check;
mod delivery;
mod fence;
mod keep;
mod keeper;
mod matches;
mod own;
mod probe;
mod program;
mod routing;
mod rules;
mod servers;
mod shortcut;
mod state;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

pub use self::check::{Check, Fences, Finding};
pub use self::fence::{Fence, LOOK_EVERY};
pub use self::keep::Keep;
pub use self::keeper::{Keeper, State, Wanted, candidates};
pub use self::probe::NEAR as PROBE_INTERFACE;
use self::program::{checked, nft, words};
pub use self::servers::Servers;
pub use self::shortcut::{Counted, TABLE as SHORTCUT_TABLE, counted};
pub use self::state::{Listener as StateListener, STATE, Said, Seen, Word};
use crate::control::config::{Listen, ListenMode, Shortcut};
use crate::sys;

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

/// The table of the capture, of family `inet`: its named counters say what was refused, and why.
pub const TABLE: &str = "schengate";

/// The port of QUIC.
const HTTPS: u16 = 443;

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
    /// Destinations see the client's address (gateway form): their answers go to it, and are for the
    /// gateway all the same.
    keeps_source: bool,
    /// Whom the host form lets its own programs ask.
    servers: Servers,
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
    /// The kernel does not tell of changes.
    #[error("the kernel does not tell what changes; the keeper needs CAP_NET_ADMIN")]
    News {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An interface for probes cannot be made.
    #[error(
        "the interface {name} for probes cannot be made; it needs /dev/net/tun and CAP_NET_ADMIN"
    )]
    Tun {
        /// Its name.
        name: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
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
    /// A routing rule or route cannot be read or set.
    #[error("a routing rule or route cannot be set")]
    Routing(#[source] io::Error),
    /// The host's programs would ask the gateway, and the gateway the host's programs, for ever.
    #[error(
        "[dns] would ask {at}, a resolver on this host, whose own questions come back to [dns]; \
         name the resolvers behind it: [names] resolvers"
    )]
    Stub {
        /// The resolver.
        at: SocketAddr,
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
        let keeps = |listen: &Listen| listen.mode != ListenMode::Proxy && listen.keep_source;
        Ok(Self {
            form,
            tcp,
            udp: [None; 2],
            interfaces: Vec::new(),
            keeps_source: form == Form::Gateway && listen.iter().any(keeps),
            servers: Servers::default(),
            shortcut: None,
        })
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

    /// Whom the host form lets this machine's programs ask besides.
    ///
    /// # Errors
    /// [`CaptureFault::Stub`] where that would go round for ever.
    pub fn with_servers(mut self, servers: Servers) -> Result<Self, CaptureFault> {
        if let Some(at) = servers.goes_round() {
            return Err(CaptureFault::Stub { at });
        }
        self.servers = servers;
        Ok(self)
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

    /// Everything that [`Capture::up`] sets, for a person to read: the guard and the ruleset as
    /// `nft -f` takes them, the `ip` commands as comments.
    #[must_use]
    pub fn script(&self) -> String {
        let families = Family::ALL.into_iter().filter(|_| self.form == Form::Gateway);
        let routing: String = families
            .flat_map(|family| {
                let routed = self.routed().any(|routed| routed == family);
                routing::shown(family, routed, self.shortcut.is_some())
            })
            .map(|line| format!("# {line}\n"))
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

    /// Sets the guard (gateway form), the routes and the rules, in this order. May be repeated, and
    /// mends what is missing: at no moment less stands than before.
    ///
    /// # Errors
    /// The first step that fails, with what was said. What was set before it stays: the guard
    /// then drops what is not captured.
    pub fn up(&self) -> Result<(), CaptureFault> {
        if self.form == Form::Gateway {
            // Rules that may mark before the guard lets marks through, and the other way round.
            if self.shortcut.is_none() {
                end_shortcut()?;
            }
            nft(&self.guard())?;
        }
        for family in families() {
            let routed = self.routed().any(|routed| routed == family);
            if routed {
                routing::enroute(family)?
            } else {
                routing::unroute(family)?
            }
            if self.form == Form::Gateway {
                routing::set_fence(family, self.shortcut.is_some())?;
            }
        }
        // One transaction: what is marked is not captured, and nothing is marked by halves.
        nft(&format!("{}{}", self.ruleset(), self.frame()))?;
        if self.shortcut.is_some() { switch_forwarding("1") } else { Ok(()) }
    }

    /// Takes back the rules and the routes of either form, and leaves the guard. May be repeated.
    ///
    /// # Errors
    /// The first step that fails, with what was said.
    pub fn down() -> Result<(), CaptureFault> {
        end_shortcut()?;
        nft(EMPTY_TABLE)?;
        families().try_for_each(routing::unroute)
    }

    /// The families that need marked packets delivered locally.
    fn routed(&self) -> impl Iterator<Item = Family> {
        let keeps_source = self.keeps_source;
        let transparent = move |target: &Option<Target>| {
            target.is_some_and(|target| target.mode == ListenMode::Tproxy || keeps_source)
        };
        Family::ALL
            .into_iter()
            .zip(self.tcp.iter().zip(&self.udp))
            .filter(move |(_, (tcp, udp))| transparent(tcp) || transparent(udp))
            .map(|(family, _)| family)
    }

    /// What can be in the way of what is captured.
    fn delivery(&self) -> delivery::Delivery {
        let is_handed = |target: &Option<Target>| {
            target.is_some_and(|target| target.mode == ListenMode::Tproxy)
        };
        let captured = Family::ALL.into_iter().zip(self.tcp.iter().zip(&self.udp));
        let handed = captured.filter(|(_, (tcp, udp))| is_handed(tcp) || is_handed(udp));
        let handed = handed.map(|(family, _)| family).filter(|family| family.exists());
        let interfaces = self.interfaces.iter().filter(|name| *name != PROBE_INTERFACE);
        delivery::Delivery {
            routed: self.routed().filter(|family| family.exists()).collect(),
            handed: handed.collect(),
            interfaces: Some(interfaces.cloned().collect()),
            answers: self.keeps_source,
        }
    }
}

/// The families that the kernel has.
fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| family.exists())
}

/// Sets the guard alone, both fences and the switches: nothing is forwarded. May be repeated; a
/// short cut that stands is taken out of the guard, so that what it carried is dropped.
///
/// # Errors
/// The first step that fails, with what was said; what was set before it stays.
pub fn guard() -> Result<(), CaptureFault> {
    families().try_for_each(|family| routing::set_fence(family, false))?;
    nft(GUARD)?;
    switch_forwarding("0")
}

/// Takes the guard away, both fences of it: from then on the kernel forwards as it is told to.
///
/// # Errors
/// The first step that fails, with what was said.
pub fn open_guard() -> Result<(), CaptureFault> {
    nft("table inet schengate_guard\ndelete table inet schengate_guard\n")?;
    families().try_for_each(routing::remove_fence)
}

/// The number of a user, by number or by name, from every user database of the system.
///
/// # Errors
/// [`CaptureFault::NoUser`] where there is none of that name.
pub fn user_id(name: &str) -> Result<u32, CaptureFault> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = sys::user_id(name).ok().flatten();
    found.ok_or_else(|| CaptureFault::NoUser { name: name.to_owned() })
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

#[cfg(test)]
mod tests;
