//! What can be read in bytes beside what stands there: without escapes, and with lists of numbers as bytes.

use std::borrow::Cow;

/// The fewest numbers that are taken for a list of bytes.
const SHORTEST_LIST: usize = 8;

/// The bytes as they are, under an empty word, and every way to read them.
pub(super) fn views(bytes: &[u8]) -> Vec<(&'static str, Cow<'_, [u8]>)> {
    let unescaped = unescaped(bytes);
    // A text with escapes that stands in JSON has its escapes escaped.
    let twice = self::unescaped(&unescaped);
    let percent = |bytes: &[u8]| Cow::from(percent_encoding::percent_decode(bytes).collect::<Vec<_>>());
    let views = [
        ("percent-encoded", percent(bytes)),
        ("percent-encoded and escaped", percent(&unescaped)),
        ("list of bytes", Cow::from(listed(&unescaped))),
        ("escaped", Cow::from(unescaped)),
        ("escaped twice", Cow::from(twice)),
    ];
    let others = views.into_iter().filter(|(_, view)| view.as_ref() != bytes);
    std::iter::once(("", Cow::from(bytes))).chain(others).collect()
}

/// Reads the escapes of JSON and of Rust's `Debug`, of texts and of bytes. What is none stays as it is.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut read = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some((meant, length)) = escape(rest) {
            read.extend(meant);
            rest = &rest[length..];
        } else {
            read.push(first);
            rest = behind;
        }
    }
    read
}

/// What an escape at the beginning means, and how long it is.
fn escape(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (&[b'\\', kind], rest) = text.split_first_chunk()? else { return None };
    let character = |digits: &[u8], length| Some((character(digits)?.to_string().into_bytes(), length));
    match kind {
        b'\\' | b'"' | b'\'' | b'/' => Some((vec![kind], 2)),
        b'n' => Some((vec![b'\n'], 2)),
        b'r' => Some((vec![b'\r'], 2)),
        b't' => Some((vec![b'\t'], 2)),
        b'0' => Some((vec![0], 2)),
        b'x' => Some((vec![u8::try_from(number(rest.get(..2)?)?).ok()?], 4)),
        b'u' if rest.first() == Some(&b'{') => {
            let end = rest.iter().take(8).position(|&byte| byte == b'}')?;
            character(&rest[1..end], end + 3)
        }
        b'u' => character(rest.get(..4)?, 6),
        _ => None,
    }
}

fn character(digits: &[u8]) -> Option<char> {
    char::from_u32(number(digits)?)
}

fn number(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// All lists of numbers that may be bytes, one behind the other.
fn listed(bytes: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let mut list = Vec::new();
    for part in bytes.split(|&byte| byte == b',') {
        match byte_at(part.trim_ascii()) {
            Some((byte, true)) => list.push(byte),
            // The first number stands behind what is no list, the last one before it.
            Some((byte, false)) if part.trim_ascii().last().is_some_and(u8::is_ascii_digit) => {
                keep(&mut list, &mut read);
                list.push(byte);
            }
            Some((byte, false)) => {
                list.push(byte);
                keep(&mut list, &mut read);
            }
            None => keep(&mut list, &mut read),
        }
    }
    keep(&mut list, &mut read);
    read
}

fn keep(list: &mut Vec<u8>, read: &mut Vec<u8>) {
    if list.len() >= SHORTEST_LIST {
        read.append(list);
    }
    list.clear();
}

/// The number at the end, or else at the beginning, if it may be a byte; and whether it is all that is there.
fn byte_at(part: &[u8]) -> Option<(u8, bool)> {
    let is_other = |byte: &u8| !byte.is_ascii_digit();
    let digits = if part.last().is_some_and(u8::is_ascii_digit) {
        &part[part.iter().rposition(is_other).map_or(0, |at| at + 1)..]
    } else {
        &part[..part.iter().position(is_other)?]
    };
    let byte = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((byte, digits.len() == part.len()))
}
