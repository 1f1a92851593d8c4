//! What is judged again while it lives is in the record at once.

use super::*;
use crate::flow::evaluate::{NameEvidence, Subject, evaluate_cached};
use crate::identify::Protocol;
use crate::policy::Transport;

/// Every record, once no connection is left.
async fn records(harness: &Harness, directory: &std::path::Path) -> Vec<Value> {
    harness.lines().await;
    kept::records(&harness.account, directory)
}

fn told<'a>(records: &'a [Value], name: &str) -> Vec<&'a str> {
    records.iter().map(|record| field(record, name)).collect()
}

#[tokio::test(flavor = "local")]
async fn what_a_later_policy_lets_go_on_is_recorded_with_it() {
    for mode in [ListenMode::Tproxy, ListenMode::Proxy] {
        let dir = tempfile::tempdir().unwrap();
        let harness = Harness::new(everything(), &local(&["pacs.example"]));
        kept::keep(&harness.account, dir.path());
        let (client, server) = asked_for_another_hello(&harness, mode).await;
        for policy in [everything().observing(), everything(), everything()] {
            reload(&harness, policy).await;
        }
        drop((client, server));
        let records = records(&harness, dir.path()).await;
        assert_eq!(told(&records, "event"), ["open", "update", "update", "close"], "{mode:?}");
        assert_eq!(told(&records, "mode"), ["enforce", "observe", "enforce", "enforce"]);
        assert_eq!(told(&records[1..3], "cause"), ["policy", "policy"]);
        // What ends it says what was judged last.
        for name in ["policy", "verdict", "reason", "mode", "rule", "destination", "host", "law"] {
            assert_eq!(records[2][name], records[3][name], "{name}: {records:?}");
        }
        let sent = hello("pacs.example").len();
        assert_eq!((&records[1]["bytes_up"], &records[1]["bytes_down"]), (&sent.into(), &6.into()));
        assert!(records.iter().all(|record| record["id"] == records[0]["id"]));
    }
}

#[tokio::test(flavor = "local")]
async fn a_second_hello_that_goes_on_is_recorded_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let harness = Harness::new(everything().observing(), &local(&["pacs.example"]));
    kept::keep(&harness.account, dir.path());
    let (mut client, mut server) = asked_for_another_hello(&harness, ListenMode::Tproxy).await;
    let other = hello("cloud.example");
    client.write_all(&other).await.unwrap();
    assert_eq!(some(&mut server, other.len()).await, other);
    drop((client, server));
    let records = records(&harness, dir.path()).await;
    assert_eq!(told(&records, "event"), ["open", "update", "close"]);
    assert_eq!(told(&records[1..], "reason"), ["mismatch", "mismatch"]);
    assert_eq!((field(&records[1], "cause"), field(&records[1], "would")), ("heard", "block"));
    let before = hello("pacs.example").len();
    assert_eq!(records[1]["bytes_up"], before, "what the second hello named has not left yet");
}

#[tokio::test(flavor = "local")]
async fn another_version_that_says_the_same_is_not_told_of_each_connection() {
    for mode in [ListenMode::Tproxy, ListenMode::Proxy] {
        let dir = tempfile::tempdir().unwrap();
        let harness = Harness::new(everything(), &local(&["pacs.example"]));
        kept::keep(&harness.account, dir.path());
        let (client, server) = asked_for_another_hello(&harness, mode).await;
        reload(&harness, everything().of_version("second")).await;
        reload(&harness, everything().observing().of_version("third")).await;
        reload(&harness, everything().observing().of_version("fourth")).await;
        drop((client, server));
        let records = records(&harness, dir.path()).await;
        assert_eq!(told(&records, "event"), ["open", "update", "close"], "{mode:?}");
        assert_eq!(told(&records, "policy"), ["0123456789ab", "third", "fourth"]);
    }
}

/// What a reload costs where many connections live: `cargo test --lib judged_again -- --nocapture` says it.
#[tokio::test(flavor = "local")]
async fn a_reload_writes_of_those_alone_that_it_turns() {
    // Few enough that the sink is never pressed: it would have them say it at their end instead.
    const LIVE: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let harness = Harness::new(everything(), &local(&[]));
    kept::keep(&harness.account, dir.path());
    let listener = Rc::new(Listener::for_tests(ListenMode::Tproxy));
    let policy = harness.live.load(0).unwrap();
    let mut sessions = Vec::new();
    for number in 0..LIVE {
        let number = u32::try_from(number).unwrap();
        let subject = Subject {
            client: std::net::Ipv4Addr::from_bits(0xc612_0000 + number).into(),
            destination: "198.51.100.7:443".parse().unwrap(),
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            name: None,
            evidence: NameEvidence::Claimed,
            ech: false,
            inside: None,
            mismatched: false,
            broken: None,
        };
        let client = (subject.client, 40_000).into();
        let mut session = Session::open(Rc::clone(&harness.worker), Rc::clone(&listener), client);
        let answer = evaluate_cached(&policy, &subject, harness.account.metrics()).unwrap();
        session.record.judged(answer.judged(&policy, &subject));
        session.registration.judged(&subject, &session.record);
        session.record.forwarding().await.unwrap();
        sessions.push(session);
    }
    drop(policy);
    for policy in [everything().of_version("same"), everything().observing().of_version("other")] {
        let began = std::time::Instant::now();
        reload(&harness, policy).await;
        eprintln!("{LIVE} live connections judged again in {:?}", began.elapsed());
    }
    for session in sessions {
        session.close(End::Done);
    }
    let records = records(&harness, dir.path()).await;
    let updates: Vec<_> = records.iter().filter(|record| record["event"] == "update").collect();
    let bytes: usize = updates.iter().map(|update| update.to_string().len() + 1).sum();
    eprintln!("{} updates of {} bytes", updates.len(), bytes / updates.len().max(1));
    assert_eq!(updates.len(), LIVE);
    assert!(updates.iter().all(|update| update["policy"] == "other"));
    let closes = records.iter().filter(|record| record["event"] == "close");
    assert_eq!(closes.filter(|close| close["policy"] == "other").count(), LIVE);
}
