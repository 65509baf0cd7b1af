//! The `runner-manager` program, as a library: its entry [`main`], and what came of a run ([`summary`]).
//!
//! Whoever wants a manager in a program of their own takes `runner-manager-core`. This is for our own programs alone: the
//! binary `runner-manager`, and the load driver, which is `runner-manager` to the processes that it starts.
//!
//! The program wires the core and the backends to the outside: the command line ([`cli`]), the configuration
//! ([`connect`]), the process ([`serve`]), HTTP ([`http`]), the page ([`dashboard`]) and the hooks at GitHub
//! ([`webhooks`]). What is for trying it out stands apart:
//! [`demo`], [`outside`], [`github_face`], [`fake_cloud`] and [`agent`]. It decides nothing about
//! runners.
//!
//! Exit codes: 0 when all went well, 1 when something failed, 2 when the configuration or the command line is
//! wrong.

mod agent;
mod check;
mod cli;
mod client;
mod connect;
mod dashboard;
mod demo;
mod fake_cloud;
mod github_face;
mod http;
mod http_face;
mod logging;
mod metrics;
mod output;
mod outside;
mod patience;
mod reload;
mod serve;
mod signals;
pub mod summary;
mod view;
mod webhooks;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use runner_manager_core::config::LoadError;
use tokio::runtime::Runtime;

/// The exit code of a wrong configuration or command line.
const WRONG_INPUT: u8 = 2;

/// Runs the program with these arguments, of which the first is its name, to its end. Called once in a process,
/// from its `main`: it sets up the logs and what encrypts.
///
/// What goes wrong is told on standard error and by the exit code, as the command line itself is.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = cli::Cli::parse_from(arguments);
    if let Err(wrong) = logging::start(&cli.log, cli.default_log_level()) {
        return fail(&anyhow::anyhow!(wrong), WRONG_INPUT);
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nobody installed another provider before main");
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime"), 1),
    };
    let outcome = runtime.block_on(cli.run());
    // What still blocks (a name look-up, say) does not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<LoadError>() => fail(&error, WRONG_INPUT),
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{error:#}");
    ExitCode::from(code)
}
