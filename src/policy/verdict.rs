//! What a judgement can say. Closed sets: their labels are metric labels and record fields, and are
//! never renamed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::identify::HostName;
use crate::identify::Protocol;

/// What becomes of a connection. Ordered by strictness: `Allow < Log < Block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Forwarded.
    Allow,
    /// Forwarded and recorded as something to look at.
    Log,
    /// Refused.
    Block,
}

impl Action {
    /// Every action, in the order of strictness.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Log, Self::Block];

    /// `allow`, `log` or `block`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Log => "log",
            Self::Block => "block",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Declares the reasons and the list of them, so that none can be missing from it.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident,)*) => {
        /// Why a verdict is what it is (docs/policy.md §3). A closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: [Self; [$(stringify!($reason)),*].len()] = [$(Self::$reason),*];
        }
    };
}

reasons! {
    /// Every place and every law is permitted, and no other cause holds.
    Permitted,
    /// A rule of the policy decided.
    Rule,
    /// A rule with an owner and an end decided.
    Waiver,
    /// A private address.
    Private,
    /// Some place where the bytes may land is not permitted.
    Outside,
    /// Some law that reaches the holder is not permitted.
    Law,
    /// Nobody knows whose network it is, and the law is judged.
    Operator,
    /// No source knows the address.
    Unknown,
    /// The sources disagree, and one of them says outside.
    Disputed,
    /// The address answers from many places: anycast, or front ends that DNS steers.
    Anycast,
    /// The name does not belong to the address.
    Mismatch,
    /// A name was needed, and none could be read.
    Unread,
    /// A name was needed, and the first bytes break their protocol, contradict themselves, or stop
    /// half-way.
    Malformed,
    /// The table that gave the location is too old.
    Stale,
    /// The gateway itself.
    Loop,
    /// An address that nothing opens: metadata service, multicast, reserved space.
    Guard,
    /// The gateway could not take the connection on.
    Overload,
    /// The record of it could not be written.
    Record,
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`Reason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason code.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Rule => "rule",
            Self::Waiver => "waiver",
            Self::Private => "private",
            Self::Outside => "outside",
            Self::Law => "law",
            Self::Operator => "operator",
            Self::Unknown => "unknown",
            Self::Disputed => "disputed",
            Self::Anycast => "anycast",
            Self::Mismatch => "mismatch",
            Self::Unread => "unread",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
            Self::Loop => "loop",
            Self::Guard => "guard",
            Self::Overload => "overload",
            Self::Record => "record",
        }
    }

    /// One sentence for the person who was refused; no product words, no codes.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Permitted => "The destination lies where the policy permits.",
            Self::Rule => "A rule of the policy decides about this destination.",
            Self::Waiver => "A waiver with an owner and an end decides about this destination.",
            Self::Private => "The destination is a private address.",
            Self::Outside => "The destination may lie in a place that the policy does not permit.",
            Self::Law => {
                "The destination may be held by someone whom a law reaches that the policy does \
                 not permit."
            }
            Self::Operator => "Nobody knows whose network the destination is in.",
            Self::Unknown => "No source knows where the destination lies.",
            Self::Disputed => "The sources disagree about where the destination lies.",
            Self::Anycast => "The destination answers from many places at once.",
            Self::Mismatch => "The name that was asked for does not belong to the address.",
            Self::Unread => "The policy needs the server's name, and none could be read.",
            Self::Malformed => {
                "The policy needs the server's name, and what was sent breaks the rules of its \
                 protocol, contradicts itself, or stops half-way."
            }
            Self::Stale => "The table that knows the destination is too old.",
            Self::Loop => "The destination is the gateway itself.",
            Self::Guard => "The destination is an address that the gateway never opens.",
            Self::Overload => "The gateway cannot take on this connection now.",
            Self::Record => {
                "The gateway cannot record this connection now, and lets nothing go unrecorded."
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Refuse what is blocked.
    Enforce,
    /// Judge and record, refuse nothing but guards.
    Observe,
}

impl Mode {
    /// `enforce` or `observe`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The name of the destination, as far as it goes.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// No name could be read, or none was sent.
    Unread,
    /// The first bytes begin a protocol that carries a name and break its rules, contradict
    /// themselves, or stop half-way; with every name that was read all the same.
    Malformed(&'a [HostName]),
    /// The client says so; nothing ties the name to the address.
    Claimed(&'a HostName),
    /// The address is among the name's own (resolved by the gateway).
    Bound(&'a HostName),
}

impl<'a> Claim<'a> {
    /// The name, bound or not; none where the bytes are malformed.
    #[must_use]
    pub const fn host(self) -> Option<&'a HostName> {
        match self {
            Self::Unread | Self::Malformed(_) => None,
            Self::Claimed(name) | Self::Bound(name) => Some(name),
        }
    }
}

/// All that a judgement is made of, beside the policy.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The client's address; `None` where nobody in particular asks (no `from` matches).
    pub client: Option<IpAddr>,
    /// The destination, as the client gave it; an IPv4-mapped IPv6 address is that IPv4.
    pub destination: SocketAddr,
    /// How the bytes travel.
    pub transport: Transport,
    /// What the first bytes are.
    pub protocol: Protocol,
    /// The destination's name.
    pub name: Claim<'a>,
    /// Whether the hello carries the ECH extension (0xfe0d).
    pub ech: bool,
}

/// How a name must be tied to the address before it can open anything (`[names] binding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The address is among the name's DNS answers.
    Verify,
    /// Dial an address that the gateway resolved itself.
    Redial,
    /// Believe the client.
    Trust,
}

/// What a hello with the ECH extension is (`[names] ech`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ech {
    /// The outer name is the name.
    Claim,
    /// No name could be read.
    Unread,
    /// Refused after the guards.
    Block,
}

/// Position of a rule in the policy file, from 0. [`super::Policy::rule_name`] tells its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub(super) u32);

/// Position of a group in the policy file; 0 is the default policy.
/// [`super::Policy::group_name`] tells its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub(super) u32);

/// The answer to a [`Question`]. Small, and free of references: it outlives the policy it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub(super) action: Action,
    pub(super) reason: Reason,
    pub(super) rule: Option<RuleId>,
    pub(super) would: Option<Action>,
    pub(super) group: GroupId,
    pub(super) mode: Mode,
    pub(super) destination: SocketAddr,
}

impl Verdict {
    /// What becomes of the connection.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Why; in `observe`, why `enforce` would do what [`Verdict::would`] says.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The rule that decided, if one did.
    #[must_use]
    pub const fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// In `observe`, what `enforce` would do.
    #[must_use]
    pub const fn would(&self) -> Option<Action> {
        self.would
    }

    /// The group whose settings were applied.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// Whether the verdict is carried out or only recorded.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The destination that was judged, and the only one that may be dialled: as asked for, but
    /// an IPv4-mapped address is the IPv4 address.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// The verdict as the one thing its holder may do next.
    ///
    /// # Errors
    /// A [`Denial`], where the connection is refused.
    pub const fn permit(self) -> Result<Permit, Denial> {
        match self.action {
            Action::Allow | Action::Log => Ok(Permit(self)),
            Action::Block => Err(Denial(self)),
        }
    }

    /// The verdict once the hello inside an explicit tunnel named another host than the tunnel's
    /// (docs/policy.md §3), where `on` is what `[policy.on] mismatch` leads to for the client
    /// ([`super::Policy::on_mismatch`]): `block` refuses in `enforce` and is recorded in `observe`,
    /// `log` is a floor under what would be allowed, `allow` changes nothing.
    #[must_use]
    pub fn mismatched(self, on: Action) -> Self {
        let enforced = self.would.unwrap_or(self.action);
        if on <= enforced {
            return self;
        }
        let (action, would) = match self.mode {
            Mode::Enforce => (on, None),
            Mode::Observe => (Action::Log, Some(on)),
        };
        Self { action, reason: Reason::Mismatch, rule: None, would, ..self }
    }

    /// The refusal of a connection whose destination is the listener that took it, before any
    /// judgement: forwarding it would have the gateway call itself.
    pub const fn looped(destination: SocketAddr) -> Denial {
        let Denial(overload) = Self::overload(destination);
        Denial(Self { reason: Reason::Loop, ..overload })
    }

    /// The refusal of a question that is never passed on, whatever the policy says about its name: its
    /// type is none of those that may leave.
    pub const fn guarded(destination: SocketAddr) -> Denial {
        let Denial(overload) = Self::overload(destination);
        Denial(Self { reason: Reason::Guard, ..overload })
    }

    /// The refusal of a connection that the policy permits, and that could not be recorded.
    pub const fn unrecorded(self) -> Denial {
        let Denial(overload) = Self::overload(self.destination);
        Denial(Self { reason: Reason::Record, group: self.group, ..overload })
    }

    /// A verdict out of nowhere, for tests of what is done with one.
    #[cfg(test)]
    pub(crate) const fn given(action: Action, reason: Reason, destination: SocketAddr) -> Self {
        let Denial(overload) = Self::overload(destination);
        Self { action, reason, ..overload }
    }

    /// The refusal of a connection that the gateway cannot take on (no descriptors, no policy in
    /// force ...), before or instead of a judgement.
    pub const fn overload(destination: SocketAddr) -> Denial {
        Denial(Self {
            action: Action::Block,
            reason: Reason::Overload,
            rule: None,
            would: None,
            group: GroupId(0),
            mode: Mode::Enforce,
            destination,
        })
    }
}

/// Proof that a policy allowed this destination. Only [`Verdict::permit`] makes one, and the data
/// plane dials nothing without one.
#[must_use]
#[derive(Debug)]
pub struct Permit(Verdict);

impl Permit {
    /// The one address that may be dialled.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.0.destination
    }

    /// The verdict that gave the permit.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.0
    }
}

/// Proof that a policy refused.
#[must_use]
#[derive(Debug)]
pub struct Denial(Verdict);

impl Denial {
    /// The verdict that refused.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_with_another_name_inside_is_refused_in_enforce_and_noted_in_observe() {
        let to = "198.51.100.7:443".parse().unwrap();
        let allowed = Verdict::given(Action::Allow, Reason::Permitted, to);
        let enforced = allowed.mismatched(Action::Block);
        assert_eq!((enforced.action(), enforced.would()), (Action::Block, None));
        let watched = Verdict { mode: Mode::Observe, would: Some(Action::Allow), ..allowed };
        let observed = watched.mismatched(Action::Block);
        assert_eq!((observed.action(), observed.would()), (Action::Log, Some(Action::Block)));
        assert_eq!([enforced.reason(), observed.reason()], [Reason::Mismatch; 2]);
    }

    #[test]
    fn log_for_a_mismatch_is_a_floor_and_allow_changes_nothing() {
        let to = "198.51.100.7:443".parse().unwrap();
        let allowed = Verdict::given(Action::Allow, Reason::Permitted, to);
        let logged = allowed.mismatched(Action::Log);
        assert_eq!((logged.action(), logged.reason()), (Action::Log, Reason::Mismatch));
        assert_eq!(allowed.mismatched(Action::Allow), allowed);
        let disputed = Verdict::given(Action::Log, Reason::Disputed, to);
        assert_eq!(disputed.mismatched(Action::Log), disputed, "the floor that stood first stays");
        let blocked = Verdict::given(Action::Block, Reason::Outside, to);
        assert_eq!(blocked.mismatched(Action::Block), blocked);
    }
}
