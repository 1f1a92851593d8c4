//! What the refused are told: in words for a person, and so that a program stops trying. The same text
//! on the page that answers a request, in its JSON, and by `schengate why`.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::policy::Reason;
use crate::report::world;

/// What is told of one refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Why.
    pub reason: Reason,
    /// Where the bytes could land: codes, `anycast` or `unknown`.
    pub place: String,
    /// The name that was asked for.
    pub host: Option<String>,
    /// The address and port that were judged.
    pub destination: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The client's group.
    pub group: Option<String>,
    /// The version of the policy.
    pub policy: Option<String>,
    /// The event id.
    pub event: String,
    /// Whom to ask.
    pub contact: Option<String>,
    /// Where to ask.
    pub ask_url: Option<String>,
}

impl Notice {
    /// Whether it is for want of room, and another try may fare better.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self.reason, Reason::Overload | Reason::Record)
    }

    /// The status of an HTTP answer, and its title: of what passes, one that clients try again after
    /// (RFC 9110 §15.6.4); else RFC 7725.
    #[must_use]
    pub const fn status(&self) -> (u16, &'static str) {
        if self.is_passing() {
            (503, "Service Unavailable")
        } else {
            (451, "Unavailable For Legal Reasons")
        }
    }

    /// The heading.
    #[must_use]
    pub const fn title(&self) -> &'static str {
        if self.is_passing() {
            "This connection cannot be made right now"
        } else {
            "This connection was refused"
        }
    }

    /// What was refused.
    #[must_use]
    pub fn what(&self) -> String {
        match (&self.host, &self.destination) {
            (Some(host), Some(at)) => format!("You asked for {host} ({at})."),
            (Some(host), None) => format!("You asked for {host}."),
            (None, Some(at)) => format!("You asked for the address {at}; no name was read."),
            (None, None) => "It is not known what you asked for.".to_owned(),
        }
    }

    /// Why, in a sentence or two.
    #[must_use]
    pub fn why(&self) -> String {
        let place = match (self.place.as_str(), self.reason) {
            (
                _,
                Reason::Overload
                | Reason::Record
                | Reason::Loop
                | Reason::Guard
                | Reason::Private
                | Reason::Unknown
                | Reason::Anycast,
            )
            | ("unknown" | "anycast", _) => String::new(),
            (place, _) => format!(" It may lie in {}.", places(place)),
        };
        format!("{}{place}", self.reason.sentence())
    }

    /// Whose decision it was.
    #[must_use]
    pub fn who(&self) -> String {
        if self.is_passing() {
            return "The gateway of this network answered, not the site that you asked for.".into();
        }
        let rule = self.rule.as_ref().map(|rule| format!(", by its rule \u{201c}{rule}\u{201d}"));
        format!(
            "The gateway of this network decided, under the organisation's policy{}. The site that \
             you asked for had no part in it, and no byte of yours reached it.",
            rule.unwrap_or_default()
        )
    }

    /// What to do.
    #[must_use]
    pub fn what_to_do(&self) -> String {
        if self.is_passing() {
            return format!("Try again in some seconds. If it lasts, {}.", self.ask());
        }
        format!(
            "Trying again does not help: the answer stays the same until the policy changes. If you \
             need this for your work, {}, and give the event id {}.",
            self.ask(),
            self.event
        )
    }

    fn ask(&self) -> String {
        match (&self.contact, &self.ask_url) {
            (Some(contact), Some(url)) => format!("ask {contact}, or at {url}"),
            (Some(contact), None) => format!("ask {contact}"),
            (None, Some(url)) => format!("ask at {url}"),
            (None, None) => "ask those who run this network".to_owned(),
        }
    }

    /// The whole text, a line a paragraph.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n\n{}\n{}\n{}\n{}\n\nEvent: {}\nReason: {}\nPlace: {}\n",
            self.title(),
            self.what(),
            self.why(),
            self.who(),
            self.what_to_do(),
            self.event,
            self.reason.label(),
            self.place,
        )
    }

    /// A problem detail (RFC 9457).
    #[must_use]
    pub fn json(&self) -> Value {
        let (status, title) = self.status();
        json!({
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": self.reason.sentence(),
            "reason": self.reason.label(),
            "place": self.place,
            "rule": self.rule,
            "event": self.event,
            "contact": self.contact,
            "ask_url": self.ask_url,
            "host": self.host,
            "destination": self.destination,
            "group": self.group,
            "policy": self.policy,
            "retry": self.is_passing(),
            "what": self.what(),
            "why": self.why(),
            "who": self.who(),
            "what_to_do": self.what_to_do(),
        })
    }

    /// The `Proxy-Status` of the answer (RFC 9209).
    #[must_use]
    pub fn proxy_status(&self) -> String {
        let rule = self.rule.as_ref().map_or_else(String::new, |rule| format!("; rule={rule}"));
        let (reason, place) = (self.reason.label(), &self.place);
        let details = format!("reason={reason}; place={place}{rule}; event={}", self.event);
        let error =
            if self.is_passing() { "connection_limit_reached" } else { "http_request_denied" };
        format!("schengate; error={error}; details={}", sf_string(&details))
    }

    /// The `Link` that names who blocks (RFC 7725 §4); nothing where nobody is named by a URI.
    #[must_use]
    pub fn blocked_by(&self) -> Option<String> {
        let mail = self.contact.as_deref().filter(|contact| is_mail(contact));
        let uri = self.ask_url.clone().or_else(|| mail.map(|mail| format!("mailto:{mail}")))?;
        let is_uri = uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
        (is_uri && !self.is_passing()).then(|| format!("<{uri}>; rel=\"blocked-by\""))
    }

    /// The page, for a browser: nothing in it is fetched, and nothing in it runs.
    #[must_use]
    pub fn html(&self) -> String {
        let rows = [
            ("Event", Some(self.event.as_str())),
            ("Reason", Some(self.reason.label())),
            ("Name", self.host.as_deref()),
            ("Address", self.destination.as_deref()),
            ("Place", Some(self.place.as_str())),
            ("Rule", self.rule.as_deref()),
            ("Group", self.group.as_deref()),
            ("Policy", self.policy.as_deref()),
        ];
        let paragraphs = [
            ("What was refused", self.what()),
            ("Why", self.why()),
            ("Whose decision it was", self.who()),
            ("What you can do", self.what_to_do()),
        ];
        let mail = self.contact.as_deref().filter(|contact| is_mail(contact));
        let ask = html! {
            @if self.ask_url.is_some() || mail.is_some() {
                p.ask {
                    @if let Some(url) = &self.ask_url {
                        a.button href=(url) rel="noreferrer" { "Ask for this destination" }
                    }
                    @if let Some(mail) = mail {
                        a href={ "mailto:" (mail) "?subject=Refused%3A%20event%20" (self.event) } { (mail) }
                    }
                }
            }
        };
        page("Refused by policy", self.title(), &paragraphs, &ask, &rows)
    }
}

/// What is told of a request that the policy did not refuse, and that could not be served all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status of the HTTP answer, and its title.
    pub status: (u16, &'static str),
    /// What happened, in some words, for programs.
    pub detail: String,
    /// What happened, in a sentence.
    pub what: String,
    /// What to do.
    pub what_to_do: &'static str,
    /// The name that was asked for.
    pub host: Option<String>,
    /// The event id.
    pub event: String,
}

impl Failure {
    const TITLE: &'static str = "This request could not be served";
    const WHO: &'static str = "The gateway of this network answers, not the site that you asked for. \
                               The policy did not refuse the request.";

    /// The whole text, a line a paragraph.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { what, what_to_do, event, .. } = self;
        format!("{}\n\n{what} {what_to_do}\n{}\n\nEvent: {event}\n", Self::TITLE, Self::WHO)
    }

    /// A problem detail (RFC 9457).
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "type": "about:blank",
            "title": self.status.1,
            "status": self.status.0,
            "detail": self.detail,
            "host": self.host,
            "event": self.event,
            "what": self.what,
            "who": Self::WHO,
            "what_to_do": self.what_to_do,
        })
    }

    /// The page, for a browser: as [`Notice::html`].
    #[must_use]
    pub fn html(&self) -> String {
        let paragraphs = [
            ("What happened", self.what.clone()),
            ("Who says so", Self::WHO.to_owned()),
            ("What you can do", self.what_to_do.to_owned()),
        ];
        let status = format!("{} {}", self.status.0, self.status.1);
        let rows = [
            ("Event", Some(self.event.as_str())),
            ("Name", self.host.as_deref()),
            ("Status", Some(status.as_str())),
            ("Cause", Some(self.detail.as_str())),
        ];
        page("Not served", Self::TITLE, &paragraphs, &html! {}, &rows)
    }
}

/// A page of paragraphs and of rows for those who look into it; `ask` stands between them.
fn page(
    title: &str,
    heading: &str,
    paragraphs: &[(&str, String)],
    ask: &Markup,
    rows: &[(&str, Option<&str>)],
) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    p.mark { "schengate" }
                    h1 { (heading) }
                    @for (heading, paragraph) in paragraphs {
                        h2 { (heading) }
                        p { (paragraph) }
                    }
                    (ask)
                    details {
                        summary { "For those who look into it" }
                        dl {
                            @for (term, text) in rows {
                                @if let Some(text) = text { dt { (term) } dd { (text) } }
                            }
                        }
                    }
                }
            }
        }
    };
    page.into_string() + "\n"
}

/// Codes by their names.
fn places(codes: &str) -> String {
    let name = |code: &str| match world::name(code, world::Language::En) {
        Some(name) => format!("{name} ({code})"),
        None => code.to_owned(),
    };
    codes.split([' ', ',']).filter(|code| !code.is_empty()).map(name).collect::<Vec<_>>().join(", ")
}

/// The style of [`Notice::html`].
const STYLE: &str = include_str!("notice.css");

/// The `Content-Security-Policy` of [`Notice::html`]: its own style, and nothing else.
pub static NOTICE_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        BASE64.encode(Sha256::digest(STYLE))
    )
});

/// Whether a contact line is a mail address and nothing else, of what needs no escape in a URI.
fn is_mail(contact: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    contact.split_once('@').is_some_and(|(user, host)| {
        [user, host].iter().all(|part| !part.is_empty() && part.bytes().all(is_plain))
    })
}

/// A structured-field string (RFC 8941 §3.3.3): printable ASCII, with `"` and `\` escaped.
#[must_use]
pub fn sf_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

/// A text in which no character is a command to a terminal, nor turns the direction of what follows.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if (c.is_control() && c != '\n') || turns {
            // Into a string nothing fails.
            write!(safe, "\\u{{{:x}}}", u32::from(c)).ok();
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice() -> Notice {
        Notice {
            reason: Reason::Outside,
            place: "US".to_owned(),
            host: Some("<script>alert(1)</script>.example".to_owned()),
            destination: Some("198.51.100.7:443".to_owned()),
            rule: Some("no <\"clouds\">\r\n".to_owned()),
            group: Some("<b>".to_owned()),
            policy: Some("0a1b".to_owned()),
            event: "1a-7".to_owned(),
            contact: Some("it@hospital.example".to_owned()),
            ask_url: Some("https://ask.hospital.example/?a=1&b=\"<".to_owned()),
        }
    }

    #[test]
    fn names_and_texts_of_others_are_no_markup() {
        let page = notice().html();
        for hostile in ["<script", "<b>", "no <", "b=\"<"] {
            assert!(!page.contains(hostile), "{hostile} in {page}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;.example"), "{page}");
        assert!(page.len() < 8_000, "{} bytes", page.len());
    }

    #[test]
    fn the_page_says_what_why_whose_and_what_to_do() {
        let page = notice().html();
        let words = [
            "You asked for ",
            Reason::Outside.sentence(),
            "It may lie in United States (US).",
            "by its rule",
            "Trying again does not help",
            "ask it@hospital.example",
            "1a-7",
            "mailto:it@hospital.example",
        ];
        for word in words {
            assert!(page.contains(word), "{word} in {page}");
        }
        assert!(NOTICE_POLICY.contains("style-src 'sha256-"), "{}", *NOTICE_POLICY);
        let passing = Notice { reason: Reason::Overload, ..notice() };
        assert!(passing.text().contains("Try again in some seconds"), "{}", passing.text());
        assert!(notice().text().contains("\nPlace: US\n"), "{}", notice().text());
        assert_eq!(passing.json()["retry"], true);
        assert_eq!(notice().json()["retry"], false);
    }

    #[test]
    fn who_blocks_is_named_by_a_uri_and_by_nothing_that_would_end_it() {
        let of = |ask_url: Option<&str>, contact: Option<&str>| {
            let [ask_url, contact] = [ask_url, contact].map(|text| text.map(str::to_owned));
            Notice { ask_url, contact, ..notice() }.blocked_by()
        };
        let url = of(Some("https://ask.example/"), None).unwrap();
        assert_eq!(url, "<https://ask.example/>; rel=\"blocked-by\"");
        let mail = of(None, Some("it@hospital.example")).unwrap();
        assert_eq!(mail, "<mailto:it@hospital.example>; rel=\"blocked-by\"");
        assert_eq!(of(Some("https://a.example/>\r\nX: y"), None), None);
        assert_eq!(of(None, Some("extension 1234, or it@hospital.example")), None);
    }

    #[test]
    fn nothing_in_a_printed_text_is_a_command_to_a_terminal() {
        let hostile = "a\u{1b}[2J\u{202e}b\u{9b}c\r";
        assert_eq!(printable(hostile), "a\\u{1b}[2J\\u{202e}b\\u{9b}c\\u{d}");
        assert_eq!(printable("\u{e9}\n"), "\u{e9}\n");
    }
}
