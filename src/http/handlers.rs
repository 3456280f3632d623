//! The endpoints for callers of one link: kie.ai's own contract, `/v1/link`, `/v1/redirect`.

use std::{sync::Arc, task::Poll, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;

use super::{
    Config,
    answer::{self, LinkView},
    directives,
    places::{Budget, Held, Places},
};
use crate::{
    clock::Clock,
    links::{Links, Lookup, Wish},
    source::SourceUrl,
    upstream::Party,
    web::{
        edge::Call,
        metrics::Requests,
        problem::{Envelope, Kind, Problem},
        query,
    },
};

/// What the endpoints work with.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) links: Links,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) places: Places,
    /// Bytes for batches in memory, and for other bodies that are larger than usual.
    pub(crate) batch_budget: Budget,
    pub(crate) body_budget: Budget,
    pub(crate) requests: Requests,
    pub(crate) tasks: TaskTracker,
}

/// `POST /api/v1/common/download-url`
pub(crate) async fn download_url(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Problem> {
    let wish = directives::wish(request.headers());
    let mut taken = Taken::of(&endpoints.body_budget, USUAL_BODY, &call.party);
    let body = read_body(request, endpoints.config.body, endpoints.config.body_timeout, &mut taken).await?;
    let text = query::source_field(&body)?;
    // Nobody needs the body while the request waits.
    drop((body, taken));
    let (source, lookup) = endpoints.find_one(&text, &wish, &call).await?;
    let envelope = Envelope { code: 200, msg: "success", data: Some(lookup.entry.link.as_str()) };
    let body = serde_json::to_string(&envelope).expect("texts serialise");
    let response = answer::with_link(source, &lookup, StatusCode::OK, Body::from(body));
    Ok(json_type(response))
}

/// `GET /v1/link?url=`
pub(crate) async fn link(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let (text, wish) = asked(headers, uri)?;
    let (source, lookup) = endpoints.find_one(&text, &wish, &call).await?;
    let view = LinkView::new(&source, &lookup, &lookup.times, &endpoints.clock);
    let body = serde_json::to_string(&view).expect("texts serialise");
    Ok(json_type(answer::with_link(source, &lookup, StatusCode::OK, Body::from(body))))
}

/// `GET /v1/redirect?url=`, `GET /v1/redirect/NAME?url=`
pub(crate) async fn redirect(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let (text, wish) = asked(headers, uri)?;
    let (source, lookup) = endpoints.find_one(&text, &wish, &call).await?;
    let location = HeaderValue::try_from(lookup.entry.link.as_str()).expect("a Link fits into a header");
    let mut response = answer::with_link(source, &lookup, StatusCode::FOUND, Body::empty());
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// What a `GET` asks for. Headers and URI are as large as callers like: they are taken, and dropped, since nobody needs
/// them while the request waits.
fn asked(headers: HeaderMap, uri: Uri) -> Result<(String, Wish), Problem> {
    Ok((query::source_parameter(uri.query())?, directives::wish(&headers)))
}

impl Endpoints {
    /// For a request about one link, which takes a place where memory does not know the link.
    async fn find_one(&self, text: &str, wish: &Wish, call: &Call) -> Result<(SourceUrl, Lookup), Problem> {
        let source = query::allowed_source(text, &self.config.sources)?;
        let caller = call.caller();
        let found = match self.links.recall(&source, wish, &caller) {
            Some(known) => known,
            None => {
                let place = self.places.take(&call.party).map_err(|problem| problem.about(&source))?;
                let found = place.hold(self.links.get(&source, wish, caller)).await;
                found.map_err(|problem| problem.about(&source))?
            }
        };
        match found {
            Ok(lookup) => Ok((source, lookup)),
            Err(error) => Err(Problem::of(error, &source)),
        }
    }
}

fn json_type(response: Response) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], response).into_response()
}

/// The whole body, bounded in bytes and in time. `taken` bounds all bodies that are read together, by the bytes that
/// have come: a peer that announces much and sends little keeps nobody out.
pub(crate) async fn read_body(
    request: Request,
    limit: usize,
    patience: Duration,
    taken: &mut Taken,
) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("The body is longer than {limit} bytes.");
        Problem::refused(Kind::BodyTooLarge, detail)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let (arrivals, held) = (taken.budget.arrivals.clone(), taken.held.clone());
    let mut body = Limited::new(request.into_body(), limit);
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    too_large()
                } else {
                    Problem::refused(Kind::MalformedRequest, "The body broke off.")
                }
            })?;
            if let Ok(data) = frame.into_data() {
                taken.take(data.len()).await?;
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    };
    let whole = tokio::time::timeout(patience, whole);
    tokio::pin!(whole);
    let arrived = match futures_util::poll!(whole.as_mut()) {
        Poll::Ready(arrived) => arrived,
        Poll::Pending => {
            let mut arrival = arrivals.enter(&held);
            tokio::select! {
                biased;
                arrived = whole => arrived,
                () = arrival.displaced() => return Err(Problem::refused(
                    Kind::Overloaded,
                    "Many requests are still sending their bodies, and this one has been for long, or has sent much. Try again.",
                )),
            }
        }
    };
    arrived.unwrap_or_else(|_elapsed| {
        let detail = format!("The body did not arrive within {}.", humantime::format_duration(patience));
        Err(Problem::refused(Kind::MalformedRequest, detail))
    })
}

/// Bodies up to this size take nothing of the shared budget: a source URL has a tenth of it. Larger bodies are odd, and
/// over HTTP/2 a few connections can have thousands of them half-sent.
pub(crate) const USUAL_BODY: usize = 2 * 1024;

/// What one request takes of the budget that all of its kind share; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Budget,
    held: Held,
    taken: Option<OwnedSemaphorePermit>,
    /// Bytes that the request may still take outside the budget: a small request finds room however large other
    /// requests are.
    own: usize,
}

impl Taken {
    pub(crate) fn of(budget: &Budget, own: usize, party: &Party) -> Taken {
        Taken { budget: budget.clone(), held: Held::new(budget, party), taken: None, own }
    }

    pub(crate) async fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let beyond = bytes.saturating_sub(self.own);
        self.own = self.own.saturating_sub(bytes);
        let permits = u32::try_from(beyond).unwrap_or(u32::MAX);
        let Some(more) = self.budget.find(permits, &self.held).await else {
            return Err(Problem::refused(
                Kind::Overloaded,
                "Too many large requests are under way. Try again after Retry-After seconds, or with less.",
            ));
        };
        self.held.add(beyond);
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}
