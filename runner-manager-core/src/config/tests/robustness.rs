//! Whatever the text, reading ends with a configuration or with faults.

use proptest::collection::vec;
use proptest::prelude::{any, prop, proptest};
use proptest::sample::Index;

use super::super::example;
use super::{GOOD, try_read};

/// What a slip of the hand, or malice, may put into a file.
const SCRAPS: [&str; 16] = [
    ":",
    " ",
    "\n",
    "  ",
    "-",
    "{",
    "}",
    "[",
    "]",
    "&a",
    "*a",
    "<<: ",
    "!!int ",
    "'",
    "null",
    "99999999999999999999",
];

/// Reads a text; what is told must be in it.
fn read_any(text: &str) {
    if let Err(faults) = try_read(text) {
        // To YAML a carriage return alone ends a line too.
        let lines = text.matches(['\n', '\r']).count() as u64;
        assert!(faults.iter().count() > 0);
        for fault in faults.iter() {
            assert!(fault.line >= 1 && fault.line <= lines + 1 && fault.column >= 1, "{fault}");
        }
    }
}

proptest! {
    #[test]
    fn any_text(text in prop::string::string_regex("(?s).{0,200}").unwrap()) {
        read_any(&text);
    }

    #[test]
    fn yaml_of_our_keys(lines in vec("( {0,6})(- )?(name|server|max|labels|backends|placements|env|kind|x): ?(|a|1|\\[\\]|\\{\\}|~)", 0..20)) {
        read_any(&lines.join("\n"));
    }

    #[test]
    fn files_with_slips(
        of_example in any::<bool>(),
        slips in vec((any::<Index>(), 0..20_usize, any::<Index>()), 1..6),
    ) {
        let mut text: Vec<char> = if of_example { example() } else { GOOD }.chars().collect();
        for (at, cut, scrap) in slips {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, scrap.get(&SCRAPS).chars());
        }
        read_any(&text.into_iter().collect::<String>());
    }
}
