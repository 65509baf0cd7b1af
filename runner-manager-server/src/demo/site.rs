//! The demo's HTTP server: the same routes as `serve`, for this machine alone.

use std::sync::Arc;

use runner_manager_core::clock::SystemClock;
use runner_manager_core::config::Webhooks;
use runner_manager_core::domain::Secret;
use runner_manager_core::manager::Manager;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::auth::Access;
use crate::http::{AppParts, AppState, router, server};

/// What the routes work with.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) manager: Manager,
    pub(super) secret: Secret,
}

/// Serves until `stop`.
pub(super) async fn serve_site(listener: TcpListener, site: Site, stop: CancellationToken) {
    let clock = Arc::new(SystemClock);
    let state = AppState::new(AppParts {
        manager: site.manager,
        clock: clock.clone(),
        webhooks: Webhooks::Signed(site.secret.into()),
        access: Access::Local,
        stop: stop.clone(),
    });
    server::serve(listener, router(state), clock, stop).await;
}
