//! The endpoints for callers of one link: kie.ai's own contracts, `/v1/link`, `/v1/redirect`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::Response,
};
use tokio_util::task::TaskTracker;

use super::{
    Config,
    answer::{self, Named},
    bodies::{Budget, Taken, USUAL_BODY, read_body},
    directives,
    places::Places,
};
use crate::{
    clock::{self, Clock},
    credits::Credits,
    links::{Links, Lookup, Wish},
    source::Source,
    web::{
        edge::Call,
        metrics::Requests,
        problem::Problem,
        query::{self, Asked},
    },
};

/// What the endpoints work with.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(crate) links: Links,
    pub(crate) credits: Credits,
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
    kie_link(&endpoints, &call, request, |body| query::source_field(body).map(Asked::from)).await
}

/// `POST /api/v1/gpt4o-image/download-url`
pub(crate) async fn download_url_4o(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Problem> {
    kie_link(&endpoints, &call, request, query::task_fields).await
}

/// A link by kie.ai's own contract. `read` finds in a body what is asked for.
async fn kie_link(
    endpoints: &Endpoints,
    call: &Call,
    request: Request,
    read: impl Fn(&[u8]) -> Result<Asked<'_>, Problem>,
) -> Result<Response, Problem> {
    let wish = directives::wish(request.headers());
    let mut taken = Taken::of(&endpoints.body_budget, USUAL_BODY, &call.party);
    let body = read_body(request, endpoints.config.body, endpoints.config.body_timeout, &mut taken).await?;
    let asked = read(&body)?.into_owned();
    // Nobody needs the body while the request waits.
    drop((body, taken));
    let (source, lookup) = endpoints.find_one(&asked, &wish, call).await?;
    let body = answer::envelope(&lookup.entry.link);
    let mut response = answer::with_link(source, &lookup, StatusCode::OK, Body::from(body));
    answer::json_type(response.headers_mut());
    Ok(response)
}

/// `GET /v1/link?url=`
pub(crate) async fn link(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let (asked, wish) = asked(headers, uri)?;
    let (source, lookup) = endpoints.find_one(&asked, &wish, &call).await?;
    // Not as of `lookup.now`: the wall clock may have gone on.
    let clock = &endpoints.clock;
    let ends_at = clock::wall_at(clock.wall(), lookup.times.ends_at, clock.now());
    let body = answer::document(Named::Source(&source), &lookup.entry.link, ends_at);
    let mut response = answer::with_link(source, &lookup, StatusCode::OK, Body::from(body));
    answer::json_type(response.headers_mut());
    Ok(response)
}

/// `GET /v1/redirect?url=`, `GET /v1/redirect/NAME?url=`
pub(crate) async fn redirect(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let (asked, wish) = asked(headers, uri)?;
    let (source, lookup) = endpoints.find_one(&asked, &wish, &call).await?;
    let mut response = answer::with_link(source, &lookup, StatusCode::FOUND, Body::empty());
    response.headers_mut().insert(header::LOCATION, answer::location(&lookup.entry.link));
    Ok(response)
}

/// `GET /api/v1/chat/credit`, by kie.ai's own contract: the credits left, as last seen.
pub(crate) async fn credit(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
) -> Result<Response, Problem> {
    let credits = &endpoints.credits;
    let found = match credits.recall() {
        Some(known) => known,
        None => {
            let place = endpoints.places.take(&call.party)?;
            place.hold(credits.get(call.deadline)).await?
        }
    };
    Ok(answer::credits(&found.map_err(Problem::of_credits)?))
}

/// What a `GET` asks for. Headers and URI are as large as callers like: they are taken, and dropped, since nobody needs
/// them while the request waits.
fn asked(headers: HeaderMap, uri: Uri) -> Result<(Asked<'static>, Wish), Problem> {
    Ok((query::asked(uri.query())?.into_owned(), directives::wish(&headers)))
}

impl Endpoints {
    /// For a request about one link, which takes a place where memory does not know the link.
    async fn find_one(&self, asked: &Asked<'_>, wish: &Wish, call: &Call) -> Result<(Source, Lookup), Problem> {
        let source = asked.allowed(&self.config.sources)?;
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
