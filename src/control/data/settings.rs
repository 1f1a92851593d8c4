//! `[data]`: which tables there are, and how they are read.

use std::path::PathBuf;
use std::time::Duration;

use super::pack_key::PackKey;
use crate::policy::Memory;

/// `[data]`, file paths already relative to the policy file.
#[derive(Debug, Clone)]
pub struct Data {
    /// Where downloaded and built tables live.
    pub directory: PathBuf,
    /// Country tables, best first.
    pub country: Vec<Source>,
    /// AS tables, best first.
    pub asn: Vec<Source>,
    /// Provider region files.
    pub providers: Vec<Source>,
    /// Files of services that rules may name; for each family the first that holds it speaks alone.
    pub services: Vec<Source>,
    /// Who must have signed those files; `None`: nobody.
    pub services_key: Option<PackKey>,
    /// Age from which a table is `stale`.
    pub max_age: Option<Duration>,
    /// Share of a permitted country's addresses, in percent, that a table may lose against the one
    /// in use; one that lost more is refused. Default 20; 100 refuses none.
    pub max_loss: u8,
    /// Whether the address tables are built for speed or for size.
    pub memory: Memory,
    /// Which country of an mmdb record counts.
    pub country_field: CountryField,
    /// A pack of tables that stand before those of the lists. With one, a list that is not written
    /// is empty, and the tables in the program are those of the kinds that it does not hold.
    pub pack: Option<PathBuf>,
    /// Who must have signed the pack; `None`: nobody.
    pub pack_key: Option<PackKey>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/schengate"),
            country: vec![Source::Embedded],
            asn: vec![Source::Embedded],
            providers: vec![Source::Embedded],
            services: vec![Source::Embedded],
            services_key: None,
            max_age: None,
            max_loss: 20,
            memory: Memory::Fast,
            country_field: CountryField::Country,
            pack: None,
            pack_key: None,
        }
    }
}

/// `[data] country_field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountryField {
    /// Where the address is used.
    #[default]
    Country,
    /// Where its holder is registered. That says little about where bytes land (it is right for a
    /// third to a half of the space of the large clouds), and much about whose law reaches them.
    Registered,
}

impl CountryField {
    /// `country` or `registered_country`, as in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Registered => "registered_country",
        }
    }
}

/// One entry of a `[data]` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table built into the binary.
    Embedded,
    /// A file.
    File(PathBuf),
}
