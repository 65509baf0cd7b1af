//! Counts the instructions of the pure cases with callgrind, and compares them with those that were kept.
//!
//! ```text
//! cargo run --release -p runner-manager-benches --bin instructions            # compares
//! cargo run --release -p runner-manager-benches --bin instructions -- --keep  # keeps what it counts
//! ```
//!
//! It runs itself once for each case below valgrind. Counts do not depend on what else the machine does, so that more than
//! [`MOST`] of growth fails; they do depend on the compiler, so that another one may mean keeping them anew.
#![expect(clippy::print_stdout, reason = "it is a program that prints a table")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use runner_manager_benches::pure::{Case, cases};

/// By how many per cent a count may have grown.
const MOST: u64 = 10;

/// Instructions by the name of their case.
type Counts = BTreeMap<String, u64>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => compare(),
        ["--keep"] => keep(),
        ["--case", name] => run(name),
        _ => Err("usage: instructions [--keep]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a case as callgrind is to see it: once before it counts, so that nothing is set up any more.
fn run(name: &str) -> Result<(), String> {
    let mut case = cases().into_iter().find(|case| case.name == name).ok_or("there is no such case")?;
    case.run();
    counted(&mut case);
    Ok(())
}

/// What callgrind counts, by the name of this function.
#[inline(never)]
fn counted(case: &mut Case) {
    case.run();
}

fn count() -> Result<Counts, String> {
    cases().into_iter().map(|case| Ok((case.name.clone(), count_of(&case.name)?))).collect()
}

fn count_of(name: &str) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?;
    let ran = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*instructions*counted*",
        ])
        .arg(own)
        .args(["--case", name])
        .output()
        .map_err(|error| format!("valgrind does not run (apt-get install valgrind): {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let counted = said.lines().find_map(|line| line.split("Collected :").nth(1));
    let count = counted.and_then(|count| count.trim().parse().ok()).filter(|count| *count > 0);
    count.ok_or_else(|| format!("{name}: callgrind counted nothing:\n{said}"))
}

fn kept_in() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

fn keep() -> Result<(), String> {
    let counts = count()?;
    let text = serde_json::to_string_pretty(&counts).map_err(|error| error.to_string())?;
    std::fs::write(kept_in(), text + "\n").map_err(|error| format!("{}: {error}", kept_in().display()))?;
    print!("{}", table(&counts, &counts).0);
    Ok(())
}

fn compare() -> Result<(), String> {
    let text = std::fs::read_to_string(kept_in());
    let text = text.map_err(|error| format!("{}: {error}", kept_in().display()))?;
    let kept: Counts =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", kept_in().display()))?;
    let (table, faults) = table(&count()?, &kept);
    print!("{table}");
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The counts beside those that were kept, and what is wrong with them.
fn table(counts: &Counts, kept: &Counts) -> (String, Vec<String>) {
    let (mut table, mut faults) = (String::new(), Vec::new());
    for (name, count) in counts {
        let Some(before) = kept.get(name) else {
            faults.push(format!("{name}: {count} instructions, and none were kept: keep them with --keep"));
            continue;
        };
        writeln!(table, "{name:<20} {count:>10} instructions, kept {before}").expect("a text takes any text");
        if count * 100 > before * (100 + MOST) {
            faults.push(format!(
                "{name}: {count} instructions, {before} were kept: that is more than {MOST} % above; find out why, or keep \
                 them with --keep"
            ));
        }
    }
    let gone = kept.keys().filter(|name| !counts.contains_key(*name));
    faults
        .extend(gone.map(|name| format!("{name}: was kept, and is no case any more: keep them with --keep")));
    (table, faults)
}

#[cfg(test)]
mod tests {
    use super::{Counts, table};

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn growth_above_a_tenth_is_a_fault() {
        let kept = counts(&[("one", 1_000), ("two", 1_000)]);
        assert_eq!(table(&counts(&[("one", 1_100), ("two", 10)]), &kept).1, Vec::<String>::new());
        let faults = table(&counts(&[("one", 1_101), ("two", 1_000)]), &kept).1;
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("one: 1101 instructions, 1000 were kept"), "{faults:?}");
    }

    #[test]
    fn a_case_is_kept_and_what_is_kept_is_a_case() {
        let faults = table(&counts(&[("new", 1)]), &counts(&[("old", 1)])).1;
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
