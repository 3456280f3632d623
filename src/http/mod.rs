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
mod places;
pub(crate) mod problem;
pub(crate) mod query;
mod unserved;

use std::{sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    response::Redirect,
    routing::{MethodRouter, get, post},
};
use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use self::{batch::ITEM_BYTES, unserved::refuse};
use self::{
    edge::{Edge, Watched},
    handlers::Endpoints,
    places::{Arrivals, Places, Shared},
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
    /// What `Host` may carry besides the internal names; made by `guard::pattern`.
    pub allowed_hosts: Vec<String>,
    pub sources: AllowList,
    /// Requests at once that wait for a link, or whose answer is being read.
    pub places: usize,
    /// Connections on which they are.
    pub waiting_connections: usize,
    /// Requests at once whose body is still coming.
    pub arrivals: usize,
    /// Bytes.
    pub body: usize,
    pub batch_body: usize,
    /// Of all batches that are under way at once, and of all other bodies that are larger than usual.
    pub batch_room: usize,
    pub body_room: usize,
    /// Source URLs in one batch, and how many of them may wait for kie.ai at a time.
    pub batch: usize,
    pub batch_at_once: usize,
    pub body_timeout: Duration,
}

/// Everything that callers can reach. What it counts goes to `registry`.
#[expect(clippy::too_many_arguments, reason = "every part is handed over once, where the parts are put together")]
pub(crate) fn router(
    config: &Config,
    tasks: &TaskTracker,
    links: Links,
    readiness: Readiness,
    clock: &Clock,
    log_hash: &LogHash,
    watched: Watched,
    registry: &mut Registry,
) -> Router {
    let places = Places::new(config.places, config.waiting_connections, config.body_timeout, clock.clone());
    let arrivals = Arrivals::new(config.arrivals);
    let endpoints = Arc::new(Endpoints {
        links,
        clock: clock.clone(),
        sources: config.sources.clone(),
        body: config.body,
        batch_body: config.batch_body,
        places: places.clone(),
        batch_room: Shared::new(config.batch_room, &places, &arrivals),
        body_room: Shared::new(config.body_room, &places, &arrivals),
        batch: config.batch,
        batch_at_once: config.batch_at_once,
        body_timeout: config.body_timeout,
        requests: watched.requests.clone(),
        tasks: tasks.clone(),
    });
    let taken = places.clone();
    watched.requests.register(registry, move || taken.taken());
    let edge = Arc::new(Edge {
        clock: clock.clone(),
        log_hash: log_hash.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        request_timeout: config.request_timeout,
        readiness: readiness.clone(),
        watched: Some(watched),
    });
    let links = link_routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    let routes = links.with_state(endpoints).route_layer(middleware::from_fn_with_state(places, places::keep));
    let own = own_routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    layered(routes.merge(own.with_state(readiness)), edge)
}

/// What gives links. These two lists are all there is: a route that is not in
/// `openapi.json` fails its test.
fn link_routes() -> [(&'static str, MethodRouter<Arc<Endpoints>>); 5] {
    [
        (upstream::DOWNLOAD_URL, post(handlers::download_url)),
        ("/v1/link", get(handlers::link)),
        ("/v1/redirect", get(handlers::redirect)),
        // The same under a name for whoever saves the file.
        ("/v1/redirect/{name}", get(handlers::redirect)),
        ("/v1/links", post(batch::links)),
    ]
}

/// What kielink says of itself.
fn own_routes() -> [(&'static str, MethodRouter<Readiness>); 4] {
    [
        ("/", get(async || Redirect::temporary("/docs"))),
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

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::key::ApiKey;

    #[tokio::test]
    async fn a_panic_is_one_callers_500_and_what_it_says_is_not_told() {
        let routes =
            Router::new().route("/v1/link", get(async || -> &'static str { panic!("what only the log may see") }));
        let edge = Edge {
            clock: Clock::system(),
            log_hash: ApiKey::new("a-key-of-tests").unwrap().log_hash(),
            allowed_hosts: Vec::new(),
            request_timeout: Duration::from_secs(1),
            readiness: Readiness::default(),
            watched: None,
        };
        let request =
            Request::get("/v1/link").header("host", "kielink").header("x-request-id", "mine").body(Body::empty());
        let response = layered(routes, Arc::new(edge)).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-request-id"], "mine");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["type"], "urn:kielink:problem:internal-error");
        assert!(!problem.to_string().contains("what only the log may see"), "{problem}");
    }
}
