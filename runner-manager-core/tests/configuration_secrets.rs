//! No secret is in what a configuration prints, be it whole or with faults in it.

use std::io;
use std::path::Path;

use runner_manager_core::config::{Configuration, Environment, Faults, read};
use runner_manager_core::testing::secrets::Secrets;

const FILE: &str = "\
name: acme
secret_key: qT7vX1mZ9cL4bN8w-key
server:
  webhook_secret: [Rk5pY2uJ8dH3gF6s, Xo4kP6wD1jM8vC3z]
  tokens:
    - {name: ops, role: admin, token: Wn6xV0aQ2eS9tU4i}
store: {kind: redis, url: 'redis://ann:As2dF4gH6jK8lZ0x@h:1'}
github:
  connections:
    a: {token: ghp_Bz3yM7kD1fG5hJ8l, proxy: 'http://ann:Lp0oI9uY8tR7eW6q@h:1'}
    b: {app: {id: 1, private_key: '-----BEGIN RSA PRIVATE KEY-----Gm5tN7rE2yB9'}, proxy: {url: 'http://h:1', user: ann, password: Ju1hT3fR5dE7sW9a}}
backends:
  here: {kind: fake, url: 'http://h:1', timeout: 10s}
runner_groups:
  - {name: linux, organization: my-org, github: a, placements: [{backend: here}]}
";

const SECRETS: [&str; 9] = [
    "qT7vX1mZ9cL4bN8w",
    "Rk5pY2uJ8dH3gF6s",
    "Xo4kP6wD1jM8vC3z",
    "Wn6xV0aQ2eS9tU4i",
    "As2dF4gH6jK8lZ0x",
    "Bz3yM7kD1fG5hJ8l",
    "Lp0oI9uY8tR7eW6q",
    "Gm5tN7rE2yB9",
    "Ju1hT3fR5dE7sW9a",
];

/// What is put in the place of a character: quotes that stay open, keys that are none, values that stand elsewhere.
const SLIPS: [&str; 5] = ["", "'", "{", ": ", "\n"];

/// No variable and no file is there.
#[derive(Debug)]
struct Empty;

impl Environment for Empty {
    fn variable(&self, _: &str) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn folder(&self) -> &Path {
        Path::new("/")
    }
}

fn try_read(text: &str) -> Result<Configuration, Faults> {
    read(text, &runner_manager_backends::registry(), &Empty)
}

fn secrets() -> Secrets {
    SECRETS.iter().fold(Secrets::default(), |secrets, secret| secrets.and(secret, secret))
}

#[test]
fn what_was_read_does_not_print_them() {
    assert_eq!(secrets().find(FILE.as_bytes()).len(), SECRETS.len(), "all stand in the file");
    let read = try_read(FILE).unwrap();
    let printed = format!("{read:?} {read:#?}");
    assert_eq!(secrets().find(printed.as_bytes()), [], "{printed}");
}

/// Of every place of the file.
#[test]
fn a_file_with_a_slip_does_not_print_them() {
    let secrets = secrets();
    let mut refused = 0;
    for (at, slip) in (0..FILE.len()).flat_map(|at| SLIPS.map(|slip| (at, slip))) {
        let spoilt = format!("{}{slip}{}", &FILE[..at], &FILE[at + 1..]);
        if let Err(faults) = try_read(&spoilt) {
            refused += 1;
            let printed = format!("{faults} {faults:?}");
            assert_eq!(secrets.find(printed.as_bytes()), [], "{slip:?} at {at}: {printed}");
        }
    }
    assert!(refused > FILE.len(), "{refused}");
}

/// Where words of the file begin and end: keys and values.
fn words() -> Vec<(usize, usize)> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let (mut words, mut begin) = (Vec::new(), None);
    for (at, c) in FILE.char_indices() {
        if is_part(c) {
            begin.get_or_insert(at);
        } else if let Some(begin) = begin.take() {
            words.push((begin, at));
        }
    }
    words
}

/// A secret in the place of each word: as a value, as a key, as the name of a variable or a file.
#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    const WRONG: [&str; 5] = [
        "Wq4Xe7Rc2Tv9Yb5Nu8",
        "CorrectHorseBatteryStaple",
        "correct horse battery staple",
        "'http://ann:Wq4Xe7@h:1'",
        "{env: Wq4Xe7Rc2Tv9Yb5Nu8}",
    ];
    let forms =
        ["Wq4Xe7Rc2Tv9Yb5Nu8", "CorrectHorseBatteryStaple", "correct horse battery staple", "ann:Wq4Xe7"];
    let wrong = forms.iter().fold(secrets(), |secrets, form| secrets.and(form, form));
    let mut refused = 0;
    for ((begin, end), word) in words().into_iter().flat_map(|place| WRONG.map(|word| (place, word))) {
        let spoilt = format!("{}{word}{}", &FILE[..begin], &FILE[end..]);
        if let Err(faults) = try_read(&spoilt) {
            refused += 1;
            let printed = format!("{faults} {faults:?}");
            assert_eq!(wrong.find(printed.as_bytes()), [], "{word} for {}: {printed}", &FILE[begin..end]);
        }
    }
    assert!(refused > words().len(), "{refused}");
}
