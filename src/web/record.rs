//! What metrics, traces and the log tell of a request and its answer.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::MatchedPath,
    http::{Method, StatusCode},
    response::Response,
};

use super::{
    metrics::{Answered, Endpoint, Label},
    outcome::{NoLink, Outcome},
    problem::Problem,
    route::{Gives, Route},
};
use crate::{
    key::LogHash,
    links::Found,
    source::Source,
    telemetry::{
        Failed, Failures, NOTED, Severity, What,
        trace::{Span, TraceId},
    },
    upstream::Chain,
};

/// Attached to an answer that is about one source URL, for metrics, traces and the log.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) source: Source,
    pub(crate) found: Found,
    /// What the link has left of its life, to its real end.
    pub(crate) life_left: Duration,
}

/// Attached to a batch's answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServedBatch;

/// The method's name. A method that HTTP does not know is of any length and of the caller's choice: it is shown as
/// `_OTHER`, as OpenTelemetry's conventions have it.
pub(super) fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// Names the span by OpenTelemetry's conventions for HTTP.
pub(super) fn name(span: &Span, method: &'static str, endpoint: Endpoint) {
    let route = endpoint.as_str();
    span.name(format!("{} {route}", if method == "_OTHER" { "HTTP" } else { method }));
    span.note("http.request.method", method);
    span.note("http.route", route);
}

/// One request and its answer, as metrics, trace and log tell of it.
pub(super) struct Record<'a> {
    /// The route that matched.
    route: Option<&'a str>,
    served: Option<&'a Served>,
    is_batch: bool,
    problem: Option<&'a Problem>,
    source: Option<&'a Source>,
    outcome: Option<Outcome>,
    status: StatusCode,
    took: Duration,
}

impl<'a> Record<'a> {
    pub(super) fn of(response: &'a Response, took: Duration) -> Record<'a> {
        let extensions = response.extensions();
        let problem = extensions.get::<Arc<Problem>>().map(|problem| &**problem);
        let served = extensions.get::<Served>();
        let route = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let asks_for_credits = route.and_then(Route::of).is_some_and(|route| route.gives() == Gives::Credits);
        Record {
            route,
            served,
            is_batch: extensions.get::<ServedBatch>().is_some(),
            problem,
            source: served.map(|served| &served.source).or(problem.and_then(|problem| problem.source.as_ref())),
            outcome: match (served, problem) {
                (Some(served), _) => Some(Outcome::Found(served.found)),
                // Whoever asked kie.ai for them has counted, logged and noted it.
                (None, Some(_)) if asks_for_credits => None,
                (None, Some(problem)) => Some(Outcome::NoLink(problem.why)),
                (None, None) => None,
            },
            status: response.status(),
            took,
        }
    }

    pub(super) fn answered(&self, trace_id: Option<TraceId>) -> Answered {
        let outcome = match self.outcome {
            Some(outcome) => Label::Of(outcome),
            None if self.is_batch => Label::Batch,
            None => Label::None,
        };
        Answered {
            endpoint: Endpoint::of(self.route),
            outcome,
            status: self.status.as_u16(),
            took: self.took,
            life_left: self.served.map(|served| served.life_left),
            trace_id,
        }
    }

    /// Attributes by OpenTelemetry's conventions for HTTP, without the URL: it holds the source URL.
    pub(super) fn trace(&self, span: &Span, method: &'static str) {
        if span.is_recording() {
            name(span, method, Endpoint::of(self.route));
            span.note("http.response.status_code", i64::from(self.status.as_u16()));
            if let Some(source) = self.source {
                span.note("kielink.source_host", source.host().to_owned());
            }
            if let Some(outcome) = self.outcome {
                span.note("kielink.outcome", outcome.as_str());
            }
            match self.problem {
                // A caller's own mistakes are no failures of the service's (the same conventions).
                Some(problem) if self.status.is_server_error() => span.failed(problem.kind.as_str()),
                Some(problem) => span.note("error.type", problem.kind.as_str()),
                None => {}
            }
            span.end();
        }
    }

    /// A request that got no link has failed, whatever the log says of it.
    pub(super) fn note(&self, failures: &Failures) {
        if let (Some(Outcome::NoLink(NoLink::Error)), Some(problem)) = (self.outcome, self.problem) {
            failures.note(Failed {
                severity: Severity::Warn,
                what: What::Request { problem: problem.kind },
                error: self.cause(),
                source_host: self.source.map(|source| source.host().to_owned()),
            });
        }
    }

    /// The problem's cause with what lies behind it, in the same words as the mint has for it.
    fn cause(&self) -> Option<String> {
        self.problem.and_then(|problem| problem.cause.as_ref()).map(|cause| Chain(&**cause).to_string())
    }

    /// One line a request: hits and probes at `debug`, mints at `info`, failures at `warn`.
    pub(super) fn log(&self, log_hash: &LogHash, method: &'static str, request_id: &str, span: &Span) {
        let endpoint = self.route.unwrap_or_default();
        let status = self.status.as_u16();
        let duration_ms = self.took.as_micros() as f64 / 1000.0;
        let source_host = self.source.map(Source::host);
        // The hash is worked out only where the line is written.
        let source_hash = || self.source.map(|source| log_hash.of(source.url()));
        let trace_id = span.trace_id().map(tracing::field::display);
        let outcome = self.outcome.map(Outcome::as_str);
        let kind = self.problem.map(|problem| problem.kind.as_str());
        let cause = self.cause();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: NOTED,
                    request_id,
                    trace_id,
                    method,
                    endpoint,
                    source_host,
                    source_hash = source_hash(),
                    outcome,
                    status,
                    problem = kind,
                    cause,
                    duration_ms,
                    "request",
                )
            };
        }
        match self.outcome {
            Some(Outcome::NoLink(NoLink::Error)) => line!(warn),
            Some(Outcome::Found(Found::Miss)) => line!(info),
            Some(Outcome::NoLink(NoLink::Refused | NoLink::Negative)) if self.status != StatusCode::NOT_FOUND => {
                line!(info);
            }
            Some(
                Outcome::Found(Found::Hit | Found::HitRefresh | Found::Shared | Found::Joined) | Outcome::NoLink(_),
            )
            | None => {
                line!(debug);
            }
        }
    }
}
