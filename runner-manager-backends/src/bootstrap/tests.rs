//! Tests of the start scripts: what is rendered, and what it does on a machine.

#[path = "tests/machine.rs"]
mod machine;
#[path = "tests/manager.rs"]
mod manager;
#[path = "tests/rendering.rs"]
mod rendering;

use std::time::Duration;

use runner_manager_core::domain::{Arch, Os, RunnerName, Secret};

use super::{Mode, Scripts, StartConfig};

fn runner() -> RunnerName {
    RunnerName::new("acme-linux-1").unwrap()
}

fn scripts(config: StartConfig, os: Os) -> Scripts {
    Scripts::new(config, os, Arch::X64, Duration::from_mins(10)).unwrap()
}

fn callback(url: &str) -> Mode {
    Mode::Callback { url: url.to_owned(), ca: None, token: Secret::new("a-token") }
}

/// As large as GitHub's are.
fn direct() -> Mode {
    Mode::Direct { jit_config: Secret::new("eyJh".repeat(1100)) }
}
