//! A collector of traces, real on a port of its own: OTLP over http/protobuf and over gRPC, decoded.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{self as wire, span::SpanKind},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Server, server::TcpIncoming},
};

use crate::support::{KEY, encode, eventually};

/// What both of its faces fill.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

pub(super) struct Collector {
    received: Received,
    address: String,
    /// Ended when it is dropped.
    _tasks: JoinSet<()>,
}

/// A span, as far as the tests look.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) name: String,
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    /// `tracestate`.
    pub(super) state: String,
    /// Trace and id of what it is linked to.
    pub(super) links: Vec<(String, String)>,
    pub(super) kind: SpanKind,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) events: Vec<String>,
    pub(super) is_error: bool,
}

impl Collector {
    pub(super) async fn http() -> Collector {
        let received = Received::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Collector { received, address, _tasks: tasks }
    }

    pub(super) async fn grpc() -> Collector {
        let received = Received::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = TraceServiceServer::new(received.clone()).accept_compressed(CompressionEncoding::Gzip);
        let server = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        Collector { received, address, _tasks: tasks }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        let requests = self.received.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).map(Span::of).collect()
    }

    /// The spans, once there are `n` of them.
    pub(super) async fn wait_for(&self, n: usize) -> Vec<Span> {
        eventually(&format!("{n} spans have come"), async || self.spans().len() >= n).await;
        self.spans()
    }

    /// What the spans say of their process.
    pub(super) fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.received.0.lock().unwrap();
        let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
        texts(&resource.attributes)
    }
}

/// The canary: a collector is one more place where neither the key nor a link may turn up.
impl Drop for Collector {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let received = format!("{:?}", self.received.0.lock().unwrap());
            for secret in [KEY, encode(KEY).as_str(), "X-Amz-", "/s/a.png"] {
                assert!(!received.contains(secret), "a span has {secret}");
            }
        }
    }
}

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let mut plain = Vec::new();
    match headers.get("content-encoding") {
        Some(_) => drop(flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap()),
        None => plain.extend_from_slice(&body),
    }
    received.0.lock().unwrap().push(ExportTraceServiceRequest::decode(&*plain).unwrap());
    StatusCode::OK
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Span {
    fn of(span: &wire::Span) -> Span {
        Span {
            name: span.name.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state.clone(),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            kind: span.kind(),
            attributes: texts(&span.attributes),
            events: span.events.iter().map(|event| event.name.clone()).collect(),
            is_error: span.status.as_ref().is_some_and(|status| status.code() == wire::status::StatusCode::Error),
        }
    }

    pub(super) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
