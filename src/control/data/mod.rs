//! The data behind a verdict: where an address is, whose it is, and since when that is known.
//!
//! [`load`](fn@load) reads what `[data]` names: each file by the reader of its form (`formats`), into
//! tables (`model`); `trust` says whether a table may follow the one before it.

mod coverage;
mod diff;
mod embedded;
mod facts;
pub mod formats;
mod list;
mod load;
mod model;
mod pack_key;
mod providers;
mod services;
mod settings;
mod trust;
mod verify;

pub use coverage::{Extent, Label, coverage, grouped};
pub use diff::{Change, Diff, KindsDiffer, Move, diff};
pub use embedded::{
    embedded_asn, embedded_country, embedded_dissent, embedded_providers, embedded_registrant,
};
pub use facts::{ZoneRow, operator_id, zone_rows};
pub use formats::provider::UNNAMED_PROVIDER;
pub use formats::sgp::{SigningKey, build_pack};
pub use list::{Listing, list};
pub use load::{load, load_asn, load_country, load_country_by, load_provider};
pub use model::{
    AsnTable, BadRow, Cause, CountryTable, DataFault, DomainFact, Facts, FileStamp, Kind, Located,
    OLD_AFTER, OperatorFact, ProviderRow, ProviderTable, Ranges, RegionFact, RegionPlace, Shown,
    SourceInfo, Sources, Table,
};
pub use pack_key::{BadPackKey, PackKey};
pub use providers::provider_operator;
pub use services::{Endpoints, Services, build_services};
pub use settings::{CountryField, Data, Source};
pub use trust::fingerprint::Fingerprint;
pub use trust::last_good::LastGood;
pub use trust::vet::{digest_of, leave_out, vet};
pub use verify::{Coverage, Share, Verified, verify, verify_files};
