//! Long work says how far it is, to whoever shows it.

/// Hears of long work, one piece after the other.
pub trait Progress {
    /// A piece begins; `total` bytes of it, where that is known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The piece is over.
    fn end(&self);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
