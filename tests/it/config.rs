//! The policy file from outside: every fault with its place and its help, every example sound.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use schengate::control::config::{
    Config, Faults, From, Lane, ListenMode, Loaded, Members, OnDeath, PlaceLocation, Source, Term,
    ZoneList, load, parse, parse_at,
};
use schengate::policy::{Action, Binding, Country, Mode};

/// Three lines in front of every case: what a case adds begins in line 4.
const HEAD: &str = "schema = 1\n[policy]\npermit = ['eea']\n";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn read(tail: &str) -> Result<Loaded, Faults> {
    parse_at(&format!("{HEAD}{tail}"), None, at("2026-11-24T12:00:00Z"))
}

fn sound(tail: &str) -> Config {
    read(tail).unwrap_or_else(|faults| panic!("{tail}\n{faults}")).config
}

fn faults(tail: &str) -> Vec<String> {
    let faults = read(tail).err().unwrap_or_else(|| panic!("sound, and should not be:\n{tail}"));
    faults.0.iter().map(|fault| fault.to_string().replace("<policy>:", "")).collect()
}

/// Asserts that the text has this one fault, and that its help holds `help`.
#[track_caller]
fn one_fault(tail: &str, fault: &str, help: &str) {
    let found = faults(tail);
    assert_eq!(found.len(), 1, "{tail}\n{found:#?}");
    let (what, helps) = found[0].split_once("\n  help: ").unwrap();
    assert_eq!(what, fault, "{tail}");
    assert!(helps.contains(help), "{tail}\n{helps}");
}

#[track_caller]
fn whole_fault(text: &str, fault: &str, help: &str) {
    let faults = parse(text, None).err().unwrap_or_else(|| panic!("sound:\n{text}"));
    let found = faults.to_string();
    assert_eq!(faults.0.len(), 1, "{text}\n{found}");
    let (what, helps) = found.split_once("\n  help: ").unwrap();
    assert_eq!(what, format!("<policy>:{fault}"), "{text}");
    assert!(helps.contains(help), "{text}\n{helps}");
}

fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    std::env::var_os("SCHENGATE_SHARED").map_or_else(beside, PathBuf::from)
}

/// An upgrade must not turn a policy down that an earlier version took, nor read it otherwise.
#[test]
fn a_policy_of_the_first_version_is_read_as_it_was_then() {
    let first = include_str!("first_policy.toml");
    let config = parse_at(first, None, at("2026-11-24T12:00:00Z")).unwrap().config;
    assert_eq!(config.policy.mode, Mode::Observe);
    // All that it wrote out was the default, but two; so it is still.
    let short = "schema = 1\n[policy]\nmode = 'observe'\npermit = ['eea', 'gdpr-adequacy']\n";
    let now = parse_at(short, None, at("2026-11-24T12:00:00Z")).unwrap().config;
    let told = |config: Config| {
        format!("{:?} {:?} {:?} {:?}", config.policy, config.listen, config.names, config.data)
    };
    assert_eq!(told(config), told(now));
}

#[test]
fn the_head_of_the_file_is_required_and_known() {
    whole_fault("[policy]\npermit = ['eea']", "1:1: schema: missing", "schema = 1");
    whole_fault(
        "schema = 2\n[policy]\npermit = ['eea']",
        "1:10: schema: this program reads schema 1",
        "schema = 1",
    );
    whole_fault("schema = 1", "1:1: policy: missing", "permit = [\"eea\"");
    whole_fault("schema = 1\n[policy]", "2:1: policy.permit: missing", "permit = [\"eea\"");
    whole_fault(
        "schema = 1\npolicy = 3",
        "2:10: policy: an integer stands where a table is wanted",
        "write [policy]",
    );
}

#[test]
fn what_is_no_toml_gives_one_fault_with_its_place() {
    let faults = parse("schema = 1\n[policy\npermit = 3 4\n", None).unwrap_err();
    assert_eq!(faults.0.len(), 1);
    assert_eq!(faults.0[0].position.unwrap().line, 2);
    let twice = parse("schema = 1\nschema = 1\n", None).unwrap_err().to_string();
    assert!(twice.starts_with("<policy>:2:1: duplicate key"), "{twice}");
}

#[test]
fn every_fault_is_found_at_once_several_in_one_rule_too() {
    let found = faults(
        "mod = 'observe'\n[[rule]]\nname = 'a'\naction = 'permit'\nport = [0, '9-1']\nhots = []\n\
         until = 2026-01-01T00:00:00\n[dta]\n",
    );
    let places: Vec<_> =
        found.iter().map(|fault| fault.split_once(": ").unwrap().0.to_owned()).collect();
    assert_eq!(places, ["4:1", "7:10", "8:9", "8:12", "9:1", "10:9", "11:2"], "{found:#?}");
}

#[test]
fn unknown_keys_and_wrong_types_say_what_was_meant() {
    one_fault("permitt = []", "4:1: policy.permitt: unknown key", "did you mean `permit`?");
    one_fault("colour = 1", "4:1: policy.colour: unknown key", "the keys here are mode,");
    one_fault("[rules]", "4:2: rules: unknown key", "did you mean `rule`?");
    one_fault("[rule]", "4:1: rule: a table stands where a list of tables is wanted", "[[rule]]");
    one_fault(
        "mode = 1",
        "4:8: policy.mode: an integer stands where a string is wanted",
        "enforce",
    );
    one_fault("mode = 'x'", "4:8: policy.mode: \"x\" is none of the values", "\"observe\"");
    one_fault(
        "grace = 3",
        "4:9: policy.grace: an integer stands where a string is wanted",
        "\"3s\"",
    );
    one_fault("grace = '3'", "4:9: policy.grace: \"3\" is not a duration", "\"3s\"");
    one_fault("contact = ' '", "4:11: policy.contact: the text is empty", "leave the key out");
    one_fault(
        "contact = \"a\\u001bb\"",
        "4:11: policy.contact: the text holds a control character",
        "one line",
    );
    one_fault(
        "on = { law = 'judge' }",
        "4:14: policy.on.law: \"judge\" is none of the values",
        "log",
    );
    one_fault("[policy.on]\nlow = 'log'", "5:1: policy.on.low: unknown key", "`law`");
}

#[test]
fn where_the_gateway_stands_is_a_country_or_degrees() {
    for bad in ["EU", "GF", "48.14", "91,0", "0,200", "48.14,11.58,500"] {
        let fault = format!("5:12: audit.position: \"{bad}\" is not a position");
        one_fault(&format!("[audit]\nposition = '{bad}'"), &fault, "48.14,11.58");
    }
}

#[test]
fn a_list_is_never_empty_and_never_a_single_value() {
    let empty = "the list is empty; it means neither \"any\" nor \"none\"";
    for key in ["from", "host", "host_file", "to", "location", "law", "operator", "asn", "region"] {
        let tail = format!("[[rule]]\nname = 'a'\naction = 'block'\n{key} = []");
        let column = key.len() + 4;
        one_fault(&tail, &format!("7:{column}: rule.{key}: {empty}"), "leave the key out");
    }
    for key in ["port", "transport", "protocol"] {
        let tail = format!("[[rule]]\nname = 'a'\naction = 'block'\n{key} = []");
        let column = key.len() + 4;
        one_fault(&tail, &format!("7:{column}: rule.{key}: {empty}"), "leave the key out");
    }
    one_fault("permit_law = []", &format!("4:14: policy.permit_law: {empty}"), "leave the key out");
    one_fault("[data]\ncountry = []", &format!("5:11: data.country: {empty}"), "leave the key out");
    one_fault("[zones]\nz = []", &format!("5:5: zones.z: {empty}"), "country codes");
    one_fault(
        "[[rule]]\nname = 'a'\naction = 'block'\nport = 443",
        "7:8: rule.port: an integer stands where a list is wanted",
        "[443]",
    );
}

#[test]
fn codes_that_are_no_country_are_answered_with_what_was_meant() {
    let case = |code: &str, fault: &str, help: &str| {
        let tail = format!("permit_law = ['DE', '{code}']");
        one_fault(&tail, &format!("4:21: policy.permit_law: {fault}"), help);
    };
    case("fr", "no zone is called \"fr\"; a country code is in upper case", "\"FR\"");
    case("uk", "no zone is called \"uk\"; a country code is in upper case", "\"GB\"");
    case("EU", "\"EU\" is not a country", "the zone \"eu\"");
    case("AP", "AP is not a country; tables use it where they do not know one", "unknown");
    case("AN", "the code AN was withdrawn", "\"CW\"");
    case("YU", "the code YU was withdrawn", "\"RS\"");
    case("QQ", "\"QQ\" is neither a country nor a zone", "ISO 3166-1");
    case("gdpr-adecuacy", "\"gdpr-adecuacy\" is neither a country nor a zone", "\"gdpr-adequacy\"");
    case("EEA", "\"EEA\" is neither a country nor a zone", "the zone \"eea\"");
    case("-*", "\"-*\" takes out everything", "name the zones");
    case(
        "eu-sanctioned-regions",
        "no member of \"eu-sanctioned-regions\" has a country code, so no address is ever in it",
        "prefixes",
    );
    one_fault(
        "permit_law = ['-DE', '-eu']",
        "4:14: policy.permit_law: the list only takes out (\"-...\")",
        "\"*\"",
    );
}

#[test]
fn aliases_are_read_as_the_countries_they_mean() {
    let config = sound("permit_law = ['UK', 'EL', 'IC', 'EA', 'FX', '-XK', '*']");
    let country = |code| Term::Country(Country::from_code(code).unwrap());
    let plus = ["GB", "GR", "ES", "ES", "FR"].map(country).into_iter().chain([Term::Everywhere]);
    let list = ZoneList { plus: plus.collect(), minus: vec![country("XK")] };
    assert_eq!(config.policy.permit_law, Some(list));
}

#[test]
fn zones_of_the_file_have_names_of_their_own_and_hold_no_circle() {
    one_fault("[zones]\neea = ['FR']", "5:1: zones.eea: a built-in zone has this name", "another");
    one_fault("[zones]\nfr = ['FR']", "5:1: zones.fr: the name is a country's code", "longer");
    one_fault("[zones]\nHome = ['FR']", "5:1: zones.Home: no name for a zone", "lower-case");
    one_fault("[zones]\nz = ['z']", "5:1: zones.z: the zone holds itself: z > z", "take one");
    one_fault(
        "[zones]\nc = ['FR', '-a']\nb = ['c']\na = ['b']",
        "5:1: zones.c: the zone holds itself: c > a > b > c",
        "take one",
    );
    // A zone may name one that comes later, and a faulty zone makes no other list faulty.
    let config = sound("[zones]\nlate-user = ['z', '-DE']\nz = ['FR', 'DE']");
    let last = config.zones.all.len() - 2;
    assert_eq!(config.zones.all[last].name, "late-user");
    let Members::List(list) = &config.zones.all[last].members else { panic!() };
    assert_eq!(config.zones.resolve(list, Timestamp::now()).to_string(), "FR");
    one_fault(
        "permit_law = ['z']\n[zones]\nz = ['QQ']",
        "6:6: zones.z: \"QQ\" is neither a country nor a zone",
        "ISO",
    );
}

#[test]
fn zones_nested_as_deep_as_they_may_be_are_resolved() {
    let chain = |length: usize| -> String {
        let zone = |i: usize| format!("z{i:04} = ['z{:04}', 'z{:04}']\n", i + 1, length);
        (0..length).map(zone).collect::<String>() + &format!("z{length:04} = ['FR']\n")
    };
    let config = sound(&format!("permit_law = ['z0000']\n[zones]\n{}", chain(999)));
    let list = config.policy.permit_law.unwrap();
    assert_eq!(config.zones.resolve(&list, Timestamp::now()).to_string(), "FR");
    let found = faults(&format!("[zones]\n{}", chain(1_000)));
    assert!(found.iter().any(|fault| fault.contains("more than 1000 zones")), "{found:#?}");
}

#[test]
fn groups_are_told_apart_by_name_and_prefix() {
    one_fault("[[group]]\nclients = ['10.0.0.0/8']", "4:1: group.name: missing", "name");
    one_fault("[[group]]\nname = 'a'", "4:1: group.clients: missing", "clients");
    let two = "[[group]]\nname = 'a'\nclients = ['10.0.0.0/8']\n[[group]]\n";
    one_fault(
        &format!("{two}name = 'a'\nclients = ['10.1.0.0/16']"),
        "8:8: group.name: the name \"a\" was given in line 5 already",
        "of its own",
    );
    one_fault(
        &format!("{two}name = 'b'\nclients = ['fd00::/8', '::ffff:10.0.0.0/104']"),
        "9:24: group.clients: 10.0.0.0/8 is in a already",
        "one of the two",
    );
    one_fault(
        "[[group]]\nname = 'a/b'\nclients = ['10.0.0.0/8']",
        "5:8: group.name: the name of a group with \"/\" reads as a prefix in `from`",
        "without",
    );
    one_fault(
        "[[group]]\nname = 'default'\nclients = ['10.0.0.0/8']",
        "5:8: group.name: \"default\" names the policy of clients in no group",
        "another name",
    );
    one_fault(
        "[[group]]\nname = 'a'\nclients = ['10.1.2.3/8']",
        "6:12: group.clients: \"10.1.2.3/8\" has bits set behind its length",
        "\"10.0.0.0/8\"",
    );
}

#[test]
fn a_group_inherits_what_it_does_not_name() {
    let config = sound(
        "mode = 'observe'\npermit_law = ['eu']\non = { law = 'log', unread = 'block' }\n\
         [[group]]\nname = 'a'\nclients = ['10.0.0.0/8']\nmode = 'enforce'\n\
         on = { unread = 'judge' }\nuntil = 2026-12-31\n\
         [[group]]\nname = 'b'\nclients = ['::ffff:10.41.0.0/112']\npermit = ['FR']\n",
    );
    let [a, b] = &config.groups[..] else { panic!() };
    assert_eq!((a.mode, b.mode), (Mode::Enforce, Mode::Observe));
    assert_eq!((a.on.law, a.on.unread), (Action::Log, Action::Allow));
    assert_eq!((b.on.law, b.on.unread), (Action::Log, Action::Block));
    assert_eq!(a.permit, config.policy.permit);
    assert_eq!(b.permit_law, config.policy.permit_law);
    assert_eq!(a.until.unwrap().0, at("2027-01-01T00:00:00Z"));
    assert_eq!(b.clients[0].to_string(), "10.41.0.0/16");
}

#[test]
fn a_rule_has_a_name_an_action_and_a_condition() {
    let found = faults("[[rule]]\nreason = 'x'");
    let what: Vec<_> = found.iter().map(|fault| fault.split('\n').next().unwrap()).collect();
    assert_eq!(
        what,
        [
            "4:1: rule.name: missing",
            "4:1: rule.action: missing",
            "4:1: rule: a rule without a condition"
        ]
    );
    one_fault(
        "[[rule]]\nname = 'a'\naction = 'block'\nport = [1]\n\
         [[rule]]\nname = 'a'\naction = 'block'\nport = [2]",
        "9:8: rule.name: the name \"a\" was given in line 5 already",
        "of its own",
    );
}

#[track_caller]
fn condition_fault(condition: &str, fault: &str, help: &str) {
    let tail = format!("[[rule]]\nname = 'a'\naction = 'block'\n{condition}");
    one_fault(&tail, &format!("7:{fault}"), help);
}

#[test]
fn each_condition_names_its_faults() {
    condition_fault("from = ['b']", "9: rule.from: no group is called \"b\"", "[[group]]");
    condition_fault(
        "from = ['10.0.0.1/8']",
        "9: rule.from: \"10.0.0.1/8\" has bits set behind its length",
        "\"10.0.0.0/8\"",
    );
    condition_fault(
        "to = ['192.0.2.1']",
        "7: rule.to: \"192.0.2.1\" is an address, not a prefix",
        "\"192.0.2.1/32\"",
    );
    condition_fault("to = ['x']", "7: rule.to: \"x\" is not a prefix", "192.0.2.0/24");
    condition_fault("port = [0]", "9: rule.port: 0 is out of bounds", "from 1 to 65535");
    condition_fault("port = [65536]", "9: rule.port: 65536 is out of bounds", "from 1 to 65535");
    condition_fault("port = [-1]", "9: rule.port: -1 is out of bounds", "from 1 to 65535");
    condition_fault("port = ['9-1']", "9: rule.port: \"9-1\" is not a range of ports", "\"1-9\"");
    condition_fault("asn = [0]", "8: rule.asn: 0 is out of bounds", "from 1");
    condition_fault(
        "asn = ['AS1']",
        "8: rule.asn: a string stands where a number is wanted",
        "whole number",
    );
    condition_fault("asn = [4294967296]", "8: rule.asn: 4294967296 is out of bounds", "4294967295");
    condition_fault(
        "transport = ['sctp']",
        "14: rule.transport: \"sctp\" is none of the values",
        "\"tcp\" or \"udp\"",
    );
    condition_fault(
        "protocol = ['dtls']",
        "13: rule.protocol: \"dtls\" is none of the values",
        "\"other\"",
    );
    condition_fault(
        "operator = ['amazn']",
        "13: rule.operator: nobody knows the operator \"amazn\"",
        "\"amazon\"",
    );
    condition_fault(
        "operator = ['nobody-at-all']",
        "13: rule.operator: nobody knows the operator \"nobody-at-all\"",
        "[[operator]]",
    );
    condition_fault(
        "region = ['eu-west-3']",
        "11: rule.region: \"eu-west-3\" names no provider and region",
        "aws:eu-west-3",
    );
}

#[test]
fn hosts_are_patterns_of_names() {
    condition_fault(
        "host = ['192.0.2.1']",
        "9: rule.host: \"192.0.2.1\" is an address, not a name",
        "use `to`",
    );
    for star in ["*", "a.*.example", "a*.example"] {
        condition_fault(
            &format!("host = ['{star}']"),
            &format!("9: rule.host: in {star:?}, \"*\" is not a whole first label"),
            "*.example.eu",
        );
    }
    condition_fault(
        "host = ['xn--a.example']",
        "9: rule.host: \"xn--a.example\" has a label that stands for no name",
        "decode",
    );
    condition_fault(
        "host = ['a..example']",
        "9: rule.host: \"a..example\" is not a host name: the name has an empty label",
        "example.eu",
    );
}

#[test]
fn dates_need_a_day_and_a_time_needs_an_offset() {
    condition_fault(
        "until = 2026-12-31T10:00:00",
        "9: rule.until: a date-time without its offset means another instant in every country",
        "2026-12-31T10:00:00Z",
    );
    condition_fault("since = 10:00:00", "9: rule.since: a time of day without its date", "day");
    condition_fault("since = 'soon'", "9: rule.since: \"soon\" is not a date", "2026-12-31");
    condition_fault(
        "until = 2026",
        "9: rule.until: an integer stands where a date is wanted",
        "2026-12-31",
    );
    let rule = |dates: &str| {
        let tail = format!("[[rule]]\nname = 'a'\naction = 'block'\n{dates}");
        sound(&tail).rules.remove(0)
    };
    for quoted in ["", "'"] {
        let rule = rule(&format!(
            "since = {quoted}2026-12-30{quoted}\nuntil = {quoted}2026-12-31{quoted}"
        ));
        assert_eq!(rule.since, Some(at("2026-12-30T00:00:00Z")));
        assert_eq!(rule.until.unwrap().0, at("2027-01-01T00:00:00Z"));
    }
    let exact = rule("until = 2026-11-24T14:00:00+02:00");
    assert_eq!(exact.until.unwrap().0, at("2026-11-24T12:00:00Z"));
}

#[test]
fn an_unknown_region_is_handed_on_for_the_loaded_tables_to_know() {
    let loaded = read(
        "[[rule]]\nname = 'a'\naction = 'allow'\nbasis = 'x'\n\
         region = ['aws:eu-west-3', 'aws:eu-wst-3', 'own:dc-1']",
    )
    .unwrap();
    let unknown: Vec<_> = loaded.unknown_regions.iter().map(|u| u.region.as_str()).collect();
    assert_eq!(unknown, ["aws:eu-wst-3", "own:dc-1"]);
    assert_eq!(
        loaded.unknown_regions[0].fault.to_string(),
        "<policy>:8:28: rule.region: nobody knows the region \"aws:eu-wst-3\"\n  \
         help: did you mean \"aws:eu-west-3\"?"
    );
}

#[test]
fn operators_own_what_they_name_alone() {
    one_fault(
        "[[operator]]\nname = 'a'\nhomes = ['FR']",
        "4:1: operator: an operator without host, prefix or asn is nobody's",
        "prefix",
    );
    one_fault("[[operator]]\nname = 'a'\nasn = [1]", "4:1: operator.homes: missing", "homes");
    one_fault(
        "[[operator]]\nname = 'A b'\nhomes = ['FR']\nasn = [1]",
        "5:8: operator.name: \"A b\" is not an operator id",
        "lower-case",
    );
    one_fault(
        "[[operator]]\nname = 'a'\nhomes = ['eu']\nasn = [1]",
        "6:10: operator.homes: \"eu\" is a zone; here, each country is named",
        "\"FR\"",
    );
    let first = "[[operator]]\nname = 'a'\nhomes = ['FR']\nasn = [1]\nhost = ['x.example']\n\
                 prefix = ['10.0.0.0/8']\n[[operator]]\nname = 'b'\nhomes = ['FR']\n";
    for (same, fault) in [
        ("asn = [2, 1]", "13:11: operator.asn: 1 is in a already"),
        ("host = ['X.example.']", "13:9: operator.host: x.example is in a already"),
        ("prefix = ['10.0.0.0/8']", "13:11: operator.prefix: 10.0.0.0/8 is in a already"),
    ] {
        one_fault(&format!("{first}{same}"), fault, "one of the two");
    }
    sound(&format!("{first}host = ['*.x.example']\nprefix = ['10.0.0.0/9']"));
}

#[test]
fn a_place_says_one_thing_of_each_prefix() {
    let either = "a place is either at a location or anycast";
    for tail in ["", "\nanycast = false", "\nanycast = true\nlocation = ['FR']"] {
        let tail = format!("[[place]]\nto = ['192.0.2.0/24']{tail}");
        one_fault(&tail, &format!("4:1: place: {either}"), "anycast = true");
    }
    one_fault("[[place]]\nanycast = true", "4:1: place.to: missing", "to =");
    one_fault(
        "[[place]]\nto = ['192.0.2.0/24']\nanycast = true\n\
         [[place]]\nto = ['192.0.2.0/24']\nlocation = ['FR']",
        "8:7: place.to: 192.0.2.0/24 is in the [[place]] of line 4 already",
        "one of the two",
    );
    let config = sound("[[place]]\nto = ['192.0.2.0/24']\nanycast = true");
    assert_eq!(config.places[0].location, PlaceLocation::Anycast);
}

#[test]
fn udp_is_taken_beside_a_transparent_listener_and_nowhere_else() {
    let at = |mode: &str, more: &str| {
        let text = format!("[[listen]]\nmode = '{mode}'\naddress = '[::]:15001'\n{more}");
        sound(&text).listen[0].udp.map(|at| at.to_string())
    };
    assert_eq!(at("tproxy", "").as_deref(), Some("[::]:15001"));
    assert_eq!(at("tproxy", "udp = true").as_deref(), Some("[::]:15001"));
    assert_eq!(at("tproxy", "udp = '[::]:443'").as_deref(), Some("[::]:443"));
    assert_eq!(at("tproxy", "udp = false"), None);
    assert_eq!((at("redirect", ""), at("proxy", "udp = false")), (None, None));
    let listen = "[[listen]]\nmode = 'redirect'\naddress = '[::]:15001'\n";
    one_fault(
        &format!("{listen}udp = true"),
        "7:7: listen.udp: mode \"redirect\" takes no UDP",
        "tproxy",
    );
    let tproxy = "[[listen]]\nmode = 'tproxy'\naddress = '[::]:15001'\n";
    one_fault(
        &format!("{tproxy}udp = 3"),
        "7:7: listen.udp: an integer stands where a boolean or an address is wanted",
        "write true, false",
    );
    one_fault(
        &format!("{tproxy}udp = 'x'"),
        "7:7: listen.udp: \"x\" is not an address with a port",
        "address",
    );
    let second = tproxy.replace("15001", "15002");
    one_fault(
        &format!("{tproxy}{second}udp = '[::]:15001'"),
        "10:7: listen.udp: [::]:15001 is the UDP address of another [[listen]] already",
        "udp = false",
    );
}

#[test]
fn listeners_have_a_mode_and_an_address_of_their_own() {
    let listen = "[[listen]]\nmode = 'proxy'\naddress = '127.0.0.1:3128'\n";
    one_fault("[[listen]]\nmode = 'proxy'", "4:1: listen.address: missing", "address");
    one_fault("[[listen]]\naddress = '[::]:1'", "4:1: listen.mode: missing", "tproxy");
    one_fault(
        "[[listen]]\nmode = 'proxy'\naddress = 'localhost'",
        "6:11: listen.address: \"localhost\" is not an address with a port",
        "127.0.0.1:3128",
    );
    one_fault(
        &format!("{listen}{listen}"),
        "9:11: listen.address: 127.0.0.1:3128 is the address of another [[listen]] already",
        "its own",
    );
    one_fault(
        &format!("{listen}[admin]\naddress = '127.0.0.1:3128'"),
        "6:11: listen.address: 127.0.0.1:3128 is the address of [admin] already",
        "its own",
    );
    for bad in ["49ms", "61s"] {
        one_fault(
            &format!("{listen}peek_timeout = '{bad}'"),
            &format!("7:16: listen.peek_timeout: {bad:?} is out of bounds"),
            "50ms to 60s",
        );
    }
    one_fault(
        &format!("{listen}max_connections = 0"),
        "7:19: listen.max_connections: 0 is out of bounds",
        "from 1",
    );
    one_fault(
        &format!("{listen}max_connections_per_client = -1"),
        "7:30: listen.max_connections_per_client: -1 is out of bounds",
        "from 0",
    );
    one_fault(
        &format!("{listen}max_connections = 10\nmax_connections_per_client = 11"),
        "8:30: listen.max_connections_per_client: 11 is more than max_connections, which is 10",
        "write fewer, or 0",
    );
    let limits = "max_connections = 10\nmax_connections_per_client = 10\n";
    let most = |more: &str| sound(&format!("{listen}{more}")).listen[0].max_connections_per_client;
    assert_eq!((most(limits), most("")), (Some(10), None));
    assert_eq!(most("max_connections_per_client = 0\n"), Some(0), "no limit of its own");
    let config = sound(&format!("{listen}peek_timeout = '50ms'\nsilent = true\n"));
    assert_eq!(config.listen[0].peek_timeout, Duration::from_millis(50));
    assert!(config.listen[0].silent && config.listen[0].mode == ListenMode::Proxy);
}

#[test]
fn host_files_are_read_beside_the_policy_and_joined_to_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let rule = "[[rule]]\nname = 'a'\naction = 'block'\nhost = ['a.example']\n";
    fs::write(dir.path().join("one"), "\u{feff}# one\r\na.example\r\n*.b.example # b\r\n").unwrap();
    fs::write(dir.path().join("two"), "c.example").unwrap();
    fs::write(dir.path().join("bad"), "ok.example\n  *.*.example\n192.0.2.1\n").unwrap();
    fs::write(dir.path().join("none"), "# nothing\n").unwrap();
    let read = |key: &str| {
        fs::write(&path, format!("{HEAD}{rule}{key}")).unwrap();
        load(Some(&path))
    };
    let hosts = read("host_file = ['one', 'two']").unwrap().config.rules[0].host.clone().unwrap();
    let names: Vec<_> = hosts.iter().map(|host| (host.name, host.below)).collect();
    // `host` first; a name that is in both is kept twice, and means no more.
    let a = ("a.example", false);
    assert_eq!(names, [a, a, ("b.example", true), ("c.example", false)]);

    let found = read("host_file = 'bad'").unwrap_err().to_string();
    let file = dir.path().join("bad");
    let expected = format!("{0}:2:3: in \"*.*.example\"", file.display());
    assert!(found.starts_with(&expected), "{found}");
    assert!(found.contains(&format!("{}:3:1: \"192.0.2.1\" is an address", file.display())));

    for (key, fault) in [
        ("host_file = 'none'", "holds no name"),
        ("host_file = 'gone'", "cannot be read"),
        ("host_file = '.'", "is not a regular file"),
    ] {
        let found = read(key).unwrap_err().to_string();
        assert!(
            found.starts_with(&format!("{}:8:13: rule.host_file: ", path.display())),
            "{found}"
        );
        assert!(found.contains(fault), "{found}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let found = load(Some(&path)).unwrap_err().to_string();
    assert!(found.starts_with(&format!("{}: cannot be read", path.display())), "{found}");
    fs::write(&path, b"schema = 1\n# \xff\n").unwrap();
    let found = load(Some(&path)).unwrap_err().to_string();
    assert!(
        found.starts_with(&format!("{}:2:3: the file is not UTF-8", path.display())),
        "{found}"
    );
}

#[test]
fn data_paths_are_relative_to_the_policy_file() {
    let text = format!("{HEAD}[data]\ncountry = ['t/a.csv', 'embedded']\nmax_age = '45d'");
    let config = parse(&text, Some(Path::new("/etc/schengate/p.toml"))).unwrap().config;
    let file = Source::File("/etc/schengate/t/a.csv".into());
    assert_eq!(config.data.country, [file, Source::Embedded]);
    assert_eq!(config.data.asn, [Source::Embedded]);
    assert_eq!(config.data.max_age, Some(Duration::from_secs(45 * 86_400)));
}

#[test]
fn without_a_file_the_written_default_holds_and_it_is_that_of_the_code() {
    let config = load(None).unwrap().config;
    assert_eq!((config.policy.mode, config.path.clone()), (Mode::Observe, None));
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:3128");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9643");
    assert_eq!(config.names.binding, Binding::Verify);
    // A file that says no more than it must gets, key by key, what default.toml writes out.
    let short = "schema = 1\n[policy]\nmode = 'observe'\npermit = ['eea', 'gdpr-adequacy']";
    let mut short = parse(short, None).unwrap().config;
    short.lines = config.lines;
    assert_eq!(format!("{short:?}"), format!("{config:?}"));
}

#[test]
fn the_example_is_sound_and_says_nothing_to_warn_of() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml");
    let text = fs::read_to_string(&path).unwrap();
    let loaded = parse_at(&text, Some(&path), at("2026-11-24T12:00:00Z"))
        .unwrap_or_else(|faults| panic!("{faults}"));
    let lints: Vec<_> = loaded.lints.iter().map(ToString::to_string).collect();
    assert!(lints.is_empty(), "{lints:#?}");
    assert!(loaded.unknown_regions.is_empty());
    let config = loaded.config;
    assert_eq!(config.rules[0].from, Some(vec![From::Group(1)]));
    assert!(!config.rules[0].is_waiver() && config.rules[1].is_waiver());
    assert_eq!(config.operators[0].technology[0].code(), "US");
}

#[test]
fn every_scenario_loads_without_a_fault() {
    let scenarios = shared().join("scenarios");
    let Ok(drawn) = fs::read_dir(scenarios.join("drawn")) else {
        eprintln!("LEFT OUT: every_scenario_loads_without_a_fault: no {}", scenarios.display());
        return;
    };
    let mut files: Vec<PathBuf> =
        ["bank", "hospital", "ministry"].map(|s| scenarios.join(s).with_extension("toml")).into();
    let drawn = drawn.map(|entry| entry.unwrap().path());
    files.extend(drawn.filter(|path| path.is_dir()).map(|path| path.join("policy.toml")));
    assert!(files.len() > 3, "no drawn scenarios");
    for file in &files {
        let loaded = load(Some(file)).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(loaded.unknown_regions.is_empty(), "{}", file.display());
    }
}

#[test]
fn two_faults_never_share_a_place_and_a_text() {
    let text = "schema = 9\n[policy]\nmode = 3\n[[rule]]\n[[rule]]\n[[group]]\n[[place]]\n\
                [[operator]]\n[[listen]]\n[admin]\nx = 1\n[data]\ncountry = 3\n";
    let faults = parse(text, None).unwrap_err().0;
    let distinct: BTreeSet<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), faults.len());
    assert!(faults.len() >= 15, "{}", faults.len());
}

/// Pieces of policy files, to be put together at random.
const PIECES: [&str; 40] = [
    "schema = 1\n",
    "[policy]\n",
    "permit = ",
    "['eea']\n",
    "[]\n",
    "[[rule]]\n",
    "name = ",
    "'a'\n",
    "action = 'allow'\n",
    "host = ",
    "['*.é.example']\n",
    "[[group]]\n",
    "clients = ",
    "['::ffff:0:0/90']\n",
    "until = ",
    "9999-12-31\n",
    "2026-12-31T23:59:60-23:59\n",
    "[zones]\n",
    "a = ",
    "['b', '-*', 'QQ']\n",
    "b = ",
    "['a']\n",
    "[[operator]]\n",
    "asn = ",
    "[0xffffffff]\n",
    "-0\n",
    "1e400\n",
    "port = ",
    "['65535-65535', 70000]\n",
    "[[place]]\n",
    "to = ",
    "['0.0.0.0/0']\n",
    "[data]\n",
    "max_age = ",
    "'99999999999d'\n",
    "[[listen]]\n",
    "address = ",
    "'[::%1]:0'\n",
    "{ é = 1 }\n",
    "\u{feff}",
];

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(faults) = parse(&text, None) {
            prop_assert!(!faults.to_string().is_empty());
        }
    }

    #[test]
    fn no_text_of_pieces_panics_and_every_refusal_has_a_fault(
        picks in proptest::collection::vec(0..PIECES.len(), 0..40),
    ) {
        let text: String = picks.into_iter().map(|i| PIECES[i]).collect();
        if let Err(faults) = parse(&text, None) {
            prop_assert!(!faults.0.is_empty());
            prop_assert!(!faults.to_string().contains("report this file"), "{text}\n{faults}");
        }
    }

    #[test]
    fn one_changed_byte_of_the_example_never_panics(at in 0_usize..4_000, byte in 0_u8..128) {
        let text = include_str!("../../config/example.toml");
        let mut bytes = text.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes)
            && let Err(faults) = parse(&text, None)
        {
            prop_assert!(!faults.to_string().contains("report this file"), "{faults}");
        }
    }
}

fn schengate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_schengate"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_check_of_the_capture_that_looks_at_nothing_is_no_answer() {
    let (status, out, told) = schengate(&["capture", "check"]);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(told.contains("no [[listen]] is captured for; name the policy"), "{told}");
    assert!(told.contains("--config FILE"), "{told}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, HEAD).unwrap();
    let (status, _, told) = schengate(&["capture", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(status, Some(2));
    assert!(told.contains("no [[listen]] is captured for; a captured one has mode"), "{told}");
}

#[test]
fn an_answer_by_the_built_in_policy_says_so() {
    let note = "note: no --config: the built-in policy, which only observes\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, HEAD).unwrap();
    let commands: [&[&str]; 5] = [
        &["explain", "--to", "192.0.2.1", "--json"],
        &["check", "--json"],
        &["capture", "print"],
        &["data", "verify", "--json"],
        &["data", "update", "--dry-run"],
    ];
    for command in commands {
        let (_, out, told) = schengate(command);
        assert!(told.starts_with(note) && !out.contains("note:"), "{command:?}: {told}");
    }
    let named = ["explain", "--to", "192.0.2.1", "--config", file.to_str().unwrap()];
    assert_eq!(schengate(&named).2, "");
}

#[test]
fn a_fault_of_a_table_is_told_in_the_form_of_a_fault_of_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(
        path("p.toml"),
        format!("{HEAD}[data]\ncountry = ['embeded', 'none.csv']\nasn = ['none.csv']\n"),
    )
    .unwrap();
    fs::write(path("q.toml"), "schema = 1\n[policy]\npermit = ['eae']\n").unwrap();
    let told = |policy: &str| {
        let (status, out, _) = schengate(&["check", "--json", "--config", &path(policy)]);
        assert_eq!(status, Some(1), "{out}");
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        answer["faults"].as_array().unwrap().clone()
    };
    // A table that is named twice has its fault once.
    let tables = told("p.toml");
    let policy = told("q.toml");
    assert_eq!((tables.len(), policy.len()), (2, 1), "{tables:?} {policy:?}");
    for fault in tables.iter().chain(&policy) {
        let keys: BTreeSet<_> = fault.as_object().unwrap().keys().map(String::as_str).collect();
        let all = ["column", "file", "help", "key", "line", "what"];
        assert_eq!(keys, all.into_iter().collect::<BTreeSet<_>>());
    }
    assert_eq!(tables[0]["key"], "data.country");
    assert_eq!(tables[0]["help"], "did you mean \"embedded\" in data.country?");
    assert!(tables[1]["help"].as_str().unwrap().starts_with("mend the file"));
    assert_eq!((&policy[0]["line"], &policy[0]["key"]), (&3.into(), &"policy.permit".into()));
    let (_, _, text) = schengate(&["check", "--config", &path("p.toml")]);
    assert!(
        text.starts_with("data.country: ") && text.contains("\n  help: did you mean"),
        "{text}"
    );
}

#[test]
fn a_day_is_told_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let rule = "[[rule]]\nname = 'a'\nto = ['192.0.2.1/32']\naction = 'allow'\nreason = 'x'\n";
    let explain = |end: &str, at: &str| {
        fs::write(&file, format!("{HEAD}{rule}{end}")).unwrap();
        let file = file.to_str().unwrap();
        schengate(&["explain", "--to", "192.0.2.1", "--config", file, "--at", at])
    };
    let (status, out, told) = explain("until = 2027-01-01", "2027-01-01");
    assert_eq!(status, Some(0), "{told}");
    assert!(out.contains("; holds through 2027-01-01 (UTC)"), "{out}");
    let (status, out, told) = explain("until = 9999-12-31", "9999-12-31");
    assert_eq!(status, Some(0), "{told}");
    assert!(out.contains("; holds through 9999-12-31 (UTC)"), "{out}");
}

#[test]
fn a_country_by_another_name_is_answered_with_its_code() {
    let no = |text: &str| format!("4:15: policy.permit_law: {text:?} is not a code of two letters");
    for (text, code) in [("DEU", "DE"), ("usa", "US"), ("GBR", "GB"), ("Germany", "DE")] {
        let help = format!("write {code:?}");
        one_fault(&format!("permit_law = ['{text}']"), &no(text), &help);
    }
    let what = "4:15: policy.permit_law: no zone is called \"ea\"; a country code is in upper case";
    one_fault("permit_law = ['ea']", what, "did you mean the zone \"eea\"?");
    let operator = "[[operator]]\nname = 'x'\nasn = [64500]\nevidence = 'x'\nas_of = 2026-01-05\n";
    let told = faults(&format!("{operator}homes = ['xyzzy']"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("\"xyzzy\" is not a country\n  help: write an ISO 3166-1 code"),
        "{told:?}"
    );
}

#[test]
fn unread_has_no_allow() {
    let what = "5:10: policy.on.unread: \"allow\" is none of the values";
    one_fault("[policy.on]\nunread = 'allow'", what, "write \"judge\"");
}

#[test]
fn commands_say_what_to_write_instead() {
    let (status, _, told) = schengate(&["zones", "show", "eae"]);
    assert_eq!(status, Some(2));
    assert!(told.contains("did you mean \"eea\"?"), "{told}");
    let (status, _, told) = schengate(&["inspect", "/nowhere.pcap"]);
    assert_eq!(status, Some(2));
    assert!(told.contains("cannot read /nowhere.pcap: No such file"), "{told}");
    let (_, _, told) = schengate(&["check", "--config", "/nowhere.toml"]);
    assert!(told.starts_with("/nowhere.toml: cannot be read: No such file"), "{told}");
    let explain = |host: &str| schengate(&["explain", "--to", "192.0.2.1", "--host", host]);
    assert!(explain("example.eu:443").2.contains("write the name alone"));
    assert!(explain("münchen.de").1.contains("xn--mnchen-3ya.de"));
}

#[test]
fn a_taken_port_is_told_as_an_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let policy = format!(
        "{HEAD}[admin]\naddress = '127.0.0.1:0'\n[[listen]]\nmode = 'proxy'\naddress = '{at}'\n"
    );
    fs::write(&file, policy).unwrap();
    let (status, _, told) = schengate(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(status, Some(2));
    assert!(told.contains(&format!("schengate: listener {at}: Address already in use")), "{told}");
}

#[test]
fn a_lane_is_read_and_what_it_cannot_have_is_said() {
    let tproxy = "[[listen]]\nmode = 'tproxy'\naddress = '[::]:15001'\n";
    let lane = |more: &str| format!("{tproxy}[[listen]]\nmode = 'lane'\n{more}");
    assert!(sound(tproxy).lane.is_none());
    let config = sound(&lane(""));
    assert_eq!((config.listen.len(), config.lane), (1, Some(Lane::DEFAULT)));
    let more = "queues = '7-9'\ninterface = ['lan0', 'br0.7']\non_death = 'carry'\nlifetime = '1h'\n\
                max_connections = 10\nmax_connections_per_client = 5\n";
    let read = sound(&lane(more)).lane.unwrap();
    assert_eq!((read.queues, read.on_death), (7..=9, OnDeath::Carry));
    assert_eq!(read.interfaces, ["lan0", "br0.7"]);
    assert_eq!(read.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!((read.max_connections, read.max_connections_per_client), (10, Some(5)));
    assert_eq!(sound(&lane("queues = '7'")).lane.unwrap().queues, 7..=7);
    for queues in ["", "9-7", "0-256", "70000", "a", "1-2-3", "-1"] {
        let found = faults(&lane(&format!("queues = '{queues}'")));
        assert!(found.len() == 1 && found[0].contains("256 queues"), "{queues}: {found:?}");
    }
    for (more, said) in [
        ("address = '[::]:15002'", "a lane has no such key"),
        ("peek_timeout = '1s'", "a lane has no such key"),
        ("keep_source = true", "a lane has no such key"),
        ("interface = []", "interface"),
        ("interface = ['']", "the text is empty"),
        ("on_death = 'live'", "none of the values"),
        ("[[listen]]\nmode = 'lane'", "another [[listen]] with mode = \"lane\""),
        ("[capture]\nshortcut = 'permitted'", "a short cut beside a [[listen]]"),
    ] {
        let found = faults(&lane(more));
        assert!(found.len() == 1 && found[0].contains(said), "{more}: {found:?}");
    }
    let alone = faults("[[listen]]\nmode = 'lane'\n");
    assert!(
        alone.len() == 1 && alone[0].contains("no listener with mode = \"tproxy\""),
        "{alone:?}"
    );
    let misplaced = faults(&format!("{tproxy}on_death = 'carry'\n"));
    assert!(misplaced.len() == 1 && misplaced[0].contains("only a lane"), "{misplaced:?}");
}
