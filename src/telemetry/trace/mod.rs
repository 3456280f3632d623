//! Traces: one span a request, one a mint. Off unless the environment names a collector (OpenTelemetry's own
//! variables). When off, a request has at most the position in a trace that its caller gave it (W3C Trace Context), for
//! the log and for kie.ai.
//!
//! Only this module knows OpenTelemetry. Spans carry no URL but a source's host, and no text of kie.ai's.

mod export;

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

pub use opentelemetry::trace::TraceId;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan},
};

pub use self::export::Error;

/// W3C Trace Context, section 3.3.1.5: at least this much of a `tracestate` should be passed on. It stays in the spans'
/// memory.
const LONGEST_STATE: usize = 512;

/// Makes spans. Cheap to clone; `Default` is off.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// A span under way, or only a caller's position in a trace, or nothing. Cheap to clone; the span ends with its last
/// clone.
#[derive(Clone, Default)]
pub struct Span {
    recording: Option<Arc<Mutex<SdkSpan>>>,
    /// The position under which what follows belongs.
    position: Option<Position>,
}

/// A position in a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Position(SpanContext);

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracer::on" } else { "Tracer::off" })
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Tracer {
    fn new(provider: SdkTracerProvider) -> Tracer {
        use opentelemetry::trace::TracerProvider as _;
        Tracer(Some(Arc::new(On { tracer: provider.tracer("kielink"), provider })))
    }

    /// Whether there is a collector.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A request begins; the arguments are the caller's headers of these names.
    pub(crate) fn request(&self, traceparent: Option<&str>, tracestate: Option<&str>) -> Span {
        let tracestate = tracestate.filter(|state| state.len() <= LONGEST_STATE);
        let parent = traceparent.and_then(|traceparent| position_of(&Headers { traceparent, tracestate }));
        let Some(on) = &self.0 else { return Span { recording: None, position: parent } };
        on.start(on.tracer.span_builder("request").with_kind(SpanKind::Server), parent.as_ref())
    }

    /// A mint begins. Where a request waits for it, it is part of that request's trace; otherwise it has a trace of its
    /// own, which is linked to what caused it.
    pub(crate) fn mint(&self, cause: &Span, is_awaited: bool, reason: &'static str, source_host: &str) -> Span {
        let parent = cause.position.as_ref().filter(|_| is_awaited);
        let Some(on) = &self.0 else { return Span { recording: None, position: parent.cloned() } };
        let builder = on.tracer.span_builder("mint").with_kind(SpanKind::Client).with_attributes([
            KeyValue::new("kielink.reason", reason),
            KeyValue::new("kielink.source_host", source_host.to_owned()),
        ]);
        let span = on.start(builder, parent);
        if !is_awaited && let Some(cause) = &cause.position {
            span.link(cause);
        }
        span
    }

    /// Sends what has not been sent yet, and ends. Blocks for as long as the collector takes, at most for `patience`.
    pub fn shutdown(&self, patience: std::time::Duration) {
        if let Some(on) = &self.0
            && !patience.is_zero()
        {
            // Whatever is wrong has been logged by the exporter.
            let _ = on.provider.shutdown_with_timeout(patience);
        }
    }
}

impl On {
    fn start(&self, builder: SpanBuilder, parent: Option<&Position>) -> Span {
        let context = match parent {
            Some(Position(parent)) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let span = self.tracer.build_with_context(builder, &context);
        let position = Position(span.span_context().clone());
        Span { recording: span.is_recording().then(|| Arc::new(Mutex::new(span))), position: Some(position) }
    }
}

impl Span {
    /// Where the span stands in its trace, for spans that follow from it.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    pub fn trace_id(&self) -> Option<TraceId> {
        self.position.as_ref().map(|Position(context)| context.trace_id())
    }

    /// The span's trace, where somebody will find it: a trace that is not sampled is kept nowhere.
    pub fn sampled_trace_id(&self) -> Option<TraceId> {
        let Position(context) = self.position.as_ref()?;
        context.is_sampled().then(|| context.trace_id())
    }

    /// `traceparent` for the next server that is asked (W3C Trace Context, section 3.2), written anew from the ids.
    ///
    /// SECURITY: never `tracestate`. It is text of the callers' choice, up to 16 KiB of it: nothing to send to a third
    /// party, whose gateway might judge the request and the key by it.
    pub(crate) fn traceparent(&self) -> Option<String> {
        let Position(context) = self.position.as_ref()?;
        let flags = context.trace_flags().to_u8() & 0x01;
        Some(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
    }

    /// Whether anybody will see what is noted in the span.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    pub(crate) fn name(&self, name: String) {
        self.with(|span| span.update_name(name));
    }

    pub(crate) fn note(&self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.with(|span| span.set_attribute(KeyValue::new(key, value)));
    }

    /// Something happened during the span.
    pub(crate) fn event(&self, name: &'static str, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.with(|span| span.add_event(name, vec![KeyValue::new(key, value)]));
    }

    pub(crate) fn failed(&self, why: &'static str) {
        self.with(|span| {
            span.set_attribute(KeyValue::new("error.type", why));
            span.set_status(Status::Error { description: Cow::Borrowed(why) });
        });
    }

    /// The span has waited for what is at `position`.
    pub(crate) fn link(&self, Position(position): &Position) {
        self.with(|span| span.add_link(position.clone(), Vec::new()));
    }

    /// Ends the span now, rather than when the last clone is dropped.
    pub(crate) fn end(&self) {
        self.with(|span| span.end());
    }

    fn with(&self, act: impl FnOnce(&mut SdkSpan)) {
        if let Some(span) = &self.recording {
            // A panic in the middle leaves a span without one attribute.
            act(&mut span.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The position in the caller's headers; `None` where they are not as W3C wants them.
fn position_of(headers: &Headers<'_>) -> Option<Position> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
    let position = context.span().span_context().clone();
    position.is_valid().then_some(Position(position))
}

struct Headers<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn request(traceparent: Option<&'static str>) -> Span {
        Tracer::default().request(traceparent, None)
    }

    #[test]
    fn without_a_collector_a_callers_position_is_passed_on_unchanged() {
        let span = request(Some(TRACEPARENT));
        assert_eq!(span.trace_id().unwrap().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let mint = Tracer::default().mint(&span, true, "miss", "h.example");
        assert_eq!(mint.traceparent().as_deref(), Some(TRACEPARENT));
        let refresh = Tracer::default().mint(&span, false, "refresh", "h.example");
        assert_eq!(refresh.traceparent(), None, "nobody waits for it");
    }

    #[test]
    fn nonsense_is_no_position() {
        for nonsense in [
            "",
            "nonsense",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(request(Some(nonsense)).trace_id(), None, "{nonsense}");
        }
        assert_eq!(request(None).trace_id(), None);
    }
}
