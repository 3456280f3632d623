//! What goes wrong, in the words of the interface: the one place that decides statuses.
//!
//! A `Problem` travels as a response extension; `edge` renders it in the form of the path that was asked
//! (RFC 9457 under `/v1/`, kie.ai's envelope under `/api/`) and logs the cause, which callers never see.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{cache_status::CacheStatus, outcome::NoLink};
pub(crate) use crate::kind::Kind;
use crate::{
    credits, links,
    source::Source,
    upstream::{self, Answer},
};

/// kie.ai's envelope without data, fields in its order.
#[derive(Debug, Serialize)]
struct Envelope<'a> {
    code: i64,
    msg: &'a str,
    data: (),
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_code: Option<i64>,
    /// Seconds. Only in an item of a batch, which has no header of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// One thing gone wrong, for one caller.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    /// What happened and what to do, for the caller.
    pub(crate) detail: Cow<'static, str>,
    pub(crate) why: NoLink,
    pub(crate) source: Option<Source>,
    retry_after: Option<Duration>,
    /// For the log. kie.ai's answer in it, if there is one, is also for the caller.
    pub(crate) cause: Option<Arc<upstream::Error>>,
}

/// Whether kie.ai's own contract holds at `path`, which may begin with more slashes than one: behind a base URL with a
/// slash at its end.
pub(crate) fn is_compat(path: &str) -> bool {
    path.trim_start_matches('/').strip_prefix("api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Problem {
    /// A problem of the request itself or of kielink's limits: kie.ai was not asked.
    pub(crate) fn refused(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        let retry_after = (kind.status() == 503).then_some(Duration::from_secs(1));
        Problem { kind, detail: detail.into(), why: NoLink::Refused, source: None, retry_after, cause: None }
    }

    /// A defect of kielink's own.
    pub(crate) fn internal(detail: &'static str) -> Problem {
        Problem { why: NoLink::Error, ..Problem::refused(Kind::Internal, detail) }
    }

    /// Why there is no link for `source`.
    pub(crate) fn of(error: links::Error, source: &Source) -> Problem {
        let problem = match error {
            links::Error::Upstream(cause) => Problem::upstream(cause, NoLink::Error),
            links::Error::Refused(cause) => Problem::upstream(cause, NoLink::Negative),
            links::Error::NotCached => Problem::refused(
                Kind::NotCached,
                "No link is cached for this file and the request says only-if-cached. Ask without it to have one minted.",
            ),
            links::Error::Crowded => Problem::refused(
                Kind::Overloaded,
                "Too many requests wait for kie.ai. Try again after Retry-After seconds.",
            ),
            links::Error::TimedOut => Problem {
                why: NoLink::Error,
                ..Problem::refused(
                    Kind::Timeout,
                    "There was no answer of kie.ai's in time. Trying again later may help.",
                )
            },
            links::Error::Lost => Problem::internal("The mint failed inside kielink. Its log tells more."),
        };
        Problem { source: Some(source.clone()), ..problem }
    }

    /// Why the credits left cannot be told.
    pub(crate) fn of_credits(error: credits::Error) -> Problem {
        match error {
            credits::Error::Upstream(cause) => Problem::upstream(cause, NoLink::Error),
            credits::Error::TimedOut => Problem {
                why: NoLink::Error,
                ..Problem::refused(
                    Kind::Timeout,
                    "There was no answer of kie.ai's in time. Trying again later may help.",
                )
            },
            credits::Error::Lost => Problem::internal("The call failed inside kielink. Its log tells more."),
        }
    }

    fn upstream(cause: Arc<upstream::Error>, why: NoLink) -> Problem {
        use upstream::Error;
        let (kind, detail) = cause.told();
        // Every 429 and 503 says when to come back, known or not.
        let retry_after = cause.retry_after().or(match &*cause {
            Error::RateLimited { .. } => Some(Duration::from_secs(2)),
            Error::Maintenance { .. } => Some(Duration::from_secs(5)),
            Error::ShuttingDown => Some(Duration::from_secs(1)),
            _ => None,
        });
        // A recalled answer is kie.ai's, though it was not asked for this caller.
        let is_recalled = matches!(&*cause, Error::Recalled { .. } | Error::Relayed { .. });
        let why = if cause.is_our_own() && !is_recalled { NoLink::Refused } else { why };
        Problem { kind, detail: Cow::Borrowed(detail), why, source: None, retry_after, cause: Some(cause) }
    }

    pub(crate) fn about(self, source: &Source) -> Problem {
        Problem { source: Some(source.clone()), ..self }
    }

    /// The document as an item of a batch carries it.
    pub(crate) fn item<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document { retry_after: self.retry_after_seconds(), ..self.document(request_id) }
    }

    /// Rounded up: a caller who comes back at that second must not be early.
    fn retry_after_seconds(&self) -> Option<u64> {
        let pause = self.retry_after?;
        Some((pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).max(1))
    }

    fn upstream_answer(&self) -> Option<&Answer> {
        self.cause.as_ref()?.answer()
    }

    pub(crate) fn cache_status(&self) -> CacheStatus {
        // What is told from memory was no answer to this request.
        let is_recalled = self
            .cause
            .as_deref()
            .is_some_and(|cause| matches!(cause, upstream::Error::Recalled { .. } | upstream::Error::Relayed { .. }));
        let fwd_status = self.upstream_answer().filter(|_| !is_recalled).map(|answer| answer.http_status);
        CacheStatus::NoLink { why: self.why, kind: self.kind, fwd_status }
    }

    /// The problem document (RFC 9457), for `/v1/` and the admin interface.
    pub(crate) fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document {
            r#type: format!("urn:kielink:problem:{}", self.kind.as_str()),
            title: self.kind.title(),
            status: self.kind.status(),
            detail: &self.detail,
            request_id,
            upstream_code: self.upstream_answer().and_then(|answer| answer.code),
            retry_after: None,
        }
    }

    /// kie.ai's envelope, for `/api/`. `code` and `msg` are kie.ai's own where it gave them, and never say success.
    pub(crate) fn envelope(&self) -> String {
        let own = format!("{}: {}", self.kind.title(), self.detail);
        let code = self.upstream_answer().and_then(|answer| answer.code).filter(|code| *code != 200);
        let message = self.upstream_answer().and_then(|answer| answer.message.as_deref()).filter(|_| code.is_some());
        let envelope = Envelope {
            code: code.unwrap_or_else(|| i64::from(self.kind.compat_status())),
            // Many clients show `msg` and nothing else: it says what to mend.
            msg: message.unwrap_or(&own),
            data: (),
        };
        serde_json::to_string(&envelope).expect("texts serialise")
    }

    /// Fills in the body and the headers that belong to the form of `path`.
    pub(crate) fn render(&self, path: &str, request_id: &str, response: &mut Response) {
        let is_compat = is_compat(path);
        let (content_type, body) = if is_compat {
            ("application/json", self.envelope())
        } else {
            {
                let document = serde_json::to_string(&self.document(request_id)).expect("texts serialise");
                ("application/problem+json", document)
            }
        };
        let status = if is_compat { self.kind.compat_status() } else { self.kind.status() };
        *response.status_mut() = http_status(status);
        *response.body_mut() = Body::from(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.remove(header::CONTENT_LENGTH);
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if *response.status_mut() == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 15.5.2.
            let challenge = HeaderValue::from_static("Bearer realm=\"kie.ai\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
}

fn http_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("the table of kinds has HTTP's own")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = http_status(self.kind.status()).into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
