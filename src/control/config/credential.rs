//! The credential of a source: where it lies, never what it is.

use super::fields::optional;
use super::model::{Credential, CredentialAt, CredentialSent};
use super::reader::{Item, Reader, Table};
use super::source_url::SourceUrl;

const HELP: &str = "name it in credential (systemd) or credential_file, which holds it in one line";

/// Reads the keys of a credential; `Some(None)` where there is none, `None` where one is faulty.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    url: Option<&SourceUrl>,
) -> Option<Option<Credential>> {
    let named = optional(table, "credential", |item| name(reader, item).map(CredentialAt::Named));
    let file = optional(table, "credential_file", |item| {
        reader.line(item).map(|path| CredentialAt::File(reader.base.join(path)))
    });
    let user = optional(table, "user", |item| user(reader, item))?;
    let header = optional(table, "header", |item| header(reader, item))?;
    let words = [("basic", true), ("bearer", false)];
    let basic = optional(table, "auth", |item| reader.word(item, &words))?;
    if table.has("credential")
        && let Some(item) = table.item("credential_file")
    {
        reader.fault(&item, "credential says where it lies already", "write one of the two");
        return None;
    }
    let in_url = url.is_some_and(SourceUrl::wants_credential);
    let Some(at) = named?.or(file?) else {
        let how = ["user", "auth", "header"].into_iter().find_map(|key| table.item(key));
        let how = how.or_else(|| table.item("url").filter(|_| in_url));
        return match how {
            Some(item) => {
                reader.fault(&item, "says how a credential is sent, and none is named", HELP);
                None
            }
            None => Some(None),
        };
    };
    let sent = match (in_url, header, user, basic) {
        (true, None, None, None) => CredentialSent::Url,
        (false, Some(header), None, None) => CredentialSent::Header(header),
        (false, None, user, Some(true)) => CredentialSent::Basic(user),
        (false, None, Some(user), None) => CredentialSent::Basic(Some(user)),
        (false, None, None, Some(false) | None) => CredentialSent::Bearer,
        _ => {
            let ways = ["user", "header", "auth"].into_iter().find_map(|key| table.item(key));
            if let Some(item) = ways {
                let what = "the credential would be sent in two ways";
                let help = "write one of {credential} in the URL, header, user (HTTP Basic), or \
                            auth = \"bearer\"";
                reader.fault(&item, what, help);
            }
            return None;
        }
    };
    Some(Some(Credential { at, sent }))
}

/// The name of a systemd credential, which is the name of a file.
fn name(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let name = reader.line(item)?;
    if name.contains('/') || name.starts_with('.') {
        let what = "is not the name of a systemd credential";
        reader.fault(item, what, "write the name in LoadCredential=, or use credential_file");
        return None;
    }
    Some(name)
}

fn user(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let user = reader.line(item)?;
    if user.contains(':') {
        // RFC 7617 §2: the first colon ends the user. It may be a whole credential, so it is not shown.
        let what = "a user of HTTP Basic has no \":\"";
        reader.fault(item, what, "write the user alone; the password belongs into the file");
        return None;
    }
    Some(user)
}

/// The name of a header (RFC 9110 §5.1) that is not the request's own.
fn header(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let name = reader.line(item)?.to_ascii_lowercase();
    let own = ["host", "connection", "content-length", "transfer-encoding", "user-agent", "accept"];
    let sound = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !sound || own.contains(&name.as_str()) {
        let what = "is not a header that could carry a credential";
        reader.fault(item, what, "write its name alone: header = \"X-Api-Key\"");
        return None;
    }
    Some(name)
}
