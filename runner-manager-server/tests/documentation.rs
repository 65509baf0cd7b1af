//! The commands that the documentation shows exist, with the options that it gives them.

#![expect(clippy::unwrap_used, reason = "documentation that cannot be read fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All pages: those of the root, and those of `docs`.
fn pages(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && deep {
            pages(&path, deep, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// The command lines of a page, with where they stand: the lines of its `sh` blocks, joined where they go on.
fn command_lines(page: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(page).unwrap().replace("\\\n", " ");
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            found.push((format!("{}: {line}", page.display()), line.to_owned()));
        }
    }
    found
}

/// What our program is given on a command line, whether it is called by its name or by cargo.
fn arguments_of_ours(line: &str) -> Option<Vec<&str>> {
    let line = line.split(" #").next()?;
    let is_variable = |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.contains(['-', '/']));
    let words: Vec<_> = line.split_whitespace().skip_while(is_variable).collect();
    let ours = match *words.first()? {
        "cargo" if words.contains(&"runner-manager-server") && words.contains(&"run") => {
            words.into_iter().skip_while(|word| *word != "--").skip(1).collect()
        }
        program if program.rsplit('/').next() == Some("runner-manager") => words[1..].to_vec(),
        _ => return None,
    };
    Some(ours.into_iter().take_while(|word| !["|", "&", "&&", ";", ">", "2>"].contains(word)).collect())
}

/// The help of a subcommand, or `None` where there is no such one.
fn help(subcommand: &[&str]) -> Option<String> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_runner-manager")).args(subcommand).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_commands_that_are_shown_exist() {
    let mut found = Vec::new();
    pages(&root(), false, &mut found);
    pages(&root().join("docs"), true, &mut found);
    let mut helps = BTreeMap::new();
    let mut seen = 0;
    for (place, line) in found.iter().flat_map(|page| command_lines(page)) {
        let Some(arguments) = arguments_of_ours(&line) else { continue };
        seen += 1;
        let depth = if matches!(arguments.first(), Some(&("config" | "sweep"))) { 2 } else { 1 };
        let subcommand: Vec<_> = arguments.iter().take(depth).copied().collect();
        let help = helps.entry(subcommand.join(" ")).or_insert_with(|| help(&subcommand));
        let help = help.as_deref().unwrap_or_else(|| panic!("there is no such command: {place}"));
        for option in arguments.iter().filter_map(|word| word.split('=').next()) {
            let known = !option.starts_with("--")
                || help.split([' ', ',', '\n', '=', '[']).any(|word| word == option);
            assert!(known, "there is no {option}: {place}");
        }
    }
    assert!(seen > 0, "no page shows a command of ours");
}

#[test]
fn the_programs_that_are_shown_exist() {
    let mut found = Vec::new();
    pages(&root(), false, &mut found);
    pages(&root().join("docs"), true, &mut found);
    for (place, line) in found.iter().flat_map(|page| command_lines(page)) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words[0].starts_with("scripts/") {
            assert!(root().join(words[0]).is_file(), "there is no such file: {place}");
        }
        let packages =
            words.windows(2).filter(|pair| words[0] == "cargo" && ["-p", "--package"].contains(&pair[0]));
        for package in packages.map(|pair| pair[1]) {
            let folder = package.strip_prefix("runner-manager-").filter(|name| root().join(name).is_dir());
            let manifest = root().join(folder.unwrap_or(package)).join("Cargo.toml");
            assert!(manifest.is_file(), "there is no package {package}: {place}");
        }
    }
}
