//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once. SIGHUP asks for the
//! configuration to be read anew.

use std::io;
use std::process::ExitCode;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal.
const INTERRUPTED: u8 = 130;

/// Does some work that ends when its token is cancelled, which a signal does.
///
/// # Errors
/// Those of the work.
pub(crate) async fn until_stopped<F>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<ExitCode>
where
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(work(stop.clone()));
    tokio::select! {
        ended = work.as_mut() => return ended,
        signal = signals.next() => tracing::info!(signal, "stopping; a second signal ends at once"),
    }
    stop.cancel();
    tokio::select! {
        ended = work => ended,
        signal = signals.next() => {
            tracing::warn!(signal, "ended before what was under way was finished: the next start carries on");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The signal that asks for the configuration to be read anew. Where there is none, nobody asks.
#[derive(Debug)]
pub(crate) struct ReloadSignal {
    #[cfg(unix)]
    hang_up: Signal,
}

impl ReloadSignal {
    /// Listens for it from now on: until then it ends the process.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    #[cfg(unix)]
    pub(crate) async fn next(&mut self) {
        if self.hang_up.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the next one.
    #[cfg(not(unix))]
    pub(crate) async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// The signals that ask the process to end.
#[derive(Debug)]
struct StopSignals {
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    interrupt: Signal,
}

impl StopSignals {
    /// Listens for them from now on.
    ///
    /// # Errors
    /// When the system does not let us.
    fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: signal(SignalKind::terminate())?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one, and gives its name.
    #[cfg(unix)]
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits for the next one, and gives its name.
    #[cfg(not(unix))]
    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
