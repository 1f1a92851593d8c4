//! The parameters of a request to the API, and what is said where one cannot be meant.

use std::net::IpAddr;

use hyper::StatusCode;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::console::Untold;
use crate::control::config;
use crate::identify::HostName;
use crate::policy::{Country, Reason};

/// Rows of an answer where nobody says how many, and the most.
const ROWS: usize = 100;
pub(super) const ROWS_MAX: usize = 500;

/// Why there is no answer: a status, and what to do in words.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) StatusCode, pub(super) String);

impl Wrong {
    pub(super) fn query(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    /// A problem detail (RFC 9457).
    pub(super) fn json(&self) -> Value {
        json!({
            "type": "about:blank",
            "title": self.0.canonical_reason(),
            "status": self.0.as_u16(),
            "detail": self.1,
        })
    }
}

impl From<Untold> for Wrong {
    fn from(untold: Untold) -> Self {
        let (status, what) = match untold {
            Untold::NotYet => {
                (StatusCode::SERVICE_UNAVAILABLE, "The gateway starts or stops; ask again.")
            }
            Untold::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "A worker does not answer in time; ask again.")
            }
            Untold::NoRecord => (
                StatusCode::NOT_FOUND,
                "No record is kept that could tell ([audit]), or it cannot be read in time.",
            ),
        };
        Self(status, what.to_owned())
    }
}

/// The parameters of a request, each of which has to be known.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, Wrong> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(Wrong::query(format!("unknown parameter; there are: {known}")));
            }
            if pairs.iter().take(at).any(|(other, _)| other == name) {
                return Err(Wrong::query(format!("{name} stands here twice")));
            }
        }
        // An empty field of a form is one that was not filled in.
        Ok(Self(pairs.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect()))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim())
    }

    pub(super) fn parsed<T>(
        &self,
        name: &str,
        help: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let wrong = || Wrong::query(format!("{name}: {help}"));
        self.text(name).map(|text| parse(text).ok_or_else(wrong)).transpose()
    }

    pub(super) fn limit(&self) -> Result<usize, Wrong> {
        let parse = |text: &str| text.parse().ok().filter(|n| (1..=ROWS_MAX).contains(n));
        Ok(self.parsed("limit", &format!("write 1 to {ROWS_MAX}"), parse)?.unwrap_or(ROWS))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Wrong> {
        let parse = |text: &str| match text {
            "1" | "true" | "on" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        Ok(self.parsed(name, "write true or false", parse)?.unwrap_or(false))
    }

    pub(super) fn client(&self) -> Result<Option<IpAddr>, Wrong> {
        self.parsed("client", "write an IP address", |text| text.parse().ok())
    }

    pub(super) fn country(&self) -> Result<Option<Country>, Wrong> {
        self.parsed("country", "write a code of two letters", Country::from_code)
    }

    pub(super) fn reason(&self) -> Result<Option<Reason>, Wrong> {
        let parse = |text: &str| Reason::ALL.into_iter().find(|reason| reason.label() == text);
        self.parsed("reason", "write a reason code (docs/policy.md)", parse)
    }

    pub(super) fn host(&self) -> Result<Option<HostName>, Wrong> {
        self.parsed("host", "write a host name", |text| config::host_name(text).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_nobody_knows_or_that_cannot_be_meant_is_refused() {
        let read = |query: &str| Parameters::read(query, &["limit", "client"]);
        assert!(read("limt=3").is_err());
        assert!(read("limit=1&limit=2").is_err());
        for bad in ["0", "501", "-1", "x", "1e3"] {
            assert!(read(&format!("limit={bad}")).unwrap().limit().is_err(), "{bad}");
        }
        assert_eq!(read("limit=500").unwrap().limit().unwrap(), 500);
        assert_eq!(read("client=&limit=").unwrap().limit().unwrap(), ROWS);
        assert!(read("client=example").unwrap().client().is_err());
    }
}
