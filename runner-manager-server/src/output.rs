//! Standard output: the one place that writes to it. Logs go to standard error.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line, and out at once, so that whoever reads a pipe need not wait.
///
/// # Errors
/// When standard output cannot be written to, as when its reader is gone.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}
