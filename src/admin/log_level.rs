//! How much is logged: read and changed while kielink runs. A change holds until the next one, or until a restart.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderValue, header},
    response::IntoResponse,
};
use tokio::time::timeout;

use crate::{
    telemetry::{Level, LogLevel},
    web::problem::{Kind, Problem},
};

/// Bytes of the longest word, and some blanks.
const LONGEST: usize = 32;

/// How long to wait for a body that does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /log-level`: the word alone.
pub(crate) async fn tell(State(level): State<LogLevel>) -> impl IntoResponse {
    let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    ([plain], format!("{}\n", level.get()))
}

/// `PUT /log-level`, with the word alone as its body; answers as `GET`.
pub(crate) async fn change(State(level): State<LogLevel>, body: Body) -> Result<impl IntoResponse, Problem> {
    let body = timeout(PATIENCE, to_bytes(body, LONGEST)).await;
    let text = body.ok().and_then(|body| String::from_utf8(body.ok()?.into()).ok()).unwrap_or_default();
    // SECURITY: what was sent is not repeated; it may be anything.
    let wanted: Level = text.trim().parse().map_err(|expected| {
        Problem::refused(Kind::MalformedRequest, format!("The body is the level alone: {expected}."))
    })?;
    let old = level.get();
    // The change is logged if either level shows it.
    level.set(old.max(wanted));
    tracing::info!(from = %old, to = %wanted, "the log level was changed");
    level.set(wanted);
    Ok(tell(State(level)).await)
}
