use super::fake::Fake;
use super::*;
use crate::flow::bind::book::Book;
use crate::policy::Reason;

fn asked(tie: Tie) -> Asked {
    let name = HostName::parse(b"pacs.example").unwrap();
    let mut asked =
        Asked::unread("192.0.2.9".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    asked.name = Some((name, NameSource::Sni));
    asked.tie = tie;
    asked
}

/// Permits what is bound and answers `otherwise` to the rest.
fn by_name(otherwise: (Action, Reason)) -> Fake {
    Fake::new(move |question| match question.name {
        Claim::Bound(_) => (Action::Allow, Reason::Rule),
        Claim::Claimed(_) | Claim::Unread | Claim::Malformed(_) => otherwise,
    })
}

async fn answer(policy: &Fake, asked: &Asked, book: &Book) -> Answer {
    settle(policy, asked, &book.names(), &Metrics::register()).await
}

#[tokio::test]
async fn a_name_opens_only_an_address_of_its_own() {
    let policy = by_name((Action::Block, Reason::Mismatch));
    let book = Book::default().entry("pacs.example", &["198.51.100.7"]);
    let there = answer(&policy, &asked(Tie::Said), &book).await;
    assert_eq!((there.verdict.reason(), there.bound), (Reason::Rule, Some(true)));
    let book = Book::default().entry("pacs.example", &["198.51.100.8"]);
    let elsewhere = answer(&policy, &asked(Tie::Said), &book).await;
    assert_eq!((elsewhere.verdict.reason(), elsewhere.bound), (Reason::Mismatch, Some(false)));
    let down = answer(&policy, &asked(Tie::Said), &Book::default()).await;
    assert_eq!(down.verdict.action(), Action::Block, "no resolver binds nothing");
}

#[tokio::test]
async fn who_asks_about_too_many_names_is_refused_and_nobody_asked() {
    let names: Vec<_> = (0..5).map(|n| format!("n{n}.pacs.example")).collect();
    let add = |book: Book, name: &String| book.entry(name, &["198.51.100.7"]);
    let book = names.iter().fold(Book::default(), add);
    let policy = by_name((Action::Block, Reason::Mismatch));
    let mut redial = by_name((Action::Block, Reason::Outside));
    redial.binding = Binding::Redial;
    let lenient = by_name((Action::Log, Reason::Mismatch));
    let known = book.names_within(3);
    let metrics = Metrics::register();
    let ask = async |policy: &Fake, name: &String| {
        let name = Some((HostName::parse(name.as_bytes()).unwrap(), NameSource::Sni));
        settle(policy, &Asked { name, ..asked(Tie::Said) }, &known, &metrics).await.verdict
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
    assert_eq!(book.queries(), 3);
    assert_eq!(ask(&policy, &names[0]).await.reason(), Reason::Rule, "one of before");
}

#[tokio::test]
async fn nobody_is_asked_where_the_answer_does_not_matter() {
    let book = Book::default().entry("pacs.example", &["198.51.100.7"]);
    let same = Fake::new(|_| (Action::Block, Reason::Outside));
    let answer = answer(&same, &asked(Tie::Said), &book).await;
    assert_eq!((answer.verdict.action(), answer.bound), (Action::Block, None));
    assert_eq!(book.queries(), 0);
}

#[tokio::test]
async fn no_query_leaves_for_a_name_that_is_refused_when_bound() {
    let book = Book::default().entry("pacs.example", &["198.51.100.7"]);
    let policy = Fake::new(|question| match question.name {
        Claim::Bound(_) => (Action::Block, Reason::Law),
        Claim::Claimed(_) | Claim::Unread | Claim::Malformed(_) => {
            (Action::Allow, Reason::Permitted)
        }
    });
    let answer = answer(&policy, &asked(Tie::Said), &book).await;
    assert_eq!(answer.verdict.action(), Action::Block);
    assert_eq!(book.queries(), 0);
}

#[tokio::test]
async fn trust_and_the_gateways_own_resolution_need_no_query() {
    let book = Book::default();
    let mut policy = by_name((Action::Block, Reason::Mismatch));
    let resolved = answer(&policy, &asked(Tie::Resolved), &book).await;
    assert_eq!((resolved.verdict.action(), resolved.bound), (Action::Allow, Some(true)));
    policy.binding = Binding::Trust;
    let trusted = answer(&policy, &asked(Tie::Said), &book).await;
    assert_eq!((trusted.verdict.action(), trusted.bound), (Action::Allow, None));
    assert_eq!(book.queries(), 0);
}

#[tokio::test]
async fn redial_goes_to_the_names_own_permitted_address_until_something_is_dialled() {
    let book = Book::default().entry("pacs.example", &["203.0.113.1", "203.0.113.2"]);
    let mut policy = Fake::new(|question| match question.name {
        Claim::Bound(_) if question.destination.ip().to_string() == "203.0.113.1" => {
            (Action::Block, Reason::Outside)
        }
        Claim::Bound(_) => (Action::Allow, Reason::Rule),
        Claim::Claimed(_) | Claim::Unread | Claim::Malformed(_) => {
            (Action::Block, Reason::Mismatch)
        }
    });
    policy.binding = Binding::Redial;
    let said = answer(&policy, &asked(Tie::Said), &book).await;
    assert_eq!(said.verdict.destination().to_string(), "203.0.113.2:443");
    assert_eq!(said.verdict.action(), Action::Allow);
    let dialled = answer(&policy, &asked(Tie::SaidAndDialled), &book).await;
    assert_eq!(dialled.verdict.reason(), Reason::Mismatch);
}
