//! The data interface: what answers at each route (`web::route`), and what it works with.

mod answer;
pub(crate) mod batch;
mod bodies;
pub(crate) mod directives;
mod docs;
mod handlers;
mod hit;
mod openapi;
mod places;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::HeaderMap,
    middleware,
    response::Redirect,
    routing::{MethodRouter, get, post},
};
use prometheus_client::registry::Registry;
use tokio_util::task::TaskTracker;

pub(crate) use self::batch::ITEM_BYTES;
use self::{
    bodies::{Arrivals, Budget},
    handlers::Endpoints,
    hit::Hits,
    places::Places,
};
use crate::{
    clock::Clock,
    credits::Credits,
    key::LogHash,
    links::Links,
    server::Service,
    source::AllowList,
    telemetry::Failures,
    web::{
        edge::{self, Edge, Watched},
        probes::{self, Probes},
        route::Route,
    },
};

/// What callers may do.
#[derive(Debug, Clone)]
pub struct Config {
    pub request_timeout: Duration,
    /// What `Host` may carry besides the internal names; made by `guard::pattern`.
    pub allowed_hosts: Vec<String>,
    pub sources: AllowList,
    /// How many requests may at once wait for a link, or have their answer read.
    pub places: usize,
    /// On how many connections these requests may be.
    pub waiting_connections: usize,
    /// How many requests may at once have a body that is still coming.
    pub arrivals: usize,
    /// Bytes.
    pub body: usize,
    pub batch_body: usize,
    /// Bytes of all batches that are under way at once, and of all other bodies that are larger than usual.
    pub batch_budget: usize,
    pub body_budget: usize,
    /// Source URLs in one batch, and how many of them may wait for kie.ai at a time.
    pub batch: usize,
    pub batch_at_once: usize,
    pub body_timeout: Duration,
}

/// What the data interface works with.
pub(crate) struct Parts {
    pub(crate) links: Links,
    pub(crate) credits: Credits,
    pub(crate) probes: Probes,
    pub(crate) watched: Watched,
    pub(crate) failures: Failures,
    /// Batches that are read line by line run on it.
    pub(crate) tasks: TaskTracker,
    pub(crate) clock: Clock,
    pub(crate) log_hash: LogHash,
    /// What an answer says of a connection that stays open.
    pub(crate) keep_alive: HeaderMap,
}

/// Everything that callers can reach. What it counts goes to `registry`.
pub(crate) fn service(config: Config, parts: Parts, registry: &mut Registry) -> Service {
    let Parts { links, credits, probes, watched, failures, tasks, clock, log_hash, keep_alive } = parts;
    let places = Places::new(config.places, config.waiting_connections, config.body_timeout, clock.clone());
    let arrivals = Arrivals::new(config.arrivals);
    let requests = watched.requests.clone();
    let taken = places.clone();
    requests.register(registry, move || taken.taken());
    let edge = Arc::new(Edge {
        clock: clock.clone(),
        log_hash,
        allowed_hosts: config.allowed_hosts.clone(),
        request_timeout: config.request_timeout,
        readiness: probes.readiness.clone(),
        failures,
        watched: Some(watched),
    });
    let endpoints = Arc::new(Endpoints {
        links,
        credits,
        clock,
        places: places.clone(),
        batch_budget: Budget::new(config.batch_budget, &places, &arrivals),
        body_budget: Budget::new(config.body_budget, &places, &arrivals),
        requests,
        tasks,
        config,
    });
    let hits = Hits::new(Arc::clone(&endpoints), Arc::clone(&edge), &keep_alive);
    let handlers = Handlers { endpoints, probes, places };
    let routes =
        Route::ALL.into_iter().fold(Router::new(), |router, route| router.route(route.path(), handlers.of(route)));
    Service { router: edge::layered(routes, edge), at_once: Some(Arc::new(hits)) }
}

/// What answers at each route.
struct Handlers {
    endpoints: Arc<Endpoints>,
    probes: Probes,
    places: Places,
}

impl Handlers {
    fn of(&self, route: Route) -> MethodRouter {
        let links = match route {
            Route::DownloadUrl => post(handlers::download_url),
            Route::DownloadUrl4o => post(handlers::download_url_4o),
            Route::Link => get(handlers::link),
            Route::Redirect | Route::NamedRedirect => get(handlers::redirect),
            Route::Links => post(batch::links),
            Route::Credit => get(handlers::credit),
            Route::Health => return get(probes::readyz).with_state(self.probes.clone()),
            Route::Root => return get(async || Redirect::temporary(Route::Docs.path())),
            Route::Description => return get(openapi::openapi),
            Route::Docs => return get(docs::docs).with_state(docs::Page::default()),
        };
        let keep = middleware::from_fn_with_state(self.places.clone(), places::keep);
        links.with_state(Arc::clone(&self.endpoints)).route_layer(keep)
    }
}
