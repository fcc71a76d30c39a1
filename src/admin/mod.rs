//! The admin socket: `status`, `reload`, `people` and metrics for whoever may open it.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chat::history::History;
use crate::store::CHANGES_KEPT;
use crate::supervisor::status::Report;
use crate::supervisor::{Answer, Ask, Message};
use crate::telemetry::metrics::{CONTENT_TYPE, Source};

pub mod client;
mod metrics;
mod people;

/// What the socket's handlers need.
#[derive(Clone)]
pub struct Admin {
    pub report: Arc<Report>,
    pub supervisor: mpsc::Sender<Message>,
    pub metrics: Arc<[Arc<dyn Source>]>,
    pub history: Arc<History>,
}

/// The socket's path in the runtime directory.
#[must_use]
pub fn socket_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("admin.sock")
}

/// Opens the socket (0660: the owner and its group) and serves it until `stop`.
///
/// # Errors
/// When the runtime directory can't be made or the socket not bound.
pub fn start(admin: Admin, runtime_dir: &Path, stop: CancellationToken) -> anyhow::Result<JoinHandle<()>> {
    let path = socket_path(runtime_dir);
    let advice =
        || format!("admin socket {} can't be opened; name a writable directory with --runtime-dir", path.display());
    std::fs::create_dir_all(runtime_dir).with_context(advice)?;
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        bail!(
            "another perch answers at admin socket {}; end it, or name another directory with --runtime-dir",
            path.display()
        );
    }
    match std::fs::remove_file(&path) {
        // Nobody answers there: it is left over.
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(advice),
    }
    let listener = UnixListener::bind(&path).with_context(advice)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).with_context(advice)?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/history", get(history))
        .route("/metrics", get(numbers))
        .route("/reload", post(reload))
        .route("/people", get(people::list).delete(people::delete))
        .route("/people/export", get(people::export))
        .with_state(admin)
        .into_make_service_with_connect_info::<Peer>();
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(service = "supervisor", "the admin socket failed: {error}");
        }
        // Gone at the next start anyway.
        drop(std::fs::remove_file(&path));
    }))
}

async fn status(State(admin): State<Admin>) -> impl IntoResponse {
    Json(serde_json::to_value(admin.report.status()).unwrap_or_default())
}

async fn history(State(admin): State<Admin>) -> impl IntoResponse {
    Json(admin.report.history(CHANGES_KEPT).await)
}

/// `force` gives a version that was undone another chance.
#[derive(Deserialize)]
struct Reload {
    #[serde(default)]
    force: bool,
}

async fn reload(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Query(Reload { force }): Query<Reload>,
) -> Result<Json<Answer>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    let ask = Ask { reply, by: peer.to_string(), force };
    admin.supervisor.send(Message::Asked(ask)).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// Who is at the other end of the socket, as the kernel says (unix(7), `SO_PEERCRED`).
#[derive(Clone)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        Peer(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(uid) => write!(f, "user {uid} at the admin socket"),
            None => f.write_str("somebody at the admin socket"),
        }
    }
}

async fn numbers(State(admin): State<Admin>) -> impl IntoResponse {
    let text = metrics::page(&admin.report, &admin.metrics);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}
