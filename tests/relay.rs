//! What a relayed connection looks like from the destination's side.

mod lab;

use lab::role::{self, EXCHANGE, hex};
use lab::{Lab, PERMITTED, at, lab};
use serde_json::json;

#[test]
fn a_helper_process_does_as_its_role_says() {
    role::run_if_asked();
}

fn policy(more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

{places}[[listen]]
mode = \"tproxy\"
address = \"[::]:15001\"
{more}

[admin]
address = \"{admin}\"
"
    )
}

/// Has the world count the packets of new connections by where they come from.
fn count_sources(lab: &Lab) {
    let rules = "table inet seen { chain input { type filter hook input priority 0
        ip saddr 192.0.2.2 tcp flags syn counter comment client4
        ip6 saddr 2001:db8:1::2 tcp flags syn counter comment client6
        ip saddr 198.51.100.1 tcp flags syn counter comment gateway4
        ip6 saddr 2001:db8:2::1 tcp flags syn counter comment gateway6
        }\n}\n";
    let path = lab.write("seen.nft", rules);
    lab.world.shell(&format!("nft -f {}", path.display())).unwrap();
}

fn packets(lab: &Lab, comment: &str) -> u64 {
    let rules = lab.world.shell("nft list table inet seen").unwrap();
    let line = rules.lines().find(|line| line.contains(comment)).unwrap();
    let (_, count) = line.split_once("packets ").unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_destination_sees_the_client_only_where_its_source_is_kept() {
    let test = "the_destination_sees_the_client_only_where_its_source_is_kept";
    for (more, seen, unseen) in
        [("keep_source = true", "client", "gateway"), ("", "gateway", "client")]
    {
        let Some(lab) = lab(test) else { return };
        let _world = lab.world.helper("world");
        let gateway = lab.start_gateway(&policy(more));
        gateway.capture();
        let mut client = lab.client.helper("client");
        count_sources(&lab);
        for (ip, family) in PERMITTED.into_iter().zip([4, 6]) {
            let answer = client.ask(&json!({"do": "send", "to": at(ip, EXCHANGE),
                "hex": hex(b"\0\0\0\0\0\0\0\x07 and a few more"), "step": 1000, "enough": 7,
                "patience_ms": 10_000}));
            assert_eq!(answer["received"].as_str().map(str::len), Some(14), "{answer}");
            assert!(packets(&lab, &format!("{seen}{family}")) > 0, "{more} {ip}");
            assert_eq!(packets(&lab, &format!("{unseen}{family}")), 0, "{more} {ip}");
        }
    }
}
