//! A hit, before the router: the usual request for a link that memory has, answered at once.
//!
//! Who may ask, what is asked for, what memory says and what is counted are decided by the functions that the router's
//! way calls, too; where one of them says no, the request goes that way as if this file were not there. Its own are only
//! which requests it looks at (`Form`, `is_told_of`) and how the answer is put together (`answer_with`, `life_headers`):
//! `tests` sends requests both ways and holds these together.

mod life_headers;

use std::sync::Arc;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use tracing::Level;

use self::life_headers::LifeHeaders;
use super::{
    answer::{self, Named},
    bodies::USUAL_BODY,
    directives,
    handlers::Endpoints,
};
use crate::{
    links::Lookup,
    server::{AtOnce, Began, Peer},
    source::Normal,
    telemetry::NOTED,
    web::{
        cache_status::CACHE_STATUS,
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
    /// The headers of an answer with a document in it, and of a redirect, but for the values that are its own.
    with_document: HeaderMap,
    with_location: HeaderMap,
    life_headers: LifeHeaders,
}

/// The one form in which a route is asked for a link that may be answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    DownloadUrl,
    Link,
    Redirect,
}

impl Form {
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
        let template = |form| {
            let own = || HeaderValue::from_static("");
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, own());
            headers.insert(&CACHE_STATUS, own());
            match form {
                Form::DownloadUrl | Form::Link => answer::json_type(&mut headers),
                Form::Redirect => drop(headers.insert(header::LOCATION, own())),
            }
            headers::sign(&mut headers, own());
            headers.extend(keep_alive.clone());
            headers
        };
        // `answer_with` counts on it.
        let [with_document, with_location] = [Form::Link, Form::Redirect].map(template);
        for (headers, third) in [(&with_document, header::CONTENT_TYPE), (&with_location, header::LOCATION)] {
            let first = [&header::CACHE_CONTROL, &CACHE_STATUS, &third, &X_REQUEST_ID];
            assert!(headers.keys().take(4).eq(first), "headers stand in the order in which they were set");
        }
        Hits { endpoints, edge, with_document, with_location, life_headers: LifeHeaders::new() }
    }

    /// Whether a hit is told of in ways that only the router's way has: a trace, a line at `debug`, an answer that ends
    /// its connection.
    fn is_told_of(&self) -> bool {
        let is_traced = self.edge.watched.as_ref().is_some_and(|watched| watched.tracer.is_on());
        is_traced || self.edge.readiness.is_draining() || tracing::enabled!(target: NOTED, Level::DEBUG)
    }

    /// The answer. Body, `Location` and request id have a buffer each: slices of one would share a reference count.
    fn answer_with(
        &self,
        form: Form,
        source: Normal<'_>,
        lookup: &Lookup,
        said: Option<&HeaderMap>,
    ) -> Response<Bytes> {
        let link = &lookup.entry.link;
        let (headers, third, body) = match form {
            Form::DownloadUrl => (&self.with_document, answer::json(), answer::envelope(link)),
            Form::Link => {
                // A hit has waited for nothing: `lookup.now` is this moment, and saves a look at the clock.
                let ends_at = self.endpoints.clock.wall_at(lookup.times.ends_at, lookup.now);
                let named = Named::Normal(source.as_str());
                (&self.with_document, answer::json(), answer::document(named, link, ends_at))
            }
            Form::Redirect => (&self.with_location, answer::location(link), Vec::new()),
        };
        let mut headers = headers.clone();
        // In the order of the template.
        let mut places = headers.values_mut();
        let mut fill = |own| *places.next().expect("the template has a place for it") = own;
        let [life, status] = self.life_headers.headers(lookup);
        fill(life);
        fill(status);
        fill(third);
        fill(request_id::header(said));
        let mut response = Response::new(Bytes::from(body));
        *response.headers_mut() = headers;
        if form == Form::Redirect {
            *response.status_mut() = StatusCode::FOUND;
        }
        response
    }
}

impl AtOnce for Hits {
    fn waits_for_body(&self, head: &Parts, bytes: u64) -> Option<Began> {
        let most = USUAL_BODY.min(self.endpoints.config.body);
        let is_form = matches!(Form::of(head), Some((Form::DownloadUrl, _)));
        // Who asks leave to send the body (`Expect`) hears at once where it is refused.
        let is_asked_for = head.headers.keys().any(|name| *name == header::EXPECT);
        let is_here = bytes <= most as u64 && is_form && !is_asked_for && !self.is_told_of();
        is_here.then(|| Began(self.endpoints.clock.now()))
    }

    fn answer(&self, head: &Parts, body: &[u8], peer: &Peer, began: Option<Began>) -> Option<Response<Bytes>> {
        if self.is_told_of() {
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
        let response = self.answer_with(form, source, &lookup, said);
        if let Some(watched) = &self.edge.watched {
            // A trace of the caller's own.
            let trace_id = said.and_then(|headers| watched.span(headers).sampled_trace_id());
            watched.requests.answered(&Answered {
                endpoint: route.into(),
                outcome: Label::Of(Outcome::Found(lookup.found)),
                status: response.status().as_u16(),
                took: clock.now().since(began.map_or(now, |Began(at)| at)),
                life_left: Some(lookup.now.until(lookup.times.ends_at)),
                trace_id,
            });
        }
        Some(response)
    }
}

#[cfg(test)]
mod tests;
