//! Countries and sets of countries: the alphabet of every place and every law.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// ISO 3166-1 alpha-2 codes as assigned in 2026, and XK (Kosovo, user-assigned, present in most
/// country tables), sorted.
const CODES: &[u8; 250 * 2] = b"ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICKCLCMCNCOCRCUCVCWCXCYCZDEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGSGTGUGWGYHKHMHNHRHTHUIDIEILIMINIOIQIRISITJEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULVLYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPMPNPRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTCTDTFTGTHTJTKTLTMTNTOTRTTTVTWTZUAUGUMUSUYUZVAVCVEVGVIVNVUWFWSXKYEYTZAZMZW";

/// A country or territory with a code of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(u8);

impl Country {
    /// How many countries there are; [`Country::index`] is below it.
    pub const COUNT: usize = CODES.len() / 2;

    /// The country of an assigned two-letter code, in either case. `UK` and `EL`, which the
    /// European institutions write, are read as GB and GR. Everything else that is no assigned
    /// code (EU, AP, A1, ZZ, withdrawn codes ...) is no country.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let [first, second] = <[u8; 2]>::try_from(code.as_bytes()).ok()?;
        let wanted = match [first.to_ascii_uppercase(), second.to_ascii_uppercase()] {
            [b'U', b'K'] => *b"GB",
            [b'E', b'L'] => *b"GR",
            code => code,
        };
        let (pairs, _) = CODES.as_chunks::<2>();
        let index = pairs.binary_search(&wanted).ok()?;
        u8::try_from(index).ok().map(Self)
    }

    /// The country at `index`, as [`Country::index`] gave it.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|_| index < Self::COUNT).map(Self)
    }

    /// A number below [`Country::COUNT`], in the order of the codes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The two-letter code, upper case.
    #[must_use]
    pub fn code(self) -> &'static str {
        let at = self.index() * 2;
        CODES.get(at..at + 2).and_then(|code| std::str::from_utf8(code).ok()).unwrap_or("??")
    }

    /// Every country, in the order of the codes.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(Self::from_index)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A set of countries: 32 bytes, compared and combined without a loop that depends on its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CountrySet([u64; 4]);

impl CountrySet {
    /// No country.
    pub const EMPTY: Self = Self([0; 4]);

    /// Every country.
    #[must_use]
    pub fn all() -> Self {
        Country::all().collect()
    }

    /// Whether the set holds `country`.
    #[must_use]
    pub const fn contains(self, country: Country) -> bool {
        self.0[(country.0 >> 6) as usize] >> (country.0 & 63) & 1 == 1
    }

    /// Adds `country`.
    pub const fn insert(&mut self, country: Country) {
        self.0[(country.0 >> 6) as usize] |= 1 << (country.0 & 63);
    }

    /// Whether every country of this set is in `other`.
    #[must_use]
    pub fn is_subset(self, other: Self) -> bool {
        (self & !other).is_empty()
    }

    /// Whether the two sets share a country.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        !(self & other).is_empty()
    }

    /// Whether the set holds no country.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// How many countries the set holds.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The countries of the set, in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = Country> {
        // A set has few countries, and is looked through several times a connection.
        self.0.into_iter().enumerate().flat_map(|(at, mut word)| {
            std::iter::from_fn(move || {
                let lowest = word.trailing_zeros() as usize;
                word &= word.checked_sub(1)?;
                Country::from_index(at * 64 + lowest)
            })
        })
    }
}

impl FromIterator<Country> for CountrySet {
    fn from_iter<I: IntoIterator<Item = Country>>(countries: I) -> Self {
        let mut set = Self::EMPTY;
        countries.into_iter().for_each(|country| set.insert(country));
        set
    }
}

impl BitAnd for CountrySet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

impl BitOr for CountrySet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
}

impl BitOrAssign for CountrySet {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// All bits but the set's: only to be and-ed with a set of countries, as every caller here does.
impl Not for CountrySet {
    type Output = Self;
    fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

impl fmt::Display for CountrySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, country) in self.iter().enumerate() {
            write!(f, "{}{country}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for CountrySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_sorted_and_found_by_themselves() {
        let codes: Vec<_> = Country::all().map(Country::code).collect();
        assert!(codes.is_sorted());
        assert_eq!(codes.len(), 250);
        for country in Country::all() {
            assert_eq!(Country::from_code(country.code()), Some(country));
        }
    }

    #[test]
    fn aliases_are_read_and_non_countries_are_not() {
        assert_eq!(Country::from_code("UK"), Country::from_code("GB"));
        assert_eq!(Country::from_code("el"), Country::from_code("GR"));
        for code in ["EU", "AP", "A1", "A2", "O1", "ZZ", "XX", "", "-", "??", "SU", "FRA", "AN"] {
            assert_eq!(Country::from_code(code), None, "{code}");
        }
    }

    #[test]
    fn subset_and_meets_agree_with_the_members() {
        let set = |codes: &[&str]| codes.iter().filter_map(|c| Country::from_code(c)).collect();
        let (small, large): (CountrySet, CountrySet) =
            (set(&["FR", "ZW"]), set(&["AD", "FR", "ZW"]));
        assert!(small.is_subset(large) && !large.is_subset(small));
        assert!(small.meets(large) && !small.meets(set(&["AD"])));
        assert!(CountrySet::EMPTY.is_subset(small) && !CountrySet::EMPTY.meets(small));
        assert_eq!(CountrySet::all().len(), Country::COUNT);
        assert_eq!(large.to_string(), "AD, FR, ZW");
    }
}
