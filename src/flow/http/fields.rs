//! Reads the field lines of a head, and tells those of one hop.

/// One field line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    /// As it came, without its end.
    pub(super) line: &'a [u8],
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Field<'_> {
    /// Whether it has this name, which is in lower case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a request head in which no fault was found.
pub(super) fn of(head: &[u8]) -> impl Iterator<Item = Field<'_>> + Clone {
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        Some(Field { line, name, value: value.get(1..)?.trim_ascii() })
    })
}

/// The members of a list (RFC 9110 §5.6.1).
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether the Connection fields among these hold an option, which is in lower case.
pub(super) fn has_option<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    option: &str,
) -> bool {
    let connection = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
    let mut options = connection.flat_map(|(_, value)| members(value));
    options.any(|one| one.eq_ignore_ascii_case(option.as_bytes()))
}

/// Fields of one hop (RFC 9110 §7.6.1), beside those that `Connection` names. `Upgrade` is among
/// them: behind an explicit proxy no protocol is spoken that was not asked for with CONNECT.
const ONE_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field is of one hop by its own name.
pub(super) fn is_of_one_hop(name: &[u8]) -> bool {
    ONE_HOP.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

/// Fields that say where a message ends or whom it is for: in a trailer they would be believed by a
/// receiver that puts trailers among the fields (RFC 9110 §6.5.1).
const NO_TRAILERS: [&str; 6] =
    ["content-length", "transfer-encoding", "host", "connection", "trailer", "upgrade"];

/// Whether a trailer line must not go on.
pub(super) fn is_forbidden_in_trailer(line: &[u8]) -> bool {
    let name = line.split(|&byte| byte == b':').next().unwrap_or_default().trim_ascii();
    NO_TRAILERS.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

/// RFC 9110 §5.6.2.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
