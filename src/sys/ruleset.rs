//! The packet rules of a namespace of which the gateway outside is the only way out, by the kernel's
//! own messages (nf_tables), so that no `nft` is needed.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};

use super::netfilter::{BEGIN, CREATE, END, INET, NEST, NFTABLES, answers, message, open};
use super::netlink::{READ_MAX, REQUEST, put};

/// What is diverted, and to where.
#[derive(Debug)]
pub struct Diverted<'a> {
    /// Name of the table `inet TABLE`.
    pub table: &'a str,
    /// Addresses of the namespace's own beside the loopback: what goes there is left alone.
    pub own: &'a [IpAddr],
    /// Port of the transparent listener of TCP.
    pub port: u16,
    /// Ports at which sockets of the namespace wait for whatever is sent there: TCP, and UDP.
    pub waiting_tcp: &'a [u16],
    /// See `waiting_tcp`.
    pub waiting_udp: &'a [u16],
    /// Name of the counter of UDP datagrams for which nobody waits.
    pub counted_udp: &'a str,
    /// Name of the counter of packets that are neither TCP nor UDP, which are dropped.
    pub counted_others: &'a str,
}

/// `NFNL_SUBSYS_NFTABLES << 8` with the number of a new table, chain, rule, object.
const NEW_TABLE: u16 = 0x0a00;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const NEW_OBJECT: u16 = 0x0a12;
/// `NLM_F_APPEND`: a rule goes behind those before it.
const APPEND: u16 = 0x0800;
/// The one chain.
const CHAIN: &[u8] = b"in\0";
/// `NF_INET_PRE_ROUTING`; the priority `mangle` of it.
const PREROUTING: u32 = 0;
const MANGLE: i32 = -150;
/// `NFT_META_L4PROTO`, `NFT_META_NFPROTO`.
const PROTOCOL: u32 = 16;
const FAMILY: u32 = 15;
/// Bases of the headers of network and transport.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// The first register, and that of the verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_CMP_EQ`.
const EQUAL: u32 = 0;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Puts the rules there, in one transaction.
///
/// # Errors
/// Without CAP_NET_ADMIN, where the table is there already, or where the kernel has no nf_tables or
/// no TPROXY for it (`nft_tproxy`).
pub fn divert(diverted: &Diverted<'_>) -> io::Result<()> {
    let batch = Batch::of(diverted);
    let mut socket = open()?;
    socket.send(&batch.bytes)?;
    let mut buffer = vec![0; READ_MAX];
    let mut answered = 0;
    while answered < batch.messages {
        let length = socket.read(&mut buffer)?;
        answered += answers(buffer.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

/// A transaction in the making.
struct Batch<'a> {
    table: &'a str,
    bytes: Vec<u8>,
    messages: usize,
}

impl<'a> Batch<'a> {
    fn of(diverted: &Diverted<'a>) -> Self {
        let bytes = message(BEGIN, REQUEST, [0, 0], NFTABLES, &[]);
        let mut batch = Self { table: diverted.table, bytes, messages: 0 };
        batch.add(NEW_TABLE, 0, &[]);
        for counter in [diverted.counted_udp, diverted.counted_others] {
            let mut object = Vec::new();
            put(&mut object, 2, &named(counter));
            put(&mut object, 3, &COUNTER.to_be_bytes());
            put(&mut object, 4 | NEST, &[]);
            batch.add(NEW_OBJECT, 0, &object);
        }
        batch.chain();
        let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let own = diverted.own.iter().chain([&loopback]).map(is_to);
        let four = [meta(FAMILY), equal(&[2]), payload(NETWORK, 16, 1), equal(&[127])];
        for own in own.chain([four]) {
            // Asked for by its own address the listener would take itself for the destination.
            let port = [payload(TRANSPORT, 2, 2), equal(&diverted.port.to_be_bytes())];
            let listener = own.iter().cloned().chain([meta(PROTOCOL), equal(&[TCP])]).chain(port);
            batch.rule(&listener.collect::<Vec<_>>(), DROP);
            batch.rule(&own, ACCEPT);
        }
        for (protocol, ports) in [(TCP, diverted.waiting_tcp), (UDP, diverted.waiting_udp)] {
            for port in ports {
                let is_to = payload(TRANSPORT, 2, 2);
                let port = equal(&port.to_be_bytes());
                batch.rule(&[meta(PROTOCOL), equal(&[protocol]), is_to, port], ACCEPT);
            }
        }
        let divert = [meta(PROTOCOL), equal(&[TCP]), immediate_port(diverted.port), tproxy()];
        batch.rule(&divert, ACCEPT);
        // TCP that the listener did not take goes nowhere else.
        batch.rule(&[meta(PROTOCOL), equal(&[TCP])], DROP);
        // Nobody waits there: its sender is told so by the kernel.
        batch.rule(&[meta(PROTOCOL), equal(&[UDP]), counted(diverted.counted_udp)], ACCEPT);
        batch.rule(&[counted(diverted.counted_others)], DROP);
        batch.bytes.extend(message(END, REQUEST, [0, 0], NFTABLES, &[]));
        batch
    }

    fn chain(&mut self) {
        let mut hook = Vec::new();
        put(&mut hook, 1, &PREROUTING.to_be_bytes());
        put(&mut hook, 2, &MANGLE.to_be_bytes());
        let mut chain = Vec::new();
        put(&mut chain, 3, CHAIN);
        put(&mut chain, 4 | NEST, &hook);
        put(&mut chain, 5, &DROP.to_be_bytes());
        put(&mut chain, 7, b"filter\0");
        self.add(NEW_CHAIN, 0, &chain);
    }

    fn rule(&mut self, expressions: &[Vec<u8>], verdict: u32) {
        let mut code = Vec::new();
        put(&mut code, 1, &verdict.to_be_bytes());
        let mut data = Vec::new();
        put(&mut data, 2 | NEST, &code);
        let mut all = Vec::new();
        for expression in expressions.iter().chain([&immediate(VERDICT, &data)]) {
            put(&mut all, 1 | NEST, expression);
        }
        let mut rule = Vec::new();
        put(&mut rule, 2, CHAIN);
        put(&mut rule, 4 | NEST, &all);
        self.add(NEW_RULE, APPEND, &rule);
    }

    /// One message; `attributes` without the table, which all of them have first.
    fn add(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let mut all = Vec::new();
        put(&mut all, 1, &named(self.table));
        all.extend(attributes);
        self.bytes.extend(message(kind, CREATE | flags, [INET, 0], [0, 0], &all));
        self.messages += 1;
    }
}

/// Whether a packet goes to an address.
fn is_to(address: &IpAddr) -> [Vec<u8>; 4] {
    match address {
        IpAddr::V4(ip) => [meta(FAMILY), equal(&[2]), payload(NETWORK, 16, 4), equal(&ip.octets())],
        IpAddr::V6(ip) => {
            [meta(FAMILY), equal(&[10]), payload(NETWORK, 24, 16), equal(&ip.octets())]
        }
    }
}

fn named(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    put(&mut all, 1, &named(name));
    put(&mut all, 2 | NEST, data);
    all
}

/// An expression of which every attribute is a number of four bytes.
fn numbers(name: &str, attributes: &[(u16, u32)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (kind, value) in attributes {
        put(&mut data, *kind, &value.to_be_bytes());
    }
    expression(name, &data)
}

fn meta(key: u32) -> Vec<u8> {
    numbers("meta", &[(1, REGISTER), (2, key)])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    numbers("payload", &[(1, REGISTER), (2, base), (3, offset), (4, length)])
}

fn equal(value: &[u8]) -> Vec<u8> {
    let mut wanted = Vec::new();
    put(&mut wanted, 1, value);
    let mut data = Vec::new();
    put(&mut data, 1, &REGISTER.to_be_bytes());
    put(&mut data, 2, &EQUAL.to_be_bytes());
    put(&mut data, 3 | NEST, &wanted);
    expression("cmp", &data)
}

fn immediate(register: u32, value: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    put(&mut data, 1, &register.to_be_bytes());
    put(&mut data, 2 | NEST, value);
    expression("immediate", &data)
}

fn immediate_port(port: u16) -> Vec<u8> {
    let mut value = Vec::new();
    put(&mut value, 1, &port.to_be_bytes());
    immediate(REGISTER, &value)
}

/// To the port in the register, of either family.
fn tproxy() -> Vec<u8> {
    numbers("tproxy", &[(1, 0), (3, REGISTER)])
}

fn counted(counter: &str) -> Vec<u8> {
    let mut data = Vec::new();
    put(&mut data, 1, &COUNTER.to_be_bytes());
    put(&mut data, 2, &named(counter));
    expression("objref", &data)
}
