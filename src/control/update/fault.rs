//! Why a source did not come.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::data::DataFault;

/// Why a source did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The policy refuses the destination.
    #[error("{0}")]
    Refused(String),
    /// The name has no address, or nobody says.
    #[error("{0} has no address that the resolver knows")]
    Unresolved(String),
    /// Nobody answers at any permitted address.
    #[error("{at}: {said}")]
    Unreached {
        /// Who was dialled last.
        at: SocketAddr,
        /// What came of it.
        said: String,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the answer of {host} broke off: {said}")]
    Broken {
        /// Who answered.
        host: String,
        /// How it ended.
        said: String,
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
        why: String,
    },
    /// Anybody on the host may read the credential, or write it.
    #[error(
        "the credential in {} is not kept from others of this host, so that it is not sent; take \
         their rights away (chmod o-rwx), and have a new one issued if anybody may have read it",
        .0.display()
    )]
    Exposed(PathBuf),
    /// A file of ours cannot be written or read.
    #[error("{}: {error}", .path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
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
            Self::Refused(_)
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

    pub(super) fn aside(path: &Path, error: io::Error) -> Self {
        Self::Aside { path: path.to_owned(), error }
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
