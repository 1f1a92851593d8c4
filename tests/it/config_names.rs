//! `[names] resolvers` and `remember`: what is read, and each fault with its place.

use std::time::Duration;

use schengate::control::config::{Names, parse};

const HEAD: &str = "schema = 1\n[policy]\npermit = ['FR']\n[names]\n";

fn names(text: &str) -> Result<Names, Vec<String>> {
    let read = parse(&format!("{HEAD}{text}"), None);
    read.map(|loaded| loaded.config.names)
        .map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn one_fault(text: &str, parts: [&str; 2]) {
    let faults = names(text).expect_err(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    for part in parts {
        assert!(faults[0].contains(part), "{text}: {}", faults[0]);
    }
}

#[test]
fn resolvers_and_their_memory_are_read() {
    let read =
        names("resolvers = ['192.0.2.53:53', '[2001:db8::53]:5353']\nremember = '1h'").unwrap();
    let resolvers: Vec<_> = read.resolvers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
    assert_eq!(read.remember, Duration::from_secs(3600));
    let tls = names("resolvers = ['tls://192.0.2.53:853#DNS.example']").unwrap();
    assert_eq!(tls.resolvers[0].to_string(), "tls://192.0.2.53:853#dns.example");
    let default = names("binding = 'redial'").unwrap();
    assert_eq!((default.resolvers.len(), default.remember), (0, Duration::from_secs(600)));
    assert_eq!(names("remember = '0s'").unwrap().remember, Duration::ZERO);
}

#[test]
fn a_resolver_that_cannot_be_asked_is_a_fault_with_its_place() {
    one_fault("resolvers = []", ["5:13: names.resolvers: the list is empty", "leave the key out"]);
    one_fault("resolvers = ['192.0.2.53']", ["5:14: names.resolvers", "192.0.2.53:53"]);
    one_fault("resolvers = ['https://192.0.2.53:443']", ["UDP, TCP or TLS", "write address, port"]);
    one_fault("resolvers = ['tls://192.0.2.53:853']", ["whose certificate", "#dns.example"]);
    one_fault("resolvers = ['dns.example:53']", ["not an address with a port", "192.0.2.53:53"]);
    one_fault("resolvers = ['0.0.0.0:53']", ["nobody answers", "names.resolvers"]);
    let twice = "resolvers = ['192.0.2.53:53', '192.0.2.53:53']";
    one_fault(twice, ["5:31: names.resolvers: 192.0.2.53:53 stands here twice", "write it once"]);
    one_fault("remember = '2d'", ["names.remember", "out of bounds"]);
    one_fault("resolver = ['192.0.2.53:53']", ["names.resolver: unknown key", "`resolvers`"]);
}

#[test]
fn how_many_names_may_be_asked_about_and_which_types() {
    let limit = |text: &str| {
        let limit = names(text).unwrap().limit;
        (limit.in_all, limit.below_parent)
    };
    assert_eq!(limit("binding = 'verify'"), (6_000, 300));
    assert_eq!(limit("new_names = 20\nnew_names_per_domain = 7"), (20, 7));
    one_fault("new_names = 0", ["names.new_names", "0"]);
    let dns = |types: &str| {
        let resolvers = "resolvers = ['192.0.2.53:53']\n[dns]\nlisten = '192.0.2.1:53'";
        format!("{resolvers}\n{types}")
    };
    let types = |text: &str| {
        let read = parse(&format!("{HEAD}{}", dns(text)), None).unwrap();
        read.config.dns.unwrap().types
    };
    assert_eq!(types(""), [1, 2, 5, 6, 12, 15, 28, 33, 64, 65]);
    assert_eq!(types("types = ['TXT', 'a', 'TYPE65400', 'A']"), [1, 16, 65400]);
    one_fault(&dns("types = ['TEXT']"), ["not a type of record", "TYPE16"]);
    one_fault(&dns("types = ['AXFR']"), ["dns.types", "never forwarded"]);
    one_fault(&dns("types = []"), ["dns.types", "empty"]);
}
