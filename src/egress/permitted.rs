//! Resolves a name once and judges where it leads, for all that dial by name: explicit requests and
//! `data update`. One order, in which nothing leaves that the policy refuses: the name before the query
//! that would carry it out, then each address before its dial.

use std::future::Future;
use std::net::IpAddr;
use std::ops::Deref;

use crate::policy::{Lapsed, Permit, Policy, Verdict};

/// Addresses of one name that are dialled at most.
const DIALLED_MAX: usize = 16;

/// What of a name may be dialled; `T` is what its judge wants to know of each address.
pub(crate) struct Permitted<P, T> {
    /// Which policy permits it.
    pub(crate) policy: P,
    /// At least one, in the order of the resolver's answer.
    pub(crate) addresses: Vec<(Permit, T)>,
}

/// Why a name may not be dialled.
pub(crate) enum NotPermitted<P, T, E> {
    /// No policy is in force; with the first address, where the name was resolved.
    Lapsed(Option<IpAddr>),
    /// The policy refuses the name, or each of its addresses: then this is of the first one.
    Refused(P, T),
    /// The resolver has no answer.
    Unresolved(P, E),
    /// It has one without an address, or without one that could be judged.
    NoAddress,
}

/// Judges a name, resolves it, and judges every address of it. `in_force` is asked before the query and
/// after it, since the policy may have changed meanwhile. `refuses` tells the refusal of a name that no
/// address could save: then `resolve` is never begun. `judge` is [`None`] of an address that it cannot
/// judge, which is not dialled.
pub(crate) async fn resolve_and_judge<P, T, E>(
    in_force: impl Fn() -> Result<P, Lapsed>,
    refuses: impl FnOnce(&Policy) -> Option<T>,
    resolve: impl Future<Output = Result<Vec<IpAddr>, E>>,
    mut judge: impl FnMut(&Policy, IpAddr) -> Option<(Verdict, T)>,
) -> Result<Permitted<P, T>, NotPermitted<P, T, E>>
where
    P: Deref<Target = Policy>,
{
    let policy = in_force().map_err(|Lapsed| NotPermitted::Lapsed(None))?;
    if let Some(refusal) = refuses(&policy) {
        return Err(NotPermitted::Refused(policy, refusal));
    }
    let found = match resolve.await {
        Ok(found) => found,
        Err(fault) => return Err(NotPermitted::Unresolved(policy, fault)),
    };
    let first = *found.first().ok_or(NotPermitted::NoAddress)?;
    let policy = in_force().map_err(|Lapsed| NotPermitted::Lapsed(Some(first)))?;
    let (mut addresses, mut refused) = (Vec::new(), None);
    for address in found {
        let Some((verdict, about)) = judge(&policy, address.to_canonical()) else { continue };
        match verdict.permit() {
            Ok(permit) => addresses.push((permit, about)),
            Err(_) => refused = refused.or(Some(about)),
        }
        if addresses.len() == DIALLED_MAX {
            break;
        }
    }
    match refused {
        _ if !addresses.is_empty() => Ok(Permitted { policy, addresses }),
        Some(about) => Err(NotPermitted::Refused(policy, about)),
        None => Err(NotPermitted::NoAddress),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::identify::{HostName, Protocol};
    use crate::policy::fixture::{At, Fixture};
    use crate::policy::{Action, Claim, Live, Question, Reason, Transport};

    type Found = Result<Permitted<Arc<Policy>, Verdict>, NotPermitted<Arc<Policy>, Verdict, ()>>;

    /// A name's addresses, as the policy in force permits them; `meanwhile` comes before the answer.
    async fn judged(live: &Live, answer: Result<&[&str], ()>, meanwhile: impl FnOnce()) -> Found {
        let name = HostName::parse(b"pacs.example").unwrap();
        let question = |ip| Question {
            client: None,
            destination: SocketAddr::new(ip, 443),
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            name: Claim::Bound(&name),
            ech: false,
        };
        resolve_and_judge(
            || live.load(0),
            |policy| policy.decide_name(&question([0, 0, 0, 0].into())),
            async {
                meanwhile();
                answer.map(|all| all.iter().map(|ip| ip.parse().unwrap()).collect())
            },
            |policy, ip| {
                let verdict = policy.decide(&question(ip));
                Some((verdict, verdict))
            },
        )
        .await
    }

    fn permitted(found: Found) -> Vec<String> {
        let Ok(found) = found else { panic!("refused") };
        let all = found.addresses.into_iter();
        all.map(|(permit, _)| permit.destination().ip().to_string()).collect()
    }

    #[tokio::test]
    async fn a_name_that_no_address_can_save_is_not_asked_about() {
        let asked = Cell::new(false);
        let refused = Fixture::new().names(Action::Block, &["pacs.example"]).policy();
        let live = Live::new(refused, None);
        let found = judged(&live, Ok(&["192.0.2.1"]), || asked.set(true)).await;
        assert!(matches!(found, Err(NotPermitted::Refused(_, it)) if it.reason() == Reason::Rule));
        assert!(!asked.get());
    }

    #[tokio::test]
    async fn each_address_is_judged_and_the_first_refusal_told() {
        let policy = Fixture::outside().at("192.0.2.2", At::Inside).at("192.0.2.4", At::Inside);
        let live = Live::new(policy.policy(), None);
        let all = ["192.0.2.1", "::ffff:192.0.2.2", "192.0.2.3", "192.0.2.4"];
        assert_eq!(permitted(judged(&live, Ok(&all), || ()).await), ["192.0.2.2", "192.0.2.4"]);
        let found = judged(&live, Ok(&["192.0.2.3", "192.0.2.1"]), || ()).await;
        let Err(NotPermitted::Refused(_, refusal)) = found else { panic!("permitted") };
        assert_eq!(refusal.destination().ip().to_string(), "192.0.2.3");
        let found = judged(&live, Ok(&[]), || ()).await;
        assert!(matches!(found, Err(NotPermitted::NoAddress)));
        let found = judged(&live, Err(()), || ()).await;
        assert!(matches!(found, Err(NotPermitted::Unresolved(_, ()))));
    }

    #[tokio::test]
    async fn a_policy_that_came_during_the_query_judges_its_answer() {
        let live = Live::new(Fixture::new().policy(), None);
        let found = judged(&live, Ok(&["192.0.2.1"]), || {
            live.publish(Fixture::outside().policy(), None);
        });
        let found = found.await;
        assert!(matches!(found, Err(NotPermitted::Refused(..))));
        let live = Live::new(Fixture::new().policy(), None);
        let lapse = || live.publish(Fixture::new().lapsed().policy(), None);
        let found = judged(&live, Ok(&["192.0.2.1"]), lapse).await;
        let first: IpAddr = [192, 0, 2, 1].into();
        assert!(matches!(found, Err(NotPermitted::Lapsed(Some(ip))) if ip == first));
        let found = judged(&live, Ok(&["192.0.2.1"]), || panic!("asked")).await;
        assert!(matches!(found, Err(NotPermitted::Lapsed(None))));
    }

    #[tokio::test]
    async fn no_more_addresses_are_dialled_than_are_worth_it() {
        let live = Live::new(Fixture::new().policy(), None);
        let all: Vec<String> = (0..40).map(|last| format!("192.0.2.{last}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(permitted(judged(&live, Ok(&all), || ()).await), &all[..DIALLED_MAX]);
    }
}
