//! `GET /metrics`: the Prometheus text format, or OpenMetrics for those who ask for it.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

use crate::http::problem::Problem;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Result<Response, Problem> {
    let open = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text")));
    let mut shown = String::new();
    let (encoded, content_type) = if open {
        (text::encode(&mut shown, &registry), OPEN_METRICS)
    } else {
        (prometheus_text::encode(&mut shown, &registry), PROMETHEUS)
    };
    encoded.map_err(|_| Problem::internal("The metrics cannot be shown."))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], shown).into_response())
}
