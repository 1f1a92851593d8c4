//! A reload answers as a fresh load of the same files does, whatever changed between; and what did
//! not change is not made anew.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::config::{CountryField, Source};
use schengate::control::data::{Kind, SigningKey, Table, build_pack};
use schengate::control::load::load;
use schengate::control::reload::PolicyManager;
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, Policy, Question, Transport};
use serde_json::json;
use tempfile::TempDir;

use crate::gateway::{self, Gateway};
use crate::mmdb;

const POLICY: &str = "schema = 1
[policy]
permit = ['eea', 'CH']
permit_law = ['eea']
[policy.on]
disputed = 'log'
operator = 'log'
[zones]
home = ['FR']
[[listen]]
mode = 'tproxy'
address = '127.0.0.1:15001'
[data]
directory = 'state'
pack = 't.sgp'
pack_key = 'KEY'
country = ['a.mmdb', 'b.csv', 'blocks/c.csv']
asn = ['n.csv']
providers = ['p.csv']
max_age = '3650d'
max_loss = '100%'
memory = 'compact'
[[place]]
to = ['81.9.0.0/16']
location = ['home']
[[place]]
to = ['81.10.0.0/16']
location = ['NO']
[[operator]]
name = 'first'
prefix = ['81.0.5.0/24']
asn = [64496]
homes = ['FR']
technology = ['US']
[[operator]]
name = 'second'
host = ['*.example.org']
homes = ['DE']
[[rule]]
name = 'a'
to = ['81.3.0.0/16']
action = 'block'
[[rule]]
name = 'b'
to = ['81.4.0.0/16', '81.3.7.0/24']
action = 'allow'
[[rule]]
name = 'c'
host = ['c.example.net']
action = 'block'
";

const ADDRESSES: [&str; 21] = [
    "81.0.0.1",
    "81.0.5.1",
    "81.1.0.1",
    "81.2.0.1",
    "81.3.0.1",
    "81.3.7.1",
    "81.4.0.1",
    "81.5.0.1",
    "81.6.0.1",
    "81.7.0.1",
    "81.7.9.1",
    "81.8.0.1",
    "81.9.0.1",
    "81.10.0.1",
    "81.11.0.1",
    "81.12.0.1",
    "81.13.0.1",
    "192.168.0.1",
    "127.0.0.1",
    "2a02::1",
    "2a03::1",
];

const B: &str = "81.0.0.0,81.0.255.255,FR\n81.1.0.0,81.1.255.255,US\n81.2.0.0,81.2.255.255,DE\n\
                 81.3.0.0,81.5.255.255,FR\n2a02::,2a02::ffff,FR\n";
const BLOCKS: &str = "network,geoname_id,registered_country_geoname_id,\
                      represented_country_geoname_id,is_anonymous_proxy,is_satellite_provider,\
                      is_anycast\n81.6.0.0/16,7,,,0,0,\n";
const LOCATIONS: &str = "geoname_id,locale_code,continent_code,continent_name,country_iso_code,\
                         country_name\n7,en,EU,Europe,FR,France\n";
const PROVIDERS: &str = "cidr,provider,region,country\n81.7.0.0/16,aws,eu-west-3,FR\n\
                         81.7.0.0/24,gcp,eu,\n81.12.0.0/16,gcp,eu,\n";

/// A policy and its tables, each of which may be changed.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(world.path("blocks")).unwrap();
        let key = SigningKey::generate(&world.path("key")).unwrap();
        world.write("p.toml", &POLICY.replace("KEY", &key.public()));
        let record =
            json!({"country": {"iso_code": "FR"}, "registered_country": {"iso_code": "US"}});
        let rows = [("81.5.0.0/16", record)];
        fs::write(world.path("a.mmdb"), mmdb::mmdb(&rows, mmdb::JUNE)).unwrap();
        world.write("b.csv", B);
        world.write("blocks/c.csv", BLOCKS);
        world.write("blocks/x-Locations-en.csv", LOCATIONS);
        world.write("n.csv", "81.0.0.0,81.1.255.255,64496\n81.4.0.0,81.4.255.255,64497\n");
        world.write("p.csv", PROVIDERS);
        world.pack("FR", &key);
        for (name, day) in [("b.csv", 1), ("blocks/c.csv", 2), ("n.csv", 3), ("p.csv", 4)] {
            world.date(name, &format!("2010-06-0{day}T00:00:00Z"));
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn policy(&self) -> PathBuf {
        self.path("p.toml")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(name, &text.replacen(from, to, 1));
    }

    /// As [`World::change`], where nothing but the content tells.
    fn slip(&self, name: &str, from: &str, to: &str) {
        let written = fs::metadata(self.path(name)).unwrap().modified().unwrap();
        self.change(name, from, to);
        let file = fs::File::options().append(true).open(self.path(name)).unwrap();
        file.set_modified(written).unwrap();
    }

    fn date(&self, name: &str, at: &str) {
        let at: Timestamp = at.parse().unwrap();
        let file = fs::File::options().append(true).open(self.path(name)).unwrap();
        file.set_modified(at.into()).unwrap();
    }

    fn pack(&self, country: &str, key: &SigningKey) {
        self.write("in-pack.csv", &format!("81.8.0.0,81.8.255.255,{country}\n"));
        let source = Source::File(self.path("in-pack.csv"));
        let table = Table::load(Kind::Country, &source, CountryField::Country).unwrap();
        build_pack(vec![table], now(), Some(key), &self.path("t.sgp")).unwrap();
    }

    fn key(&self) -> SigningKey {
        SigningKey::read(&self.path("key")).unwrap()
    }
}

fn now() -> Timestamp {
    "2026-11-25T00:00:00Z".parse().unwrap()
}

/// After the end of the decision about Britain.
fn later() -> Timestamp {
    "2032-01-01T00:00:00Z".parse().unwrap()
}

/// Everything that a policy can be asked.
fn answers(policy: &Policy) -> Vec<String> {
    let names = ["c.example.net", "a.example.org"].map(|n| HostName::parse(n.as_bytes()).unwrap());
    let claims = [Claim::Unread, Claim::Bound(&names[0]), Claim::Bound(&names[1])];
    let mut answers = vec![
        format!("version {}", policy.version()),
        format!("until {}", policy.valid_until_ms()),
        format!("{} ranges kept", policy.address_table().v4_ranges().len()),
        format!("{} bytes", policy.address_table().table_bytes()),
        format!("{:?}", policy.address_table().sources()),
    ];
    for address in ADDRESSES {
        let address: IpAddr = address.parse().unwrap();
        let question = |name| Question {
            client: Some("10.0.0.1".parse().unwrap()),
            destination: (address, 443).into(),
            transport: Transport::Tcp,
            protocol: Protocol::Tls,
            name,
            ech: false,
        };
        let told = |name| {
            let verdict = policy.decide(&question(name));
            let rule = verdict.rule().map(|rule| policy.rule_name(rule));
            format!("{:?} {:?} {rule:?}", verdict.action(), verdict.reason())
        };
        answers.push(format!("{address} {:?}", policy.address_info(address)));
        answers.push(format!("{address} {:?}", claims.map(told)));
        let address_table = policy.address_table();
        let class = address_table.classes()[address_table.class_of(address)];
        answers.push(format!("{:?}", address_table.locations()[class.location as usize].dissent));
        answers.push(format!("{:?}", address_table.operators()[class.operator as usize]));
    }
    answers
}

/// The answers of two instants.
fn both(compiler: &Compiler) -> Vec<String> {
    let policies = [now(), later()].map(|at| compiler.policy_at(at));
    policies.iter().flat_map(answers).collect()
}

fn fresh(policy: &Path) -> Result<Vec<String>, String> {
    load(Some(policy), now()).map(|l| both(&l.compiler)).map_err(|fault| fault.to_string())
}

fn reloaded(manager: &mut PolicyManager) -> Result<Vec<String>, String> {
    let built = manager.job().build(now()).map_err(|fault| fault.to_string())?;
    manager.install(built, now());
    Ok(both(manager.compiler()))
}

fn start(world: &World) -> PolicyManager {
    let started = PolicyManager::start(Some(&world.policy()), false, now());
    started.unwrap_or_else(|fault| panic!("{fault}")).0
}

type Change = (&'static str, fn(&World));

/// Every input of the facts by address, changed in a way that somebody could see.
const CHANGES: [Change; 38] = [
    ("mmdb table", |w| {
        let rows = [("81.5.0.0/16", json!({"country": {"iso_code": "US"}}))];
        fs::write(w.path("a.mmdb"), mmdb::mmdb(&rows, mmdb::JUNE)).unwrap();
    }),
    ("csv table", |w| w.slip("b.csv", "81.2.255.255,DE", "81.2.255.255,US")),
    ("date of a table without one", |w| w.date("b.csv", "2026-11-01T00:00:00Z")),
    ("file of locations", |w| w.slip("blocks/x-Locations-en.csv", ",FR,", ",US,")),
    ("second file of locations", |w| w.write("blocks/y-Locations-en.csv", LOCATIONS)),
    ("no file of locations", |w| fs::remove_file(w.path("blocks/x-Locations-en.csv")).unwrap()),
    ("AS table", |w| w.slip("n.csv", "64497", "64496")),
    ("provider table", |w| w.slip("p.csv", "eu-west-3,FR", "eu-west-3,US")),
    ("region of a provider table", |w| w.slip("p.csv", "eu-west-3,FR", "eu-west-1,FR")),
    ("pack", |w| w.pack("US", &w.key())),
    ("pack of another key", |w| {
        w.pack("FR", &SigningKey::generate(&w.path("other")).unwrap());
    }),
    ("key of the pack", |w| {
        let other = SigningKey::generate(&w.path("other")).unwrap();
        w.change("p.toml", &w.key().public(), &other.public());
    }),
    ("no pack", |w| w.change("p.toml", "pack = 't.sgp'", "# no pack")),
    ("a table is gone", |w| fs::remove_file(w.path("n.csv")).unwrap()),
    ("rank", |w| w.change("p.toml", "'a.mmdb', 'b.csv'", "'b.csv', 'a.mmdb'")),
    ("a table less", |w| w.change("p.toml", "'b.csv', ", "")),
    ("no AS table", |w| w.change("p.toml", "['n.csv']", "['embedded']")),
    ("other providers", |w| w.change("p.toml", "['p.csv']", "['p.csv', 'embedded']")),
    ("field", |w| w.change("p.toml", "[data]", "[data]\ncountry_field = 'registered_country'")),
    ("largest age", |w| w.change("p.toml", "3650d", "36500d")),
    ("largest age, none", |w| w.change("p.toml", "max_age = '3650d'", "")),
    ("short cut", |w| w.change("p.toml", "[data]", "[capture]\nshortcut = 'permitted'\n[data]")),
    ("prefix of a place", |w| w.change("p.toml", "'81.9.0.0/16'", "'81.9.0.0/17', '81.11.0.0/16'")),
    ("location of a place", |w| w.change("p.toml", "location = ['NO']", "location = ['US']")),
    ("zone of a place", |w| w.change("p.toml", "home = ['FR']", "home = ['US']")),
    ("place is anycast", |w| w.change("p.toml", "location = ['NO']", "anycast = true")),
    ("zone of a place that will change", |w| {
        let zone = "home = ['FR', '-IS', 'gdpr-adequacy', '-AD', '-AR', '-BR', '-CA', '-CH', '-FO', \
                    '-GG', '-IL', '-IM', '-JE', '-JP', '-KR', '-NZ', '-US', '-UY']";
        w.change("p.toml", "home = ['FR']", zone);
    }),
    ("prefix of an operator", |w| w.change("p.toml", "'81.0.5.0/24'", "'81.5.0.0/16'")),
    ("AS number of an operator", |w| w.change("p.toml", "[64496]", "[64497]")),
    ("homes of an operator", |w| w.change("p.toml", "homes = ['FR']", "homes = ['US']")),
    ("technology of an operator", |w| w.change("p.toml", "technology = ['US']", "")),
    ("name of an operator", |w| w.change("p.toml", "'first'", "'other'")),
    ("an operator more", |w| {
        w.change(
            "p.toml",
            "[[operator]]",
            "[[operator]]\nname = 'x'\nasn = [64497]\nhomes = ['US']\n[[operator]]",
        );
    }),
    ("to", |w| w.change("p.toml", "'81.4.0.0/16'", "'81.5.0.0/16'")),
    ("a rule with to more", |w| {
        let rule =
            "[[rule]]\nname = 'x'\nto = ['81.4.0.0/24']\naction = 'block'\n[[rule]]\nname = 'a'";
        w.change("p.toml", "[[rule]]\nname = 'a'", rule);
    }),
    ("order of rules with to", |w| {
        w.change("p.toml", "name = 'a'\nto = ['81.3.0.0/16']\naction = 'block'", "A");
        w.change("p.toml", "to = ['81.4.0.0/16', '81.3.7.0/24']\naction = 'allow'", "B");
        w.change(
            "p.toml",
            "A",
            "name = 'a'\nto = ['81.4.0.0/16', '81.3.7.0/24']\naction = 'allow'",
        );
        w.change("p.toml", "B", "to = ['81.3.0.0/16']\naction = 'block'");
    }),
    ("the first rule has no to", |w| w.change("p.toml", "to = ['81.3.0.0/16']", "port = [443]")),
    ("a rule without to more", |w| {
        w.change(
            "p.toml",
            "[[rule]]",
            "[[rule]]\nname = 'x'\nport = [443]\naction = 'block'\n[[rule]]",
        );
    }),
];

#[test]
fn a_reload_after_any_change_answers_as_a_fresh_load() {
    let mut faults = Vec::new();
    for (what, change) in CHANGES {
        let world = World::new();
        let mut manager = start(&world);
        let before = both(manager.compiler());
        change(&world);
        let fresh = fresh(&world.policy());
        let shows = |now: &Vec<String>| {
            now.iter()
                .zip(&before)
                .any(|(now, before)| now != before && !now.starts_with("version"))
        };
        assert!(fresh.as_ref().map_or(true, shows), "{what}: the change shows in nothing");
        let reloaded = reloaded(&mut manager);
        if reloaded != fresh {
            let differ = |(a, b): (&String, &String)| (a != b).then(|| format!("\n  {a}\n  {b}"));
            let (a, b) = (reloaded.unwrap_or_default(), fresh.unwrap_or_default());
            let differ: String = a.iter().zip(&b).filter_map(differ).take(2).collect();
            faults.push(format!("{what}: {} and {} answers{differ}", a.len(), b.len()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_change_of_the_clock_is_a_change_of_the_places() {
    let world = World::new();
    world.change("p.toml", "location = ['NO']", "location = ['gdpr-adequacy']");
    let mut manager = start(&world);
    let built = manager.job().build(later()).unwrap();
    manager.install(built, later());
    let fresh = load(Some(&world.policy()), later()).unwrap();
    assert_eq!(both(manager.compiler()), both(&fresh.compiler));
    assert_eq!(answers(manager.current()), answers(&fresh.compiler.policy_at(later())));
}

#[test]
fn the_form_of_the_table_is_taken_up() {
    let world = World::new();
    let row = |n: u32| format!("{0},{0},FR\n", IpAddr::from(((90 << 24) + n * 2).to_be_bytes()));
    world.write("b.csv", &(0..20_000).map(row).collect::<String>());
    let mut manager = start(&world);
    let bytes = |manager: &PolicyManager| manager.current().address_table().table_bytes();
    assert!(bytes(&manager) < 16 << 20);
    world.change("p.toml", "'compact'", "'fast'");
    // Beside the old table the new one comes lean: but for its size it answers the same.
    let answers = |told: Result<Vec<String>, String>| -> Vec<String> {
        told.unwrap().into_iter().filter(|answer| !answer.ends_with("bytes")).collect()
    };
    assert_eq!(answers(reloaded(&mut manager)), answers(fresh(&world.policy())));
    assert!(bytes(&manager) < 16 << 20, "{}", bytes(&manager));
    // A reload meanwhile changes nothing of that.
    assert_eq!(answers(reloaded(&mut manager)), answers(fresh(&world.policy())));
    let promoted = manager.promotion_job().expect("the table is not yet fast").build(now());
    manager.install_promoted(promoted, now());
    assert_eq!(Ok(both(manager.compiler())), fresh(&world.policy()));
    assert!(bytes(&manager) > 32 << 20, "{}", bytes(&manager));
    assert!(manager.promotion_job().is_none(), "nothing is left to be done");
    world.slip("b.csv", "FR", "DE");
    assert_eq!(answers(reloaded(&mut manager)), answers(fresh(&world.policy())));
    assert!(manager.promotion_job().is_some() && bytes(&manager) < 16 << 20, "{}", bytes(&manager));
}

/// What a person changes most often costs no more than the compiling of the rules.
#[test]
fn what_changes_nothing_by_address_keeps_the_atlas() {
    let changes: [Change; 8] = [
        ("nothing", |_| ()),
        ("a rule without to, before those that have one", |w| {
            w.change(
                "p.toml",
                "[[rule]]",
                "[[rule]]\nname = 'x'\nport = [22]\naction = 'block'\n[[rule]]",
            );
        }),
        ("hosts", |w| w.change("p.toml", "'c.example.net'", "'d.example.net'")),
        ("mode", |w| w.change("p.toml", "[policy]", "[policy]\nmode = 'observe'")),
        ("permit", |w| w.change("p.toml", "'CH'", "'US'")),
        ("largest age", |w| w.change("p.toml", "3650d", "36500d")),
        ("a zone by another word", |w| w.change("p.toml", "home = ['FR']", "home = ['FR', '-US']")),
        ("host of an operator", |w| w.change("p.toml", "*.example.org", "*.example.com")),
    ];
    for (what, change) in changes {
        let world = World::new();
        let mut manager = start(&world);
        let before = manager.current().clone();
        change(&world);
        let built = manager.job().build(now()).unwrap();
        assert!(std::ptr::eq(built.policy().address_table(), before.address_table()), "{what}");
        manager.install(built, now());
        assert_eq!(Ok(both(manager.compiler())), fresh(&world.policy()), "{what}");
    }
    let world = World::new();
    let manager = start(&world);
    world.slip("b.csv", "FR", "DE");
    let built = manager.job().build(now()).unwrap();
    assert!(
        !std::ptr::eq(built.policy().address_table(), manager.current().address_table()),
        "a table"
    );
}

/// A region that only a table knows is asked of the tables in use.
#[test]
fn a_region_that_no_table_knows_is_refused_whether_the_tables_are_read_or_kept() {
    let world = World::new();
    world.slip("p.csv", "gcp,eu,", "gcp,made-up,");
    let mut manager = start(&world);
    let rule =
        |region: &str| format!("\n[[rule]]\nname = 'r'\nregion = ['{region}']\naction = 'block'\n");
    let text = fs::read_to_string(world.policy()).unwrap();
    for (region, known) in [("gcp:made-up", true), ("gcp:nowhere", false)] {
        world.write("p.toml", &format!("{text}{}", rule(region)));
        let kept = reloaded(&mut manager);
        assert_eq!(kept, fresh(&world.policy()));
        assert_eq!(kept.is_ok(), known, "{region}");
    }
}

/// A policy that refuses the names of a list, and one that does not look at its files by itself.
fn listed(folder: &Path) -> [String; 2] {
    let names: String = (0..40).map(|n| format!("h{n}.example\n")).collect();
    fs::write(folder.join("list.txt"), names).unwrap();
    [true, false].map(|watch| {
        let text = format!(
            "schema = 1\n[policy]\npermit = ['*']\nwatch = {watch}\n\
             [admin]\naddress = '127.0.0.1:0'\n[[listen]]\nmode = 'proxy'\n\
             address = '127.0.0.1:0'\n[names]\nresolvers = ['127.0.0.1:9']\n\
             [[rule]]\nname = 'list'\naction = 'block'\nhost_file = 'list.txt'\n"
        );
        let path = folder.join(format!("{watch}.toml"));
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    })
}

/// Whether the gateway refuses a name: 451; else it looks for it in vain.
fn is_refused(gateway: &Gateway, name: &str) -> bool {
    let mut client = TcpStream::connect(&gateway.proxy).unwrap();
    client.set_read_timeout(Some(gateway::PATIENCE)).unwrap();
    write!(client, "CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n").unwrap();
    let mut head = [0; 12];
    client.read_exact(&mut head).unwrap();
    head == *b"HTTP/1.1 451"
}

/// What a list lacks that was written in part is not open, however long its writer pauses.
#[test]
fn h06_a_half_written_list_opens_nothing_until_somebody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let [policy, _] = listed(dir.path());
    let mut gateway = Gateway::start(&["--config", &policy]);
    let list = dir.path().join("list.txt");
    let whole = fs::read_to_string(&list).unwrap();
    let half = &whole[..whole.len() / 2];
    assert!(is_refused(&gateway, "h39.example"));
    // Written in its place and closed; then by a rename, of a download that was cut.
    for rename in [false, true] {
        if rename {
            fs::write(dir.path().join("new"), half.replace("h1.", "x1.")).unwrap();
            let new = fs::File::options().append(true).open(dir.path().join("new")).unwrap();
            new.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            fs::rename(dir.path().join("new"), &list).unwrap();
        } else {
            fs::write(&list, half).unwrap();
        }
        gateway.until("a file behind the policy changes");
        let held = gateway.until("the changed policy is held back");
        assert!(held.contains("WARN") && held.contains("of 40 names of rule `list`"), "{held}");
        assert!(is_refused(&gateway, "h39.example"), "rename: {rename}");
    }
    // The rest of it comes.
    fs::write(&list, whole.replace("h39.example", "h38.example\nmore.example")).unwrap();
    gateway.until("policy reloaded");
    assert!(is_refused(&gateway, "more.example") && !is_refused(&gateway, "h39.example"));
    // A signal is a word.
    fs::write(&list, half).unwrap();
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    assert!(is_refused(&gateway, "h0.example") && !is_refused(&gateway, "more.example"));
}

#[test]
fn h06_without_watch_nothing_but_a_signal_takes_files_up() {
    let dir = tempfile::tempdir().unwrap();
    let [watching, deaf] = listed(dir.path());
    let mut other = Gateway::start(&["--config", &watching]);
    let mut gateway = Gateway::start(&["--config", &deaf]);
    let mut names = fs::read_to_string(dir.path().join("list.txt")).unwrap();
    names += "more.example\n";
    fs::write(dir.path().join("list.txt"), names).unwrap();
    // The other one is the clock.
    other.until("policy reloaded");
    let said = gateway.said();
    assert!(!said.iter().any(|line| line.contains("a file behind")), "{said:?}");
    assert!(is_refused(&other, "more.example") && !is_refused(&gateway, "more.example"));
    gateway.signal("HUP");
    gateway.until("policy reloaded");
    assert!(is_refused(&gateway, "more.example"));
}
