//! How the kernel backs large pieces of memory.

/// Asks for huge pages under `memory` (madvise(2), MADV_HUGEPAGE), of which the kernel gives those
/// that it has, as the pages are first written. Where it has none, or the switch
/// `/sys/kernel/mm/transparent_hugepage/enabled` says `never`, nothing changes but the speed.
pub fn prefer_huge_pages<T>(memory: &[T]) {
    const PAGE: usize = 4096;
    let begins = memory.as_ptr().addr();
    let ends = begins.saturating_add(size_of_val(memory)).next_multiple_of(PAGE);
    // The pages at both ends may hold other things of this process, to which it does no harm.
    let first = begins / PAGE * PAGE;
    if size_of_val(memory) < PAGE {
        return;
    }
    // SAFETY: this advice changes the content of no page, neither within `memory` nor beside it,
    // and a range that is not mapped, or a page size that is not the kernel's, is an error.
    unsafe {
        libc::madvise(first as *mut libc::c_void, ends - first, libc::MADV_HUGEPAGE);
    }
}

/// Keeps large blocks apart from the heap, so that each goes back to the system when it is freed.
/// To be called before there are threads. By itself glibc takes the first large block that is freed
/// for a sign to put the next into the heap, and what a reload built and dropped stays there, between
/// small blocks that live.
pub fn set_mmap_threshold() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes no pointer.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_it_was_whatever_pages_it_is_in() {
        for length in [0, 1, 4095, 4096, 3 << 20] {
            let memory: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for begin in [0, 1, 511].into_iter().filter(|&begin| begin <= length) {
                prefer_huge_pages(&memory[begin..]);
            }
            assert!(memory.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
        }
    }
}
