//! Why a source did not come.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::data::DataFault;
use crate::policy::{Lapsed, Reason};

/// Why a source did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The policy refuses the destination.
    #[error(
        "{reason}{}: {} ({})",
        by_rule(.rule.as_deref()),
        .reason.sentence(),
        shown_by(*.at, .host)
    )]
    Refused {
        /// Why.
        reason: Reason,
        /// The name of the rule that decided, if one did.
        rule: Option<String>,
        /// What was judged; `::` where the name is refused whatever its address.
        at: SocketAddr,
        /// The name.
        host: String,
    },
    /// The policy ended before it was asked.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    /// The name has no address, or nobody says.
    #[error("{0} has no address that the resolver knows")]
    Unresolved(String),
    /// Nobody answers at any permitted address.
    #[error("{at}: {}", chain(.source))]
    Unreached {
        /// Who was dialled last.
        at: SocketAddr,
        /// What came of it.
        source: io::Error,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the answer of {host} broke off: {}", chain(.source.as_ref()))]
    Broken {
        /// Who answered.
        host: String,
        /// How it ended.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An answer that is not a file.
    #[error("{url} answers with status {status}{}", hint(.status))]
    Status {
        /// What was asked for, as it is shown.
        url: String,
        /// The status code.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("the redirect to {to} {why}")]
    Redirect {
        /// Where it points, without what may be secret.
        to: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More bytes than are taken.
    #[error(
        "{url} is longer than {limit} bytes; set a larger [data.update] max_mib if it should be"
    )]
    Long {
        /// What was asked for, as it is shown.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// Not done in time.
    #[error("not done after {}s; set a larger [data.update] timeout if it should take so long", .0.as_secs())]
    Late(Duration),
    /// Another digest than the one that is asked for.
    #[error("has the digest {got}, and {wanted} is asked for")]
    Digest {
        /// Of the policy, or published beside the file.
        wanted: String,
        /// Of what came.
        got: String,
    },
    /// A digest or signature that cannot be read, or does not hold.
    #[error("{0}")]
    Unproven(&'static str),
    /// The credential is not there, or is not one.
    #[error("the credential{} {why}", in_file(.path.as_deref()))]
    Credential {
        /// Its file, where one is known.
        path: Option<PathBuf>,
        /// What is wrong; never what it holds.
        #[source]
        why: NoCredential,
    },
    /// Anybody on the host may read the credential, or write it.
    #[error(
        "the credential in {} is not kept from others of this host, so that it is not sent; take \
         their rights away (chmod o-rwx), and have a new one issued if anybody may have read it",
        .0.display()
    )]
    Exposed(PathBuf),
    /// A file of ours cannot be written or read.
    #[error("{}: {source}", .path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another update writes the same file.
    #[error("{}: another update of it is under way", .0.display())]
    Busy(PathBuf),
    /// The reader refuses the file, or it is worse than the one there.
    #[error("{}", in_words(.0))]
    Data(Vec<DataFault>),
}

impl Fault {
    /// Whether somebody said no: the policy, or a check of the bytes. The rest is what could not be
    /// done.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Lapsed(_)
            | Self::Redirect { .. }
            | Self::Long { .. }
            | Self::Digest { .. }
            | Self::Unproven(_)
            | Self::Exposed(_)
            | Self::Data(_) => true,
            Self::Unresolved(_)
            | Self::Unreached { .. }
            | Self::Broken { .. }
            | Self::Status { .. }
            | Self::Late(_)
            | Self::Credential { .. }
            | Self::Aside { .. }
            | Self::Busy(_) => false,
        }
    }

    pub(super) fn aside(path: &Path, source: io::Error) -> Self {
        Self::Aside { path: path.to_owned(), source }
    }
}

/// What is wrong with a credential.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCredential {
    /// What the service manager gives is not there.
    #[error(
        "there is no $CREDENTIALS_DIRECTORY; write LoadCredential= into the unit, or \
         credential_file into the policy"
    )]
    NoDirectory,
    /// No file, or nobody lets us.
    #[error("cannot be opened: {0}")]
    Unopened(#[source] io::Error),
    /// It is open, and nobody says what it is.
    #[error(transparent)]
    Unknown(io::Error),
    /// A folder, a pipe, a socket ...
    #[error("is not a regular file")]
    NoFile,
    /// The disk has something against it.
    #[error("cannot be read: {0}")]
    Unread(#[source] io::Error),
    /// So long is none.
    #[error("is longer than {0} bytes")]
    Long(u64),
    /// It could not stand in a header.
    #[error("does not hold one line of visible ASCII and nothing else")]
    NotALine,
    /// The policy names no user, and neither does it.
    #[error("does not hold user:password; write `user` into the policy")]
    NoUser,
}

/// An error with what caused it, as one line; what others wrote into it is escaped.
fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = inner.source();
    }
    said.escape_debug().to_string()
}

fn by_rule(rule: Option<&str>) -> String {
    rule.map_or_else(String::new, |rule| format!(" `{rule}`"))
}

/// What to do to see more of a refusal.
fn shown_by(at: SocketAddr, host: &str) -> String {
    if at.ip().is_unspecified() {
        format!("{host}, whatever its address")
    } else {
        format!("`schengate explain --to {at} --host {host}` shows each step")
    }
}

/// What a status says of a credential.
const fn hint(status: &u16) -> &'static str {
    match *status {
        401 | 403 => ": it wants a credential, or another one",
        _ => "",
    }
}

fn in_file(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" in {}", path.display()))
}

fn in_words(faults: &[DataFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
