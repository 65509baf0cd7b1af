//! Labels: a key and a value of Compute are short, and have letters, digits, `-` and `_` alone. Any text becomes one and can
//! be read back: a character that is not allowed, and `_` itself, becomes `_` and two hexadecimal digits for each byte.
//! <https://cloud.google.com/compute/docs/labeling-resources#requirements>

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The longest key or value, in characters.
const LONGEST: usize = 63;

/// The most labels of one resource.
pub(super) const MOST: usize = 64;

/// What a key begins with whose text does not begin with a letter. No encoded text has it: two `_` never meet.
const NO_LETTER: &str = "x__";

/// A text as a label's value, however long.
pub(super) fn value(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-' {
            encoded.push(char);
        } else {
            for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                // Writing into a text does not fail.
                let _ = write!(encoded, "_{byte:02x}");
            }
        }
    }
    encoded
}

/// The same, cut where it is too long for a value. What was cut in the middle of a character reads back without it.
pub(super) fn cut(text: &str) -> String {
    let mut short = value(text);
    short.truncate(LONGEST);
    short
}

fn key(text: &str) -> String {
    let encoded = value(text);
    if encoded.starts_with(|char: char| char.is_ascii_lowercase()) {
        encoded
    } else {
        format!("{NO_LETTER}{encoded}")
    }
}

/// The labels of tags.
///
/// # Errors
/// The tag that is too long to be one, or that there are too many.
pub(super) fn of_tags<'a>(
    tags: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for (name, text) in tags {
        let (key, value) = (key(name), value(text));
        if key.len() > LONGEST || value.len() > LONGEST {
            return Err(format!(
                "the tag {name}: {text} is longer than the {LONGEST} characters of a label, in which a character \
                 other than a-z, 0-9 and - takes three"
            ));
        }
        labels.insert(key, value);
    }
    if labels.len() > MOST {
        return Err(format!(
            "{} tags are more than the {MOST} labels that an instance may have",
            labels.len()
        ));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, proptest};

    use super::{cut, key, of_tags, value};

    /// The text of an encoded label.
    fn read(label: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = label.strip_prefix("x__").unwrap_or(label).bytes();
        while let Some(byte) = rest.next() {
            if byte == b'_' {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            } else {
                bytes.push(byte);
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_allowed_stays_as_it_is() {
        assert_eq!(value("acme-linux-0a1b"), "acme-linux-0a1b");
        assert_eq!(key("cost-center"), "cost-center");
        assert_eq!(value("acme/Web_1"), "acme_2f_57eb_5f1");
        assert_eq!(key("1st"), "x__1st");
        assert_eq!(key("Team"), "x___54eam");
        assert_eq!(value("é"), "_c3_a9");
    }

    #[test]
    fn what_is_too_long_is_refused_by_name() {
        let tags = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(of_tags(&tags("team", &"x".repeat(63))).is_ok());
        assert!(of_tags(&tags("team", &"x".repeat(64))).unwrap_err().contains("the tag team"));
        assert!(of_tags(&tags("team", &"X".repeat(22))).is_err());
        let many: BTreeMap<_, _> = (0..65).map(|n| (format!("t{n}"), String::new())).collect();
        assert!(of_tags(&many).unwrap_err().contains("65 tags"));
        assert_eq!(cut(&"X".repeat(30)).len(), 63);
    }

    proptest! {
        #[test]
        fn any_text_is_a_label_and_reads_back(text in any::<String>()) {
            for label in [value(&text), key(&text)] {
                assert_eq!(read(&label), text);
                assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b)));
            }
            assert!(key(&text).starts_with(|c: char| c.is_ascii_lowercase()));
        }
    }
}
