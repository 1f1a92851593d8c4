//! What is wrong with a policy file: every fault with its place and what to write instead.

use std::fmt;

use serde::Serialize;

/// Line and column of a text, both from 1; a column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// One thing that is wrong. Prints as `file:line:col: key: what` and, on a line of its own,
/// `help: what to write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as it was named to the program.
    pub file: String,
    /// Where in the file; `None` is the file as a whole.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The key, with dots (`rule.host`); empty where the fault is not of one key.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

impl Fault {
    /// A fault of a file as a whole.
    pub(super) fn whole(file: &str, wrong: Wrong) -> Self {
        let Wrong { what, help } = wrong;
        Self { file: file.to_owned(), position: None, key: String::new(), what, help }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, severity: &str) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {severity}")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

/// Every fault of a policy file, in the order of the text; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Whether the file could not even be read, so that nothing is said about its content.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self.0.as_slice(), [Fault { position: None, .. }])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Something that is no fault and that a reader of the policy should know. Prints as a fault does,
/// with `warning: ` before the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// Which lint.
    pub kind: LintKind,
    /// Place, text and help.
    #[serde(flatten)]
    pub finding: Fault,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finding.write(f, "warning: ")
    }
}

/// The lints, a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LintKind {
    /// An earlier rule decides wherever this one could.
    Shadowed,
    /// An allow rule that says on no ground that it opens.
    NoGround,
    /// An allow rule without basis that never ends.
    NoEnd,
    /// A rule or a group's mode that has ended.
    Expired,
    /// A rule that ends before it begins.
    Never,
    /// A list that takes out everything it names.
    Nowhere,
    /// The client is believed about names.
    Trust,
    /// A name that stands for other zones.
    Alias,
    /// A list holds countries whose adequacy covers some recipients only.
    PartialAdequacy,
    /// `observe`, and nothing ends it.
    ObserveWithoutEnd,
    /// A group that changes nothing and that no rule names.
    IdleGroup,
    /// A group's `until` without a `mode` that it could end.
    IdleUntil,
    /// An allow or log rule that names only the leading words of operators.
    LeadingWord,
    /// An allow rule that holds for every connection while it lasts.
    Everything,
    /// A pack of tables whose signature nobody checks.
    Unsigned,
    /// The kernel carries connections of which there is no record.
    Unrecorded,
    /// A cause that refuses nothing, so that what it is about is open.
    OpenCause,
    /// A credential that stands in the policy.
    TokenInUrl,
}

/// A region that the built-in facts do not know. A fault, unless a loaded provider table knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownRegion {
    /// `provider:region`, as in the rule.
    pub region: String,
    /// What to report where nobody knows it.
    pub fault: Fault,
}

/// What is wrong with a value, and what to write, before the place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_prints_its_place_and_its_help() {
        let fault = Fault {
            file: "p.toml".into(),
            position: Some(Position { line: 3, column: 7 }),
            key: "policy.mode".into(),
            what: "wrong".into(),
            help: "right".into(),
        };
        assert_eq!(fault.to_string(), "p.toml:3:7: policy.mode: wrong\n  help: right");
        let lint = Lint { kind: LintKind::Trust, finding: fault.clone() };
        assert_eq!(lint.to_string(), "p.toml:3:7: warning: policy.mode: wrong\n  help: right");
        let whole = Fault::whole("p.toml", Wrong::new("wrong", "right"));
        assert_eq!(whole.to_string(), "p.toml: wrong\n  help: right");
        assert_eq!(
            serde_json::to_value(&lint).unwrap(),
            serde_json::json!({"kind": "trust", "file": "p.toml", "line": 3, "column": 7,
                "key": "policy.mode", "what": "wrong", "help": "right"})
        );
    }
}
