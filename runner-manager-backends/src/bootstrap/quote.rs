//! Puts any text into a script as one literal, so that nothing in it is ever read as code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runner_manager_core::domain::Os;

/// The text as one word of the language that the system's scripts are written in.
pub(super) fn quote(os: Os, text: &str) -> String {
    match os {
        Os::Windows => powershell(text),
        Os::Linux | Os::MacOs => bash(text),
    }
}

/// Between single quotes nothing but a single quote means anything.
fn bash(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// PowerShell takes several characters for a single quote, reads a file without a mark in the machine's own
/// encoding, and `EC2Launch` looks for its closing tag in the text: what is not plain goes in as base64.
fn powershell(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || " _./:+=,@%*\\-".contains(char);
    if text.chars().all(plain) {
        return format!("'{text}'");
    }
    let encoded = STANDARD.encode(text);
    format!("([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{encoded}')))")
}
