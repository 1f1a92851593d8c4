//! What the tables of IPv4 are made of: leaves of two widths, and a walk over the ranges.

/// A number of a table, as wide as the numbers in it need.
pub(super) trait Leaf: Copy + Eq + Default {
    /// The largest number that fits.
    const MAX: u32;

    /// The number as a leaf; [`None`] where it does not fit.
    fn new(number: u32) -> Option<Self>;

    fn number(self) -> u32;
}

impl Leaf for u16 {
    const MAX: u32 = Self::MAX as u32;

    fn new(number: u32) -> Option<Self> {
        Self::try_from(number).ok()
    }

    #[inline]
    fn number(self) -> u32 {
        self.into()
    }
}

impl Leaf for u32 {
    const MAX: Self = Self::MAX;

    fn new(number: u32) -> Option<Self> {
        Some(number)
    }

    #[inline]
    fn number(self) -> u32 {
        self
    }
}

/// The ranges, walked once from the first address to the last.
pub(super) struct Walk<'a> {
    /// First address and value of each range that the walk has not reached.
    ahead: &'a [(u32, u32)],
    value: u32,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(ranges: &'a [(u32, u32)]) -> Self {
        Self { ahead: ranges, value: 0 }
    }

    /// The value at `address`, which is no lower than any that was asked for before.
    pub(super) fn value_at(&mut self, address: u32) -> u32 {
        while let [(_, value), ahead @ ..] = self.ahead
            && self.starts_by(address)
        {
            (self.value, self.ahead) = (*value, ahead);
        }
        self.value
    }

    /// Whether some range that lies ahead begins at `address` or before it.
    pub(super) fn starts_by(&self, address: u32) -> bool {
        self.next_start().is_some_and(|start| start <= address)
    }

    /// Where the next range begins.
    pub(super) fn next_start(&self) -> Option<u32> {
        self.ahead.first().map(|&(start, _)| start)
    }
}
