//! The world's name server: answers as it should for some names, and badly for others.

use std::net::{IpAddr, Ipv4Addr};

use super::{GATEWAY, PERMITTED, REFUSED};

/// What was asked, and how often.
#[derive(Default)]
pub(crate) struct NameServer {
    /// Every name that was asked about, in order.
    pub(crate) asked: Vec<String>,
    turns: usize,
    /// Names and types whose first question was lost.
    lost: std::collections::HashSet<(String, u8)>,
}

/// What a name answers with.
enum Answer {
    /// Addresses, behind a chain of aliases.
    Found { aliases: Vec<String>, addresses: Vec<IpAddr>, ttl: u8 },
    /// A response code (RFC 1035 §4.1.1).
    Code(u8),
    /// Cut short: ask again over TCP, where nobody listens.
    Truncated,
    /// The answer to another question.
    OtherId(Vec<IpAddr>),
    /// Nothing at all.
    Silence,
    /// An HTTPS record (RFC 9460) with hints and keys.
    Service,
}

fn found(addresses: &[&str]) -> Answer {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Answer::Found { aliases: Vec::new(), addresses, ttl: 60 }
}

impl NameServer {
    /// The reply to a query, where there is one (RFC 1035 §4.1).
    pub(crate) fn reply(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut labels = Vec::new();
        while *query.get(at)? != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_lowercase());
            at = end;
        }
        let (question, kind) = (query.get(12..at + 5)?, query[at + 2]);
        let name = labels.join(".");
        let answer = self.answer(&name, kind);
        let name_is_service = matches!(answer, Answer::Service);
        self.asked.push(name);
        let mut id = [query[0], query[1]];
        let (aliases, addresses, ttl, code, cut) = match answer {
            Answer::Found { aliases, addresses, ttl } => (aliases, addresses, ttl, 0, false),
            Answer::Code(code) => (Vec::new(), Vec::new(), 0, code, false),
            Answer::Truncated => (Vec::new(), Vec::new(), 0, 0, true),
            Answer::OtherId(addresses) => {
                id[1] ^= 0x55;
                (Vec::new(), addresses, 60, 0, false)
            }
            Answer::Silence => return None,
            Answer::Service => (Vec::new(), Vec::new(), 60, 0, false),
        };
        let mut records = Vec::new();
        if name_is_service && kind == 65 {
            records.push(record(&[0xc0, 12], 65, 60, &service()));
        }
        let mut owner = vec![0xc0, 12];
        for alias in &aliases {
            records.push(record(&owner, 5, ttl, &wire(alias)));
            owner = wire(alias);
        }
        for address in addresses {
            match (address, kind) {
                (IpAddr::V4(ip), 1) => records.push(record(&owner, 1, ttl, &ip.octets())),
                (IpAddr::V6(ip), 28) => records.push(record(&owner, 28, ttl, &ip.octets())),
                _ => {}
            }
        }
        let flags = [0x81 | u8::from(cut) << 1, 0x80 | code];
        let count = u8::try_from(records.len()).ok()?;
        let header = [&id[..], &flags, &[0, 1, 0, count, 0, 0, 0, 0]].concat();
        Some([header, question.to_vec(), records.concat()].concat())
    }

    fn answer(&mut self, name: &str, kind: u8) -> Answer {
        let [p4, p6] = PERMITTED;
        let [r4, r6] = REFUSED;
        match name {
            "permitted.example" => found(&[p4, p6]),
            "refused.example" | "allowed.example" | "a.permitted.example" => found(&[r4, r6]),
            "moved.example" | "foreign.example" => found(&[p4]),
            // Another address each time that it is asked, and never to be kept.
            "rebind.example" => {
                self.turns += 1;
                let address = if self.turns <= 2 { p4 } else { r4 };
                let addresses = vec![address.parse().unwrap()];
                Answer::Found { aliases: Vec::new(), addresses, ttl: 0 }
            }
            // One address when it is asked about first, another one from then on.
            "turn.example" => {
                self.turns += usize::from(kind == 1);
                let address = if self.turns <= 1 { r4 } else { p4 };
                let addresses = vec![address.parse().unwrap()];
                Answer::Found { aliases: Vec::new(), addresses, ttl: 0 }
            }
            // Of one family nothing is ever heard.
            "four.example" if kind == 1 => found(&[r4]),
            "six.example" if kind == 28 => found(&[r6]),
            "four.example" | "six.example" => Answer::Silence,
            "lost.example" => {
                if self.lost.insert((name.to_owned(), kind)) {
                    return Answer::Silence;
                }
                found(&[p4, p6])
            }
            // More addresses than once were remembered, and the one that counts behind them.
            "many.example" => {
                let others = (100..168).map(|last| IpAddr::from(Ipv4Addr::new(203, 0, 113, last)));
                let addresses = others.chain([r4.parse().unwrap()]).collect();
                Answer::Found { aliases: Vec::new(), addresses, ttl: 60 }
            }
            "mixed.example" => {
                let many = (10..30).map(|last| IpAddr::from(Ipv4Addr::new(203, 0, 113, last)));
                let addresses = [r4, r6, p4].map(|ip| ip.parse().unwrap());
                let addresses = addresses.into_iter().chain(many).collect();
                Answer::Found { aliases: Vec::new(), addresses, ttl: 60 }
            }
            "chain.example" => Answer::Found {
                aliases: vec!["link.permitted.example".into(), "refused.example".into()],
                addresses: vec![r4.parse().unwrap()],
                ttl: 60,
            },
            "long.example" => Answer::Found {
                aliases: (1..=17).map(|nth| format!("l{nth}.example")).collect(),
                addresses: vec![r4.parse().unwrap()],
                ttl: 60,
            },
            "loop.example" | "pool.example" => Answer::Found {
                aliases: vec![
                    if name == "loop.example" { "pool" } else { "loop" }.to_owned() + ".example",
                ],
                addresses: Vec::new(),
                ttl: 60,
            },
            "meta.example" => found(&["169.254.169.254", "fd00:ec2::254"]),
            "self.example" => found(&[GATEWAY[0], "127.0.0.1"]),
            "servfail.example" => Answer::Code(2),
            "truncated.example" => Answer::Truncated,
            "lie.example" => Answer::OtherId(vec![p4.parse().unwrap()]),
            "silent.example" => Answer::Silence,
            "service.example" => Answer::Service,
            // What a client wants to say to the owner of the domain.
            _ if name.ends_with("-leak.example") => found(&[r4, r6]),
            _ => Answer::Code(3),
        }
    }
}

/// Priority 1, the name itself, alpn = h3, two hints, a list of keys.
fn service() -> Vec<u8> {
    let hint = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().octets();
    let hints = [hint(PERMITTED[0]), hint(REFUSED[0])].concat();
    let parameters =
        [&[0, 1, 0, 3, 2, b'h', b'3'][..], &[0, 4, 0, 8], &hints, &[0, 5, 0, 4, 0, 2, 0xfe, 0x0d]];
    [&[0, 1, 0][..], &parameters.concat()].concat()
}

fn wire(name: &str) -> Vec<u8> {
    let mut wire: Vec<u8> = name
        .split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
        .collect();
    wire.push(0);
    wire
}

fn record(owner: &[u8], kind: u8, ttl: u8, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).unwrap();
    [owner, &[0, kind, 0, 1, 0, 0, 0, ttl, 0, length], data].concat()
}

#[test]
fn the_name_server_answers_the_families_it_is_asked_for() {
    let query = |kind: u8| {
        let header = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&header[..], &wire("permitted.example"), &[0, kind, 0, 1]].concat()
    };
    let mut server = NameServer::default();
    let reply = server.reply(&query(28)).unwrap();
    let address = PERMITTED[1].parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert!(reply.ends_with(&address));
    assert_eq!(server.reply(&query(16)).unwrap()[7], 0, "no such record");
    assert_eq!(server.asked.len(), 2);
}
