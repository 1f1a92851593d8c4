//! The rules of the lane: which packets wait for a verdict, and what their marks then mean.
//!
//! ```text
//!  inet schengate_lane   prerouting, before the capture: what begins a flow goes to a queue, what is
//!                        carried bears a mark, what was refused or is carried no more ends here
//!                        judged, behind it: the verdict's mark becomes that of the connection
//!                        answers, behind the translation of addresses: what a server says before the
//!                        first bytes of its client are judged goes to a queue; answered, as judged
//!  inet schengate        captures what bears no mark
//!  inet schengate_guard  drops what would be forwarded without the mark
//! ```
//! What is carried is in the set `carried`, by the mark of its connection: the gateway keeps that in it
//! while it lives (docs/lane.md). A queue that nobody reads drops what comes to it, and so does the rule
//! behind the queue where the one that hands packets over is gone.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use super::family::Family;
use super::fault::CaptureFault;
use super::matches::{HERE, HTTPS, TCP, UDP};
use super::model::{Capture, LaneRules};
use super::program::{checked, nft, words};
use crate::settings::Lane;
use crate::sys;

/// The switch by which the kernel counts the bytes of connections.
const COUNTS: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";

/// The switch by which the kernel tells of the end of connections.
const TELLS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// The chain that hands packets to the queues, and nothing else.
const HAND_OVER: &str = "hand_over";

/// The chain that has the kernel forget soon what is over, where it can be told to.
const BRIEF: &str = "brief";

/// Removes the table whether or not there is one.
pub(super) const EMPTY_TABLE: &str =
    "table inet schengate_lane\ndelete table inet schengate_lane\n";

/// The marks that both sides know, as the rules write them.
const FORWARDED: u32 = Lane::FORWARDED;
const MASK: u32 = Lane::MARK_MASK;
const OURS: u32 = Lane::MARK;

/// The table but for the rule that hands packets over: set by [`queue`], which tries how. The set of
/// what is carried stays as it is.
pub(super) fn frame(capture: &Capture, lane: &LaneRules) -> String {
    let (table, set) = (Lane::TABLE, Lane::CARRIED_SET);
    let mut text = format!("add table inet {table}\n");
    for counter in ["halted", "unqueued", "refused"] {
        text += &format!("add counter inet {table} {counter}\n");
    }
    let shape = "{ type mark; flags timeout; size 64; }";
    text += &format!("add set inet {table} {set} {shape}\n");
    let plain = [HAND_OVER, BRIEF, "queued", "refuse", "begin"];
    text += &plain.map(|name| format!("add chain inet {table} {name}\n")).concat();
    let refuse = [
        format!("{TCP} counter name refused reject with tcp reset"),
        format!("{UDP} counter name refused reject with icmpx type admin-prohibited"),
        "counter name refused drop".to_owned(),
    ];
    let queued = [format!("jump {HAND_OVER}"), "counter name unqueued drop".to_owned()];
    let (refused, held) = (Lane::REFUSED, Lane::HELD);
    let known = [
        // Nobody else's mark opens the guard, or stands for a verdict.
        format!("meta mark {FORWARDED:#x} meta mark set 0"),
        format!("meta mark & {MASK:#x} == {OURS:#x} meta mark set 0"),
        "socket transparent 1 return".to_owned(),
        // What the kernel follows not at all bears no mark: neighbour discovery, for one.
        "ct state untracked return".to_owned(),
        // What does not fit into its connection is of one that is carried, or of nobody: handed on, it
        // would be answered with a reset, and end what it may be of.
        format!("ct state invalid {TCP} socket wildcard 0 return"),
        format!("ct state invalid {TCP} counter name halted drop"),
        "ct state invalid return".to_owned(),
        format!("ct mark & {MASK:#x} != {OURS:#x} goto begin"),
        // What a helper of the kernel expects of a connection bears its mark, and was never judged.
        "ct status expected counter name halted drop".to_owned(),
        format!("ct mark {:#x} return", Lane::PROXIED),
        // A packet that says itself which way it takes does not end where its connection was judged to.
        "ip hdrlength > 5 counter name halted drop".to_owned(),
        "exthdr rt exists counter name halted drop".to_owned(),
        // Its first bytes are to be judged, and what its server answers until then: that is seen once its
        // destination is the client's again, by which it comes to the same queue.
        format!("ct mark {held:#x} ct direction reply meta mark set {FORWARDED:#x} accept"),
        format!("ct mark {held:#x} goto queued"),
        // Within a connection that a name decided, another one could begin: it has to end first.
        format!(
            "ct mark @{set} ct state established ct direction original tcp flags & (syn | ack) == syn \
             counter name halted reject with tcp reset"
        ),
        format!("ct mark @{set} meta mark set {FORWARDED:#x} accept"),
        format!("ct mark {refused:#x} goto refuse"),
        // Carried once, and nobody says so any more.
        "counter name halted drop".to_owned(),
    ];
    let mut begin: Vec<String> = Vec::new();
    if !lane.interfaces.is_empty() {
        let names: Vec<String> = lane.interfaces.iter().map(|name| format!("{name:?}")).collect();
        begin.push(format!("iifname != {{ {} }} return", names.join(", ")));
    }
    begin.push("ct direction reply return".to_owned());
    // What was redirected before stays with the gateway.
    begin.push("ct status dnat return".to_owned());
    begin.push(format!("{HERE} return"));
    // Of another zone of connection tracking the gateway could not end what it let go.
    begin.push("ct zone != 0 return".to_owned());
    begin.push("ip hdrlength > 5 return".to_owned());
    begin.push("exthdr rt exists return".to_owned());
    for (family, (tcp, udp)) in Family::ALL.into_iter().zip(capture.tcp.iter().zip(&capture.udp)) {
        let of_family = format!("meta nfproto ipv{}", family.digit());
        if tcp.is_some() {
            let begins = "tcp flags & (fin | syn | rst | ack) == syn";
            begin.push(format!("{of_family} {begins} ct state new goto queued"));
        }
        // UDP that the firewall refuses for want of a listener, it refuses here as well.
        if let Some(udp) = udp {
            let what = if udp.address.port() == HTTPS { "udp dport 443" } else { UDP };
            begin.push(format!("{of_family} {what} ct state new goto queued"));
        }
    }
    let judged = [
        format!("meta mark & {MASK:#x} != {OURS:#x} return"),
        "ct mark set meta mark".to_owned(),
        format!("meta mark @{set} {TCP} jump {BRIEF}"),
        format!("meta mark {held:#x} jump {BRIEF}"),
        format!("meta mark @{set} meta mark set {FORWARDED:#x} accept"),
        format!("meta mark {held:#x} meta mark set {FORWARDED:#x} accept"),
        format!("meta mark {:#x} meta mark set 0 return", Lane::PROXIED),
        format!("meta mark {refused:#x} goto refuse"),
        "counter name halted drop".to_owned(),
    ];
    let answers =
        [format!("ct mark {held:#x} ct direction reply {TCP} meta mark set 0 goto queued")];
    let answered = [
        format!("meta mark & {MASK:#x} != {OURS:#x} return"),
        "ct mark set meta mark".to_owned(),
        format!("meta mark @{set} meta mark set {FORWARDED:#x} accept"),
        format!("meta mark {held:#x} meta mark set {FORWARDED:#x} accept"),
        "counter name halted drop".to_owned(),
    ];
    let hook = |kind: &str, hook: &str, priority: &str| {
        format!(" {{ type {kind} hook {hook} priority {priority}; policy accept; }}")
    };
    let leave = lane.masquerade.then(|| format!("meta mark {FORWARDED:#x} masquerade"));
    for (name, hook, rules) in [
        ("refuse", String::new(), &refuse[..]),
        ("queued", String::new(), &queued),
        ("begin", String::new(), &begin),
        ("judged", hook("filter", "prerouting", "mangle - 5"), &judged),
        ("answered", hook("filter", "prerouting", "dstnat + 10"), &answered),
        ("answers", hook("filter", "prerouting", "dstnat + 5"), &answers),
        // The destination sees the gateway's address, as it does of what the gateway dials.
        ("postrouting", hook("nat", "postrouting", "srcnat"), leave.as_slice()),
        ("prerouting", hook("filter", "prerouting", "mangle - 10"), &known),
    ] {
        text += &format!("add chain inet {table} {name}{hook}\n");
        text += &format!("flush chain inet {table} {name}\n");
        for rule in rules {
            text += &format!("add rule inet {table} {name} {rule}\n");
        }
    }
    text
}

/// The rule that hands packets over, where the kernel has `nft_queue`: by the addresses of both ends,
/// so that both ways of a flow come to one queue. There is no `bypass` in it.
fn native(queues: &RangeInclusive<u16>) -> String {
    let (table, first, last) = (Lane::TABLE, queues.start(), queues.end());
    let which = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!(
        "flush chain inet {table} {HAND_OVER}\n\
         add rule inet {table} {HAND_OVER} queue num {which}\n"
    )
}

/// What a person reads instead where the kernel has no `nft_queue`.
pub(super) fn shown(lane: &LaneRules) -> String {
    let queue = native(&lane.queues).replace('\n', "\n# ");
    format!(
        "# where the kernel has nft_queue; else the target NFQUEUE of x_tables, which nft has no words \
         for:\n# {}\n# sysctl -w net.netfilter.nf_conntrack_acct=1\n",
        queue.trim_end_matches("\n# ")
    )
}

/// Has the kernel count what it carries, before anything is carried.
pub(super) fn count() -> Result<(), CaptureFault> {
    fs::write(COUNTS, "1")
        .map_err(|source| CaptureFault::Switch { path: "net.netfilter.nf_conntrack_acct", source })
}

/// Hands packets over, in the one of two ways that this kernel knows.
pub(super) fn queue(lane: &LaneRules) -> Result<(), CaptureFault> {
    let Err(by_nft) = nft(&native(&lane.queues)) else { return Ok(()) };
    let (first, last) = (*lane.queues.start(), *lane.queues.end());
    let count = last.saturating_sub(first).saturating_add(1);
    sys::queue_by_target(Lane::TABLE, HAND_OVER, first, count)
        .map_err(|source| CaptureFault::Queue { by_nft: by_nft.to_string(), source })
}

/// Has the kernel forget a connection of TCP ten seconds after its end instead of two minutes: at many a
/// second its table is full of them otherwise, and their records are open. `false` where it has no such
/// timeouts (`NF_CONNTRACK_TIMEOUT`), and its own stand.
pub(super) fn forget_soon() -> bool {
    let table = Lane::TABLE;
    let mut text = format!("flush chain inet {table} {BRIEF}\n");
    for (digit, of) in [('4', "ip"), ('6', "ip6")] {
        let policy = "policy = { time_wait : 10, last_ack : 10, close : 5 };";
        text += &format!(
            "add ct timeout inet {table} brief{digit} {{ protocol tcp; l3proto {of}; {policy} }}\n\
             add rule inet {table} {BRIEF} meta nfproto ipv{digit} ct timeout set \"brief{digit}\"\n"
        );
    }
    nft(&text).is_ok()
}

/// Takes the table away, where it is there; whether it was.
pub(super) fn end() -> Result<bool, CaptureFault> {
    let chains = checked("nft", &words("list chains"), None)?;
    if !chains.contains(&format!("table inet {} {{", Lane::TABLE)) {
        return Ok(false);
    }
    nft(EMPTY_TABLE)?;
    Ok(true)
}

/// What is wrong with the lane, or nothing; `listed` is its table as `nft` lists it.
pub(super) fn wrong(listed: &str, queues: &RangeInclusive<u16>) -> Option<String> {
    let chain = |name: &str| {
        let body = listed.split(&format!("\tchain {name} {{\n")).nth(1)?;
        body.split("\t}").next()
    };
    // A rule of x_tables is a line without a word, in nft that has none for it.
    let hands_over = chain(HAND_OVER).is_some_and(|body| body.lines().count() > 0);
    let drops = chain("queued").is_some_and(|body| body.contains("counter name \"unqueued\" drop"));
    let marks = chain("judged").is_some_and(|body| body.contains("ct mark set"));
    let answers = chain("answers").is_some_and(|body| body.contains("goto queued"))
        && chain("answered").is_some_and(|body| body.contains("ct mark set"));
    let halts = chain("prerouting").is_some_and(|body| body.trim_end().ends_with("drop"));
    if !(hands_over && drops && marks && answers && halts) {
        return Some("its rules are not whole: `schengate capture up` sets them".to_owned());
    }
    if !sys::ConnectionCounting::find().is_ok_and(|switch| switch.is_on()) {
        return Some(
            "the kernel does not count what it carries: `sysctl -w \
             net.netfilter.nf_conntrack_acct=1`"
                .to_owned(),
        );
    }
    if fs::read_to_string(TELLS).is_ok_and(|switch| switch.trim() == "0") {
        return Some(format!(
            "the kernel tells nobody what a connection has moved by its end: `sysctl -w {}=1`",
            "net.netfilter.nf_conntrack_events"
        ));
    }
    unread(Path::new("/proc/self/net/netfilter/nfnetlink_queue"), queues)
}

/// The first queue that nobody reads.
fn unread(listed: &Path, queues: &RangeInclusive<u16>) -> Option<String> {
    let listed = fs::read_to_string(listed).ok()?;
    let numbers = listed.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let read: Vec<u16> = numbers.collect();
    let missing = queues.clone().find(|number| !read.contains(number))?;
    Some(format!(
        "nobody reads queue {missing}: what comes to it is dropped; is the gateway running, with this \
         policy file?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "table inet schengate_lane {\n\tchain hand_over {\n\t\t\n\t}\n\n\tchain queued \
                          {\n\t\tjump hand_over\n\t\tcounter name \"unqueued\" drop\n\t}\n\n\tchain \
                          judged {\n\t\tct mark set meta mark\n\t}\n\n\tchain answers {\n\t\tmeta mark set 0 goto \
                          queued\n\t}\n\n\tchain answered {\n\t\tct mark set meta \
                          mark\n\t}\n\n\tchain prerouting {\n\t\tcounter \
                          name \"halted\" drop\n\t}\n}\n";

    #[test]
    fn a_rule_that_is_gone_is_missed() {
        let of_rules =
            |listed: &str| wrong(listed, &(1..=2)).is_some_and(|wrong| wrong.contains("not whole"));
        assert!(!of_rules(LISTED));
        assert!(of_rules(""));
        assert!(of_rules(&LISTED.replace("hand_over {\n\t\t\n", "hand_over {\n")));
        assert!(of_rules(&LISTED.replace("\t\tcounter name \"unqueued\" drop\n", "")));
        assert!(of_rules(&LISTED.replace("\t\tcounter name \"halted\" drop\n", "")));
        assert!(of_rules(&LISTED.replace("\t\tct mark set meta mark\n", "")));
        assert!(of_rules(&LISTED.replace("\t\tmeta mark set 0 goto queued\n", "")));
    }

    #[test]
    fn a_queue_that_nobody_reads_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "    5 2185245587     0 2   512     0     0        0  1\n").unwrap();
        assert_eq!(unread(file.path(), &(5..=5)), None);
        assert!(unread(file.path(), &(5..=6)).unwrap().contains("queue 6"));
    }

    #[test]
    fn no_rule_lets_pass_what_no_queue_took() {
        for queues in [7..=7, 7..=9] {
            let rule = native(&queues);
            assert!(!rule.contains("bypass") && !rule.contains("accept"), "{rule}");
        }
    }
}
