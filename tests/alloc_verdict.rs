//! Judging touches no heap: counted, not believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use jiff::Timestamp;
use schengate::control::compile::Compiler;
use schengate::control::{config, data};
use schengate::identify::{HostName, Protocol};
use schengate::policy::{Claim, Question, Transport};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "a counting allocator can only be written so")]
// SAFETY: every call is handed on to the system's allocator unchanged; the counter is thread-local,
// needs no allocation itself and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const POLICY: &str = r#"
schema = 1
[policy]
mode = "enforce"
permit = ["eea", "gdpr-adequacy"]
permit_law = ["eea"]
[[rule]]
name = "by name"
host = ["*.example.eu", "pay.example.com"]
action = "allow"
reason = "x"
[[rule]]
name = "by prefix"
to = ["64:ff9b::/96", "8.8.8.0/24"]
action = "log"
[[rule]]
name = "never"
host = ["*.example.org"]
action = "block"
[[operator]]
name = "ours"
host = ["*.example.net"]
homes = ["FR"]
"#;

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1_u8)))), 1);
}

#[test]
fn a_verdict_allocates_nothing() {
    let loaded = config::parse(POLICY, None).expect("a sound policy");
    let sources = data::load(&loaded.config.data).expect("embedded tables");
    let now = Timestamp::now();
    let policy = Compiler::new(loaded.config, sources, POLICY, Vec::new(), now).policy_at(now);
    let names = ["a.example.eu", "pay.example.com", "x.example.net", "other.example.org"]
        .map(|name| HostName::parse(name.as_bytes()).expect("a name"));
    let claims = names.iter().flat_map(|name| [Claim::Bound(name), Claim::Claimed(name)]);
    let claims: Vec<_> =
        claims.chain([Claim::Unread, Claim::Malformed(&[]), Claim::Malformed(&names)]).collect();
    for destination in [
        "213.186.33.5:443",
        "8.8.8.8:443",
        "[64:ff9b::808:808]:443",
        "[2a01:4f8::1]:443",
        "10.0.0.1:1",
    ] {
        let destination = destination.parse().expect("an address");
        for &name in &claims {
            let question = Question {
                client: Some("10.1.2.3".parse().expect("an address")),
                destination,
                transport: Transport::Tcp,
                protocol: Protocol::Tls,
                name,
                ech: false,
            };
            let count = allocations(|| {
                black_box(policy.decide(black_box(&question)));
                black_box(policy.decide_unread(black_box(&question)));
                black_box(policy.outlook(black_box(&question)));
                black_box(policy.decide_name(black_box(&question)));
                black_box(policy.address_info(destination.ip()));
            });
            assert_eq!(count, 0, "{destination} {name:?}");
        }
    }
}
