//! The record of the built gateway, between a client and the world.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use schengate::evidence::FindingKind;
use serde_json::{Value, json};

use crate::audit::{checked, records};
use crate::lab::{self, PERMITTED, REFUSED, at, lab, role, wait_until};

/// Where the world notes which client's bytes reached it.
pub(crate) const NOTED: u16 = 9010;

/// Notes what comes on each connection to [`NOTED`]: the port that its client has, which the client
/// sends.
pub(crate) fn world() {
    let seen = Arc::new(Mutex::new(Vec::<u64>::new()));
    for ip in [PERMITTED[0], REFUSED[0]] {
        let listener = TcpListener::bind((ip, NOTED)).unwrap();
        let seen = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    let mut line = String::new();
                    if BufReader::new(&stream).read_line(&mut line).is_ok()
                        && let Ok(port) = line.trim().parse()
                    {
                        seen.lock().unwrap().push(port);
                        (&stream).write_all(b"noted\n").ok();
                    }
                });
            }
        });
    }
    role::serve(|_| json!(*seen.lock().unwrap()));
}

/// Connects and sends its own port until it is told to stop; or once, and says what came back.
pub(crate) fn client() {
    let busy = Arc::new(AtomicBool::new(false));
    let once = |to: &str| -> std::io::Result<String> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        writeln!(&stream, "{}", stream.local_addr()?.port())?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let mut held = None;
    role::serve(|question| {
        if question["do"] == "hold" {
            let stream = TcpStream::connect(question["to"].as_str().unwrap()).unwrap();
            (&stream).write_all(b"1").unwrap();
            let port = stream.local_addr().unwrap().port();
            held = Some(stream);
            return json!(port);
        }
        if question == "let go" {
            return json!(held.take().is_some());
        }
        let Some(to) = question["to"].as_str() else {
            busy.store(false, Ordering::SeqCst);
            return json!("stopping");
        };
        if question["do"] == "once" {
            return json!(once(to).unwrap_or_else(|fault| fault.to_string()));
        }
        busy.store(true, Ordering::SeqCst);
        for _ in 0..4 {
            let (to, busy) = (to.to_owned(), Arc::clone(&busy));
            thread::spawn(move || {
                while busy.load(Ordering::SeqCst) {
                    once(&to).ok();
                }
            });
        }
        json!("busy")
    });
}

/// [`PERMITTED`] is permitted, [`REFUSED`] is not; the record is in a directory.
pub(crate) fn policy(directory: &Path, more: &str) -> String {
    let (places, admin) = (lab::places(), lab::ADMIN);
    format!(
        "schema = 1
[policy]
mode = 'enforce'
permit = ['FR']
[names]
binding = 'trust'
[admin]
address = '{admin}'
[audit]
directory = '{}'
checkpoint = '1s'
name = 'gateway.example'
{more}
{places}
[[listen]]
mode = 'tproxy'
address = '[::]:15001'
peek_timeout = '100ms'
",
        directory.display()
    )
}

/// Tables of a row each, so that a start takes the time of nothing but the record: those in the program
/// take a second or more to build.
fn light(lab: &lab::Lab) -> String {
    let country = lab.write("country.csv", "192.0.2.0,192.0.2.255,FR\n");
    let asn = lab.write("asn.csv", "192.0.2.0,192.0.2.255,64500,example\n");
    let cloud =
        lab.write("cloud.csv", "cidr,provider,region,country\n192.0.2.0/24,example,r1,FR\n");
    format!(
        "[data]\nmemory = 'compact'\ncountry = ['{}']\nasn = ['{}']\nproviders = ['{}']\n",
        country.display(),
        asn.display(),
        cloud.display()
    )
}

/// Whether a value is as a part of docs/record.schema.json says: the words of JSON Schema that it
/// uses, and no others.
pub(crate) fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let words = schema.as_object().unwrap();
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wrong = |why: &str| Err(format!("{value}: {why}: {schema}"));
    for (word, wanted) in words {
        match word.as_str() {
            "type" => {
                let fits = wanted == kind
                    || wanted.as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
                if !fits {
                    return wrong("another type");
                }
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => return wrong("not one of"),
            "const" if wanted != value => return wrong("another value"),
            "minimum" if value.as_i64().is_some_and(|n| n < wanted.as_i64().unwrap()) => {
                return wrong("too small");
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    fits(wanted, item)?;
                }
            }
            "properties" => {
                for (name, value) in value.as_object().unwrap() {
                    let property =
                        wanted.get(name).ok_or_else(|| format!("{name} is not described"))?;
                    fits(property, value)?;
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    value.get(name).ok_or_else(|| format!("{name} is missing in {value}"))?;
                }
            }
            "oneOf" => {
                let fitting: Vec<_> =
                    wanted.as_array().unwrap().iter().map(|one| fits(one, value)).collect();
                if fitting.iter().filter(|fits| fits.is_ok()).count() != 1 {
                    return Err(format!("{value} fits none, or several: {fitting:?}"));
                }
            }
            "enum"
            | "const"
            | "minimum"
            | "description"
            | "additionalProperties"
            | "pattern"
            | "title"
            | "$schema" => {}
            other => panic!("the test knows nothing of {other}"),
        }
    }
    Ok(())
}

pub(crate) fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/record.schema.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a04_killed_under_load_the_gateway_has_an_open_line_for_every_byte_outside() {
    let Some(lab) = lab("a04") else { return };
    let kills = std::env::var("SCHENGATE_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut client) =
        (lab.world.helper("audit-world"), lab.client.helper("audit-client"));
    let to = at(PERMITTED[0], NOTED);
    let light = policy(dir.path(), "") + &light(&lab);
    for round in 0..kills {
        let mut gateway = lab.start_gateway(&light);
        if round == 0 {
            gateway.capture();
        }
        let before = world.ask(&json!("seen")).as_array().unwrap().len();
        client.ask(&json!({ "do": "load", "to": to }));
        let wanted = before + 20 + round * 37 % 200;
        wait_until("bytes are in the world", || {
            (world.ask(&json!("seen")).as_array().unwrap().len() > wanted).then_some(())
        });
        gateway.kill();
        client.ask(&json!("stop"));
    }
    let mut gateway = lab.start_gateway(&policy(dir.path(), ""));
    let refused = client.ask(&json!({ "do": "once", "to": at(REFUSED[0], NOTED) }));
    assert_ne!(refused, "noted\n");
    gateway.reload(&policy(
        dir.path(),
        "[[rule]]\nname = 'one'\nto = ['198.51.100.99/32']\naction = 'block'\n",
    ));
    wait_until("the last connections have ended", || {
        gateway.shows("schengate_connections_active 0").then_some(())
    });
    gateway.stop();
    let noted: HashSet<u64> =
        world.ask(&json!("seen")).as_array().unwrap().iter().map(|p| p.as_u64().unwrap()).collect();
    let records = records(dir.path());
    let port = |record: &Value| record["client"].as_str()?.rsplit(':').next()?.parse::<u64>().ok();
    let open = records.iter().filter(|record| record["event"] == "open");
    let open: HashSet<u64> = open.filter_map(port).collect();
    let unkept: Vec<_> = noted.difference(&open).collect();
    assert!(unkept.is_empty(), "{} of {}", unkept.len(), noted.len());
    let report = checked(dir.path());
    assert!(
        report.holds() && report.remarks.iter().all(|found| found.kind != FindingKind::Gap),
        "{report:?}"
    );
    assert_eq!(report.signed, report.records);
    let schema = schema();
    for record in &records {
        if let Err(why) = fits(&schema, record) {
            panic!("{why}");
        }
    }
    let events: HashSet<&str> = records.iter().map(|r| r["event"].as_str().unwrap()).collect();
    for event in ["segment", "start", "open", "close", "refused", "reload", "stop"] {
        assert!(events.contains(event), "{event} of {events:?}");
    }
    eprintln!("{kills} kills, {} clients in the world, {} records", noted.len(), records.len());
}

#[test]
fn a03_on_a_full_disk_connections_are_refused_for_the_reason_record() {
    let Some(lab) = lab("a03") else { return };
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().display();
    lab.gateway.shell(&format!("mount -t tmpfs -o size=36m none {disk}")).unwrap();
    let (mut world, mut client) =
        (lab.world.helper("audit-world"), lab.client.helper("audit-client"));
    let gateway = lab.start_gateway(&policy(dir.path(), "durability = 'disk'"));
    gateway.capture();
    let once = json!({ "do": "once", "to": at(PERMITTED[0], NOTED) });
    assert_eq!(client.ask(&once), "noted\n");
    lab.gateway.shell(&format!("cat /dev/zero > {disk}/room || true")).unwrap();
    // What fits into the last page of a file still does.
    wait_until("a connection is refused", || (client.ask(&once) != "noted\n").then_some(()));
    let noted = world.ask(&json!("seen")).as_array().unwrap().len();
    wait_until("the gateway says so", || gateway.shows("schengate_audit_writing 0").then_some(()));
    assert!(gateway.shows("schengate_ready 0"));
    // What is known to fail is refused at once, for that reason.
    assert_ne!(client.ask(&once), "noted\n");
    wait_until("it is counted", || {
        (gateway.count("schengate_connections_total{") > 0.0
            && gateway.count("reason=\"record\"") >= 1.0)
            .then_some(())
    });
    assert_eq!(world.ask(&json!("seen")).as_array().unwrap().len(), noted);
    lab.gateway.shell(&format!("rm {disk}/room")).unwrap();
    wait_until("it is written again", || gateway.shows("schengate_audit_writing 1").then_some(()));
    assert_eq!(client.ask(&once), "noted\n");
    let verify = format!(
        "{} audit verify {disk} --key {disk}/signing.pub --json && {} audit grep '\"reason\":\"record\"' -d {disk}",
        env!("CARGO_BIN_EXE_schengate"),
        env!("CARGO_BIN_EXE_schengate"),
    );
    let told = lab.gateway.shell(&verify).unwrap();
    assert!(told.contains("\"holds\":true") && told.contains("\"event\":\"refused\""), "{told}");
}

#[test]
fn the_register_the_record_and_the_counters_of_a_gateway_agree() {
    let Some(lab) = lab("register") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_world, mut client) = (lab.world.helper("audit-world"), lab.client.helper("audit-client"));
    let gateway = lab.start_gateway(&policy(dir.path(), ""));
    gateway.capture();
    let mut once = |to: &str| client.ask(&json!({ "do": "once", "to": at(to, NOTED) }));
    for _ in 0..5 {
        assert_eq!(once(PERMITTED[0]), "noted\n");
        assert_ne!(once(REFUSED[0]), "noted\n");
    }
    let (metrics, directory) = (dir.path().join("metrics"), dir.path().to_str().unwrap());
    let run = |arguments: &[&str]| {
        let arguments = [&["audit"], arguments, &["-d", directory, "--json"]].concat();
        let output =
            Command::new(env!("CARGO_BIN_EXE_schengate")).args(arguments).output().unwrap();
        let told = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), told)
    };
    let reconcile = || run(&["reconcile", "--metrics", metrics.to_str().unwrap()]);
    let told = wait_until("all of it is in the register, and agrees", || {
        fs::write(&metrics, gateway.metrics()).unwrap();
        let (code, told) = reconcile();
        let is_all = told["behind"] == 0 && gateway.shows("schengate_connections_active 0");
        (code == 0 && is_all && told["counters"].as_u64() > Some(10)).then_some(told)
    });
    assert!(told["rows"].as_u64() >= Some(2) && told["lost"] == 0, "{told}");
    let (_, told) = run(&["register", "--by", "verdict,location,transport,listener"]);
    let rows = told["rows"].as_array().unwrap();
    let of = |verdict: &str| rows.iter().find(|row| row["verdict"] == verdict).unwrap();
    let (allowed, blocked) = (of("allow"), of("block"));
    assert_eq!((&allowed["connections"], &allowed["opened"]), (&json!(5), &json!(5)), "{told}");
    assert_eq!((&allowed["location"], &allowed["transport"]), (&json!("FR"), &json!("tcp")));
    assert_eq!(allowed["bytes_down"], json!(5 * "noted\n".len()));
    assert_eq!((&blocked["connections"], &blocked["opened"]), (&json!(5), &json!(0)), "{told}");
    // The counters of before are not those of the record any more.
    assert_eq!(once(PERMITTED[0]), "noted\n");
    wait_until("they differ, and it is said", || {
        let (code, told) = reconcile();
        let differences = told["differences"].as_array().cloned().unwrap_or_default();
        let is_told = |of: &str| {
            differences
                .iter()
                .any(|one| one["of"].as_str().is_some_and(|text| text.starts_with(of)))
        };
        (code == 1 && is_told("verdict=allow") && is_told("direction=down")).then_some(())
    });
}

#[test]
fn a_reload_says_what_it_widened_and_a_waiver_when_it_was_used_and_ended() {
    let Some(lab) = lab("widened") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_world, mut client) = (lab.world.helper("audit-world"), lab.client.helper("audit-client"));
    let mut gateway = lab.start_gateway(&policy(dir.path(), ""));
    gateway.capture();
    let held = client.ask(&json!({ "do": "hold", "to": at(PERMITTED[0], NOTED) }));
    let ends = format!(":{held}");
    let id = wait_until("a connection is open", || {
        let is_held = |one: &&Value| one["client"].as_str().is_some_and(|at| at.ends_with(&ends));
        let records = records(dir.path());
        let open = records.iter().filter(|one| one["event"] == "open").find(is_held);
        open.map(|open| open["id"].clone())
    });
    let judged_again = |times: usize| {
        wait_until("it was judged again", || {
            let is_update = |one: &&Value| one["event"] == "update" && one["id"] == id;
            (records(dir.path()).iter().filter(is_update).count() == times).then_some(())
        });
    };
    let mut once = |to: &str| client.ask(&json!({ "do": "once", "to": at(to, NOTED) }));
    assert_eq!(once(PERMITTED[0]), "noted\n");
    assert_ne!(once(REFUSED[0]), "noted\n");
    let waiver = format!(
        "[[rule]]\nname = 'w'\nowner = 'IT'\nreason = 'x'\nuntil = 2999-01-01\n\
         to = ['{}/32']\nport = [{NOTED}]\naction = 'allow'\n\
         [[rule]]\nname = 'seen'\nto = ['{}/32']\nport = [{NOTED}]\naction = 'log'\n",
        REFUSED[0], PERMITTED[0]
    );
    gateway.reload(&policy(dir.path(), &waiver));
    judged_again(1);
    assert_eq!(once(REFUSED[0]), "noted\n");
    assert_eq!(once(REFUSED[0]), "noted\n");
    gateway.reload(&policy(dir.path(), ""));
    judged_again(2);
    assert_eq!(client.ask(&json!("let go")), true);
    wait_until("the connections have ended", || {
        gateway.shows("schengate_connections_active 0").then_some(())
    });
    gateway.stop();
    let records = records(dir.path());
    let of = |event: &str| -> Vec<&Value> {
        records.iter().filter(|record| record["event"] == event).collect()
    };
    let [opened, closed] = of("reload")[..] else { panic!("{:?}", of("reload")) };
    let rows = opened["widened"].as_array().unwrap();
    assert_eq!(opened["widened_more"], 0);
    assert_eq!(rows.len(), 2, "over TCP and UDP: {opened}");
    for row in rows {
        let told = json!({ "group": "default", "names": "any", "host": null, "location": ["US"],
            "anycast": false, "operator": row["operator"], "transport": row["transport"],
            "ports": NOTED.to_string(), "verdict": "allow", "reason": "waiver", "rule": "w",
            "ipv4_addresses": 1, "ipv6_networks": 0 });
        assert_eq!(*row, told);
    }
    assert_eq!((&closed["widened"], &closed["before"]), (&json!([]), &opened["policy"]));
    let updates = of("update");
    assert_eq!(
        updates.iter().map(|one| &one["policy"]).collect::<Vec<_>>(),
        [&opened["policy"], &closed["policy"]]
    );
    assert!(updates.iter().all(|one| one["cause"] == "policy" && one["location"] == json!(["FR"])));
    let mut closes = of("close").into_iter().filter(|close| close["id"] == id);
    assert_eq!(closes.next().map(|close| &close["policy"]), Some(&closed["policy"]));
    let [used] = of("waiver-used")[..] else { panic!("{:?}", of("waiver-used")) };
    // Two workers hand their lines over in no order.
    let by_waiver = |open: &&Value| open["reason"] == "waiver" && open["id"] == used["connection"];
    assert_eq!((&used["rule"], of("open").into_iter().filter(by_waiver).count()), (&json!("w"), 1));
    let [ended] = of("waiver-ended")[..] else { panic!("{:?}", of("waiver-ended")) };
    assert_eq!((&ended["rule"], &ended["cause"]), (&json!("w"), &json!("removed")));
    assert!(!of("table").is_empty() && of("table").iter().all(|table| table["before"].is_null()));
    let test = of("self-test");
    assert!(test.len() == 1 && test[0]["holds"] == true, "{test:?}");
    for close in of("close") {
        assert!(close["rtt_min_us"].as_u64().is_some_and(|time| time < 10_000_000), "{close}");
    }
    let schema = schema();
    for record in &records {
        if let Err(why) = fits(&schema, record) {
            panic!("{why}");
        }
    }
}

/// The destination answers at once, and so it is not on the other side of the earth.
#[test]
fn a_round_trip_in_which_no_light_comes_back_contradicts_the_location() {
    let Some(lab) = lab("light") else { return };
    // Wellington, and the country itself.
    for (position, wanted) in [("-41.29,174.78", json!(["FR"])), ("FR", Value::Null)] {
        let dir = tempfile::tempdir().unwrap();
        let _world = lab.world.helper("audit-world");
        let mut client = lab.client.helper("audit-client");
        let stands = format!("position = '{position}'");
        let mut gateway = lab.start_gateway(&(policy(dir.path(), &stands) + &light(&lab)));
        gateway.capture();
        let to = at(PERMITTED[0], NOTED);
        assert_eq!(client.ask(&json!({ "do": "once", "to": to })), "noted\n");
        let close = wait_until("the connection has ended", || {
            let is_close = |one: &Value| one["event"] == "close" && one["destination"] == to;
            records(dir.path()).into_iter().find(is_close)
        });
        assert!(close["rtt_min_us"].as_u64().is_some(), "{close}");
        assert_eq!(close["rtt_contradicts"], wanted, "{position}: {close}");
        let url = format!("http://{}", lab::ADMIN);
        let mut why = lab.gateway.command(env!("CARGO_BIN_EXE_schengate"));
        let why =
            why.args(["why", "--admin", &url, close["id"].as_str().unwrap()]).output().unwrap();
        let says = "in which light comes back from nowhere in FR";
        assert_eq!(lab::said(&why).contains(says), wanted.is_array(), "{}", lab::said(&why));
        gateway.stop();
        let directory = dir.path().to_str().unwrap();
        let rows = wait_until("the register has read it", || {
            let asked = ["report", "-d", directory, "--format", "json"];
            let (_, told, _) = crate::audit::schengate(&asked);
            let told: Value = serde_json::from_str(&told).unwrap_or_default();
            let is_read = told["totals"]["connections"].as_u64() > Some(0);
            is_read.then(|| told["contradicted"].as_array().map(Vec::len))
        });
        assert_eq!(rows, Some(wanted.is_array().into()));
    }
}

/// Scrapers that ask for `/metrics` and take no answer, or have never asked for all of it.
pub(crate) fn scrapers() {
    let mut held = Vec::new();
    role::serve(|question| {
        let count = question["count"].as_u64().unwrap_or(0);
        for number in 0..count {
            let Ok(mut stream) = TcpStream::connect(lab::ADMIN) else { continue };
            let ask = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
            // Every other one stops in the middle of its request.
            let part = if number % 2 == 0 { ask.len() } else { ask.len() / 2 };
            stream.write_all(&ask[..part]).ok();
            held.push(stream);
        }
        // A byte more of each request that is not whole; nothing is read.
        for stream in &mut held {
            stream.set_nonblocking(true).ok();
            stream.write_all(b"x").ok();
        }
        json!(held.len())
    });
}

#[test]
fn a11_a_hundred_slow_scrapers_hold_up_no_connection() {
    let Some(lab) = lab("a11") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut client) =
        (lab.world.helper("audit-world"), lab.client.helper("audit-client"));
    let mut gateway = lab.start_gateway(&(policy(dir.path(), "") + &light(&lab)));
    gateway.capture();
    let mut scrapers = lab.gateway.helper("audit-scrapers");
    let p99 = |client: &mut lab::Helper| {
        let mut took: Vec<Duration> = (0..300)
            .map(|_| {
                let begun = std::time::Instant::now();
                let told = client.ask(&json!({ "do": "once", "to": at(PERMITTED[0], NOTED) }));
                assert_eq!(told, "noted\n");
                begun.elapsed()
            })
            .collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    };
    let alone = p99(&mut client);
    assert_eq!(scrapers.ask(&json!({ "count": 100 })), 100);
    let beside = p99(&mut client);
    scrapers.ask(&json!({}));
    eprintln!("p99 of a connection: {alone:?} alone, {beside:?} beside 100 slow scrapers");
    // None was refused, none is without its record, and a refusal is one still.
    assert_ne!(client.ask(&json!({ "do": "once", "to": at(REFUSED[0], NOTED) })), "noted\n");
    assert_eq!(world.ask(&json!("seen")).as_array().unwrap().len(), 600);
    drop(scrapers);
    wait_until("the connections have ended", || {
        gateway.shows("schengate_connections_active 0").then_some(())
    });
    gateway.stop();
    let records = records(dir.path());
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).count();
    assert_eq!((of("open"), of("close"), of("refused")), (600, 600, 1));
}

#[test]
fn the_page_shows_settings_that_load_and_every_field() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/record.md")).unwrap();
    let block = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let text = format!("schema = 1\n[policy]\npermit = ['FR']\n{block}");
    let loaded = schengate::control::config::parse(&text, None).unwrap();
    assert!(loaded.config.audit.is_some_and(|audit| audit.retain_bytes == Some(100_000_000_000)));
    for one in schema()["oneOf"].as_array().unwrap() {
        for name in one["properties"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        let event = &one["properties"]["event"];
        let listed = event["enum"].as_array().cloned().unwrap_or_default();
        for event in listed.iter().chain(event.get("const")) {
            assert!(page.contains(&format!("`{}`", event.as_str().unwrap())), "{event}");
        }
    }
}
