//! The outermost layer: what every request and every answer goes through, in order.
//!
//! In: request id, guard. Out: problems are rendered, the headers that every answer has are set, and the request is
//! counted, traced and logged.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    guard,
    headers::finish,
    metrics::{Endpoint, Requests},
    problem::{self, Kind, Problem},
    record::{Record, known, name},
    request_id, unserved,
};
use crate::{
    clock::{Clock, Instant},
    key::LogHash,
    links::Caller,
    readiness::Readiness,
    server::{HeadTooLarge, LastRequest, Peer, Unserved},
    telemetry::{
        Failures,
        trace::{Span, Tracer},
    },
    upstream::Party,
};

/// What the layer needs to know; one for each interface.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) clock: Clock,
    pub(crate) log_hash: LogHash,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) request_timeout: Duration,
    pub(crate) readiness: Readiness,
    pub(crate) failures: Failures,
    /// `None` on the admin interface: its requests come from those who watch.
    pub(crate) watched: Option<Watched>,
}

/// Where requests of the data interface are counted and traced.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) requests: Requests,
    pub(crate) tracer: Tracer,
}

/// W3C Trace Context.
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

impl Watched {
    /// A request's position in the caller's trace, or in one of ours.
    pub(crate) fn span(&self, headers: &HeaderMap) -> Span {
        let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let position = header(&TRACEPARENT);
        // A `tracestate` means nothing without its `traceparent`.
        self.tracer.request(position, position.and_then(|_| header(&TRACESTATE)))
    }
}

/// What is known of a request before its handler runs.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request_id: Arc<str>,
    /// No caller waits beyond this.
    pub(crate) deadline: Instant,
    /// The request's position in a trace.
    pub(crate) span: Span,
    /// With whom the request takes turns where it must wait.
    pub(crate) party: Party,
}

impl Call {
    /// The caller as `links` knows it.
    pub(crate) fn caller(&self) -> Caller {
        Caller { deadline: self.deadline, span: self.span.clone(), party: self.party }
    }
}

/// Puts the layers that both interfaces share around `routes`. Read from the bottom: outermost last.
pub(crate) fn layered(routes: Router, edge: Arc<Edge>) -> Router {
    routes
        // Innermost, where the matched route is known.
        .route_layer(middleware::from_fn(note_endpoint))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // A panic is one caller's 500; inside the edge, so that it is rendered and logged like any other problem.
        .layer(CatchPanicLayer::custom(panicked))
        // Everything passes here, coming and going.
        .layer(middleware::from_fn_with_state(edge, layer))
}

async fn layer(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let began = edge.clock.now();
    let request_id: Arc<str> = request_id::of(request.headers()).into();
    let (method, version) = (request.method().clone(), request.version());
    let path = request.uri().path().to_owned();
    let span = edge.watched.as_ref().map_or_else(Span::default, |watched| watched.span(request.headers()));
    let deadline = began + edge.request_timeout;
    let party = party(request.extensions().get());
    request.extensions_mut().insert(Call { request_id: Arc::clone(&request_id), deadline, span: span.clone(), party });

    let is_last = request.extensions().get::<LastRequest>().is_some();
    let is_too_large = request.extensions().get::<HeadTooLarge>().is_some();
    let (parts, body) = request.into_parts();
    let method = known(&method);
    let mut caller =
        Waiting { edge: &edge, began, method, path: &path, request_id: &request_id, span: &span, is_there: true };
    let refused = match guard::check(&parts, parts.extensions.get(), &edge.allowed_hosts) {
        Err(problem) if problem.kind == Kind::UriTooLong => Some(problem),
        Ok(()) | Err(_) if is_too_large => Some(unserved::problem(Unserved::HeadTooLarge)),
        checked => checked.err(),
    };
    let mut response = match refused {
        None => next.run(Request::from_parts(parts, body)).await,
        Some(problem) => problem.into_response(),
    };
    caller.is_there = false;
    finish(&mut response, &path, &request_id);
    if (is_last || edge.readiness.is_draining()) && version <= Version::HTTP_11 {
        // Either what follows on this connection could not be told apart, or kielink drains, and keep-alive peers
        // should go elsewhere while there is time. HTTP/2 has its own way to say so, and forbids this header.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let record = Record::of(&response, edge.clock.now().since(began));
    if let Some(watched) = &edge.watched {
        watched.requests.answered(&record.answered(span.sampled_trace_id()));
        record.trace(&span, method);
    }
    record.note(&edge.failures);
    record.log(&edge.log_hash, method, &request_id, &span);
    response
}

/// With whom a request from `peer` takes turns.
fn party(peer: Option<&Peer>) -> Party {
    // A machine has as many IPv6 addresses as it likes in its network of 64 bits.
    let address = match peer.and_then(|peer| peer.address) {
        Some(IpAddr::V4(address)) => u64::from(u32::from(address)),
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => u64::from(u32::from(address)),
            None => u64::try_from(u128::from(address) >> 64).expect("half of the bits fit"),
        },
        None => 0,
    };
    Party { address, connection: peer.map_or(0, |peer| peer.connection), request: fastrand::u64(..) }
}

/// Attaches the matched route, which the outermost layer cannot see, to the answer.
async fn note_endpoint(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(path) = path {
        response.extensions_mut().insert(path);
    }
    response
}

/// Every panic has the same body: the payload may hold anything.
fn panicked(_payload: Box<dyn std::any::Any + Send + 'static>) -> Response {
    Problem::internal("kielink failed on this request. Its log tells more.").into_response()
}

async fn not_found(uri: Uri) -> Problem {
    // A caller that sends all of kie.ai's calls here finds out by this detail.
    let detail = if uri.path().starts_with("//") {
        "The path begins with two slashes. Leave out the one at the end of the base URL."
    } else if problem::is_compat(uri.path()) {
        "Of kie.ai's calls, kielink serves POST /api/v1/common/download-url, POST /api/v1/gpt4o-image/download-url and GET \
         /api/v1/chat/credit. Send all others to kie.ai, with a key of your own."
    } else {
        "There is nothing at this path."
    };
    Problem::refused(Kind::NotFound, detail)
}

async fn method_not_allowed() -> Problem {
    Problem::refused(Kind::MethodNotAllowed, "This path does not take this method; Allow names those that it takes.")
}

/// A caller that waits for its answer. Where this is dropped while the caller `is_there`, the connection has gone, and
/// with it the code that would have counted, traced and logged the answer.
struct Waiting<'a> {
    edge: &'a Edge,
    began: Instant,
    method: &'static str,
    path: &'a str,
    request_id: &'a str,
    span: &'a Span,
    is_there: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(watched) = self.edge.watched.as_ref().filter(|_| self.is_there) else { return };
        // The route that matches is not known out here.
        let endpoint = Endpoint::of(Some(self.path));
        watched.requests.abandoned(endpoint);
        if self.span.is_recording() {
            name(self.span, self.method, endpoint);
            self.span.failed("abandoned");
            self.span.end();
        }
        let trace_id = self.span.trace_id().map(tracing::field::display);
        let duration_ms = self.edge.clock.now().since(self.began).as_micros() as f64 / 1000.0;
        let (request_id, method, endpoint) = (self.request_id, self.method, endpoint.as_str());
        tracing::debug!(request_id, trace_id, method, endpoint, duration_ms, "the caller hung up");
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode},
        routing::get,
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
            readiness: Readiness::waiting_for([]).0,
            failures: Failures::default(),
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

    #[test]
    fn one_machine_is_one_address_and_every_request_its_own() {
        let of = |address: Option<&str>| {
            party(Some(&Peer {
                address: address.map(|text| text.parse().unwrap()),
                connection: 7,
                good_host: Arc::default(),
            }))
        };
        let one = of(Some("10.0.0.1"));
        assert_eq!(one.connection, 7);
        assert_ne!(one.request, of(Some("10.0.0.1")).request);
        for (other, same) in [
            (of(Some("10.0.0.1")), true),
            (of(Some("::ffff:10.0.0.1")), true),
            (of(Some("10.0.0.2")), false),
            (of(Some("2001:db8::1")), false),
            (of(None), false),
        ] {
            assert_eq!(one.address == other.address, same);
        }
        assert_eq!(of(Some("2001:db8::1")).address, of(Some("2001:db8::2")).address, "one network of 64 bits");
        assert_ne!(of(Some("2001:db8::1")).address, of(Some("2001:db8:0:1::1")).address);
    }
}
