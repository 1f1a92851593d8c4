//! The policy that a command is judged by: a file, or a few words on the command line.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::summary::About;
use crate::cli::common::{PolicyFile, said};
use crate::control::config::{self, Faults, Loaded};
use crate::control::load::LoadedPolicy;
use crate::service::host_name_servers;

/// Where a policy comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A file; [`None`] is the built-in one.
    File(Option<PathBuf>),
    /// Words, and the policy that they make.
    Words { words: String, text: String },
}

/// Words that make no policy.
#[derive(Debug, thiserror::Error)]
#[error("--policy: {0}; write as in --policy 'permit=eea,gdpr-adequacy law=eea on.unknown=log'")]
pub(super) struct NoPolicy(String);

impl Origin {
    pub(super) fn of(words: Option<&str>, file: &PolicyFile) -> Result<Self, NoPolicy> {
        let Some(words) = words else {
            return Ok(Self::File(file.taken().map(Path::to_owned)));
        };
        let text = text(words, &host_name_servers())?;
        Ok(Self::Words { words: words.to_owned(), text })
    }

    pub(super) fn load(&self) -> Result<Loaded, Faults> {
        match self {
            Self::File(path) => config::load(path.as_deref()),
            Self::Words { text, .. } => config::parse(text, None),
        }
    }

    pub(super) fn about(&self, loaded: &LoadedPolicy) -> About {
        let policy = loaded.compiler.policy_at(jiff::Timestamp::now());
        let words = match self {
            Self::File(path) => said(path.as_deref()),
            Self::Words { words, .. } => format!("the policy '{words}'"),
        };
        let (version, enforces) = (policy.version().to_owned(), policy.enforces());
        About { policy: words, version, enforces }
    }

    /// The text of the policy file.
    ///
    /// # Errors
    /// The file cannot be read any more.
    pub(super) fn text(&self) -> std::io::Result<String> {
        match self {
            Self::File(Some(path)) => fs::read_to_string(path),
            Self::File(None) => Ok(config::DEFAULT.to_owned()),
            Self::Words { text, .. } => Ok(text.clone()),
        }
    }
}

/// A policy file that says what the words say. The name servers that the host has may be asked about names
/// that the policy permits, wherever they are: without them no name has an address.
fn text(words: &str, servers: &[std::net::IpAddr]) -> Result<String, NoPolicy> {
    let list = |values: &str| {
        let values = values.split(',').map(|value| toml::Value::from(value.trim()));
        toml::Value::Array(values.collect())
    };
    let (mut policy, mut on) = (String::new(), String::new());
    let mut has_permit = false;
    for word in words.split_whitespace() {
        let (key, value) =
            word.split_once('=').ok_or_else(|| NoPolicy(format!("{word:?} has no '='")))?;
        let written = match key {
            "permit" => {
                has_permit = true;
                writeln!(policy, "permit = {}", list(value))
            }
            "law" | "permit_law" => writeln!(policy, "permit_law = {}", list(value)),
            key => match key.strip_prefix("on.") {
                Some(cause) if is_word(cause) => {
                    writeln!(on, "{cause} = {}", toml::Value::from(value))
                }
                _ => return Err(NoPolicy(format!("{key:?} is not one of permit, law, on.CAUSE"))),
            },
        };
        // Into a text nothing fails.
        written.ok();
    }
    if !has_permit {
        return Err(NoPolicy("permit= is missing".to_owned()));
    }
    let mut text = format!("schema = 1\n\n[policy]\nmode = \"enforce\"\n{policy}");
    if !on.is_empty() {
        text = format!("{text}\n[policy.on]\n{on}");
    }
    // A name server on the host itself is no destination.
    let to: Vec<_> = servers.iter().filter(|server| !server.is_loopback()).collect();
    if !to.is_empty() {
        let to = toml::Value::Array(
            to.iter().map(|ip| ipnet::IpNet::from(**ip).to_string().into()).collect(),
        );
        text = format!(
            "{text}\n[[rule]]\nname   = \"name-servers-of-this-host\"\nto     = {to}\nport   = [53]\n\
             action = \"log\"\nreason = \"without them no name has an address; they hear every name \
             that is asked about\"\n"
        );
    }
    Ok(text)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Mode;

    #[test]
    fn words_make_a_policy_that_loads_and_enforces() {
        let servers = ["192.0.2.53".parse().unwrap(), "127.0.0.53".parse().unwrap()];
        let text = text("permit=eea,-GB law=eea on.unknown=log", &servers).unwrap();
        let loaded = config::parse(&text, None).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        assert_eq!(loaded.config.policy.mode, Mode::Enforce);
        assert!(loaded.config.policy.permit_law.is_some());
        assert_eq!(loaded.config.rules.len(), 1);
        assert!(text.contains("192.0.2.53") && !text.contains("127.0.0.53"), "{text}");
    }

    #[test]
    fn words_that_make_no_policy_are_named() {
        for (words, named) in [
            ("permit", "has no '='"),
            ("law=eea", "permit= is missing"),
            ("permit=eea mode=observe", "\"mode\" is not one of"),
            ("permit=eea on.a\"b=log", "is not one of"),
        ] {
            let fault = text(words, &[]).unwrap_err().to_string();
            assert!(fault.contains(named), "{fault}");
        }
        // What is no zone is a fault of the policy as in a file.
        let hostile = text("permit=\"]\nmode=x", &[]);
        assert!(hostile.is_err() || config::parse(&hostile.unwrap(), None).is_err());
        assert!(config::parse(&text("permit=nowhere", &[]).unwrap(), None).is_err());
    }
}
