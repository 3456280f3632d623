//! `POST /v1/links`: many links in one request; one bad item harms no other.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered, Stream},
};
use serde::{Deserialize, Serialize};

use super::{
    answer::LinkView,
    directives,
    edge::{CACHE_STATUS, Call, ServedBatch},
    handlers::{Endpoints, Room, USUAL_BODY, read_body},
    problem::{Document, Kind, Problem},
    query,
};
use crate::{
    clock::Instant,
    links::{Lookup, Wish},
    source::SourceUrl,
};

const NDJSON: &str = "application/x-ndjson";

/// Bounds one write, and with it what a slow reader keeps in memory.
const LINES_AT_ONCE: usize = 64;

#[derive(Deserialize)]
struct Ask {
    urls: Vec<String>,
}

/// One item's answer: `{"source_url","url","expires_at"}` or `{"source_url","error":PROBLEM}`.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Link(LinkView<'a>),
    Problem { source_url: &'a str, error: Document<'a> },
}

/// The pieces of a JSON answer.
enum Part {
    Head,
    Item(Found),
    Tail,
}

/// What became of one item.
struct Found {
    place: usize,
    /// As asked, where it could not be parsed.
    text: String,
    result: Result<(SourceUrl, Lookup), Problem>,
}

pub(crate) async fn links(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Problem> {
    let wish = directives::wish(request.headers());
    let as_lines = wants_lines(request.headers());
    // What is made of the body is about as large, and stays until the last item is known.
    let mut room = Room::of(&endpoints.batch_room, USUAL_BODY);
    let body = read_body(request, endpoints.batch_body, endpoints.body_timeout, &mut room).await?;
    let texts = parse(&body, endpoints.batch)?;
    let place = endpoints.places.take()?;
    let wanted = texts.into_iter().enumerate().collect();
    let (content_type, body) = if as_lines {
        // What is known at once goes out in one piece.
        let known = found(&endpoints, &call, wish, wanted).ready_chunks(LINES_AT_ONCE);
        let lines = known.map(move |known| {
            let _ = &room;
            let mut lines = Vec::new();
            for found in known {
                lines.extend(found.render(&endpoints, &call));
                lines.push(b'\n');
            }
            Ok::<_, Infallible>(Bytes::from(lines))
        });
        (NDJSON, Body::from_stream(lines))
    } else {
        let all = all_found(&endpoints, &call, wish, wanted).await;
        // Written as it is read: a peer that does not read has a few items in memory, not four megabytes, and keeps its
        // place and its room until the last one.
        let parts = std::iter::once(Part::Head).chain(all.into_iter().map(Part::Item)).chain([Part::Tail]);
        let pieces = stream::iter(parts).chunks(LINES_AT_ONCE).map(move |parts| {
            let _ = &room;
            let mut json = Vec::new();
            for part in parts {
                match part {
                    Part::Head => json.extend(b"{\"links\":["),
                    Part::Item(found) => {
                        if found.place > 0 {
                            json.push(b',');
                        }
                        json.extend(found.render(&endpoints, &call));
                    }
                    Part::Tail => json.extend(b"]}"),
                }
            }
            Ok::<_, Infallible>(Bytes::from(json))
        });
        ("application/json", Body::from_stream(pieces))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The links come from the cache or not, each for itself; the batch as a whole never does.
    headers.insert(CACHE_STATUS.clone(), HeaderValue::from_static("kielink; fwd=bypass; detail=batch"));
    response.extensions_mut().insert(ServedBatch);
    response.extensions_mut().insert(place);
    Ok(response)
}

/// All items' answers, in order. Those that were known first have waited for the last: a link that has reached its
/// deadline meanwhile is looked up again. Ends, since nobody waits beyond the call's deadline.
async fn all_found(
    endpoints: &Arc<Endpoints>,
    call: &Call,
    wish: Wish,
    mut wanted: Vec<(usize, String)>,
) -> Vec<Found> {
    let mut all = Vec::with_capacity(wanted.len());
    while !wanted.is_empty() {
        all.extend(found(endpoints, call, wish, wanted).collect::<Vec<_>>().await);
        let now = endpoints.clock.now();
        wanted = all.extract_if(.., |found| found.is_dead(now)).map(|found| (found.place, found.text)).collect();
    }
    all.sort_unstable_by_key(|found| found.place);
    all
}

/// Every item's answer, as soon as it is known. Dropping the stream leaves flights to the cache.
fn found(
    endpoints: &Arc<Endpoints>,
    call: &Call,
    wish: Wish,
    wanted: Vec<(usize, String)>,
) -> impl Stream<Item = Found> + Send + use<> {
    wanted
        .into_iter()
        .map(|(place, text)| {
            let (endpoints, call) = (Arc::clone(endpoints), call.clone());
            async move {
                let result = endpoints.find(&text, &wish, &call).await;
                Found { place, text, result }
            }
        })
        .collect::<FuturesUnordered<_>>()
}

impl Found {
    fn is_dead(&self, now: Instant) -> bool {
        self.result.as_ref().is_ok_and(|(_, lookup)| now >= lookup.entry.times.deadline)
    }

    fn render(&self, endpoints: &Endpoints, call: &Call) -> Vec<u8> {
        let late;
        let now = endpoints.clock.now();
        let result = if self.is_dead(now) {
            // SECURITY: a slow reader, or one that was suspended, has let it die.
            late = Err(Problem::refused(Kind::Timeout, "The link reached its deadline before it was read. Ask again."));
            &late
        } else {
            &self.result
        };
        match result {
            Ok((_, lookup)) => endpoints.requests.item(lookup.outcome, 200, Some(now.until(lookup.entry.ends_at))),
            Err(problem) => endpoints.requests.item(problem.outcome, problem.kind.status().as_u16(), None),
        }
        let item = match result {
            Ok((source, lookup)) => Item::Link(LinkView::new(source, lookup, &endpoints.clock)),
            Err(problem) => Item::Problem {
                source_url: problem.source.as_ref().map_or(self.text.as_str(), SourceUrl::as_str),
                error: problem.item(&call.request_id),
            },
        };
        serde_json::to_vec(&item).expect("texts serialise")
    }
}

pub(crate) fn parse(body: &[u8], most: usize) -> Result<Vec<String>, Problem> {
    let malformed = |what: String| {
        Problem::refused(Kind::MalformedRequest, format!("The body {what}. Send {{\"urls\": [\"https://…\", …]}}."))
    };
    let ask: Ask = query::json(body).map_err(malformed)?;
    if ask.urls.len() > most {
        let detail = format!("The batch has {} source URLs; at most {most} are taken. Split it.", ask.urls.len());
        return Err(Problem::refused(Kind::MalformedRequest, detail));
    }
    Ok(ask.urls)
}

/// Whether `Accept` names NDJSON and does not refuse it.
pub(crate) fn wants_lines(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
            named && !parts.any(|parameter| ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&parameter))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_those_who_ask_for_them() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(value).unwrap());
            wants_lines(&headers)
        };
        assert!(of("application/x-ndjson"));
        assert!(of("application/json;q=0.5, Application/X-NDJSON; q=0.9"));
        assert!(!of("application/json"));
        assert!(!of("*/*"));
        assert!(!of("application/x-ndjson;q=0"));
        assert!(!wants_lines(&HeaderMap::new()));
    }

    #[test]
    fn a_batch_is_bounded_and_well_formed() {
        assert_eq!(parse(br#"{"urls":["a","b"],"x":1}"#, 2).unwrap(), ["a", "b"]);
        assert_eq!(parse(br#"{"urls":[]}"#, 2).unwrap(), Vec::<String>::new());
        for body in [
            "",
            "{}",
            "[]",
            r#"[["a"]]"#,
            r#"{"urls":"a"}"#,
            r#"{"urls":[1]}"#,
            r#"{"urls":["a","b","c"]}"#,
            r#"{"url":"a"}"#,
        ] {
            assert_eq!(parse(body.as_bytes(), 2).unwrap_err().kind, Kind::MalformedRequest, "{body}");
        }
    }
}
