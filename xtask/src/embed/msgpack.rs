//! As much of MessagePack as the table of cloud ranges uses: maps, arrays, text, integers, nil.

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Nil,
    Integer(i64),
    Text(&'a str),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

/// Depth of nesting that is followed; the table has three.
const DEPTH: u32 = 8;

/// Reads the one value that `bytes` hold.
pub(super) fn read(bytes: &[u8]) -> Result<Value<'_>, String> {
    let mut rest = bytes;
    let value = value(&mut rest, DEPTH).ok_or_else(|| {
        format!("is not MessagePack of a known kind at byte {}", bytes.len() - rest.len())
    })?;
    if rest.is_empty() { Ok(value) } else { Err("goes on after its end".to_owned()) }
}

impl<'a> Value<'a> {
    /// The value under `key` of a map.
    pub(super) fn under(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|p| p.0 == Value::Text(key)).map(|p| &p.1),
            Self::Nil | Self::Integer(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    pub(super) const fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nil | Self::Integer(_) | Self::List(_) | Self::Map(_) => None,
        }
    }

    pub(super) const fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Nil | Self::Text(_) | Self::List(_) | Self::Map(_) => None,
        }
    }

    pub(super) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            Self::Nil | Self::Integer(_) | Self::Text(_) | Self::Map(_) => None,
        }
    }
}

fn value<'a>(rest: &mut &'a [u8], depth: u32) -> Option<Value<'a>> {
    let depth = depth.checked_sub(1)?;
    let [tag] = *take(rest, 1)? else { return None };
    match tag {
        0x00..=0x7f => Some(Value::Integer(tag.into())),
        0x80..=0x8f => map(rest, (tag & 0x0f).into(), depth),
        0x90..=0x9f => list(rest, (tag & 0x0f).into(), depth),
        0xa0..=0xbf => text(rest, (tag & 0x1f).into()),
        0xc0 => Some(Value::Nil),
        0xcc => number(rest, 1).and_then(integer),
        0xcd => number(rest, 2).and_then(integer),
        0xce => number(rest, 4).and_then(integer),
        0xcf | 0xd3 => number(rest, 8).and_then(integer),
        0xd9 => number(rest, 1).and_then(|length| text(rest, length)),
        0xda => number(rest, 2).and_then(|length| text(rest, length)),
        0xdc => number(rest, 2).and_then(|count| list(rest, count, depth)),
        0xdd => number(rest, 4).and_then(|count| list(rest, count, depth)),
        0xde => number(rest, 2).and_then(|count| map(rest, count, depth)),
        _ => None,
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn number(rest: &mut &[u8], width: usize) -> Option<usize> {
    let bytes = take(rest, width)?;
    Some(bytes.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte)))
}

/// A number that is not negative; the table has no other.
fn integer<'a>(number: usize) -> Option<Value<'a>> {
    i64::try_from(number).ok().map(Value::Integer)
}

fn text<'a>(rest: &mut &'a [u8], length: usize) -> Option<Value<'a>> {
    str::from_utf8(take(rest, length)?).ok().map(Value::Text)
}

fn list<'a>(rest: &mut &'a [u8], count: usize, depth: u32) -> Option<Value<'a>> {
    // Each takes a byte, so that no count can ask for more than there is.
    (count <= rest.len()).then_some(())?;
    (0..count).map(|_| value(rest, depth)).collect::<Option<_>>().map(Value::List)
}

fn map<'a>(rest: &mut &'a [u8], count: usize, depth: u32) -> Option<Value<'a>> {
    (count <= rest.len()).then_some(())?;
    let pairs = (0..count).map(|_| Some((value(rest, depth)?, value(rest, depth)?)));
    pairs.collect::<Option<_>>().map(Value::Map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_table_are_read() {
        let bytes = b"\x82\xa1p\x00\xa1r\x93\xa2fr\xcd\x01\x00\xc0";
        let map = read(bytes).unwrap();
        assert_eq!(map.under("p").and_then(Value::integer), Some(0));
        let list = map.under("r").and_then(Value::list).unwrap();
        assert_eq!(list, [Value::Text("fr"), Value::Integer(256), Value::Nil]);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn depth_and_counts_are_bounded() {
        assert!(read(&[0x91; 99]).is_err());
        assert!(read(b"\xdd\xff\xff\xff\xff\xc0").is_err());
        assert!(read(b"\xc1").is_err() && read(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}
