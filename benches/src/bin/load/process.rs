//! The processes: started as `runner-manager`, ended with the driver, and measured by what the kernel counts.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context, bail};

/// The first argument of a process that is to be `runner-manager`.
pub(crate) const PROGRAM: &str = "runner-manager";
/// How many ticks of processor time Linux counts in a second, for whoever reads `/proc`.
const TICKS: f64 = 100.0;
const KIB_IN_MIB: f64 = 1024.0;

/// Is `runner-manager` with these arguments, until its end or the driver's: whose end, however it comes, closes
/// standard input.
pub(crate) fn be_runner_manager(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "it ends the process, so nobody has to wait for it")]
    std::thread::spawn(|| {
        // Nothing is ever written to it: this returns at its end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    runner_manager_server::main(std::iter::once(PROGRAM.into()).chain(arguments))
}

/// A process that printed where it listens, and is killed with this value.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    /// Where it listens: one URL for each address.
    pub(crate) urls: Vec<String>,
    child: Child,
    log: PathBuf,
    // Kept open, or it could print nothing more.
    stdout: BufReader<ChildStdout>,
}

/// What a process used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// Processor time, in seconds.
    pub(crate) cpu_s: f64,
    /// The most memory that it ever had.
    pub(crate) rss_mib: f64,
}

impl Process {
    /// Starts one, and waits until it listens on so many addresses.
    ///
    /// # Errors
    /// When it does not come to that.
    pub(crate) fn start(
        folder: &Path,
        name: &str,
        addresses: usize,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(PROGRAM).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        for variable in ["RUST_LOG", "RUNNER_MANAGER_CONFIG", "WEBHOOK_SECRET"] {
            command.env_remove(variable);
        }
        let mut child = command.stderr(fs::File::create(&log)?).spawn()?;
        let stdout = BufReader::new(child.stdout.take().expect("it was asked to be piped"));
        let mut process = Self { name: name.to_owned(), urls: Vec::new(), child, log, stdout };
        for _ in 0..addresses {
            let mut line = String::new();
            process.stdout.read_line(&mut line)?;
            let Some(url) = line.trim().strip_prefix("listening on ") else {
                bail!("{name} does not start, it printed {line:?}; its log ends:\n{}", process.log_end());
            };
            process.urls.push(url.to_owned());
        }
        Ok(process)
    }

    /// What it used until now.
    ///
    /// # Errors
    /// When it has ended, or this is no Linux.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            fs::read_to_string(path).with_context(|| {
                format!("{} cannot be measured; its log ends:\n{}", self.name, self.log_end())
            })
        };
        usage(&read("stat")?, &read("status")?).context("/proc is not as on Linux")
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands in `/proc/PID/stat` and `/proc/PID/status`.
fn usage(stat: &str, status: &str) -> Option<Usage> {
    // The program's name may hold spaces; the fields are counted from behind it, where the first is the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.split_whitespace().next()?.parse().ok()?;
    Some(Usage { cpu_s: (ticks(14)? + ticks(15)?) / TICKS, rss_mib: kib / KIB_IN_MIB })
}

#[cfg(test)]
mod tests {
    use super::{Usage, usage};

    #[test]
    fn what_the_kernel_counts_is_read() {
        let stat = "7 (a name) x) S 1 7 7 0 -1 4194560 1205 0 12 0 250 50 0 0 20 0 9 0 100 0 0";
        let status = "Name:\ta name) x\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(usage(stat, status), Some(Usage { cpu_s: 3.0, rss_mib: 2.0 }));
        assert_eq!(usage("7 (x) S 1", status), None);
    }
}
