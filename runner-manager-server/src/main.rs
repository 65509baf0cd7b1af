//! The `runner-manager` program: see the library of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    runner_manager_server::main(std::env::args_os())
}
