//! The data interface: every route and every layer, each with its reason.

mod answer;
pub(crate) mod batch;
pub(crate) mod directives;
mod docs;
pub(crate) mod edge;
pub(crate) mod guard;
mod handlers;
pub mod metrics;
mod openapi;
pub(crate) mod problem;
pub(crate) mod query;
mod unserved;

use std::{sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    routing::{MethodRouter, get, post},
};
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use self::unserved::refuse;
use self::{
    edge::{Edge, Watched},
    handlers::Endpoints,
};
use crate::{
    admin::{Readiness, probes},
    clock::Clock,
    key::LogHash,
    links::Links,
    source::AllowList,
    upstream,
};

/// What callers may do.
#[derive(Debug, Clone)]
pub struct Config {
    pub request_timeout: Duration,
    /// Lower-case names that `Host` may carry besides the internal ones.
    pub allowed_hosts: Vec<String>,
    pub sources: AllowList,
    /// Requests under way at once.
    pub places: usize,
    /// Bytes.
    pub body: usize,
    pub batch_body: usize,
    /// Of all batches' bodies that are under way at once, and of all others that are larger than usual.
    pub batch_room: usize,
    pub body_room: usize,
    /// Source URLs in one batch.
    pub batch: usize,
    pub body_timeout: Duration,
}

fn room(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)))
}

/// Everything that callers can reach. What it counts goes to `registry`.
pub(crate) fn router(
    config: &Config,
    links: Links,
    readiness: Readiness,
    clock: &Clock,
    log_hash: &LogHash,
    watched: Watched,
    registry: &mut Registry,
) -> Router {
    let endpoints = Arc::new(Endpoints {
        links,
        clock: clock.clone(),
        sources: config.sources.clone(),
        body: config.body,
        batch_body: config.batch_body,
        batch_room: room(config.batch_room),
        body_room: room(config.body_room),
        batch: config.batch,
        body_timeout: config.body_timeout,
        requests: watched.requests.clone(),
    });
    let most = config.places.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    watched.requests.register(registry, Arc::clone(&places), most);
    let edge = Arc::new(Edge {
        clock: clock.clone(),
        log_hash: log_hash.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        request_timeout: config.request_timeout,
        readiness: readiness.clone(),
        watched: Some(watched),
    });
    let links = link_routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    let routes = links
        .with_state(endpoints)
        // Around the routes above only: `/healthz` answers under any load.
        .route_layer(middleware::from_fn_with_state(places, edge::admit));
    let own = own_routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    layered(routes.merge(own.with_state(readiness)), edge)
}

/// What takes a place among the requests in flight. These two lists are all there is: a route that is not in
/// `openapi.json` fails its test.
fn link_routes() -> [(&'static str, MethodRouter<Arc<Endpoints>>); 4] {
    [
        (upstream::DOWNLOAD_URL, post(handlers::download_url)),
        ("/v1/link", get(handlers::link)),
        ("/v1/redirect", get(handlers::redirect)),
        ("/v1/links", post(batch::links)),
    ]
}

/// What kielink says of itself.
fn own_routes() -> [(&'static str, MethodRouter<Readiness>); 3] {
    [
        // For load balancers that cannot reach the admin interface.
        ("/healthz", get(probes::readyz)),
        ("/openapi.json", get(openapi::openapi)),
        ("/docs", get(docs::docs).with_state(docs::Page::default())),
    ]
}

/// Puts the layers that both interfaces share around `routes`. Read from the bottom: outermost last.
pub(crate) fn layered(routes: Router, edge: Arc<Edge>) -> Router {
    routes
        // Innermost, where the matched route is known.
        .route_layer(middleware::from_fn(edge::note_endpoint))
        .fallback(edge::not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        // A panic is one caller's 500; inside the edge, so that it is rendered and logged like any other problem.
        .layer(CatchPanicLayer::custom(edge::panicked))
        // Everything passes here, coming and going.
        .layer(middleware::from_fn_with_state(edge, edge::layer))
}
