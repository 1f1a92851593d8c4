//! Single elements of sets, and rules that `nft` has no words for, by the kernel's own messages
//! (nf_tables).

use std::io::{self, Read};
use std::time::Duration;

use socket2::Socket;

use super::netfilter::{BEGIN, CREATE, END, INET, NEST, NFTABLES, answers, message, open};
use super::netlink::{READ_MAX, REQUEST, put};

/// `NFNL_SUBSYS_NFTABLES << 8` with the numbers of a new rule, no rule, a new element, no element.
const NEW_RULE: u16 = 0x0a06;
const NO_RULE: u16 = 0x0a08;
const ADD: u16 = 0x0a0c;
const REMOVE: u16 = 0x0a0e;
/// `NLM_F_REQUEST`, with `NLM_F_ACK`.
const ACKNOWLEDGED: u16 = 0x0005;
/// `NLM_F_APPEND`: a rule goes behind those before it.
const APPEND: u16 = 0x0800;
/// Attributes of a list of elements: table, set, elements; an element; of an element: its key, how long
/// it is kept; of a key, its bytes.
const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const KEPT: u16 = 4;
const VALUE: u16 = 1;
/// Attributes of a rule: chain, expressions; of one: name, data; of a target of x_tables: name,
/// revision, its own words.
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
const NAME: u16 = 1;
const DATA: u16 = 2;
const TARGET: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;

/// A set of marks in a table of family `inet`, in which one element is kept.
#[derive(Debug)]
pub struct MarkSet {
    table: String,
    set: String,
    socket: Socket,
    buffer: Vec<u8>,
}

impl MarkSet {
    /// The set of this name.
    ///
    /// # Errors
    /// No socket is to be had.
    pub fn open(table: &str, set: &str) -> io::Result<Self> {
        let (table, set) = (table.to_owned(), set.to_owned());
        Ok(Self { table, set, socket: open()?, buffer: vec![0; READ_MAX] })
    }

    /// Has the set hold a mark for so long from now on, or for good; at no moment is it without one
    /// that it had.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where there is no such set (`NotFound`).
    pub fn keep(&mut self, mark: u32, time: Option<Duration>) -> io::Result<()> {
        let held = self.elements(mark, time);
        // Kernels before 6.12 leave the time of an element that is there already: it is added, so that
        // there is one to be taken away, and added anew. All of it is one change.
        self.change(&[
            (ADD, CREATE, &held),
            (REMOVE, ACKNOWLEDGED, &self.elements(mark, None)),
            (ADD, CREATE, &held),
        ])
    }

    /// Takes every mark out, but for one that is kept for so long, or for good.
    ///
    /// # Errors
    /// As [`MarkSet::keep`].
    pub fn keep_only(&mut self, mark: u32, time: Option<Duration>) -> io::Result<()> {
        let (all, held) = (self.names(), self.elements(mark, time));
        self.change(&[(REMOVE, ACKNOWLEDGED, &all), (ADD, CREATE, &held)])
    }

    /// Takes a mark out.
    ///
    /// # Errors
    /// As [`MarkSet::keep`]; `NotFound` also where it is not in it.
    pub fn remove(&mut self, mark: u32) -> io::Result<()> {
        self.change(&[(REMOVE, ACKNOWLEDGED, &self.elements(mark, None))])
    }

    fn names(&self) -> Vec<u8> {
        let mut attributes = Vec::new();
        put(&mut attributes, TABLE, &terminated(&self.table));
        put(&mut attributes, SET, &terminated(&self.set));
        attributes
    }

    fn elements(&self, mark: u32, time: Option<Duration>) -> Vec<u8> {
        let (mut value, mut element, mut elements) = (Vec::new(), Vec::new(), Vec::new());
        put(&mut value, VALUE, &mark.to_ne_bytes());
        put(&mut element, KEY | NEST, &value);
        if let Some(time) = time {
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            put(&mut element, KEPT, &milliseconds.to_be_bytes());
        }
        put(&mut elements, ELEMENT | NEST, &element);
        let mut attributes = self.names();
        put(&mut attributes, ELEMENTS | NEST, &elements);
        attributes
    }

    fn change(&mut self, messages: &[(u16, u16, &Vec<u8>)]) -> io::Result<()> {
        let changed = transact(&mut self.socket, &mut self.buffer, messages);
        if changed.is_err() {
            // What else was answered is not for the next question.
            self.socket = open()?;
        }
        changed
    }
}

/// Makes a chain of a table of family `inet` hand packets to queues by the target of x_tables, which
/// kernels without `nft_queue` have; its rules so far are gone. Both ways of a flow come to one queue.
///
/// # Errors
/// Without CAP_NET_ADMIN, where there is no such chain, or where the kernel has no `NFQUEUE` for
/// nf_tables (`nft_compat`, `xt_NFQUEUE`).
pub fn queue_by_target(table: &str, chain: &str, first: u16, count: u16) -> io::Result<()> {
    let mut names = Vec::new();
    put(&mut names, TABLE, &terminated(table));
    put(&mut names, CHAIN, &terminated(chain));
    // `struct xt_NFQ_info_v3`: first queue, how many, flags; no flag of them is "let pass".
    let info: Vec<u8> = [first, count, 0, 0].iter().flat_map(|it| it.to_ne_bytes()).collect();
    let (mut target, mut expression, mut expressions) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut target, TARGET, b"NFQUEUE\0");
    put(&mut target, REVISION, &3_u32.to_be_bytes());
    put(&mut target, INFO, &info);
    put(&mut expression, NAME, b"target\0");
    put(&mut expression, DATA | NEST, &target);
    put(&mut expressions, ELEMENT | NEST, &expression);
    let mut rule = names.clone();
    put(&mut rule, EXPRESSIONS | NEST, &expressions);
    let messages = [(NO_RULE, ACKNOWLEDGED, &names), (NEW_RULE, CREATE | APPEND, &rule)];
    transact(&mut open()?, &mut vec![0; READ_MAX], &messages)
}

/// Has the kernel take all of it, or nothing.
fn transact(
    socket: &mut Socket,
    buffer: &mut [u8],
    messages: &[(u16, u16, &Vec<u8>)],
) -> io::Result<()> {
    let mut whole = message(BEGIN, REQUEST, [0, 0], NFTABLES, &[]);
    for (kind, flags, attributes) in messages {
        whole.extend(message(*kind, *flags, [INET, 0], [0, 0], attributes));
    }
    whole.extend(message(END, REQUEST, [0, 0], NFTABLES, &[]));
    socket.send(&whole)?;
    let mut answered = 0;
    while answered < messages.len() {
        let length = socket.read(buffer)?;
        answered += answers(buffer.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}
