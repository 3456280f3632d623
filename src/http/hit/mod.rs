//! A hit, before hyper and the router: the usual request for a link that memory has, answered at once.
//!
//! Who may ask, what is asked for, what memory says and what is counted are decided by the functions that the router's
//! way calls, too; where one of them says no, the request goes that way as if this file were not there. Its own are only
//! which requests it looks at (`Form`, `is_told_of`) and how the answer is put together (`answer_with`, `life_lines`):
//! `tests` sends requests both ways and holds these together.

mod life_lines;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use tracing::Level;

use self::life_lines::LifeLines;
use super::{
    answer::{self, Named},
    bodies::USUAL_BODY,
    directives,
    handlers::Endpoints,
};
use crate::{
    clock::{self, Instant},
    links::Lookup,
    server::{AtOnce, Peer},
    source::Normal,
    telemetry::NOTED,
    web::{
        cache_status::push_number,
        date,
        edge::{Edge, TRACEPARENT},
        guard, headers,
        metrics::{Answered, Label},
        outcome::Outcome,
        query,
        request_id::{self, X_REQUEST_ID},
        route::Route,
    },
};

/// Answers out of memory.
#[derive(Debug)]
pub(crate) struct Hits {
    endpoints: Arc<Endpoints>,
    edge: Arc<Edge>,
    life_lines: LifeLines,
    /// The last lines of each head, but for the values that are its own.
    signature: Vec<u8>,
}

/// The one form in which a route is asked for a link that may be answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    DownloadUrl,
    Link,
    Redirect,
}

impl Form {
    fn status(self) -> StatusCode {
        match self {
            Form::DownloadUrl | Form::Link => StatusCode::OK,
            Form::Redirect => StatusCode::FOUND,
        }
    }

    fn of(head: &Parts) -> Option<(Form, Route)> {
        let route = Route::of(head.uri.path())?;
        match (&head.method, route) {
            (&Method::POST, Route::DownloadUrl) => Some((Form::DownloadUrl, route)),
            (&Method::GET, Route::Link) => Some((Form::Link, route)),
            (&Method::GET, Route::Redirect) => Some((Form::Redirect, route)),
            _ => None,
        }
    }
}

impl Hits {
    /// `keep_alive` is what an answer says of a connection that stays open.
    pub(crate) fn new(endpoints: Arc<Endpoints>, edge: Arc<Edge>, keep_alive: &HeaderMap) -> Hits {
        let mut headers = HeaderMap::new();
        headers::sign(&mut headers, HeaderValue::from_static(""));
        headers.extend(keep_alive.clone());
        let mut signature = Vec::new();
        headers::push_lines(&mut signature, headers.iter().filter(|(name, _)| **name != X_REQUEST_ID));
        Hits { endpoints, edge, life_lines: LifeLines::new(), signature }
    }

    /// Whether a hit is told of in ways that only the router's way has: a trace, a line at `debug`, an answer that ends
    /// its connection.
    fn is_told_of(&self) -> bool {
        let is_traced = self.edge.watched.as_ref().is_some_and(|watched| watched.tracer.is_on());
        is_traced || self.edge.readiness.is_draining() || tracing::enabled!(target: NOTED, Level::DEBUG)
    }

    /// Whether a request may have so many bytes of body here.
    fn may_have_body(&self, head: &Parts, bytes: u64) -> bool {
        let most = USUAL_BODY.min(self.endpoints.config.body) as u64;
        // Who asks leave to send the body (`Expect`) hears at once where it is refused.
        let is_asked_for = || head.headers.keys().any(|name| *name == header::EXPECT);
        bytes == 0 || (bytes <= most && !is_asked_for())
    }

    /// The whole answer, as hyper writes the router's.
    fn answer_with(&self, form: Form, source: Normal<'_>, lookup: &Lookup, said: Option<&HeaderMap>) -> Vec<u8> {
        let link = &lookup.entry.link;
        let wall = self.endpoints.clock.wall();
        let body = match form {
            Form::DownloadUrl => answer::envelope(link),
            Form::Link => {
                // A hit has waited for nothing: `lookup.now` is this moment.
                let ends_at = clock::wall_at(wall, lookup.times.ends_at, lookup.now);
                answer::document(Named::Normal(source.as_str()), link, ends_at)
            }
            Form::Redirect => Vec::new(),
        };
        let location = if form == Form::Redirect { link.as_str().len() } else { 0 };
        let mut answer = Vec::with_capacity(HEAD_BYTES + location + body.len());
        answer.extend_from_slice(match form {
            Form::DownloadUrl | Form::Link => b"HTTP/1.1 200 OK\r\n",
            Form::Redirect => b"HTTP/1.1 302 Found\r\n",
        });
        self.life_lines.push(&mut answer, lookup);
        match form {
            Form::DownloadUrl | Form::Link => answer.extend_from_slice(b"content-type: application/json\r\n"),
            Form::Redirect => {
                answer.extend_from_slice(b"location: ");
                answer.extend_from_slice(link.as_str().as_bytes());
                answer.extend_from_slice(b"\r\n");
            }
        }
        answer.extend_from_slice(b"x-request-id: ");
        request_id::push(&mut answer, said);
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(&self.signature);
        answer.extend_from_slice(b"content-length: ");
        push_number(&mut answer, body.len() as u64);
        answer.extend_from_slice(b"\r\ndate: ");
        date::push(&mut answer, wall);
        answer.extend_from_slice(b"\r\n\r\n");
        answer.extend_from_slice(&body);
        answer
    }
}

/// More than the head of an answer takes, but for `Location`.
const HEAD_BYTES: usize = 512;

impl AtOnce for Hits {
    fn waits_for_body(&self, head: &Parts, bytes: u64) -> Option<Instant> {
        let is_form = matches!(Form::of(head), Some((Form::DownloadUrl, _)));
        let is_here = is_form && self.may_have_body(head, bytes) && !self.is_told_of();
        is_here.then(|| self.endpoints.clock.now())
    }

    fn answer(&self, head: &Parts, body: &[u8], peer: &Peer, began: Option<Instant>) -> Option<Vec<u8>> {
        if self.is_told_of() || !self.may_have_body(head, body.len() as u64) {
            return None;
        }
        let Endpoints { links, clock, config, .. } = &*self.endpoints;
        let now = clock.now();
        let (form, route) = Form::of(head)?;
        guard::check(head, Some(peer), &self.edge.allowed_hosts).ok()?;
        // To look at the few names that came costs less than to look for each that might have.
        let is_one =
            |name: &HeaderName| *name == header::CACHE_CONTROL || *name == X_REQUEST_ID || *name == TRACEPARENT;
        let said = Some(&head.headers).filter(|headers| headers.keys().any(is_one));
        let wish = said.map(directives::wish).unwrap_or_default();
        let text = match form {
            Form::DownloadUrl => query::source_field(body).ok()?,
            // What has a task goes the router's way.
            Form::Link | Form::Redirect => {
                query::asked(head.uri.query()).ok().filter(|asked| asked.task.is_none())?.url
            }
        };
        let source = Normal::recognise(&text).filter(|source| config.sources.allows_host(source.host()))?;
        let lookup = links.remembered(source.as_str(), &wish, now)?;
        let answer = self.answer_with(form, source, &lookup, said);
        if let Some(watched) = &self.edge.watched {
            // A trace of the caller's own.
            let trace_id = said.and_then(|headers| watched.span(headers).sampled_trace_id());
            watched.requests.answered(&Answered {
                endpoint: route.into(),
                outcome: Label::Of(Outcome::Found(lookup.found)),
                status: form.status().as_u16(),
                took: clock.now().since(began.unwrap_or(now)),
                life_left: Some(lookup.now.until(lookup.times.ends_at)),
                trace_id,
            });
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests;
