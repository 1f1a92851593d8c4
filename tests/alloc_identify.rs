//! Reading a hello or a request head reaches the heap not once.
#![expect(unsafe_code, reason = "an allocator that counts has to be an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use schengate::identify::{Step, identify};

mod flights;

struct Counting;

thread_local! {
    /// Per thread: the test harness allocates in others.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no count left, and needs none.
        COUNT.try_with(|count| count.set(count.get() + 1)).unwrap_or_default();
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System` by `alloc` above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn identifying_a_connection_allocates_nothing() {
    let hello = flights::tls_hello_of("host.example", 1750);
    let fragmented = flights::records(&hello[5..], &(0..1745).collect::<Vec<_>>());
    let head = b"GET / HTTP/1.1\r\nHost: host.example\r\nX: y\r\n\r\n".to_vec();
    let half = hello[..600].to_vec();
    for (what, stream) in
        [("hello", hello), ("records", fragmented), ("head", head), ("half", half)]
    {
        let before = COUNT.get();
        let step = identify(black_box(&stream), false);
        if let Step::Done(identity) = &step {
            let mut protocols = 0;
            identity.alpn.each(|_| protocols += 1);
            black_box(protocols);
        }
        black_box(&step);
        assert_eq!(COUNT.get() - before, 0, "{what}");
    }
    let before = COUNT.get();
    black_box(vec![0_u8; 8]);
    assert_eq!(COUNT.get() - before, 1, "the count counts");
}
