//! What commands print: the one place that writes to standard output.
//!
//! Logs go elsewhere, to standard error ([`logging`](crate::logging)).

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Prints one line or several.
///
/// # Errors
/// When standard output cannot be written. A reader that has gone (`| head`) is no error.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line over the last one of a terminal, and stays on it.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn redraw(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\r\u{1b}[K{text}")?;
    out.flush()
}

/// Prints a value as JSON.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string_pretty(value)?)?)
}

/// Prints a value as JSON on one line.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Fills the terminal anew with some lines.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn screen(text: &str) -> io::Result<()> {
    line(&format!("\u{1b}[H\u{1b}[2J{text}"))
}

/// Prints rows under their heads.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    line(&render_table(heads, rows))
}

/// Rows under their heads, each column as wide as its widest cell.
pub(crate) fn render_table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let render = |cells: [&str; N]| {
        let padded = cells.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at)));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heads = render(heads);
    let rows = rows.iter().map(|row| render(row.each_ref().map(String::as_str)));
    std::iter::once(heads).chain(rows).collect::<Vec<_>>().join("\n")
}

/// The text without what a terminal would obey: names of jobs are whatever a pull request says that they are.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}d"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d");
        assert_eq!(printable("größe 🦀"), "größe 🦀");
    }
}
