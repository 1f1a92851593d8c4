//! What is judged again while it lives is in the record at once.

use super::*;

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
