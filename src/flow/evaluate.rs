//! Evaluates a connection by a policy: what is asked, which evidence ties its name to its address, and
//! when the resolver has to be asked. The same for transparent and explicit connections.
//!
//! The policy is asked once, and twice where it matters whether the name belongs to the address: at a
//! rule by name that permits, or where the name is of an `[[operator]]`. Before anything was read it is
//! asked for its outlook alone ([`evaluate_early`]), which is another question: what could come of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::account::{Decision, DecisionContext, Facts, Limit, Metrics};
use crate::egress::OverLimit;
use crate::egress::name_binding::{BindingCache, Unresolved};
use crate::identify::{Fault, HostName, Identity, NameSource, Protocol};
use crate::policy::{Action, Binding, Claim, Outlook, Policy, Question, Transport, Verdict};

/// The most names that are kept of bytes that break their protocol's rules.
const BROKEN_NAMES_MAX: usize = 64;

/// How the name came to stand beside the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameEvidence {
    /// The client says so, and nothing is dialled yet.
    Claimed,
    /// The client says so, of an address that is already dialled.
    ClaimedAfterDial,
    /// The gateway resolved the name to this address, for a connection that it has taken on: one
    /// stays bound as it was dialled, whatever the name has become since.
    Resolved,
}

/// What a connection asks, owned: it is asked again when the policy changes. `N` and `I` are how the
/// names are kept.
#[derive(Clone, Debug)]
pub(super) struct Subject<N = (HostName, NameSource), I = HostName> {
    pub(super) client: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) transport: Transport,
    pub(super) protocol: Protocol,
    pub(super) name: Option<N>,
    pub(super) evidence: NameEvidence,
    pub(super) ech: bool,
    /// The host that the hello inside an explicit tunnel named, where it is not the tunnel's.
    pub(super) inside: Option<I>,
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

impl<N, I> Subject<N, I> {
    /// The same, with its names kept in another way.
    pub(super) fn with_names<M, J>(&self, name: Option<M>, inside: Option<J>) -> Subject<M, J> {
        let &Self { client, destination, transport, protocol, evidence, ech, mismatched, .. } =
            self;
        let broken = self.broken.clone();
        Subject {
            client,
            destination,
            transport,
            protocol,
            name,
            evidence,
            ech,
            inside,
            mismatched,
            broken,
        }
    }
}

impl Subject {
    /// A connection of which no byte was read.
    pub(super) const fn unread(client: IpAddr, destination: SocketAddr) -> Self {
        Self {
            client,
            destination,
            transport: Transport::Tcp,
            protocol: Protocol::Other,
            name: None,
            evidence: NameEvidence::Claimed,
            ech: false,
            inside: None,
            mismatched: false,
            broken: None,
        }
    }

    /// A connection of which no byte was read, and whose destination is dialled.
    pub(super) fn permitted(client: IpAddr, verdict: &Verdict) -> Self {
        Self {
            evidence: NameEvidence::ClaimedAfterDial,
            ..Self::unread(client, verdict.destination())
        }
    }

    /// What a client of the name server may be about to ask: the same as `explain` where nothing else
    /// is said, port 443 over TLS.
    fn looked_up(client: IpAddr, address: IpAddr, name: Option<&HostName>) -> Self {
        Self {
            protocol: Protocol::Tls,
            name: name.map(|name| (*name, NameSource::Dns)),
            evidence: NameEvidence::Resolved,
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

/// What becomes of the first bytes of a client that was permitted without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// They were judged, or say nothing that could be judged: they are read along at most.
    Settled,
    /// They are judged before they go on, whenever they come.
    Judged,
}

/// A verdict, and whether the name belongs to the address (`None` where nobody had to ask).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) bound: Option<bool>,
}

impl Answer {
    /// The answer with all that the record says of it.
    pub(super) fn judged(&self, policy: &Policy, subject: &Subject) -> Decision {
        let verdict = self.verdict;
        Decision {
            verdict,
            name: subject.name.map(Into::into),
            bound: self.bound,
            protocol: subject.protocol,
            ech: subject.ech,
            fault: subject.fault(),
            context: DecisionContext::of(&Facts {
                place: policy.address_info(verdict.destination().ip()),
                policy: Some(policy.version()),
                group: Some(policy.group_name(verdict.group())),
                rule: verdict.rule().map(|rule| policy.rule_name(rule)),
                basis: verdict.rule().and_then(|rule| policy.rule_basis(rule)),
            }),
        }
    }
}

/// The verdict that falls before a byte was read, where there is one, and what becomes of the bytes.
pub(super) fn evaluate_early(
    policy: &Policy,
    subject: &Subject,
    metrics: &Metrics,
) -> Option<(Answer, First)> {
    let (verdict, first) = match timed(metrics, || policy.outlook(&subject.question(Claim::Unread)))
    {
        Outlook::Settled(verdict) => (verdict, First::Settled),
        // A datagram waits for its verdict, and no destination speaks before one.
        Outlook::Unless(verdict) if subject.transport == Transport::Tcp => (verdict, First::Judged),
        Outlook::Unless(_) | Outlook::Open => return None,
    };
    Some((Answer { verdict, bound: None }, first))
}

/// The verdict on all that was read. Asks the resolver only where the answer matters, and never
/// about a name that would be refused if it were bound: a query carries bytes of the client out. `asks`
/// is told of the name before.
pub(super) async fn evaluate_with_dns(
    policy: &Policy,
    subject: &Subject,
    names: &BindingCache,
    metrics: &Metrics,
    asks: impl FnOnce(HostName),
) -> Answer {
    match timed(metrics, || evaluate(policy, subject)) {
        Evaluated::Settled(answer) => answer,
        Evaluated::Open { claimed, bound, name } => {
            asks(name);
            let answered = if policy.binding() == Binding::Redial
                && subject.evidence == NameEvidence::Claimed
            {
                redialled(policy, subject, names, &name).await
            } else {
                let is_bound =
                    names.is_bound(&name, subject.destination.ip(), subject.client).await;
                is_bound.map(|is_bound| is_bound.then_some(bound))
            };
            match answered {
                Ok(answer) => answer.unwrap_or(claimed),
                // Nobody was asked. What is let pass without the name needs no answer.
                Err(OverLimit) if claimed.verdict.action() == Action::Block => {
                    over_limit(subject, metrics)
                }
                Err(OverLimit) => claimed,
            }
        }
    }
}

/// As [`evaluate_with_dns`]; `None` where the resolver has to be asked.
pub(super) fn evaluate_cached(
    policy: &Policy,
    subject: &Subject,
    metrics: &Metrics,
) -> Option<Answer> {
    match timed(metrics, || evaluate(policy, subject)) {
        Evaluated::Settled(answer) => Some(answer),
        Evaluated::Open { .. } => None,
    }
}

/// As [`evaluate_with_dns`], where the resolver cannot be asked: the name is the client's claim then.
pub(super) fn evaluate_unasked(policy: &Policy, subject: &Subject, metrics: &Metrics) -> Answer {
    match timed(metrics, || evaluate(policy, subject)) {
        Evaluated::Settled(answer) | Evaluated::Open { claimed: answer, .. } => answer,
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "on the stack for a moment; a box would be a heap call"
)]
enum Evaluated {
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
    policy: &Policy,
    subject: &Subject,
    metrics: &Metrics,
) -> Option<Answer> {
    let (name, _) = subject.name.as_ref()?;
    let verdict = timed(metrics, || policy.decide_name(&subject.question(Claim::Bound(name))))?;
    (verdict.action() == Action::Block).then_some(Answer { verdict, bound: None })
}

/// The refusal of a name on every port, as a client of the name server asks for it.
pub(super) fn name_refused(
    policy: &Policy,
    client: IpAddr,
    name: &HostName,
    metrics: &Metrics,
) -> Option<(Subject, Answer)> {
    let subject = question_about(client, Some(name));
    let verdict = timed(metrics, || policy.refuses_name(&subject.question(Claim::Bound(name))))?;
    Some((subject, Answer { verdict, bound: None }))
}

/// The refusal of one of the name's addresses on every port.
pub(super) fn address_refused(
    policy: &Policy,
    client: IpAddr,
    name: Option<&HostName>,
    address: IpAddr,
    metrics: &Metrics,
) -> Option<(Subject, Answer)> {
    let subject = Subject::looked_up(client, address, name);
    let claim = name.map_or(Claim::Unread, Claim::Bound);
    let verdict = timed(metrics, || policy.refuses_address(&subject.question(claim)))?;
    Some((subject, Answer { verdict, bound: name.map(|_| true) }))
}

/// The strictest of what the tunnel's own name gives, what the policy says about a mismatch, and
/// what the name inside gives as a claim.
fn with_inside(policy: &Policy, subject: &Subject, outer: Verdict) -> Verdict {
    let outer = if subject.mismatched { outer.mismatched(Action::Block) } else { outer };
    let Some(inside) = &subject.inside else { return outer };
    let claimed = policy.decide(&subject.question(Claim::Claimed(inside)));
    if blocks(&claimed) && !blocks(&outer) {
        return claimed;
    }
    outer.mismatched(policy.on_mismatch(outer.group()))
}

/// Whether `enforce` refuses.
fn blocks(verdict: &Verdict) -> bool {
    verdict.would().unwrap_or_else(|| verdict.action()) == Action::Block
}

fn evaluate(policy: &Policy, subject: &Subject) -> Evaluated {
    let decide = |claim| with_inside(policy, subject, policy.decide(&subject.question(claim)));
    let settled = |verdict, bound| Evaluated::Settled(Answer { verdict, bound });
    let Some((name, _)) = &subject.name else {
        return settled(decide(subject.nameless()), None);
    };
    if subject.evidence == NameEvidence::Resolved {
        return settled(decide(Claim::Bound(name)), Some(true));
    }
    if policy.binding() == Binding::Trust {
        return settled(decide(Claim::Bound(name)), None);
    }
    let (as_claimed, hangs) = policy.decide_claimed(&subject.question(Claim::Claimed(name)));
    let as_claimed = with_inside(policy, subject, as_claimed);
    if !hangs {
        return settled(as_claimed, None);
    }
    let as_bound = decide(Claim::Bound(name));
    if as_claimed == as_bound {
        return settled(as_claimed, None);
    }
    if blocks(&as_bound) {
        // No query may settle it: the stricter of the two stands.
        let stricter = if blocks(&as_claimed) { as_claimed } else { as_bound };
        return settled(stricter, None);
    }
    Evaluated::Open {
        claimed: Answer { verdict: as_claimed, bound: Some(false) },
        bound: Answer { verdict: as_bound, bound: Some(true) },
        name: *name,
    }
}

/// The first of the name's own addresses that the policy permits.
async fn redialled(
    policy: &Policy,
    subject: &Subject,
    names: &BindingCache,
    name: &HostName,
) -> Result<Option<Answer>, OverLimit> {
    let addresses = match names.resolve(name, subject.client).await {
        Ok(addresses) => addresses,
        Err(Unresolved::OverLimit) => return Err(OverLimit),
        Err(Unresolved::NoAddress | Unresolved::NoAnswer) => return Ok(None),
    };
    Ok(addresses.into_iter().find_map(|address| {
        let destination = SocketAddr::new(address, subject.destination.port());
        let there = Subject { destination, ..subject.clone() };
        let verdict = policy.decide(&there.question(Claim::Bound(name)));
        (verdict.action() != Action::Block).then_some(Answer { verdict, bound: Some(true) })
    }))
}

/// The refusal of a client that has had as many names asked about as it may.
pub(super) fn over_limit(subject: &Subject, metrics: &Metrics) -> Answer {
    metrics.limit_hit(Limit::Names);
    Answer { verdict: *Verdict::overload(subject.destination).verdict(), bound: None }
}

/// A question about a name to the gateway's own name server, as [`name_refused`] judges it.
pub(super) fn question_about(client: IpAddr, name: Option<&HostName>) -> Subject {
    Subject::looked_up(client, Ipv6Addr::UNSPECIFIED.into(), name)
}

/// What is noted of such a question that goes to a name server of this host.
pub(super) fn asked_here(policy: &Policy, subject: &Subject, server: SocketAddr) -> Answer {
    let subject = Subject { destination: server, ..subject.clone() };
    let claim = subject.name.as_ref().map_or(Claim::Unread, |(name, _)| Claim::Bound(name));
    Answer { verdict: policy.asks_here(&subject.question(claim)), bound: None }
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

#[cfg(test)]
mod tests;
