//! Plants a secret in each form, and sees that it is found; and nothing where there is none.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Find, Secrets};

/// It has what each form writes in another way: slashes and pluses in base64, quotes, line breaks, other letters.
const SECRET: &str = "p\u{fb}\u{ff}?>~/+%\"\\\n\tä7Hq-_kW9zX2vB8nM4";

fn found(output: impl AsRef<[u8]>) -> Vec<Find> {
    Secrets::default().and("it", SECRET).find(output.as_ref())
}

#[track_caller]
fn is_found_as(form: &str, output: impl AsRef<[u8]>) {
    let found = found(output.as_ref());
    let text = String::from_utf8_lossy(output.as_ref()).into_owned();
    assert!(found.iter().any(|find| find.secret == "it" && find.form == form), "{form}: {found:?} in {text}");
}

fn every_percent(letter: fn(u8) -> String) -> String {
    SECRET.bytes().map(letter).collect()
}

#[test]
fn plain() {
    is_found_as("plain", format!("token={SECRET}&x"));
    is_found_as("plain", [b"\0\xff", SECRET.as_bytes(), b"\xfe"].concat());
}

#[test]
fn base64_in_each_alignment() {
    for before in ["", "a", "ab", "abc", "user:"] {
        for after in ["", "z", "zz"] {
            let whole = format!("{before}{SECRET}{after}");
            is_found_as("base64", format!("Basic {}", BASE64_STANDARD.encode(&whole)));
            is_found_as("base64 for URLs", format!("?{}", BASE64_URL_SAFE.encode(&whole)));
        }
    }
}

#[test]
fn percent_encoded() {
    is_found_as("percent-encoded", every_percent(|byte| format!("%{byte:02x}")));
    is_found_as("percent-encoded", every_percent(|byte| format!("%{byte:02X}")));
    is_found_as("percent-encoded", utf8_percent_encode(SECRET, NON_ALPHANUMERIC).to_string());
    let some = SECRET.replace('%', "%25").replace('?', "%3F").replace('4', "%34");
    is_found_as("percent-encoded", format!("redis://user:{some}@host"));
    let inside = serde_json::json!(utf8_percent_encode(SECRET, NON_ALPHANUMERIC).to_string() + "\"");
    is_found_as("percent-encoded", inside.to_string());
}

#[test]
fn hex_in_both_cases() {
    is_found_as("hex", format!("key={}", hex::encode(SECRET)));
    is_found_as("hex", format!("key={}", hex::encode_upper(SECRET)));
}

#[test]
fn escaped() {
    is_found_as("escaped", serde_json::json!({"token": SECRET}).to_string());
    is_found_as("escaped", format!("{:?}", Some(SECRET)));
    is_found_as("escaped", format!("{:?}", Bytes::from_static(SECRET.as_bytes())));
    is_found_as("escaped", SECRET.escape_unicode().to_string());
    let units = SECRET.encode_utf16().fold(String::new(), |text, unit| format!("{text}\\u{unit:04X}"));
    is_found_as("escaped", units);
    is_found_as("escaped twice", serde_json::json!(format!("{SECRET:?}")).to_string());
}

#[test]
fn a_list_of_bytes() {
    let bytes = SECRET.as_bytes();
    is_found_as("list of bytes", format!("body: {bytes:?}, status: 200"));
    is_found_as("list of bytes", format!("numbers: [1, 2], {bytes:#?}"));
    is_found_as("list of bytes", serde_json::json!({"count": 3, "body": bytes}).to_string());
    is_found_as("list of bytes", serde_json::json!(format!("{bytes:#?}")).to_string());
}

#[test]
fn a_part_of_it() {
    for part in [&SECRET.as_bytes()[..20], &SECRET.as_bytes()[15..31]] {
        is_found_as("plain", part);
        is_found_as("base64", BASE64_STANDARD.encode(part));
        is_found_as("hex", hex::encode(part));
        is_found_as("list of bytes", format!("{part:?}"));
    }
}

#[test]
fn a_short_one_is_found_as_a_whole() {
    let secrets = Secrets::default().and("short", "hunter22");
    assert_eq!(secrets.find(b"redis://:hunter22@h")[0].form, "plain");
    assert_eq!(secrets.find(b"hunter2"), []);
}

#[test]
fn nothing_is_found_where_there_is_none() {
    let other: String = SECRET.chars().rev().collect();
    let mut outputs = vec![Vec::new(), b"\\".to_vec(), b"\\u12".to_vec(), b"%4".to_vec(), b"1, 2,".to_vec()];
    outputs.extend([other.clone().into_bytes(), BASE64_STANDARD.encode(&other).into_bytes()]);
    outputs.extend([hex::encode(&other).into_bytes(), format!("{other:?}").into_bytes()]);
    outputs.extend([format!("{:?}", other.as_bytes()).into_bytes(), (0..=255).collect()]);
    // Fewer bytes than make a find.
    outputs.push(SECRET.as_bytes()[..15].to_vec());
    for output in outputs {
        assert_eq!(found(&output), [], "{}", String::from_utf8_lossy(&output));
    }
}

#[test]
fn a_find_tells_where_but_not_what() {
    let secrets = Secrets::default().and("one", "a-secret-of-the-first").and("other", SECRET);
    let find = &secrets.find(format!("DEBUG transport: sent {SECRET}").as_bytes())[0];
    let told = find.to_string();
    assert!(told.starts_with("other (plain) behind `DEBUG transport: sent"), "{told}");
    assert!(!told.contains("vB8n") && !format!("{secrets:?}").contains("a-secret"), "{told} {secrets:?}");
}
