//! What the rows about clear-text HTTP share: the ways in, and a gateway with all of them.

use serde_json::{Value, json};

use crate::lab::role::hex;
use crate::lab::services::KEPT;
use crate::lab::{ADMIN, Gateway, Helper, Lab, NAME_SERVER, PERMITTED, REFUSED, at, places};

pub(crate) const PROXY: &str = "192.0.2.1:3128";

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tproxy,
    Redirect,
    /// Tunnels to a name, or to an address.
    Connect,
    ConnectAddress,
    Socks,
    SocksAddress,
    Http,
}

/// The ways of one gateway with an explicit listener, and a transparent one.
pub(crate) const EXPLICIT: [Way; 5] =
    [Way::Connect, Way::ConnectAddress, Way::Socks, Way::SocksAddress, Way::Http];

impl Way {
    pub(crate) const fn is_captured(self) -> bool {
        matches!(self, Self::Tproxy | Self::Redirect)
    }
}

/// A destination, a name that may be asked for there, and one that may not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub(crate) address: &'static str,
    pub(crate) fine: &'static str,
    pub(crate) refused: &'static str,
    /// Whether a flow without a name may go there.
    pub(crate) is_open: bool,
    pub(crate) port: u16,
}

/// A place that is permitted, but for one name; and one that is not, but for one name.
pub(crate) const SITES: [Site; 2] = [
    Site {
        address: PERMITTED[0],
        fine: "permitted.example",
        refused: "foreign.example",
        is_open: true,
        port: KEPT,
    },
    Site {
        address: REFUSED[0],
        fine: "allowed.example",
        refused: "refused.example",
        is_open: false,
        port: KEPT,
    },
];

pub(crate) fn policy(mode: &str, more: &str) -> String {
    format!(
        "schema = 1
[policy]
mode = \"enforce\"
permit = [\"FR\"]

[names]
binding = \"verify\"
resolvers = [\"{NAME_SERVER}:53\"]

[[rule]]
name = \"foreign\"
host = [\"foreign.example\"]
action = \"block\"

[[rule]]
name = \"allowed\"
host = [\"allowed.example\"]
action = \"allow\"
reason = \"the name decides in these tests\"

{places}[[listen]]
mode = \"{mode}\"
address = \"[::]:15001\"
peek_timeout = \"1s\"
{more}
[[listen]]
mode = \"proxy\"
address = \"{PROXY}\"
peek_timeout = \"1s\"
{more}
[admin]
address = \"{ADMIN}\"
",
        places = places(),
    )
}

pub(crate) struct Scene<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) gateway: Gateway<'lab>,
    pub(crate) world: Helper,
    pub(crate) client: Helper,
}

impl<'lab> Scene<'lab> {
    pub(crate) fn start(lab: &'lab Lab, mode: &str, more: &str) -> Self {
        Self::start_with(lab, &policy(mode, more))
    }

    pub(crate) fn start_with(lab: &'lab Lab, policy: &str) -> Self {
        let world = lab.world.helper("world");
        let gateway = lab.start_gateway(policy);
        gateway.capture();
        Self { lab, gateway, world, client: lab.client.helper("client") }
    }

    /// Every final line of the record so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.lab.record().into_iter().filter(|line| line["event"] != "open").collect()
    }

    /// Runs a shell script in the gateway's namespace.
    pub(crate) fn in_the_gateway(&self, script: &str) -> String {
        self.lab.gateway.shell(script).unwrap()
    }

    /// Says one thing after the other in one of the ways; each is said once the answer to the last has
    /// come. Gives what came at the end.
    pub(crate) fn converse(&mut self, way: Way, site: &Site, said: &[(Vec<u8>, &str)]) -> Value {
        let mut steps = opening(way, site);
        let said = said
            .iter()
            .map(|(bytes, until)| json!({"hex": hex(bytes), "until": hex(until.as_bytes())}));
        steps.extend(said);
        let to = if way.is_captured() { at(site.address, site.port) } else { PROXY.to_owned() };
        let ask = json!({"do": "converse", "to": to, "steps": steps, "patience_ms": 20_000});
        self.client.ask(&ask)
    }
}

/// What opens a tunnel, where the way in has one.
pub(crate) fn opening(way: Way, site: &Site) -> Vec<Value> {
    let port = site.port;
    let connect = |host: &str| {
        let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        vec![json!({"hex": hex(head.as_bytes()), "until": hex(b" 200 OK\r\n\r\n")})]
    };
    let socks = |destination: Vec<u8>| {
        let request = [&[5, 1, 0][..], &destination, &port.to_be_bytes()].concat();
        vec![
            json!({"hex": hex(&[5, 1, 0]), "until": hex(&[5, 0])}),
            json!({"hex": hex(&request), "until": hex(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])}),
        ]
    };
    match way {
        Way::Tproxy | Way::Redirect | Way::Http => Vec::new(),
        Way::Connect => connect(site.fine),
        Way::ConnectAddress => connect(site.address),
        Way::Socks => {
            let length = u8::try_from(site.fine.len()).unwrap();
            socks([&[3, length], site.fine.as_bytes()].concat())
        }
        Way::SocksAddress => {
            let address: std::net::Ipv4Addr = site.address.parse().unwrap();
            socks([&[1][..], &address.octets()].concat())
        }
    }
}

/// A request for `path` of `host`, as it is written in one of the ways.
pub(crate) fn request(way: Way, line: &str, host: &str, port: u16, more: &str) -> Vec<u8> {
    let (method, path) = line.split_once(' ').unwrap();
    let before = if way == Way::Http { format!("http://{host}:{port}") } else { String::new() };
    format!("{method} {before}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n").into_bytes()
}
