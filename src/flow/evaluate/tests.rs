use super::*;
use crate::egress::name_binding::fake::FakeResolver;
use crate::policy::fixture::{At, Fixture, any, by_name, countries};
use crate::policy::{Reason, RuleSpec};

fn subject(evidence: NameEvidence) -> Subject {
    let name = HostName::parse(b"pacs.example").unwrap();
    let mut subject =
        Subject::unread("192.0.2.9".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    subject.name = Some((name, NameSource::Sni));
    subject.evidence = evidence;
    subject
}

/// Permits the name where it is bound; `mismatch` is what it leads to elsewhere.
fn by_its_name(mismatch: Action) -> Fixture {
    let names = &["pacs.example", "*.pacs.example"];
    Fixture::new().names(Action::Allow, names).on(|on| on.mismatch = mismatch)
}

async fn answer(policy: &Policy, subject: &Subject, resolver: &FakeResolver) -> Answer {
    evaluate_with_dns(policy, subject, &resolver.names(), &Metrics::register(), |_| ()).await
}

#[tokio::test]
async fn what_a_resolver_is_asked_about_is_told_before_and_nothing_else() {
    let resolver = FakeResolver::default();
    let told = async |policy: Fixture, subject: &Subject| {
        let (names, metrics, mut told) = (resolver.names(), Metrics::register(), None);
        let asks = |name| told = Some((name, resolver.queries()));
        evaluate_with_dns(&policy.policy(), subject, &names, &metrics, asks).await;
        told.map(|(name, queries): (HostName, usize)| (name.as_str().to_owned(), queries))
    };
    let subject = subject(NameEvidence::Claimed);
    let opened = by_its_name(Action::Block);
    assert_eq!(told(opened, &subject).await, Some(("pacs.example".to_owned(), 0)));
    assert!(resolver.queries() > 0);
    assert_eq!(told(Fixture::new().names(Action::Block, &["pacs.example"]), &subject).await, None);
}

#[tokio::test]
async fn a_name_opens_only_an_address_of_its_own() {
    let policy = by_its_name(Action::Block).policy();
    let resolver = FakeResolver::default().entry("pacs.example", &["198.51.100.7"]);
    let there = answer(&policy, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!((there.verdict.reason(), there.bound), (Reason::Rule, Some(true)));
    let resolver = FakeResolver::default().entry("pacs.example", &["198.51.100.8"]);
    let elsewhere = answer(&policy, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!((elsewhere.verdict.reason(), elsewhere.bound), (Reason::Mismatch, Some(false)));
    let down = answer(&policy, &subject(NameEvidence::Claimed), &FakeResolver::default()).await;
    assert_eq!(down.verdict.action(), Action::Block, "no resolver binds nothing");
}

#[tokio::test]
async fn who_asks_about_too_many_names_is_refused_and_nobody_asked() {
    let names: Vec<_> = (0..5).map(|n| format!("n{n}.pacs.example")).collect();
    let add = |resolver: FakeResolver, name: &String| resolver.entry(name, &["198.51.100.7"]);
    let resolver = names.iter().fold(FakeResolver::default(), add);
    let policy = by_its_name(Action::Block).policy();
    let redial = by_its_name(Action::Block).binding(Binding::Redial).policy();
    let lenient = by_its_name(Action::Log).policy();
    let known = resolver.names_within(3);
    let metrics = Metrics::register();
    let ask = async |policy: &Policy, name: &String| {
        let name = Some((HostName::parse(name.as_bytes()).unwrap(), NameSource::Sni));
        evaluate_with_dns(
            policy,
            &Subject { name, ..subject(NameEvidence::Claimed) },
            &known,
            &metrics,
            |_| (),
        )
        .await
        .verdict
    };
    for name in &names[..3] {
        assert_eq!(ask(&policy, name).await.reason(), Reason::Rule);
    }
    for policy in [&policy, &redial] {
        let verdict = ask(policy, &names[3]).await;
        assert_eq!((verdict.action(), verdict.reason()), (Action::Block, Reason::Overload));
    }
    let verdict = ask(&lenient, &names[4]).await;
    assert_eq!((verdict.action(), verdict.reason()), (Action::Log, Reason::Mismatch));
    assert_eq!(resolver.queries(), 3);
    assert_eq!(ask(&policy, &names[0]).await.reason(), Reason::Rule, "one of before");
}

#[tokio::test]
async fn nobody_is_asked_where_the_answer_does_not_matter() {
    let resolver = FakeResolver::default().entry("pacs.example", &["198.51.100.7"]);
    let same = Fixture::outside().policy();
    let answer = answer(&same, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!((answer.verdict.action(), answer.bound), (Action::Block, None));
    assert_eq!(resolver.queries(), 0);
}

#[tokio::test]
async fn no_query_leaves_for_a_name_that_is_refused_when_bound() {
    let resolver = FakeResolver::default().entry("pacs.example", &["198.51.100.7"]);
    // As a claim it would be refused for whose the address is, and bound for where it lies.
    let rule = RuleSpec { operator: Some(vec!["bad".to_owned()]), ..any(Action::Block) };
    let policy = Fixture::outside()
        .operator("bad", "us", &[])
        .operator("good", "de", &["pacs.example"])
        .of("198.51.100.7", At::Outside, 1)
        .rule(rule)
        .policy();
    let answer = answer(&policy, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!(answer.verdict.action(), Action::Block);
    assert_eq!(resolver.queries(), 0);
}

#[tokio::test]
async fn trust_and_the_gateways_own_resolution_need_no_query() {
    let resolver = FakeResolver::default();
    let policy = by_its_name(Action::Block).policy();
    let resolved = answer(&policy, &subject(NameEvidence::Resolved), &resolver).await;
    assert_eq!((resolved.verdict.action(), resolved.bound), (Action::Allow, Some(true)));
    let policy = by_its_name(Action::Block).binding(Binding::Trust).policy();
    let trusted = answer(&policy, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!((trusted.verdict.action(), trusted.bound), (Action::Allow, None));
    assert_eq!(resolver.queries(), 0);
}

#[tokio::test]
async fn redial_goes_to_the_names_own_permitted_address_until_something_is_dialled() {
    let resolver = FakeResolver::default().entry("pacs.example", &["203.0.113.1", "203.0.113.2"]);
    let inside = Some(countries("de"));
    let rule = RuleSpec { location: inside, ..by_name(Action::Allow, &["pacs.example"]) };
    let policy =
        Fixture::new().at("203.0.113.1", At::Outside).rule(rule).binding(Binding::Redial).policy();
    let said = answer(&policy, &subject(NameEvidence::Claimed), &resolver).await;
    assert_eq!(said.verdict.destination().to_string(), "203.0.113.2:443");
    assert_eq!(said.verdict.action(), Action::Allow);
    let dialled = answer(&policy, &subject(NameEvidence::ClaimedAfterDial), &resolver).await;
    assert_eq!(dialled.verdict.reason(), Reason::Mismatch);
}
