//! What is asked of the policy, for transparent and explicit connections alike.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::bind::{Names, Unresolved};
use crate::account::{Facts, Grounds, Judged, Limit, Metrics};
use crate::egress::OverLimit;
use crate::identify::{Fault, HostName, Identity, NameSource, Protocol};
use crate::policy::{Action, Binding, Claim, Outlook, Policy, Question, Transport, Verdict};

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

/// What a connection asks, owned: it is asked again when the policy changes. `N` and `I` are how the
/// names are kept.
#[derive(Clone, Debug)]
pub(super) struct Asked<N = (HostName, NameSource), I = HostName> {
    pub(super) client: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) transport: Transport,
    pub(super) protocol: Protocol,
    pub(super) name: Option<N>,
    pub(super) tie: Tie,
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

impl<N, I> Asked<N, I> {
    /// The same, with its names kept in another way.
    pub(super) fn with_names<M, J>(&self, name: Option<M>, inside: Option<J>) -> Asked<M, J> {
        let &Self { client, destination, transport, protocol, tie, ech, mismatched, .. } = self;
        let broken = self.broken.clone();
        Asked {
            client,
            destination,
            transport,
            protocol,
            name,
            tie,
            ech,
            inside,
            mismatched,
            broken,
        }
    }
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
    pub(super) fn judged(&self, policy: &Policy, asked: &Asked) -> Judged {
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
pub(super) fn unread(policy: &Policy, asked: &Asked, metrics: &Metrics) -> Option<(Answer, First)> {
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
    policy: &Policy,
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
pub(super) fn settle_at_once(policy: &Policy, asked: &Asked, metrics: &Metrics) -> Option<Answer> {
    match timed(metrics, || weigh(policy, asked)) {
        Weighed::Settled(answer) => Some(answer),
        Weighed::Open { .. } => None,
    }
}

/// As [`settle`], where the resolver cannot be asked: the name is the client's claim then.
pub(super) fn settle_unasked(policy: &Policy, asked: &Asked, metrics: &Metrics) -> Answer {
    match timed(metrics, || weigh(policy, asked)) {
        Weighed::Settled(answer) | Weighed::Open { claimed: answer, .. } => answer,
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
pub(super) fn refused_by_name(policy: &Policy, asked: &Asked, metrics: &Metrics) -> Option<Answer> {
    let (name, _) = asked.name.as_ref()?;
    let verdict = timed(metrics, || policy.decide_name(&asked.question(Claim::Bound(name))))?;
    (verdict.action() == Action::Block).then_some(Answer { verdict, bound: None })
}

/// The refusal of a name on every port, as a client of the name server asks for it.
pub(super) fn name_refused(
    policy: &Policy,
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
    policy: &Policy,
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
fn with_inside(policy: &Policy, asked: &Asked, outer: Verdict) -> Verdict {
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

fn weigh(policy: &Policy, asked: &Asked) -> Weighed {
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
    policy: &Policy,
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
pub(super) fn asked_here(policy: &Policy, asked: &Asked, server: SocketAddr) -> Answer {
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

#[cfg(test)]
mod tests;
