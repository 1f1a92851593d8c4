//! The rules of the table `inet schengate`, as `nft -f` takes them.

use std::net::{IpAddr, SocketAddr};

use super::family::Family;
use super::matches::{
    ECHO_MAX, EMPTY_TABLE, ERROR_MAX, HERE, HTTPS, ICMP, MARK, NEIGHBOUR_MAX, TCP, UDP,
};
use super::model::{Capture, Form};
use super::shortcut;
use crate::control::config::ListenMode;

/// The answer to UDP that no listener takes (docs/policy.md §4).
pub(super) const REJECT_UDP: &str =
    "meta l4proto 17 counter reject with icmpx type admin-prohibited";

/// Named counters of the gateway form, and of the host form.
const GATEWAY_COUNTERS: [&str; 3] = ["loop", "astray", "no_route"];
const HOST_COUNTERS: [&str; 9] =
    ["link", "echo", "errors", "dns", "ntp", "dhcp", "refused_udp", "refused_tcp", "refused_other"];

impl Capture {
    /// The rules of `inet schengate`, as `nft -f` takes them. Loading them replaces the table in
    /// one transaction: there is no moment without it.
    #[must_use]
    pub fn ruleset(&self) -> String {
        let (counters, chains) = match self.form {
            Form::Gateway => (&GATEWAY_COUNTERS[..], self.gateway()),
            Form::Host { exempt_uid } => (&HOST_COUNTERS[..], self.host(exempt_uid)),
        };
        let counters: String =
            counters.iter().map(|name| format!("    counter {name} {{ }}\n")).collect();
        format!("{EMPTY_TABLE}table inet schengate {{\n{counters}{}}}\n", chains.concat())
    }

    /// What enters from clients: to this machine, to a listener, or nowhere.
    fn gateway(&self) -> Vec<String> {
        let redirected = self.redirected();
        let mut rules = vec![hook("filter", "prerouting", "mangle")];
        let judged = self.forwards().then(|| format!("meta mark {:#x}", shortcut::MARK));
        rules.extend(judged.iter().map(|marked| format!("{marked} accept")));
        rules.extend(self.answers());
        rules.extend(self.elsewhere());
        if self.routed().next().is_some() {
            // Established connections, and the ICMP errors that belong to them. A SYN goes to the
            // listener: a socket that waits for stray packets (TIME-WAIT) would take it, answer
            // with an old acknowledgement, and the client begin anew.
            let mark = format!("socket transparent 1 meta mark set {MARK:#x} accept");
            rules.push(format!("meta l4proto != 6 {mark}"));
            rules.push(format!("tcp flags & (fin | syn | rst | ack) != syn {mark}"));
        }
        rules.push(format!("{HERE} return"));
        // Said at once, so that a client with another address for the name turns to it (RFC 8305);
        // in words that no client takes for a passing trouble, as ICMP "no route" is (RFC 1122
        // §3.2.2.1).
        let nowhere = "fib daddr oif missing counter name no_route reject with";
        rules.push(format!("{TCP} {nowhere} tcp reset"));
        rules.push(format!("{UDP} {nowhere} icmpx type admin-prohibited"));
        for (family, target) in Family::ALL.into_iter().zip(&self.tcp) {
            if let Some(target) = target.filter(|target| target.mode == ListenMode::Tproxy) {
                rules.push(tproxy(family, TCP, target.address));
            }
        }
        for (family, target) in Family::ALL.into_iter().zip(&self.udp) {
            rules.extend(target.map(|target| {
                let what = if target.address.port() == HTTPS { "udp dport 443" } else { UDP };
                tproxy(family, what, target.address)
            }));
        }
        if !redirected.is_empty() {
            // The dstnat hook comes later; ICMP errors of its connections are translated there.
            rules.push(format!("{ICMP} ct state related return"));
        }
        for (family, _) in &redirected {
            rules.push(format!("meta nfproto ipv{} {TCP} return", family.digit()));
        }
        // From here on: a listener that is gone, or nothing that anybody can judge.
        rules.push(REJECT_UDP.to_owned());
        rules.push("counter drop".to_owned());
        let mut chains = vec![chain("prerouting", &rules)];
        chains.extend(self.sources());
        if !redirected.is_empty() {
            let mut rules = vec![hook("nat", "prerouting", "dstnat")];
            rules.extend(judged.iter().map(|marked| format!("{marked} return")));
            rules.extend(self.elsewhere());
            rules.push(format!("{HERE} return"));
            rules.extend(redirected.iter().map(redirect));
            chains.push(chain("redirect_in", &rules));
        }
        chains
    }

    /// What is dropped for where it claims to come from, before connections are tracked and before
    /// anybody answers: what this machine sends of its own goes to whom this let pass.
    fn sources(&self) -> Vec<String> {
        let mut rules = vec![hook("filter", "prerouting", "raw")];
        rules.push("iif lo accept".to_owned());
        let unrouted = "fib saddr . iif oif missing goto astray";
        match self.names() {
            None => rules.push(unrouted.to_owned()),
            Some(names) => {
                rules.push(format!("iifname {names} {unrouted}"));
                rules.push(format!("iifname {names} accept"));
                // On the far side another way back may be in order, but not one to the clients.
                rules.push("fib saddr oif missing fib saddr type local goto astray".to_owned());
                rules.push(format!("fib saddr oifname {names} goto astray"));
            }
        }
        // What may have no way back stands here, so that no other packet is asked about it: of all
        // that the kernel forwards, this chain sees none.
        let astray = [
            // A client without an address yet, and the answer to this host's own client.
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
            "udp sport 67 udp dport 68 fib daddr type { local, broadcast } accept",
            // Link-local addresses are of the link they came by; none at all is neighbour discovery.
            "ip6 saddr fe80::/10 accept",
            "ip6 saddr :: ip6 daddr ff02::/16 accept",
            // What this machine sent has come back to it.
            "fib saddr type local counter name loop drop",
            "counter name astray drop",
        ]
        .map(str::to_owned);
        vec![chain("astray", &astray), chain("sources", &rules)]
    }

    /// What this host opens itself: to the listener, to whom it may ask, or nowhere.
    fn host(&self, exempt_uid: u32) -> Vec<String> {
        // -100 is dstnat, a word that older nft takes in prerouting only.
        let mut out = vec![hook("nat", "output", "-100")];
        out.push(format!("meta skuid {exempt_uid} return"));
        out.push(format!("{HERE} return"));
        out.extend(self.servers.names_here());
        out.extend(self.redirected().iter().map(redirect));
        let mut leave = vec![
            hook("filter", "output", "filter"),
            format!("meta skuid {exempt_uid} accept"),
            // By now the destination of a redirected packet is this host.
            "fib daddr type { local, anycast } accept".to_owned(),
            "ct direction reply accept".to_owned(),
            // What no router passes on (RFC 5771 §4, RFC 4291 §2.7, RFC 4861 §6, §7).
            "fib daddr type broadcast counter name link accept".to_owned(),
            "ip daddr 224.0.0.0/24 counter name link accept".to_owned(),
            "ip6 daddr { ff01::/16, ff02::/16 } counter name link accept".to_owned(),
        ];
        let neighbours = "icmpv6 type { 133, 135, 136 } ip6 hoplimit 255";
        leave.push(format!("{neighbours} meta length <= {NEIGHBOUR_MAX} counter name link accept"));
        for (word, echo, errors, at) in
            [("icmp", "8", "{ 3, 11, 12 }", 0), ("icmpv6", "128", "{ 1, 2, 3, 4 }", 1)]
        {
            let small = format!("meta length <= {}", ECHO_MAX[at]);
            let limit = "limit rate 10/second burst 20 packets counter name echo accept";
            leave.push(format!("{word} type {echo} {small} {limit}"));
            let quoting = format!("meta length <= {} counter name errors accept", ERROR_MAX[at]);
            leave.push(format!("{word} type {errors} ct state related {quoting}"));
        }
        leave.extend(self.servers.let_out());
        let refused = [
            format!("{UDP} counter name refused_udp reject with icmpx type admin-prohibited"),
            format!("{TCP} counter name refused_tcp reject with tcp reset"),
            "counter name refused_other drop".to_owned(),
        ];
        leave.extend(refused);
        vec![chain("redirect_out", &out), chain("leave", &leave)]
    }

    /// Lets in, on the far side, what answers connections that were dialled from the clients' own
    /// addresses: to those it comes, and nothing but the mark brings it to the gateway's sockets.
    /// What the far side begins is not captured: a SYN is none of it, nor a datagram to a socket of
    /// no address, as the listener is.
    fn answers(&self) -> Vec<String> {
        let Some(names) = self.names().filter(|_| self.keeps_source) else { return Vec::new() };
        let far = format!("iifname != {names} fib daddr oifname {names}");
        let mark = format!("socket transparent 1 meta mark set {MARK:#x} accept");
        let flags = "tcp flags & (fin | syn | rst | ack) != syn";
        vec![
            format!("{far} meta l4proto != 6 socket wildcard 0 {mark}"),
            format!("{far} {flags} {mark}"),
        ]
    }

    /// The rule that leaves alone what came in elsewhere; none where every interface counts.
    pub(super) fn elsewhere(&self) -> Option<String> {
        self.names().map(|names| format!("iifname != {names} return"))
    }

    /// The set of the clients' interfaces; none where every interface counts.
    fn names(&self) -> Option<String> {
        let names: Vec<String> = self.interfaces.iter().map(|name| format!("{name:?}")).collect();
        (!names.is_empty()).then(|| format!("{{ {} }}", names.join(", ")))
    }

    fn redirected(&self) -> Vec<(Family, SocketAddr)> {
        Family::ALL
            .into_iter()
            .zip(&self.tcp)
            .filter_map(|(family, target)| Some((family, (*target)?)))
            .filter(|(_, target)| target.mode == ListenMode::Redirect)
            .map(|(family, target)| (family, target.address))
            .collect()
    }
}

fn chain(name: &str, rules: &[String]) -> String {
    format!("    chain {name} {{\n        {}\n    }}\n", rules.join("\n        "))
}

fn hook(kind: &str, hook: &str, priority: &str) -> String {
    format!("type {kind} hook {hook} priority {priority}; policy accept;")
}

fn tproxy(family: Family, what: &str, listener: SocketAddr) -> String {
    let to = match listener.ip() {
        ip if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let (digit, port) = (family.digit(), listener.port());
    let word = if family == Family::V4 { "ip" } else { "ip6" };
    let mark = format!("meta mark set {MARK:#x} accept");
    format!("meta nfproto ipv{digit} {what} tproxy {word} to {to}:{port} {mark}")
}

fn redirect((family, listener): &(Family, SocketAddr)) -> String {
    let (digit, port) = (family.digit(), listener.port());
    format!("meta nfproto ipv{digit} {TCP} redirect to :{port}")
}
