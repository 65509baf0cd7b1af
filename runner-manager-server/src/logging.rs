//! Logs: to standard error, as text for people or as JSON for machines.
//!
//! What concerns one runner bears its name in the field `runner`, what concerns one delivery of a webhook bears
//! it in `delivery`, so that either can be followed by one word. Secrets do not print, so none can be logged.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How to log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogOptions {
    /// How a log line looks.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,runner_manager_core=debug`. Default: `info`; in
    /// the demo, whose output is for looking at, `warn`.
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", global = true)]
    log_level: Option<String>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The AWS SDK logs whole requests at level trace, and they bear JIT configs: it gets no further than this, whatever
/// level is asked for.
const AWS_REQUESTS: [&str; 2] = [
    "aws_smithy_runtime::client::orchestrator=debug",
    "aws_smithy_runtime::client::orchestrator::http=debug",
];

/// Begins to log. Called once, by `main`.
///
/// # Errors
/// When the filter cannot be read.
pub(crate) fn start(options: &LogOptions, default_level: &str) -> Result<(), String> {
    let level = options.log_level.as_deref().unwrap_or(default_level);
    let filter =
        EnvFilter::try_new(level).map_err(|error| format!("--log-level (or RUST_LOG) `{level}`: {error}"))?;
    let filter = if filter.max_level_hint().is_none_or(|most| most >= LevelFilter::TRACE) {
        AWS_REQUESTS.iter().fold(filter, |filter, quiet| {
            filter.add_directive(quiet.parse().expect("these are targets and levels"))
        })
    } else {
        filter
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match options.log_format {
        LogFormat::Text => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
