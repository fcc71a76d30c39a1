//! The other end of the admin socket: what `status`, `reload` and `people` speak through.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

/// Why a daemon could not be asked.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no perch is running here: {0}")]
    NotRunning(String),
    /// Somebody does, but the socket may not be opened, or the answer makes no sense.
    #[error("{0}")]
    Failed(String),
}

/// Asks the daemon behind `runtime_dir` and returns the body of its answer, if it comes within `patience`.
///
/// # Errors
/// When there is no daemon, or its answer is no success.
pub async fn ask(runtime_dir: &Path, method: Method, route: &str, patience: Duration) -> Result<Bytes, AskError> {
    let mut body = Vec::new();
    download(runtime_dir, method, route, patience, &mut body).await?;
    Ok(body.into())
}

/// The same with a body of any length, which goes to `out` as it comes; `patience` is for each piece of it.
///
/// # Errors
/// As [`ask`], and when `out` can't be written.
pub async fn download(
    runtime_dir: &Path,
    method: Method,
    route: &str,
    patience: Duration,
    out: &mut impl Write,
) -> Result<(), AskError> {
    let path = super::socket_path(runtime_dir);
    let silent = |_| {
        let (path, seconds) = (path.display(), patience.as_secs());
        AskError::Failed(format!("perch is there, but {path} gave no answer within {seconds} s"))
    };
    let failed =
        |error: &dyn std::fmt::Display| AskError::Failed(format!("{} gave no answer: {error}", path.display()));
    let answer = tokio::time::timeout(patience, begin(&path, method, route)).await.map_err(silent)??;
    let (status, mut body) = (answer.response.status(), answer.response.into_body());
    let mut refusal = Vec::new();
    while let Some(frame) = tokio::time::timeout(patience, body.frame()).await.map_err(silent)? {
        let frame = frame.map_err(|error| failed(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let written = if status == StatusCode::OK { out.write_all(data) } else { refusal.write_all(data) };
        written.map_err(|error| AskError::Failed(format!("the answer can't be written: {error}")))?;
    }
    match status {
        StatusCode::OK => Ok(()),
        _ if refusal.is_empty() => Err(failed(&status)),
        _ => Err(AskError::Failed(String::from_utf8_lossy(&refusal).into_owned())),
    }
}

/// An answer that begins to come, and the connection that it comes over.
struct Coming {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

async fn begin(path: &Path, method: Method, route: &str) -> Result<Coming, AskError> {
    let shown = path.display();
    let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning(format!("nothing listens on {shown}; name another directory with --runtime-dir"))
        }
        std::io::ErrorKind::PermissionDenied => {
            AskError::Failed(format!("{shown} may not be opened by this user; try with sudo"))
        }
        _ => AskError::Failed(format!("{shown} can't be opened: {error}")),
    })?;
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(format!("{shown} gave no answer: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(route)
        .header(hyper::header::HOST, "perch")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    // The connection only moves bytes; its error shows in the exchange.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    Ok(Coming { response, _connection: connection })
}
