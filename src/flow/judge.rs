//! What is asked of the policy, for transparent and explicit connections alike.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bind::{Names, Unresolved};
use super::gate::First;
use crate::account::{Facts, Grounds, Judged, Limit, Metrics};
use crate::egress::OverLimit;
use crate::identify::{Fault, HostName, Identity, NameSource, Protocol};
use crate::policy::{
    Action, Binding, Claim, GroupId, Lapsed, Live, Outlook, Policy, Question, RuleId, Transport,
    Verdict, Whereabouts,
};

/// What the data plane asks of a policy. [`Policy`] is the one that answers; the tests of the walk
/// bring their own, since the real one rightly refuses every loopback address.
pub(super) trait Judge {
    /// As [`Policy::decide`].
    fn decide(&self, question: &Question<'_>) -> Verdict;
    /// As [`Policy::outlook`].
    fn outlook(&self, question: &Question<'_>) -> Outlook;
    /// As [`Policy::decide_name`].
    fn decide_name(&self, question: &Question<'_>) -> Option<Verdict>;
    /// As [`Policy::refuses_name`].
    fn refuses_name(&self, question: &Question<'_>) -> Option<Verdict>;
    /// As [`Policy::asks_here`].
    fn asks_here(&self, question: &Question<'_>) -> Verdict;
    /// As [`Policy::refuses_address`].
    fn refuses_address(&self, question: &Question<'_>) -> Option<Verdict>;
    /// As [`Policy::on_mismatch`].
    fn on_mismatch(&self, group: GroupId) -> Action;
    /// As [`Policy::binding`].
    fn binding(&self) -> Binding;
    /// As [`Policy::whereabouts`].
    fn whereabouts(&self, address: IpAddr) -> Whereabouts<'_>;
    /// As [`Policy::rule_name`].
    fn rule_name(&self, rule: RuleId) -> &str;
    /// As [`Policy::group_name`].
    fn group_name(&self, group: GroupId) -> &str;
    /// As [`Policy::version`].
    fn version(&self) -> &str;
    /// As [`Policy::contact`].
    fn contact(&self) -> Option<&str>;
    /// As [`Policy::grace`].
    fn grace(&self) -> Duration;
}

impl Judge for Policy {
    fn decide(&self, question: &Question<'_>) -> Verdict {
        Self::decide(self, question)
    }
    fn outlook(&self, question: &Question<'_>) -> Outlook {
        Self::outlook(self, question)
    }
    fn decide_name(&self, question: &Question<'_>) -> Option<Verdict> {
        Self::decide_name(self, question)
    }
    fn refuses_name(&self, question: &Question<'_>) -> Option<Verdict> {
        Self::refuses_name(self, question)
    }
    fn asks_here(&self, question: &Question<'_>) -> Verdict {
        Self::asks_here(self, question)
    }
    fn refuses_address(&self, question: &Question<'_>) -> Option<Verdict> {
        Self::refuses_address(self, question)
    }
    fn on_mismatch(&self, group: GroupId) -> Action {
        Self::on_mismatch(self, group)
    }
    fn binding(&self) -> Binding {
        Self::binding(self)
    }
    fn whereabouts(&self, address: IpAddr) -> Whereabouts<'_> {
        Self::whereabouts(self, address)
    }
    fn rule_name(&self, rule: RuleId) -> &str {
        Self::rule_name(self, rule)
    }
    fn group_name(&self, group: GroupId) -> &str {
        Self::group_name(self, group)
    }
    fn version(&self) -> &str {
        Self::version(self)
    }
    fn contact(&self) -> Option<&str> {
        Self::contact(self)
    }
    fn grace(&self) -> Duration {
        Self::grace(self)
    }
}

/// Where the policy in force comes from.
pub(super) trait Policies: Send + Sync {
    /// As [`Live::load`].
    fn load(&self, now_ms: i64) -> Result<Arc<dyn Judge>, Lapsed>;
}

impl Policies for Live {
    fn load(&self, now_ms: i64) -> Result<Arc<dyn Judge>, Lapsed> {
        Self::load(self, now_ms).map(|policy| policy as Arc<dyn Judge>)
    }
}

/// The most names that are kept of bytes that break their protocol's rules.
const BROKEN_NAMES_MAX: usize = 64;

/// How the name came to stand beside the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// The client says so, and nothing is dialled yet.
    Said,
    /// The client says so, of an address that is already dialled.
    SaidAndDialled,
    /// The gateway resolved the name to this address, for whoever it has taken on so: a connection
    /// stays bound as it was dialled, whatever the name has become since.
    Resolved,
}

/// What a connection asks, owned: it is asked again when the policy changes.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) transport: Transport,
    pub(super) protocol: Protocol,
    pub(super) name: Option<(HostName, NameSource)>,
    pub(super) tie: Tie,
    pub(super) ech: bool,
    /// The host that the hello inside an explicit tunnel named, where it is not the tunnel's.
    pub(super) inside: Option<HostName>,
    /// A later hello named another host, or one that might name anybody cannot be read: refused in
    /// `enforce`, whatever the policy says about another name.
    pub(super) mismatched: bool,
    /// The first bytes break the rules of their protocol.
    pub(super) broken: Option<Arc<Broken>>,
}

/// What is known of first bytes that break the rules of their protocol, contradict themselves, or
/// stop half-way.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) fault: Fault,
    /// Every name that was read all the same.
    pub(super) names: Box<[HostName]>,
}

impl Asked {
    /// A connection of which no byte was read.
    pub(super) const fn unread(client: IpAddr, destination: SocketAddr) -> Self {
        Self {
            client,
            destination,
            transport: Transport::Tcp,
            protocol: Protocol::Other,
            name: None,
            tie: Tie::Said,
            ech: false,
            inside: None,
            mismatched: false,
            broken: None,
        }
    }

    /// A connection of which no byte was read, and whose destination is dialled.
    pub(super) fn permitted(client: IpAddr, verdict: &Verdict) -> Self {
        Self { tie: Tie::SaidAndDialled, ..Self::unread(client, verdict.destination()) }
    }

    /// What a client of the name server may be about to ask: the same as `explain` where nothing else
    /// is said, port 443 over TLS.
    fn looked_up(client: IpAddr, address: IpAddr, name: Option<&HostName>) -> Self {
        Self {
            protocol: Protocol::Tls,
            name: name.map(|name| (*name, NameSource::Dns)),
            tie: Tie::Resolved,
            ..Self::unread(client, SocketAddr::new(address, 443))
        }
    }

    /// The same over another transport.
    pub(super) fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// Adds what the first bytes say. Bytes that break their protocol's rules name nobody that could
    /// open anything; `names` tells those that were read in them.
    pub(super) fn read(
        mut self,
        identity: &Identity<'_>,
        names: impl FnOnce(&mut dyn FnMut(HostName)),
    ) -> Self {
        self.protocol = identity.protocol;
        self.ech = identity.ech;
        self.name = if identity.fault.is_some() { None } else { identity.name };
        self.broken = identity.fault.map(|fault| {
            let mut read = Vec::new();
            names(&mut |name| {
                if read.len() < BROKEN_NAMES_MAX && !read.contains(&name) {
                    read.push(name);
                }
            });
            Arc::new(Broken { fault, names: read.into() })
        });
        self
    }

    /// The same as a flow without a name that breaks its protocol, by `fault` where nothing worse was
    /// found; a name that was read counts as one that it may mean.
    pub(super) fn breaking(mut self, fault: Fault) -> Self {
        let name = self.name.take().map(|(name, _)| name);
        if self.broken.is_none() {
            let names = name.into_iter().chain(self.inside).collect();
            self.broken = Some(Arc::new(Broken { fault, names }));
        }
        self
    }

    /// What is claimed where there is no name.
    fn nameless(&self) -> Claim<'_> {
        self.broken.as_ref().map_or(Claim::Unread, |broken| Claim::Malformed(&broken.names))
    }

    /// Why the first bytes could not be read to their end.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.broken.as_ref().map(|broken| broken.fault)
    }

    fn question<'a>(&'a self, name: Claim<'a>) -> Question<'a> {
        Question {
            client: Some(self.client),
            destination: self.destination,
            transport: self.transport,
            protocol: self.protocol,
            name,
            ech: self.ech,
        }
    }
}

/// A verdict, and whether the name belongs to the address (`None` where nobody had to ask).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) bound: Option<bool>,
}

impl Answer {
    /// The answer with all that the record says of it.
    pub(super) fn judged(&self, policy: &dyn Judge, asked: &Asked) -> Judged {
        let verdict = self.verdict;
        Judged {
            verdict,
            name: asked.name.map(Into::into),
            bound: self.bound,
            protocol: asked.protocol,
            ech: asked.ech,
            fault: asked.fault(),
            grounds: Grounds::of(&Facts {
                place: policy.whereabouts(verdict.destination().ip()),
                policy: Some(policy.version()),
                group: Some(policy.group_name(verdict.group())),
                rule: verdict.rule().map(|rule| policy.rule_name(rule)),
            }),
        }
    }
}

/// The verdict that falls before a byte was read, where there is one, and what becomes of the bytes.
pub(super) fn unread(
    policy: &dyn Judge,
    asked: &Asked,
    metrics: &Metrics,
) -> Option<(Answer, First)> {
    let (verdict, first) = match timed(metrics, || policy.outlook(&asked.question(Claim::Unread))) {
        Outlook::Settled(verdict) => (verdict, First::Settled),
        // A datagram waits for its verdict, and no destination speaks before one.
        Outlook::Unless(verdict) if asked.transport == Transport::Tcp => (verdict, First::Judged),
        Outlook::Unless(_) | Outlook::Open => return None,
    };
    Some((Answer { verdict, bound: None }, first))
}

/// The verdict on all that was read. Asks the resolver only where the answer matters, and never
/// about a name that would be refused if it were bound: a query carries bytes of the client out.
pub(super) async fn settle(
    policy: &dyn Judge,
    asked: &Asked,
    names: &Names,
    metrics: &Metrics,
) -> Answer {
    match timed(metrics, || weigh(policy, asked)) {
        Weighed::Settled(answer) => answer,
        Weighed::Open { claimed, bound, name } => {
            let answered = if policy.binding() == Binding::Redial && asked.tie == Tie::Said {
                redialled(policy, asked, names, &name).await
            } else {
                let is_bound = names.is_bound(&name, asked.destination.ip(), asked.client).await;
                is_bound.map(|is_bound| is_bound.then_some(bound))
            };
            match answered {
                Ok(answer) => answer.unwrap_or(claimed),
                // Nobody was asked. What is let pass without the name needs no answer.
                Err(OverLimit) if claimed.verdict.action() == Action::Block => {
                    over_limit(asked, metrics)
                }
                Err(OverLimit) => claimed,
            }
        }
    }
}

/// As [`settle`]; `None` where the resolver has to be asked.
pub(super) fn settle_at_once(
    policy: &dyn Judge,
    asked: &Asked,
    metrics: &Metrics,
) -> Option<Answer> {
    match timed(metrics, || weigh(policy, asked)) {
        Weighed::Settled(answer) => Some(answer),
        Weighed::Open { .. } => None,
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "on the stack for a moment; a box would be a heap call"
)]
enum Weighed {
    Settled(Answer),
    /// The verdict hangs on whether the name belongs to the address.
    Open {
        claimed: Answer,
        bound: Answer,
        name: HostName,
    },
}

/// The refusal of an explicit request whose name no address can save; asked before the name is
/// resolved, so that no query carries it out.
pub(super) fn refused_by_name(
    policy: &dyn Judge,
    asked: &Asked,
    metrics: &Metrics,
) -> Option<Answer> {
    let (name, _) = asked.name.as_ref()?;
    let verdict = timed(metrics, || policy.decide_name(&asked.question(Claim::Bound(name))))?;
    (verdict.action() == Action::Block).then_some(Answer { verdict, bound: None })
}

/// The refusal of a name on every port, as a client of the name server asks for it.
pub(super) fn name_refused(
    policy: &dyn Judge,
    client: IpAddr,
    name: &HostName,
    metrics: &Metrics,
) -> Option<(Asked, Answer)> {
    let asked = question_about(client, Some(name));
    let verdict = timed(metrics, || policy.refuses_name(&asked.question(Claim::Bound(name))))?;
    Some((asked, Answer { verdict, bound: None }))
}

/// The refusal of one of the name's addresses on every port.
pub(super) fn address_refused(
    policy: &dyn Judge,
    client: IpAddr,
    name: Option<&HostName>,
    address: IpAddr,
    metrics: &Metrics,
) -> Option<(Asked, Answer)> {
    let asked = Asked::looked_up(client, address, name);
    let claim = name.map_or(Claim::Unread, Claim::Bound);
    let verdict = timed(metrics, || policy.refuses_address(&asked.question(claim)))?;
    Some((asked, Answer { verdict, bound: name.map(|_| true) }))
}

/// The strictest of what the tunnel's own name gives, what the policy says about a mismatch, and
/// what the name inside gives as a claim.
fn with_inside(policy: &dyn Judge, asked: &Asked, outer: Verdict) -> Verdict {
    let outer = if asked.mismatched { outer.mismatched(Action::Block) } else { outer };
    let Some(inside) = &asked.inside else { return outer };
    let claimed = policy.decide(&asked.question(Claim::Claimed(inside)));
    if blocks(&claimed) && !blocks(&outer) {
        return claimed;
    }
    outer.mismatched(policy.on_mismatch(outer.group()))
}

/// Whether `enforce` refuses.
fn blocks(verdict: &Verdict) -> bool {
    verdict.would().unwrap_or_else(|| verdict.action()) == Action::Block
}

fn weigh(policy: &dyn Judge, asked: &Asked) -> Weighed {
    let decide = |claim| with_inside(policy, asked, policy.decide(&asked.question(claim)));
    let settled = |verdict, bound| Weighed::Settled(Answer { verdict, bound });
    let Some((name, _)) = &asked.name else {
        return settled(decide(asked.nameless()), None);
    };
    let as_bound = decide(Claim::Bound(name));
    if asked.tie == Tie::Resolved {
        return settled(as_bound, Some(true));
    }
    if policy.binding() == Binding::Trust {
        return settled(as_bound, None);
    }
    let as_claimed = decide(Claim::Claimed(name));
    if as_claimed == as_bound {
        return settled(as_claimed, None);
    }
    if blocks(&as_bound) {
        // No query may settle it: the stricter of the two stands.
        let stricter = if blocks(&as_claimed) { as_claimed } else { as_bound };
        return settled(stricter, None);
    }
    Weighed::Open {
        claimed: Answer { verdict: as_claimed, bound: Some(false) },
        bound: Answer { verdict: as_bound, bound: Some(true) },
        name: *name,
    }
}

/// The first of the name's own addresses that the policy permits.
async fn redialled(
    policy: &dyn Judge,
    asked: &Asked,
    names: &Names,
    name: &HostName,
) -> Result<Option<Answer>, OverLimit> {
    let addresses = match names.resolve(name, asked.client).await {
        Ok(addresses) => addresses,
        Err(Unresolved::OverLimit) => return Err(OverLimit),
        Err(Unresolved::NoAddress | Unresolved::NoAnswer) => return Ok(None),
    };
    Ok(addresses.into_iter().find_map(|address| {
        let destination = SocketAddr::new(address, asked.destination.port());
        let there = Asked { destination, ..asked.clone() };
        let verdict = policy.decide(&there.question(Claim::Bound(name)));
        (verdict.action() != Action::Block).then_some(Answer { verdict, bound: Some(true) })
    }))
}

/// The refusal of a client that has had as many names asked about as it may.
pub(super) fn over_limit(asked: &Asked, metrics: &Metrics) -> Answer {
    metrics.limit_hit(Limit::Names);
    Answer { verdict: *Verdict::overload(asked.destination).verdict(), bound: None }
}

/// A question about a name to the gateway's own name server, as [`name_refused`] judges it.
pub(super) fn question_about(client: IpAddr, name: Option<&HostName>) -> Asked {
    Asked::looked_up(client, Ipv6Addr::UNSPECIFIED.into(), name)
}

/// What is noted of such a question that goes to a name server of this host.
pub(super) fn asked_here(policy: &dyn Judge, asked: &Asked, server: SocketAddr) -> Answer {
    let asked = Asked { destination: server, ..asked.clone() };
    let claim = asked.name.as_ref().map_or(Claim::Unread, |(name, _)| Claim::Bound(name));
    Answer { verdict: policy.asks_here(&asked.question(claim)), bound: None }
}

fn timed<T>(metrics: &Metrics, answer: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = answer();
    metrics.decided(begun.elapsed());
    answer
}

/// Milliseconds since 1970 UTC; a clock before 1970 is the first instant, at which every `since`
/// lies ahead.
pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A policy for tests: the verdict is a function of the question.
#[cfg(test)]
pub(super) mod fake {
    use std::sync::Mutex;

    use super::*;
    use crate::policy::{CountrySet, Reason};

    type Decide = dyn Fn(&Question<'_>) -> (Action, Reason) + Send + Sync;

    pub(crate) struct Fake {
        decide: Box<Decide>,
        pub(crate) binding: Binding,
        on_mismatch: Action,
        /// Whether the first bytes are waited for.
        reads: bool,
        observes: bool,
        grace: Duration,
    }

    impl Fake {
        pub(crate) fn new(
            decide: impl Fn(&Question<'_>) -> (Action, Reason) + Send + Sync + 'static,
        ) -> Self {
            Self {
                decide: Box::new(decide),
                binding: Binding::Verify,
                on_mismatch: Action::Block,
                reads: true,
                observes: false,
                grace: Duration::ZERO,
            }
        }

        /// The same, which refuses nothing and says what it would.
        pub(crate) fn observing(self) -> Self {
            Self { observes: true, ..self }
        }

        /// The same, with time for what it no longer permits.
        pub(crate) fn with_grace(self, grace: Duration) -> Self {
            Self { grace, ..self }
        }

        /// The same, with another answer to a name that differs inside a tunnel.
        pub(crate) fn on_mismatch(self, on_mismatch: Action) -> Self {
            Self { on_mismatch, ..self }
        }

        /// The same, without a wait for bytes.
        pub(crate) fn at_once(self) -> Self {
            Self { reads: false, ..self }
        }
    }

    impl Judge for Fake {
        fn decide(&self, question: &Question<'_>) -> Verdict {
            let (action, reason) = (self.decide)(question);
            let verdict = Verdict::given(action, reason, question.destination);
            if self.observes { verdict.observed() } else { verdict }
        }
        fn outlook(&self, question: &Question<'_>) -> Outlook {
            if self.reads { Outlook::Open } else { Outlook::Settled(self.decide(question)) }
        }
        fn decide_name(&self, question: &Question<'_>) -> Option<Verdict> {
            let host = question.name.host()?;
            let refused = Verdict::given(Action::Block, Reason::Rule, question.destination);
            host.as_str().ends_with("refused.example").then_some(refused)
        }
        fn refuses_name(&self, question: &Question<'_>) -> Option<Verdict> {
            self.decide_name(question)
        }
        fn asks_here(&self, question: &Question<'_>) -> Verdict {
            let given = Verdict::given(Action::Allow, Reason::Permitted, question.destination);
            self.refuses_name(question).unwrap_or(given)
        }
        fn refuses_address(&self, question: &Question<'_>) -> Option<Verdict> {
            Some(self.decide(question)).filter(blocks)
        }
        fn on_mismatch(&self, _: GroupId) -> Action {
            self.on_mismatch
        }
        fn binding(&self) -> Binding {
            self.binding
        }
        fn whereabouts(&self, _: IpAddr) -> Whereabouts<'_> {
            Whereabouts {
                codes: CountrySet::EMPTY,
                anycast: false,
                source: None,
                region: None,
                operator: None,
                asn: None,
                law: CountrySet::EMPTY,
            }
        }
        fn rule_name(&self, _: RuleId) -> &'static str {
            "rule"
        }
        fn group_name(&self, _: GroupId) -> &'static str {
            "default"
        }
        fn version(&self) -> &'static str {
            "0123456789ab"
        }
        fn contact(&self) -> Option<&str> {
            Some("it@hospital.example")
        }
        fn grace(&self) -> Duration {
            self.grace
        }
    }

    /// The policy in force, for tests: replaced as a reload replaces it, or lapsed.
    #[derive(Default)]
    pub(crate) struct Shelf(pub(crate) Mutex<Option<Arc<Fake>>>);

    impl Shelf {
        pub(crate) fn with(fake: Fake) -> Arc<Self> {
            Arc::new(Self(Mutex::new(Some(Arc::new(fake)))))
        }
    }

    impl Policies for Shelf {
        fn load(&self, _: i64) -> Result<Arc<dyn Judge>, Lapsed> {
            self.0.lock().unwrap().clone().map(|fake| fake as Arc<dyn Judge>).ok_or(Lapsed)
        }
    }

    // The walk's tests move these between threads.
    const _: fn() = || {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Fake>();
    };
}

#[cfg(test)]
mod tests;
