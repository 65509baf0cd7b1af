//! Keys as bytes whose order is the order that is wanted.
//!
//! Tables compare keys byte by byte. A key is a row of parts, each written so that comparing the bytes
//! compares the parts: texts end with a zero byte, numbers and times have a fixed width and their highest
//! byte first.

use std::ops::Bound;

use jiff::Timestamp;

/// A key under construction.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// A key of the index `tag` within its table.
    pub(super) fn of(tag: u8) -> Self {
        Self(vec![tag])
    }

    /// A key without an index.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a text. Texts that other parts follow are names, which have no zero byte.
    pub(super) fn text(mut self, text: &str) -> Self {
        debug_assert!(!text.as_bytes().contains(&0), "a zero byte ends a text");
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// Adds a text that nothing follows, which may be any.
    pub(super) fn last(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Adds a byte.
    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// Adds a number.
    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Adds a point in time.
    pub(super) fn time(mut self, time: Timestamp) -> Self {
        // Flipping the sign bit puts times before 1970 first.
        let shifted = time.as_nanosecond().cast_unsigned() ^ (1 << 127);
        self.0.extend_from_slice(&shifted.to_be_bytes());
        self
    }

    /// The time that the key has at `at`, counted in bytes; none where the key is too short for it.
    pub(super) fn time_at(key: &[u8], at: usize) -> Option<Timestamp> {
        let bytes: [u8; 16] = key.get(at..at + 16)?.try_into().ok()?;
        Timestamp::from_nanosecond((u128::from_be_bytes(bytes) ^ (1 << 127)).cast_signed()).ok()
    }

    /// The key's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes the key has.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All keys that begin with this one.
    pub(super) fn span(self) -> Span {
        let end = successor(&self.0).map_or(Bound::Unbounded, Bound::Excluded);
        Span { begin: Bound::Included(self.0), end }
    }
}

/// The keys between two bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Where it begins.
    pub(super) begin: Bound<Vec<u8>>,
    /// Where it ends.
    pub(super) end: Bound<Vec<u8>>,
}

impl Span {
    /// All keys.
    pub(super) fn all() -> Self {
        Key::new().span()
    }

    /// The keys of this span after `key`.
    pub(super) fn after(self, key: Key) -> Self {
        Self { begin: Bound::Excluded(key.0), ..self }
    }

    /// The keys of this span before `key`.
    pub(super) fn before(self, key: Key) -> Self {
        Self { end: Bound::Excluded(key.0), ..self }
    }

    /// The keys of this span up to those that begin with `key`, these included.
    pub(super) fn through(self, key: Key) -> Self {
        Self { end: key.span().end, ..self }
    }
}

/// The first byte string that is greater than all that begin with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=kept].to_vec();
    next[kept] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use jiff::Timestamp;
    use proptest::prelude::{Strategy, any, proptest};

    use super::{Key, successor};

    fn time() -> impl Strategy<Value = Timestamp> {
        (Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond())
            .prop_map(|nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap())
    }

    proptest! {
        #[test]
        fn bytes_are_in_the_order_of_the_parts(
            one in ("[a-z0-9-]{0,5}", any::<u8>(), time(), any::<u64>(), ".{0,3}"),
            two in ("[a-z0-9-]{0,5}", any::<u8>(), time(), any::<u64>(), ".{0,3}"),
        ) {
            let key = |parts: &(String, u8, Timestamp, u64, String)| {
                Key::new().text(&parts.0).byte(parts.1).time(parts.2).number(parts.3).last(&parts.4)
            };
            assert_eq!(key(&one).bytes().cmp(key(&two).bytes()), one.cmp(&two));
        }

        #[test]
        fn times_are_in_order_and_read_back(one in time(), two in time()) {
            let (first, second) = (Key::of(7).time(one), Key::of(7).time(two));
            assert_eq!(first.bytes().cmp(second.bytes()), one.cmp(&two));
            assert_eq!(Key::time_at(first.bytes(), 1), Some(one));
            assert_eq!(Key::time_at(first.bytes(), 2), None);
        }
    }

    #[test]
    fn a_span_has_what_begins_with_it() {
        let span = Key::of(b'g').text("ab").span();
        assert_eq!(span.begin, Bound::Included(b"gab\0".to_vec()));
        assert_eq!(span.end, Bound::Excluded(b"gab\x01".to_vec()));
        assert_eq!(successor(&[1, u8::MAX]), Some(vec![2]));
        assert_eq!(successor(&[u8::MAX]), None);
        assert_eq!(Key::new().span().end, Bound::Unbounded);
    }
}
