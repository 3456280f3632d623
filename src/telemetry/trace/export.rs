//! Where spans go: an OTLP collector, over http/protobuf or gRPC, as the environment's `OTEL_*` variables say.
//!
//! OpenTelemetry's own libraries read endpoint, headers, timeout, compression, sampler, batching and resource from
//! there. Here it is decided whether there are traces at all, and over which protocol.

use std::{collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithHttpConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tokio::runtime::Handle;

use super::Tracer;

/// Why traces, though wanted, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL: expected \"http/protobuf\" or \"grpc\"")]
    Protocol,
    #[error("cannot set up the client for the collector of traces")]
    Client(#[source] reqwest::Error),
    /// SECURITY: without the library's own words: they repeat the endpoint, which may have a password in it.
    #[error("OTEL_EXPORTER_OTLP_*: the endpoint, the headers or the compression cannot be used")]
    Exporter,
}

impl From<ExporterBuildError> for Error {
    fn from(_: ExporterBuildError) -> Error {
        Error::Exporter
    }
}

/// How many spans may wait for the collector, and how many go in one request; OpenTelemetry's defaults. More may be
/// set, within reason: the queue is allocated at once.
const QUEUE: usize = 2048;
const LONGEST_QUEUE: usize = 16 * 1024;
const BATCH: usize = 512;

/// Beyond its status, a collector's answer is of no interest; a longer answer means a wrong address.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The exporter gives up earlier; this only keeps a request from hanging for ever.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

impl Tracer {
    /// A tracer as the environment says: off without an endpoint, with `OTEL_SDK_DISABLED=true` or with
    /// `OTEL_TRACES_EXPORTER=none`. Must be called inside the runtime that the exporter shall use.
    ///
    /// # Errors
    /// When the variables ask for something that cannot be had.
    pub fn from_environment(environment: &HashMap<String, String>) -> Result<Tracer, Error> {
        // An empty variable is an unset one (OpenTelemetry's specification, "Environment Variable Specification").
        let variable = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let of_traces = |rest: &str| {
            variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{rest}")).or(variable(&format!("OTEL_EXPORTER_OTLP_{rest}")))
        };
        let Some(endpoint) = of_traces("ENDPOINT") else { return Ok(Tracer::default()) };
        let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_disabled || variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter != "otlp") {
            return Ok(Tracer::default());
        }
        for variable in unusable(&variable) {
            tracing::warn!(variable, "this variable's value cannot be used; its default is");
        }
        let exporter = match of_traces("PROTOCOL") {
            None | Some("http/protobuf") => {
                SpanExporter::builder().with_http().with_http_client(Client::new(endpoint)?).build()?
            }
            Some("grpc") => {
                let tonic = SpanExporter::builder().with_tonic();
                if is_https(endpoint) {
                    tonic.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build()?
                } else {
                    tonic.build()?
                }
            }
            Some(_) => return Err(Error::Protocol),
        };
        let number =
            |name: &str| variable(name).and_then(|value| value.parse::<usize>().ok()).filter(|number| *number > 0);
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(QUEUE).min(LONGEST_QUEUE);
        let batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(BATCH).min(queue);
        // The library reads the other batch settings from the environment.
        let config = BatchConfigBuilder::default().with_max_queue_size(queue).with_max_export_batch_size(batch).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource(environment));
        Ok(Tracer::new(provider.build()))
    }
}

/// The names of variables whose values OpenTelemetry ignores. Its own warnings repeat the values, which may be secrets
/// in the wrong place.
fn unusable<'a>(variable: &impl Fn(&str) -> Option<&'a str>) -> Vec<&'static str> {
    let (sampler, ratio) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
    let mut unusable = Vec::new();
    match variable(sampler) {
        None | Some("always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off") => {}
        Some("traceidratio" | "parentbased_traceidratio") => {
            if variable(ratio).is_none_or(|ratio| ratio.parse::<f64>().is_err()) {
                unusable.push(ratio);
            }
        }
        Some(_) => unusable.push(sampler),
    }
    let compressions = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
    let is_unknown = |name: &&str| variable(name).is_some_and(|value| !["gzip", "none"].contains(&value));
    unusable.extend(compressions.into_iter().filter(is_unknown));
    unusable
}

fn is_https(endpoint: &str) -> bool {
    endpoint.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

fn resource(environment: &HashMap<String, String>) -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    let attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES").map_or("", String::as_str);
    let is_named = environment.get("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || attributes.split(',').any(|attribute| attribute.trim_start().starts_with("service.name="));
    // Otherwise the library's own default, `unknown_service`, would stand.
    if is_named { resource.build() } else { resource.with_service_name("kielink").build() }
}

/// reqwest, for an exporter that runs on a thread of its own.
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    fn new(endpoint: &str) -> Result<Client, Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("kielink/", env!("CARGO_PKG_VERSION")))
            // The exporter's headers may hold a secret of the collector's.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(LONGEST_REQUEST);
        if !is_https(endpoint) {
            // No TLS will be spoken: a machine without root certificates must do.
            client = client.tls_certs_only([]);
        }
        Ok(Client { client: client.build().map_err(Error::Client)?, runtime: Handle::current() })
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let answer = async move {
            let response = client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
            let (parts, body) = Response::<reqwest::Body>::from(response).into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        self.runtime.spawn(answer).await?
    }
}
