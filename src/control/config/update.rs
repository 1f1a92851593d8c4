//! `[data.update]`: where tables are fetched from, and what vouches for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Wrong;
use super::fields::{optional, or, unique_name};
use super::model::{Digest, Signature, Update, UpdateSource};
use super::reader::{Item, Reader, Table};
use super::source_url::SourceUrl;
use super::{credential, time};
use crate::control::data::{BadPackKey, Data, Source};

const DIGEST_HELP: &str = "write the 64 digits that `sha256sum` prints";

/// Reads `update` of `[data]`, whose other keys are in `data`; `None` where it is faulty.
pub(super) fn read(
    reader: &mut Reader<'_>,
    data_table: &Table<'_>,
    data: &Data,
) -> Option<Option<Update>> {
    if !data_table.has("update") {
        return Some(None);
    }
    let table = reader.table(data_table, "update")?;
    reader.only(&table);
    let ca = optional(&table, "ca", |item| path(reader, item));
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
    let timeout = or(&table, "timeout", Duration::from_secs(600), |item| {
        time::duration(reader, item, second, Some(day))
    });
    let max_mib = or(&table, "max_mib", 256, |item| reader.number(item, 1..1025));
    let help = "say what to fetch in [[data.update.source]], or leave [data.update] out";
    reader.required(&table, "source", help)?;
    let (mut names, mut files) = (BTreeMap::new(), BTreeMap::new());
    let sources: Vec<_> = reader
        .tables(&table, "source")
        .iter()
        .map(|table| source(reader, table, data, &mut names, &mut files))
        .collect();
    let sources: Option<Vec<_>> = sources.into_iter().collect();
    let (ca, timeout, max_bytes) = (ca?, timeout?, max_mib? << 20);
    let sources = sources.filter(|sources| !sources.is_empty())?;
    Some(Some(Update { ca, timeout, max_bytes, sources }))
}

fn source(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    data: &Data,
    names: &mut BTreeMap<String, usize>,
    files: &mut BTreeMap<PathBuf, usize>,
) -> Option<UpdateSource> {
    reader.only(table);
    let name = unique_name(reader, table, names);
    let help = "say where it is: url = \"https://...\"";
    let url = reader.required(table, "url", help).and_then(|item| address(reader, &item));
    let help = "say which file of [data] it is: file = \"country.mmdb\"";
    let file = reader.required(table, "file", help).and_then(|item| {
        let file = path(reader, &item)?;
        if !is_named(data, &file) {
            let what = "no list of [data] names this file, so that nobody would read it";
            let help = "name it in country, asn, providers or services, or as the pack";
            reader.fault(&item, what, help);
            return None;
        }
        let line = reader.position(item.span.start).line;
        if let Some(earlier) = files.insert(file.clone(), line) {
            let what = format!("the source in line {earlier} writes this file already");
            reader.fault(&item, what, "fetch each file from one place");
            return None;
        }
        Some(file)
    });
    let digest = digest(reader, table);
    let signature = signature(reader, table, url.as_ref());
    let credential = credential::read(reader, table, url.as_ref());
    Some(UpdateSource {
        name: name?,
        url: url?,
        credential: credential?,
        file: file?,
        digest: digest?,
        signature: signature?,
    })
}

fn digest(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Option<Digest>> {
    let written = optional(table, "sha256", |item| {
        let text = reader.string(item, DIGEST_HELP)?;
        let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let wrong = || Wrong::new(format!("{text:?} is not a SHA-256"), DIGEST_HELP);
        let digest = hex.then(|| text.to_ascii_lowercase()).ok_or_else(wrong);
        reader.keep(item, digest).map(Digest::Is)
    });
    let at = optional(table, "sha256_url", |item| address(reader, item).map(Digest::At));
    if table.has("sha256")
        && let Some(item) = table.item("sha256_url")
    {
        reader.fault(&item, "sha256 says what the digest is already", "write one of the two");
        return None;
    }
    Some(written?.or(at?))
}

fn signature(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    of: Option<&SourceUrl>,
) -> Option<Option<Signature>> {
    let at = optional(table, "signature_url", |item| address(reader, item));
    let Some(item) = table.item("key") else {
        if let Some(item) = table.item("signature_url") {
            let help = "write whose it must be: key = \"...\"";
            reader.fault(&item, "a signature without the key that it is by", help);
            return None;
        }
        return Some(None);
    };
    let help = "write the 32 bytes of the Ed25519 public key in base64";
    let key = reader.string(&item, help)?.parse();
    let key = reader.keep(&item, key.map_err(|bad: BadPackKey| Wrong::new(bad.to_string(), help)));
    let url = at?.or_else(|| Some(of?.with_ending(".sig")));
    Some(Some(Signature { key: key?, url: url? }))
}

fn path(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<PathBuf> {
    reader.line(item).map(|path| reader.base.join(path))
}

fn address(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<SourceUrl> {
    let text = reader.line(item)?;
    reader.keep(item, SourceUrl::parse(&text))
}

/// Whether a file is one that `[data]` reads.
fn is_named(data: &Data, file: &std::path::Path) -> bool {
    let lists = [&data.country, &data.asn, &data.providers, &data.services].into_iter().flatten();
    let mut files = lists.filter_map(|source| match source {
        Source::Embedded => None,
        Source::File(path) => Some(path),
    });
    files.any(|path| path == file) || data.pack.as_deref() == Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::model::{Credential, CredentialAt, CredentialSent};
    use crate::control::config::parse;

    fn read(sources: &str) -> Result<Update, String> {
        let text = format!(
            "schema = 1\n[policy]\npermit = ['eea']\n[data]\ncountry = ['c.mmdb']\n\
             providers = ['aws.json', 'embedded']\n[data.update]\n{sources}"
        );
        let loaded = parse(&text, None).map_err(|faults| faults.to_string())?;
        loaded.config.update.ok_or_else(|| "nothing".to_owned())
    }

    const SOURCE: &str = "[[data.update.source]]\nname = 'c'\nurl = 'https://Data.Example.eu/c.mmdb?x=1'\n\
        file = 'c.mmdb'\n";

    #[test]
    fn a_source_has_its_defaults_and_what_vouches_for_it() {
        let update = read(SOURCE).unwrap();
        assert_eq!(update.timeout, Duration::from_secs(600));
        assert_eq!((update.max_bytes, update.ca), (256 << 20, None));
        let source = &update.sources[0];
        let day = jiff::civil::date(2026, 11, 30);
        assert_eq!(source.url.on(day, "").unwrap().as_str(), "https://data.example.eu/c.mmdb?x=1");
        assert_eq!(source.credential, None);
        assert_eq!((&source.digest, &source.signature), (&None, &None));
        let digest = "AB".repeat(32);
        let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        let more = format!("{SOURCE}sha256 = '{digest}'\nkey = '{key}'\n");
        let source = read(&more).unwrap().sources.remove(0);
        assert_eq!(source.digest, Some(Digest::Is(digest.to_lowercase())));
        let signed = source.signature.unwrap();
        let url = signed.url.on(day, "").unwrap();
        assert_eq!(url.as_str(), "https://data.example.eu/c.mmdb.sig?x=1");
    }

    #[test]
    fn a_credential_is_sent_as_the_keys_say_and_bearer_where_they_say_nothing() {
        for (keys, sent) in [
            ("", CredentialSent::Bearer),
            ("auth = 'bearer'", CredentialSent::Bearer),
            ("auth = 'basic'", CredentialSent::Basic(None)),
            ("user = '12'", CredentialSent::Basic(Some("12".to_owned()))),
            ("user = '12'\nauth = 'basic'", CredentialSent::Basic(Some("12".to_owned()))),
            ("header = 'X-Api-Key'", CredentialSent::Header("x-api-key".to_owned())),
        ] {
            let update = read(&format!("{SOURCE}credential = 'maxmind'\n{keys}")).unwrap();
            let at = CredentialAt::Named("maxmind".to_owned());
            assert_eq!(update.sources[0].credential, Some(Credential { at, sent }), "{keys}");
        }
        let in_url = SOURCE.replace("x=1", "x={credential}");
        let update = read(&format!("{in_url}credential_file = 'key'")).unwrap();
        let at = CredentialAt::File(PathBuf::from("key"));
        let sent = CredentialSent::Url;
        assert_eq!(update.sources[0].credential, Some(Credential { at, sent }));
    }

    #[test]
    fn what_could_not_be_fetched_or_would_not_be_read_is_a_fault() {
        for (sources, fault) in [
            ("", "data.update.source: missing"),
            ("source = []", "data.update.source: the list is empty"),
            (&SOURCE.replace("https:", "http:"), "is not https"),
            (&SOURCE.replace("Data.Example.eu", "192.0.2.1"), "has no host name"),
            (&SOURCE.replace("Data.Example.eu", "me@Data.Example.eu"), "holds a user"),
            (&SOURCE.replace("https://Data.Example.eu", "c"), "is not a URL"),
            (&SOURCE.replace("'c.mmdb'", "'d.mmdb'"), "no list of [data] names this file"),
            (&SOURCE.replace("name = 'c'", ""), "data.update.source.name: missing"),
            (&format!("{SOURCE}{SOURCE}"), "was given in line"),
            (&format!("{SOURCE}{}", SOURCE.replace("'c'", "'d'")), "writes this file already"),
            (&format!("{SOURCE}sha256 = 'ab'"), "is not a SHA-256"),
            (&format!("{SOURCE}key = 'ab'"), "not an Ed25519 key"),
            (&format!("{SOURCE}signature_url = 'https://a.example/s'"), "a signature without"),
            (
                &format!(
                    "{SOURCE}sha256 = '{}'\nsha256_url = 'https://a.example/s'",
                    "a".repeat(64)
                ),
                "write one of the two",
            ),
            (&format!("timeout = '0s'\n{SOURCE}"), "out of bounds"),
            (&format!("max_mib = 2000\n{SOURCE}"), "out of bounds"),
            (&format!("every = '1d'\n{SOURCE}"), "unknown key"),
            (&format!("{SOURCE}user = 'me'"), "and none is named"),
            (&format!("{SOURCE}auth = 'bearer'"), "and none is named"),
            (&SOURCE.replace("x=1", "x={credential}"), "and none is named"),
            (&format!("{SOURCE}credential = '../c'"), "is not the name of a systemd credential"),
            (&format!("{SOURCE}credential = 'c'\ncredential_file = 'c'"), "write one of the two"),
            (&format!("{SOURCE}credential = 'c'\nuser = 'a'\nauth = 'bearer'"), "in two ways"),
            (&format!("{SOURCE}credential = 'c'\nuser = 'a:b'"), "has no \":\""),
            (&format!("{SOURCE}credential = 'c'\nheader = 'host'"), "is not a header"),
            (&format!("{SOURCE}credential = 'c'\nauth = 'digest'"), "basic"),
        ] {
            let faults = read(sources).unwrap_err();
            assert!(faults.contains(fault), "{sources}\n{faults}");
        }
    }
}
