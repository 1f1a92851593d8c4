//! The catalogue's rows about data, reload and time (docs/catalogue.md), each a test of its id, over
//! the built binary: a gateway whose tables are files that the test writes, a client before it, and
//! a world that counts who comes.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::{SignedDuration, Timestamp};
use schengate::control::compile::Compiler;
use schengate::control::config as policy_file;
use schengate::control::data::Sources;
use schengate::identify::Protocol;
use schengate::policy::{Action, Claim, Question, Reason, Transport};
use serde_json::{Value, json};

use crate::lab::{self, ADMIN, Gateway, Helper, Lab, said, wait_until};
use crate::mmdb::{JUNE, MARKER, country, mmdb};
use crate::site::{FIRST, PROXY, SECOND};

const DONE: &str = "schengate_policy_reload_total{result=\"done\"}";
const FAILED: &str = "schengate_policy_reload_total{result=\"failed\"}";
const REFUSED: &str = "schengate_data_refused_total";

/// The laboratory and its two helpers: the world, the client.
fn scene(test: &str) -> Option<(Lab, Helper, Helper)> {
    let lab = lab::lab(test)?;
    let own = format!("ip address add {FIRST}/32 dev eth0; ip address add {SECOND}/32 dev eth0");
    lab.world.shell(&own).unwrap();
    let (world, client) = (lab.world.helper("site"), lab.client.helper("visitor"));
    put(&lab, "asn.csv", b"11.0.0.0,11.255.255.255,64500,x\n");
    put(&lab, "cloudflare.txt", b"12.0.0.0/8\n");
    put(&lab, "t.mmdb", &usual());
    Some((lab, world, client))
}

fn folder(lab: &Lab) -> PathBuf {
    lab.write("anything", "").parent().unwrap().to_owned()
}

/// Exchanges a file as `data update` does: with a rename.
fn put(lab: &Lab, name: &str, bytes: &[u8]) {
    let folder = folder(lab);
    fs::write(folder.join("new"), bytes).unwrap();
    fs::rename(folder.join("new"), folder.join(name)).unwrap();
}

/// The status that the client gets for an address.
fn status(client: &mut Helper, to: &str) -> u64 {
    client.ask(&json!({"do": "get", "to": to})).as_u64().unwrap()
}

/// Connections that the world saw at an address.
fn came(world: &mut Helper, to: &str) -> u64 {
    world.ask(&json!("came"))[to].as_u64().unwrap_or_default()
}

/// Lines of the gateway's log, those of the record and its own.
fn log(lab: &Lab) -> Vec<Value> {
    let text = fs::read_to_string(folder(lab).join("gateway.log")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The last line of the record that ends a request for an address, once there is one.
fn last_record(lab: &Lab, to: &str) -> Value {
    wait_until(&format!("a record of {to}"), || {
        let lines = log(lab).into_iter().rev();
        let mut ended =
            lines.filter(|line| ["refused", "close"].iter().any(|e| line["event"] == *e));
        ended.find(|line| line["destination"].as_str().is_some_and(|at| at.contains(to)))
    })
}

/// The command, beside the gateway.
fn run(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = lab.gateway.command("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_schengate")]).args(arguments).output().unwrap()
}

fn config(lab: &Lab) -> String {
    folder(lab).join("policy.toml").into_os_string().into_string().unwrap()
}

fn checks(lab: &Lab, more: &[&str]) -> i32 {
    let output = run(lab, &[&["check", "--config", &config(lab)], more].concat());
    output.status.code().unwrap()
}

/// The first address in France, the second in the United States.
fn usual() -> Vec<u8> {
    mmdb(&[("11.0.0.0/16", country("FR")), ("11.1.0.0/16", country("US"))], JUNE)
}

fn policy(more: &str, data: &str) -> String {
    format!(
        "schema = 1
[[listen]]
mode = 'proxy'
address = '{PROXY}'
connect_timeout = '2s'
[admin]
address = '{ADMIN}'
[data]
directory = '.'
country = ['t.mmdb']
asn = ['asn.csv']
providers = ['cloudflare.txt']
{data}
[policy]
permit = ['FR']
{more}"
    )
}

fn hang_up(gateway: &Gateway<'_>) {
    let sent = Command::new("kill").args(["-HUP", &gateway.pid().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Asks for a reload, and waits until one ended as it must.
fn reloads(gateway: &Gateway<'_>, how: &str, what: &str) {
    let before = gateway.count(how);
    hang_up(gateway);
    wait_until(what, || (gateway.count(how) > before).then_some(()));
}

#[test]
fn d01_a_table_cut_in_its_place_ends_nothing_and_the_old_one_stays() {
    let Some((lab, mut world, mut client)) = scene("d01") else { return };
    let gateway = lab.start_gateway(&policy("", ""));
    let whole = usual();
    // Not exchanged: cut under the gateway's feet, as a full disk or a copy does.
    for length in [whole.len() - 1, whole.len() / 2, 100, 1, 0] {
        let file = fs::File::options().write(true).open(folder(&lab).join("t.mmdb")).unwrap();
        file.set_len(length as u64).unwrap();
        reloads(&gateway, FAILED, &format!("a table of {length} bytes is refused"));
        assert_eq!((status(&mut client, FIRST), status(&mut client, SECOND)), (200, 451));
    }
    assert!(gateway.count(REFUSED) >= 5.0, "each is counted");
    assert_eq!((came(&mut world, FIRST), came(&mut world, SECOND)), (5, 0));
    assert_eq!(checks(&lab, &[]), 1);
    put(&lab, "t.mmdb", &usual());
    reloads(&gateway, DONE, "the whole table is taken up");
}

#[test]
fn d02_a_damaged_or_looping_table_is_refused_by_verify_and_by_the_gateway() {
    let Some((lab, mut world, mut client)) = scene("d02") else { return };
    let gateway = lab.start_gateway(&policy("", ""));
    let whole = usual();
    let data = whole.windows(7).position(|part| part == b"country").unwrap() - 2;
    let mut node_loop = whole.clone();
    node_loop[..8].fill(0);
    let mut pointer_loop = whole.clone();
    pointer_loop[data..data + 2].copy_from_slice(&[0x20, 0]);
    let far = [&[0xff; 8], &whole[8..]].concat();
    let other = mmdb(&[("11.0.0.0/16", json!({"autonomous_system_number": 64_500}))], JUNE);
    let marker = whole.windows(MARKER.len()).position(|part| part == MARKER).unwrap();
    let bare = whole[..marker].to_vec();
    let mut bad: Vec<Vec<u8>> = vec![node_loop, pointer_loop, far, other, bare];
    // Flips of which the reader itself says that they are damage.
    let scratch = folder(&lab).join("scratch.mmdb");
    let flips = (0..whole.len() * 8).step_by(37).filter_map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&scratch, &bytes).unwrap();
        schengate::control::data::load_country(&scratch).is_err().then_some(bytes)
    });
    bad.extend(flips.take(12));
    assert!(bad.len() > 12, "{}", bad.len());
    for (at, bytes) in bad.iter().enumerate() {
        put(&lab, "t.mmdb", bytes);
        let verified = run(&lab, &["data", "verify", "--config", &config(&lab)]);
        assert_eq!(verified.status.code(), Some(1), "{at}: {}", said(&verified));
        reloads(&gateway, FAILED, &format!("bad table {at} is refused"));
    }
    assert_eq!((status(&mut client, FIRST), status(&mut client, SECOND)), (200, 451));
    // A tree of IPv4 alone is sound, and knows no IPv6 address.
    assert_eq!(status(&mut client, "2a0b:1::7"), 451);
    assert_eq!(last_record(&lab, "2a0b:1::7")["reason"], "unknown");
    assert_eq!(came(&mut world, SECOND), 0);
}

#[test]
fn d03_without_its_tables_the_gateway_does_not_start() {
    let Some((lab, _world, mut client)) = scene("d03") else { return };
    for missing in ["t.mmdb", "asn.csv", "cloudflare.txt"] {
        let aside = folder(&lab).join("aside");
        fs::rename(folder(&lab).join(missing), &aside).unwrap();
        lab.write("policy.toml", &policy("", ""));
        let ended = run(&lab, &["run", "--config", &config(&lab)]);
        assert_eq!(ended.status.code(), Some(2), "{missing}: {}", said(&ended));
        assert!(said(&ended).contains(missing), "{}", said(&ended));
        assert_eq!(status(&mut client, FIRST), 0, "nobody listens");
        fs::rename(&aside, folder(&lab).join(missing)).unwrap();
    }
}

#[test]
fn d04_an_old_table_is_told_of_and_an_older_one_is_refused() {
    let Some((lab, _world, mut client)) = scene("d04") else { return };
    let rows = [("11.0.0.0/16", country("FR"))];
    let old = JUNE - 400 * 86_400;
    put(&lab, "t.mmdb", &mmdb(&rows, old));
    let gateway = lab.start_gateway(&policy("[policy.on]\nstale = 'block'", "max_age = '45d'"));
    assert_eq!(status(&mut client, FIRST), 451, "what it says is void");
    assert_eq!(last_record(&lab, FIRST)["reason"], "stale");
    assert_eq!(gateway.count("schengate_data_stale{dataset=\"t.mmdb\"}"), 1.0);
    let told =
        |part: &str| log(&lab).into_iter().filter(|line| line.to_string().contains(part)).count();
    assert_eq!(told("older than [data] max_age"), 1, "once for each table that has a date");
    put(&lab, "t.mmdb", &mmdb(&rows, old - 1));
    reloads(&gateway, FAILED, "an older table is refused");
    wait_until("the log says why", || (told("older than the one in use") > 0).then_some(()));
    assert_eq!((checks(&lab, &[]), checks(&lab, &["--allow-older"])), (1, 0));
    // A new one, and the same policy permits again.
    put(&lab, "t.mmdb", &mmdb(&rows, Timestamp::now().as_second().try_into().unwrap()));
    reloads(&gateway, DONE, "a new table is taken up");
    assert_eq!(status(&mut client, FIRST), 200);
    assert_eq!(gateway.count("schengate_data_stale{dataset=\"t.mmdb\"}"), 0.0);
}

#[test]
fn d05_what_no_table_places_is_refused_under_its_own_cause() {
    let Some((lab, mut world, mut client)) = scene("d05") else { return };
    let rows = [
        ("11.0.0.0/16", country("FR")),
        ("11.1.0.0/24", json!({"continent": {"code": "EU"}})),
        ("11.1.1.0/24", json!({"registered_country": {"iso_code": "FR"}})),
        ("11.1.2.0/24", country("EU")),
        ("11.1.3.0/24", country("AP")),
        ("11.1.4.0/24", json!({"country": {"iso_code": "FR"}, "traits": {"is_anycast": true}})),
        ("11.1.5.0/24", country("FR")),
    ];
    put(&lab, "t.mmdb", &mmdb(&rows, JUNE));
    // A second opinion, as a forged geofeed gives it; of what the first does not know it says nothing.
    put(&lab, "second.csv", b"11.1.5.0,11.1.5.255,RU\n");
    let text = policy("[policy.on]\ndisputed = 'block'", "");
    let text = text.replace("['t.mmdb']", "['t.mmdb', 'second.csv']");
    let gateway = lab.start_gateway(&text);
    for (to, reason) in [
        (SECOND, "unknown"),
        ("11.1.1.7", "unknown"),
        ("11.1.2.7", "unknown"),
        ("11.1.3.7", "unknown"),
        ("11.1.4.7", "anycast"),
        ("11.1.5.7", "disputed"),
        ("11.2.0.7", "unknown"),
    ] {
        assert_eq!(status(&mut client, to), 451, "{to}");
        assert_eq!(last_record(&lab, to)["reason"], reason, "{to}");
    }
    assert_eq!(status(&mut client, FIRST), 200);
    assert_eq!(came(&mut world, SECOND), 0);
    assert!(gateway.count("reason=\"unknown\"") >= 5.0);
}

/// Plays a crowd while something is changed again and again, and asserts that each record agrees
/// with every other of its version: no verdict is of two.
fn while_changing(lab: &Lab, client: &mut Helper, change: impl FnMut(&AtomicBool) -> usize + Send) {
    let over = AtomicBool::new(false);
    let mut change = change;
    let (statuses, changes) = thread::scope(|scope| {
        let changing = scope.spawn(|| change(&over));
        let statuses = client.ask(&json!({"do": "crowd", "times": 400}));
        over.store(true, Ordering::Relaxed);
        (statuses, changing.join().unwrap())
    });
    let count = |status: &str| statuses[status].as_u64().unwrap_or_default();
    let all: u64 = statuses.as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!((all, count("0")), (4 * 400 * 2, 0), "each request is answered: {statuses}");
    // Whoever was under way when the change came is cut, and told so: 502 or 503.
    let cut = all - count("200") - count("451");
    let lines = wait_until("every record is written", || {
        let ended = |line: &Value| line["event"] == "close" || line["event"] == "refused";
        let lines: Vec<_> = log(lab).into_iter().filter(ended).collect();
        (lines.len() as u64 >= all).then_some(lines)
    });
    let cuts = lines.iter().filter(|line| line["end"] == "policy-change").count() as u64;
    assert!(cut <= cuts, "{statuses}, and {cuts} records of a change");
    let mut versions = BTreeSet::new();
    let mut said: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for line in lines {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        versions.insert(text("policy"));
        said.entry((text("policy"), text("destination"))).or_default().insert(text("verdict"));
    }
    for (of, verdicts) in &said {
        assert_eq!(verdicts.len(), 1, "{of:?} {verdicts:?}");
    }
    assert!(versions.len() > 1, "{versions:?} in {changes} changes");
    let both: BTreeSet<_> = said.values().flatten().collect();
    assert!(both.len() > 1, "the change changed nothing: {said:?}");
}

#[test]
fn d06_while_tables_are_exchanged_under_load_each_verdict_is_of_one_of_them() {
    let Some((lab, _world, mut client)) = scene("d06") else { return };
    // What may be lost is all, since each table takes the other's country away.
    let gateway = lab.start_gateway(&policy("", "max_loss = '100%'"));
    while_changing(&lab, &mut client, |over| {
        let mut changes = 0;
        while !over.load(Ordering::Relaxed) && changes < 400 {
            changes += 1;
            let [first, second] = if changes % 2 == 0 { ["FR", "US"] } else { ["US", "FR"] };
            let rows = [("11.0.0.0/16", country(first)), ("11.1.0.0/16", country(second))];
            put(&lab, "t.mmdb", &mmdb(&rows, JUNE + changes as u64));
            reloads(&gateway, DONE, "the other table is taken up");
        }
        changes
    });
}

#[test]
fn r02_each_connection_under_load_is_judged_by_one_version_of_the_policy() {
    let Some((lab, _world, mut client)) = scene("r02") else { return };
    let gateway = lab.start_gateway(&policy("", ""));
    while_changing(&lab, &mut client, |over| {
        let mut changes = 0;
        while !over.load(Ordering::Relaxed) && changes < 400 {
            changes += 1;
            let text = policy("", "");
            let text = if changes % 2 == 0 { text } else { text.replace("'FR'", "'US'") };
            put(&lab, "policy.toml", text.as_bytes());
            reloads(&gateway, DONE, "the other policy is taken up");
        }
        changes
    });
}

/// Prefixes within prefixes, allowed and refused, in both families and in the mapped form, against
/// a walk over the rules.
#[test]
fn d07_rules_within_rules_answer_as_a_walk_over_them_does() {
    let mut state = 11_u64;
    let mut draw = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut rules: Vec<(IpNet, bool)> = Vec::new();
    let mut text = "schema = 1\n[policy]\npermit = ['FR']\n".to_owned();
    for at in 0..120 {
        let net: IpNet = if at == 119 {
            "0.0.0.0/0".parse().unwrap()
        } else if draw(3) > 0 {
            let length = 8 + draw(25) as u8;
            let bits = 0x0b00_0000 | (draw(1 << 8) << 8) as u32 | draw(4) as u32;
            Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap().trunc().into()
        } else {
            let bits = 0x2a0b_u128 << 112 | u128::from(draw(1 << 8)) << 64;
            let length = 16 + draw(64) as u8;
            Ipv6Net::new(Ipv6Addr::from_bits(bits), length).unwrap().trunc().into()
        };
        let allowed = draw(2) == 0;
        let written = match net {
            // Every other IPv4 prefix in its mapped form, which is the same.
            IpNet::V4(v4) if at % 2 == 0 => {
                format!("::ffff:{}/{}", v4.network(), v4.prefix_len() + 96)
            }
            IpNet::V4(_) | IpNet::V6(_) => net.to_string(),
        };
        let action = if allowed { "allow" } else { "block" };
        text += &format!(
            "[[rule]]\nname = 'r{at}'\nto = ['{written}']\naction = '{action}'\nreason = 'x'\n"
        );
        rules.push((net, allowed));
    }
    let loaded = policy_file::parse(&text, None).unwrap_or_else(|faults| panic!("{faults}"));
    let now = Timestamp::now();
    let compiler = Compiler::new(loaded.config, Sources::default(), &text, Vec::new(), now);
    let policy = compiler.policy_at(now);
    let mut asked = 0;
    for at in 0..rules.len() {
        let (first, last) = (rules[at].0.network(), rules[at].0.broadcast());
        for address in edges(first).into_iter().chain(edges(last)) {
            let oracle = rules.iter().find(|(net, _)| net.contains(&address));
            let question = Question {
                client: None,
                destination: (address, 443).into(),
                transport: Transport::Tcp,
                protocol: Protocol::Tls,
                name: Claim::Unread,
                ech: false,
            };
            let verdict = policy.decide(&question);
            if [Reason::Loop, Reason::Guard].contains(&verdict.reason()) {
                continue;
            }
            // No rule: nobody knows the address.
            let wanted = match oracle {
                Some((_, true)) => (Action::Allow, Reason::Rule),
                Some((_, false)) => (Action::Block, Reason::Rule),
                None => (Action::Block, Reason::Unknown),
            };
            assert_eq!((verdict.action(), verdict.reason()), wanted, "{address}");
            asked += 1;
        }
    }
    assert!(asked > 600, "{asked}");
    let host_bits = text.replacen("to = ['", "to = ['11.1.2.3/8', '", 1);
    let faults = policy_file::parse(&host_bits, None).unwrap_err().to_string();
    assert!(faults.contains("\"11.0.0.0/8\""), "{faults}");
}

/// An address and those beside it.
fn edges(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let beside = [-1, 0, 1].map(|by| v4.to_bits().checked_add_signed(by));
            beside.into_iter().flatten().map(|bits| Ipv4Addr::from_bits(bits).into()).collect()
        }
        IpAddr::V6(v6) => {
            let beside = [-1, 0, 1].map(|by| v6.to_bits().checked_add_signed(by));
            beside.into_iter().flatten().map(|bits| Ipv6Addr::from_bits(bits).into()).collect()
        }
    }
}

#[test]
fn d08_what_nobody_knows_is_a_fault_and_never_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let check = |permit: &str, more: &str| {
        let text = format!("schema = 1\n[policy]\npermit = [{permit}]\n{more}");
        fs::write(&path, text).unwrap();
        let binary = env!("CARGO_BIN_EXE_schengate");
        let output = Command::new(binary).args(["check", "--config"]).arg(&path).output().unwrap();
        (output.status.code().unwrap(), said(&output))
    };
    let rule = |condition: &str| format!("[[rule]]\nname = 'a'\naction = 'block'\n{condition}\n");
    for (permit, more) in [
        ("'atlantis'", String::new()),
        ("'XX'", String::new()),
        ("'AN'", String::new()),
        ("'EU'", String::new()),
        ("'eea', '-ZZ'", String::new()),
        ("'FR'", rule("from = ['nobody']")),
        ("'FR'", rule("location = ['home']")),
        ("'FR'", rule("operator = ['acme-of-nowhere']")),
        ("'FR'", rule("region = ['aws:eu-nowhere-1']")),
        ("'FR'", rule("host_file = 'absent.txt'")),
        ("'FR'", "[data]\ncountry = ['absent.mmdb']\n".to_owned()),
        ("", String::new()),
    ] {
        let (status, said) = check(permit, &more);
        assert_eq!(status, 1, "{permit} {more}: {said}");
        assert!(said.contains("policy.toml:") || said.contains("absent.mmdb"), "{said}");
    }
    // Two spellings of one country are one country.
    let members = |code: &str| {
        let loaded =
            policy_file::parse(&format!("schema = 1\n[policy]\npermit = ['{code}']\n"), None);
        loaded.unwrap_or_else(|faults| panic!("{faults}")).config.policy.permit.plus
    };
    assert_eq!((members("UK"), members("EL")), (members("GB"), members("GR")));
    assert_eq!(members("XK").len(), 1, "Kosovo is known by the code that everybody uses");
}

#[test]
fn r01_a_bad_or_half_written_policy_changes_nothing_and_starts_nothing() {
    let Some((lab, mut world, mut client)) = scene("r01") else { return };
    let good = policy("", "");
    let gateway = lab.start_gateway(&good);
    let bad = |text: &str| policy_file::parse(text, Some(Path::new("p.toml"))).is_err();
    // Written in its place, so that the gateway finds it at each of these lengths.
    let cuts = (0..good.len()).step_by(good.len() / 12).filter(|&cut| bad(&good[..cut]));
    let mut texts: Vec<String> = cuts.map(|cut| good[..cut].to_owned()).collect();
    texts.extend([good.replace("'FR'", "'XX'"), good.replace("permit", "premit"), "\0".repeat(99)]);
    assert!(texts.len() > 8, "{}", texts.len());
    for text in texts {
        fs::write(config(&lab), &text).unwrap();
        reloads(&gateway, FAILED, "a bad policy is refused");
        // What the unit runs before each reload (`ExecReload`).
        assert_eq!(checks(&lab, &[]), 1, "{text}");
    }
    assert_eq!(gateway.count(REFUSED), 0.0, "no table is at fault");
    assert_eq!((status(&mut client, FIRST), status(&mut client, SECOND)), (200, 451));
    drop(gateway);
    let ended = run(&lab, &["run", "--config", &config(&lab)]);
    assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
    assert_eq!(status(&mut client, FIRST), 0, "nobody listens");
    assert_eq!(came(&mut world, SECOND), 0);
}

#[test]
fn r03_a_tighter_policy_cuts_what_lives() {
    let Some((lab, _world, mut client)) = scene("r03") else { return };
    let gateway = lab.start_gateway(&policy("", ""));
    assert_eq!(client.ask(&json!({"do": "open", "to": FIRST})), 200);
    assert_eq!(client.ask(&json!({"do": "say"})), true);
    put(&lab, "policy.toml", policy("", "").replace("'FR'", "'DE'").as_bytes());
    reloads(&gateway, DONE, "the tighter policy is taken up");
    let end = client.ask(&json!({"do": "end"}));
    assert!(end == "closed" || end == "reset", "{end}");
    let record = last_record(&lab, FIRST);
    assert_eq!((&record["end"], &record["reason"]), (&json!("policy-change"), &json!("outside")));
}

#[test]
fn r04_a_waiver_that_ends_cuts_what_it_let_through() {
    let Some((lab, _world, mut client)) = scene("r04") else { return };
    let waiver = |until: Timestamp| {
        policy(
            &format!(
                "[[rule]]\nname = 'w'\nto = ['11.1.0.0/16']\naction = 'allow'\nowner = 'o'\n\
                 reason = 'r'\nuntil = {until:.0}\n"
            ),
            "",
        )
    };
    let until = Timestamp::now() + SignedDuration::from_secs(8);
    let gateway = lab.start_gateway(&waiver(until));
    assert_eq!(client.ask(&json!({"do": "open", "to": SECOND})), 200);
    assert_eq!(client.ask(&json!({"do": "say"})), true);
    let end = client.ask(&json!({"do": "end"}));
    assert!(end == "closed" || end == "reset", "{end}");
    let record = last_record(&lab, SECOND);
    assert_eq!((&record["end"], &record["reason"]), (&json!("policy-change"), &json!("outside")));
    assert_eq!(status(&mut client, SECOND), 451);
    assert_eq!(gateway.count(DONE), 0.0, "nobody asked for it");
    drop(gateway);
    // A year on, and at a start after its end, it is void.
    let at = |at: &str| {
        let config = config(&lab);
        let told =
            run(&lab, &["explain", "--config", &config, "--to", SECOND, "--at", at, "--json"]);
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        told["reason"].as_str().unwrap().to_owned()
    };
    let year = (Timestamp::now() + SignedDuration::from_hours(365 * 24)).to_string();
    assert_eq!((at(&year).as_str(), at("2026-01-01").as_str()), ("outside", "waiver"));
    let gateway = lab.start_gateway(&waiver(until));
    assert_eq!(status(&mut client, SECOND), 451);
    drop(gateway);
}

#[test]
fn r05_a_pack_that_is_not_to_be_trusted_changes_nothing() {
    let Some((lab, _world, mut client)) = scene("r05") else { return };
    let path = |name: &str| folder(&lab).join(name).into_os_string().into_string().unwrap();
    let keygen = |name: &str| {
        let made = run(&lab, &["data", "keygen", &path(name)]);
        assert!(made.status.success(), "{}", said(&made));
        String::from_utf8(made.stdout).unwrap()
    };
    let (line, _) = (keygen("key.pem"), keygen("stranger.pem"));
    let build = |more: &[&str]| {
        let (pack, table) = (path("built.sgp"), path("t.mmdb"));
        let head = ["data", "build", "--pack", &pack, &table];
        let built = run(&lab, &[&head[..], more].concat());
        assert!(built.status.success(), "{}", said(&built));
        fs::read(pack).unwrap()
    };
    let (key, stranger) = (path("key.pem"), path("stranger.pem"));
    let good = build(&["--sign", &key, "--date", "2026-06-02"]);
    put(&lab, "site.sgp", &good);
    let text = policy("", &format!("pack = 'site.sgp'\n{line}"));
    let text = text.replace("country = ['t.mmdb']\n", "");
    let gateway = lab.start_gateway(&text);
    let mut stripped = good.clone();
    stripped[4..69].fill(0);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    // A gigabyte of nothing, packed small: members of 16 MiB of zeros, one after the other.
    let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    member.write_all(&vec![0; 16 << 20]).unwrap();
    let bomb = member.finish().unwrap().repeat(65);
    assert!(bomb.len() < 2 << 20);
    for (what, bytes) in [
        ("unsigned", build(&["--date", "2026-06-03"])),
        ("stripped of its signature", stripped),
        ("signed by another key", build(&["--sign", &stranger, "--date", "2026-06-03"])),
        ("changed", forged),
        ("rolled back", build(&["--sign", &key, "--date", "2026-06-01"])),
        ("cut short", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("a bomb", bomb),
    ] {
        put(&lab, "site.sgp", &bytes);
        let before = gateway.count(REFUSED);
        reloads(&gateway, FAILED, what);
        assert!(gateway.count(REFUSED) > before, "{what}");
        assert_eq!(checks(&lab, &[]), 1, "{what}");
        assert!(gateway.memory_kib() < 400 << 10, "{what}: {} KiB", gateway.memory_kib());
        assert_eq!((status(&mut client, FIRST), status(&mut client, SECOND)), (200, 451), "{what}");
    }
    put(&lab, "site.sgp", &build(&["--sign", &key, "--date", "2026-06-03"]));
    reloads(&gateway, DONE, "a newer pack of the right key");
}
