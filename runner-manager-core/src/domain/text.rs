//! Text of others that is kept: never more of it than fits.

/// At most so many bytes of a text, whole characters only; what was cut shows as `…`.
pub fn bounded(text: &str, bytes: usize) -> String {
    const CUT: &str = "…";
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub(CUT.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::bounded;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(bounded("häuser", 7), "häuser");
        assert_eq!(bounded("häuser", 6), "hä…");
        assert_eq!(bounded("häuser", 5), "h…");
        assert!((3..20).all(|most| bounded("äöüäöüäöü", most).len() <= most));
    }
}
