//! What is to be captured, and by which listeners: checked where it is made.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::family::Family;
use super::fault::CaptureFault;
use super::matches::NEAR;
use super::servers::Servers;
use crate::control::config::{Lane, Listen, ListenMode, Shortcut};
use crate::sys;

/// The user that the service runs as, where nobody says otherwise.
pub const USER: &str = "schengate";

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
pub(super) struct Target {
    pub(super) mode: ListenMode,
    pub(super) address: SocketAddr,
}

/// What is to be captured, and by which listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    pub(super) form: Form,
    pub(super) tcp: [Option<Target>; 2],
    pub(super) udp: [Option<Target>; 2],
    pub(super) interfaces: Vec<String>,
    /// Destinations see the client's address (gateway form): their answers go to it, and are for the
    /// gateway all the same.
    pub(super) keeps_source: bool,
    /// Whom the host form lets its own programs ask.
    pub(super) servers: Servers,
    /// The kernel judges by itself what the gateway tells it to; whether its address is then the
    /// one that destinations see.
    pub(super) shortcut: Option<Masquerade>,
    /// The kernel carries what the gateway has judged.
    pub(super) lane: Option<LaneRules>,
}

/// What the rules of a lane have to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LaneRules {
    pub(super) queues: RangeInclusive<u16>,
    /// The clients' interfaces whose flows it takes, and that of the probes.
    pub(super) interfaces: Vec<String>,
    pub(super) masquerade: Masquerade,
}

/// Whether destinations see the gateway's address instead of the client's.
pub(super) type Masquerade = bool;

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
            lane: None,
        })
    }

    /// Makes room for the lane (gateway form), where there is one: what the gateway has judged is
    /// forwarded by the kernel. Its interfaces are captured beside those that were named; destinations
    /// see the gateway's address, unless the first listener keeps the clients'.
    ///
    /// # Errors
    /// [`CaptureFault::NoSide`] where no interface was named, [`CaptureFault::Interface`] for a name
    /// that is none.
    pub fn with_lane(
        mut self,
        lane: Option<&Lane>,
        listen: &[Listen],
    ) -> Result<Self, CaptureFault> {
        let Some(lane) = lane.filter(|_| self.form == Form::Gateway) else { return Ok(self) };
        let mut all = self.interfaces.clone();
        all.extend(lane.interfaces.iter().filter(|name| !self.interfaces.contains(name)).cloned());
        if all.is_empty() {
            return Err(CaptureFault::NoSide);
        }
        if !all.iter().any(|name| name == NEAR) {
            all.push(NEAR.to_owned());
        }
        self = self.on_interfaces(&all)?;
        let interfaces = match lane.interfaces.as_slice() {
            [] => all,
            named => named.iter().cloned().chain([NEAR.to_owned()]).collect(),
        };
        let mut captured = listen.iter().filter(|listen| listen.mode != ListenMode::Proxy);
        let masquerade = !captured.next().is_some_and(|listen| listen.keep_source);
        self.lane = Some(LaneRules { queues: lane.queues.clone(), interfaces, masquerade });
        Ok(self)
    }

    /// Whether the kernel forwards anything, by a mark.
    pub(super) const fn forwards(&self) -> bool {
        self.shortcut.is_some() || self.lane.is_some()
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

    /// The families that need marked packets delivered locally.
    pub(super) fn routed(&self) -> impl Iterator<Item = Family> {
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
