//! "Why did my app get this?": what is known of one source URL, and forgetting it. Never the link.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    fleet::{Fleet, Told},
    links::{Links, Wish},
    upstream::Chain,
    web::{problem::Problem, query},
};

/// Seconds are rounded down; a time that has passed is zero.
#[derive(Debug, Serialize)]
struct Explanation<'a> {
    source_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
    /// `fresh`, `due`, `dead`, or `absent`.
    state: &'static str,
    mint_under_way: bool,
    entry: Option<Entry>,
    refusal: Option<Failure>,
    /// Why kie.ai is not asked for this file for a moment.
    failure: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Entry {
    age_seconds: u64,
    seconds_to_refresh_point: u64,
    seconds_to_deadline: u64,
    life_left_seconds: u64,
    failed_refreshes: u32,
    last_refresh_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Failure {
    age_seconds: u64,
    /// Seconds until kie.ai is asked again.
    seconds_left: u64,
    error: String,
}

/// `GET /v1/explain?url=&task_id=`
pub(crate) async fn explain(State(links): State<Links>, uri: Uri) -> Result<Response, Problem> {
    let source = query::asked(uri.query())?.source()?;
    let known = links.explain(&source);
    let now = known.now;
    let (refusal, failure) = match known.failure {
        Some(failure) => {
            let shown = Failure {
                age_seconds: now.since(failure.since).as_secs(),
                seconds_left: now.until(failure.until).as_secs(),
                error: Chain(&*failure.error).to_string(),
            };
            if failure.error.is_refusal() { (Some(shown), None) } else { (None, Some(shown)) }
        }
        None => (None, None),
    };
    let explanation = Explanation {
        source_url: source.url(),
        task_id: source.task(),
        state: known.entry.as_ref().map_or("absent", |(_, times)| times.judge(&Wish::default(), now).as_str()),
        mint_under_way: known.in_flight,
        entry: known.entry.map(|(entry, times)| {
            let renewal = entry.renewal();
            Entry {
                age_seconds: now.since(times.minted_at).as_secs(),
                seconds_to_refresh_point: now.until(times.refresh_at).as_secs(),
                seconds_to_deadline: now.until(times.deadline).as_secs(),
                life_left_seconds: now.until(times.ends_at).as_secs(),
                failed_refreshes: renewal.failures,
                last_refresh_error: renewal.last_error.map(|error| Chain(&*error).to_string()),
            }
        }),
        refusal,
        failure,
    };
    let body = serde_json::to_string(&explanation).expect("numbers and texts serialise");
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((StatusCode::OK, [json], body).into_response())
}

/// `DELETE /v1/link?url=&task_id=`: 204, whether or not there was a link. With a shared tier 200, and whether the other replicas
/// hear of it now.
pub(crate) async fn forget(
    State((links, fleet)): State<(Links, Option<Fleet>)>,
    uri: Uri,
) -> Result<Response, Problem> {
    let source = query::asked(uri.query())?.source()?;
    links.forget(&source);
    let Some(fleet) = fleet else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let replicas = fleet.forget(&source).await;
    // Meanwhile it may have been found in the tier again.
    links.forget(&source);
    let body = serde_json::to_string(&Forgotten { replicas }).expect("a word serialises");
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((StatusCode::OK, [json], body).into_response())
}

#[derive(Debug, Serialize)]
struct Forgotten {
    replicas: Told,
}
