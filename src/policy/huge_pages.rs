//! Memory for large tables. The one file of `policy` that asks anything of the system, which
//! answers with time and never with another verdict.

use crate::sys::prefer_huge_pages;

/// `count` values of zero, in huge pages where the system has any: a look-up in a large table then
/// misses the processor's address cache less often.
pub(super) fn zeroed<T: Clone + Default>(count: usize) -> Box<[T]> {
    let memory = vec![T::default(); count].into_boxed_slice();
    prefer_huge_pages(&memory);
    memory
}
