//! The URL of a source: what is written of it, with places for the date and the credential.

use std::fmt;

use jiff::ToSpan;
use jiff::civil::Date;
use url::Url;

use super::error::Wrong;

/// What may stand in braces.
const PLACEHOLDERS: [&str; 4] = ["{yyyy}", "{mm}", "{dd}", CREDENTIAL];

const CREDENTIAL: &str = "{credential}";

/// What stands for a text that is not shown.
const HIDDEN: &str = "***";

/// How many days, months or years before today's are asked for where today's is not there yet.
const DAYS_BACK: i32 = 3;

/// An `https` URL with a host name, no user and no fragment. `{yyyy}`, `{mm}` and `{dd}` stand for
/// the date on which it is asked for (UTC), `{credential}` for the credential.
///
/// A query may hold a token that somebody wrote into it, so neither `Debug` nor `Display` shows the
/// values of a query; only [`SourceUrl::on`] gives all of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SourceUrl {
    text: String,
}

impl SourceUrl {
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        const HELP: &str = "write https://, a host name and a path";
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains(['{', '}']) {
            let what = "the URL has a placeholder in its host, which is the same on every day";
            return Err(Wrong::new(what, HELP));
        }
        // Nothing of the text stands in a fault: it may hold a credential.
        let bare = PLACEHOLDERS.iter().fold(text.to_owned(), |bare, it| bare.replace(it, ""));
        if bare.contains(['{', '}']) {
            let help = format!("write {}, or %7B and %7D for braces", PLACEHOLDERS.join(", "));
            return Err(Wrong::new("the URL has braces around something else", help));
        }
        let url = Self { text: text.to_owned() };
        if (url.has("{dd}") && !url.has("{mm}")) || (url.has("{mm}") && !url.has("{yyyy}")) {
            let what = "the URL has a part of a date without the larger ones";
            return Err(Wrong::new(what, "write {yyyy}, {yyyy} and {mm}, or all three"));
        }
        let sample = url.on(jiff::civil::date(2000, 1, 1), "x");
        let sample =
            sample.map_err(|bad| Wrong::new(format!("the text is not a URL: {bad}"), HELP))?;
        match unfit(&sample) {
            Some(why) => Err(Wrong::new(format!("the URL {why}"), HELP)),
            None => Ok(url),
        }
    }

    fn has(&self, placeholder: &str) -> bool {
        self.text.contains(placeholder)
    }

    /// Whether a credential belongs into it.
    #[must_use]
    pub fn wants_credential(&self) -> bool {
        self.has(CREDENTIAL)
    }

    /// The days whose URL is asked for on `today`, in this order: the file of a new month or day
    /// comes some hours after it began.
    #[must_use]
    pub fn days(&self, today: Date) -> Vec<Date> {
        let back = |span: jiff::Span| today.checked_sub(span).ok();
        let earlier: Vec<_> = match (self.has("{dd}"), self.has("{mm}"), self.has("{yyyy}")) {
            (true, ..) => (1..=DAYS_BACK).filter_map(|days| back(days.days())).collect(),
            (false, true, _) => back(1.month()).into_iter().collect(),
            (false, false, true) => back(1.year()).into_iter().collect(),
            (false, false, false) => Vec::new(),
        };
        std::iter::once(today).chain(earlier).collect()
    }

    /// The URL of a day, whole, with the credential in its place.
    ///
    /// # Errors
    /// Where the text, so filled in, is not a URL.
    pub fn on(&self, day: Date, credential: &str) -> Result<Url, url::ParseError> {
        Url::parse(&self.dated(day).replace(CREDENTIAL, &percent_encoded(credential)))
    }

    /// What [`SourceUrl::on`] was made from, without the credential: tells one file from another.
    #[must_use]
    pub fn dated(&self, day: Date) -> String {
        let Self { text } = self;
        text.replace("{yyyy}", &format!("{:04}", day.year()))
            .replace("{mm}", &format!("{:02}", day.month()))
            .replace("{dd}", &format!("{:02}", day.day()))
    }

    /// As it is shown, with the date filled in.
    #[must_use]
    pub fn shown_on(&self, day: Date) -> String {
        shown(&self.dated(day))
    }

    /// The same with an ending behind its path.
    pub(super) fn with_ending(&self, ending: &str) -> Self {
        let end = self.text.find(['?', '#']).unwrap_or(self.text.len());
        let (path, query) = self.text.split_at(end);
        Self { text: format!("{path}{ending}{query}") }
    }

    /// Whether its query seems to hold a credential in the clear.
    pub(super) fn holds_credential(&self) -> bool {
        const WORDS: [&str; 6] = ["key", "token", "secret", "password", "auth", "signature"];
        let query = self.text.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = name.to_ascii_lowercase();
            !value.is_empty()
                && !value.contains('{')
                && WORDS.iter().any(|word| name.contains(word))
        })
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.text))
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

/// A URL without the values of its query and without its fragment.
fn shown(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if value.is_empty() || value == CREDENTIAL => format!("{name}={value}"),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => HIDDEN.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
}

/// All but the unreserved characters (RFC 3986 §2.3) as `%XX`.
pub(in crate::control) fn percent_encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Why nothing is fetched from a URL, however it came to be one.
pub(in crate::control) fn unfit(url: &Url) -> Option<&'static str> {
    if url.scheme() != "https" {
        return Some("is not https: who answers, and with what, could not be told");
    }
    if !matches!(url.host(), Some(url::Host::Domain(_))) {
        return Some("has no host name that a certificate could be for");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("holds a user or a password; write `user` and `credential_file` instead");
    }
    None
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn url(text: &str) -> SourceUrl {
        SourceUrl::parse(text).unwrap()
    }

    #[test]
    fn no_form_of_it_shows_the_values_of_its_query() {
        let it = url("https://data.example/c?license_key=s3cret&T0KEN&suffix=tar.gz#s3cret");
        for text in [it.to_string(), format!("{it:?}"), it.shown_on(date(2026, 11, 30))] {
            assert!(!text.contains("s3cret") && !text.contains("T0KEN"), "{text}");
            assert!(
                text.contains("https://data.example/c?license_key=***&***&suffix=***"),
                "{text}"
            );
        }
        let it = url("https://data.example/c?license_key={credential}");
        assert_eq!(it.to_string(), "https://data.example/c?license_key={credential}");
        let whole = it.on(date(2026, 11, 30), "a&b=c/d").unwrap();
        assert_eq!(whole.as_str(), "https://data.example/c?license_key=a%26b%3Dc%2Fd");
    }

    #[test]
    fn a_dated_url_is_that_of_the_day_and_then_of_the_one_before() {
        let monthly = url("https://data.example/{yyyy}/c-{yyyy}-{mm}.csv");
        let days = monthly.days(date(2026, 3, 31));
        let texts: Vec<_> = days.into_iter().map(|day| monthly.dated(day)).collect();
        assert_eq!(
            texts,
            ["https://data.example/2026/c-2026-03.csv", "https://data.example/2026/c-2026-02.csv"]
        );
        let daily = url("https://data.example/{yyyy}{mm}{dd}");
        assert_eq!(daily.days(date(2026, 1, 1)).len(), 4);
        assert_eq!(daily.dated(daily.days(date(2026, 1, 1))[1]), "https://data.example/20251231");
        assert_eq!(url("https://data.example/{yyyy}").days(date(2026, 1, 1)).len(), 2);
        assert_eq!(url("https://data.example/c").days(date(2026, 1, 1)).len(), 1);
    }

    #[test]
    fn what_is_in_braces_is_a_placeholder_or_a_fault_that_does_not_repeat_it() {
        for text in [
            "https://data.example/{s3cret}",
            "https://data.example/{yyyy",
            "https://{credential}.example/s3cret",
            "https://data.example/{mm}?s3cret",
            "https://data.example/{yyyy}-{dd}?s3cret",
            "http://data.example/s3cret",
            "https://192.0.2.1/s3cret",
            "https://me:s3cret@data.example/",
            "s3cret",
        ] {
            let Wrong { what, help } = SourceUrl::parse(text).unwrap_err();
            assert!(!what.contains("s3cret") && !help.contains("s3cret"), "{text}: {what} {help}");
        }
    }

    #[test]
    fn a_token_in_the_clear_is_noticed() {
        for text in ["?license_key=abc", "?a=b&api_token=abc", "?X-Signature=1"] {
            assert!(url(&format!("https://data.example/c{text}")).holds_credential(), "{text}");
        }
        for text in ["", "?edition_id=GeoLite2", "?license_key={credential}", "?key="] {
            assert!(!url(&format!("https://data.example/c{text}")).holds_credential(), "{text}");
        }
    }
}
