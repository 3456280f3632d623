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

use crate::{
    links::{self, Outcome},
    source::SourceUrl,
    upstream::{self, Answer},
};

/// The problem types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    MalformedRequest,
    InvalidSourceUrl,
    SourceNotAllowed,
    SourceRefused,
    SourceNotFound,
    KeyRefused,
    CreditsExhausted,
    RateLimited,
    UpstreamUnavailable,
    UpstreamError,
    UpstreamUnreachable,
    Timeout,
    NotCached,
    BodyTooLarge,
    UriTooLong,
    HeadTooLarge,
    Misdirected,
    CrossSite,
    Overloaded,
    NotFound,
    MethodNotAllowed,
    /// A defect of kielink's own; not in the published table because it should not be.
    Internal,
}

impl Kind {
    /// Slug, status, title. The slug is part of the interface.
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::MalformedRequest => ("malformed-request", StatusCode::BAD_REQUEST, "Malformed request"),
            Kind::InvalidSourceUrl => ("invalid-source-url", StatusCode::UNPROCESSABLE_ENTITY, "Invalid source URL"),
            Kind::SourceNotAllowed => ("source-not-allowed", StatusCode::UNPROCESSABLE_ENTITY, "Source not allowed"),
            Kind::SourceRefused => {
                ("source-refused", StatusCode::UNPROCESSABLE_ENTITY, "kie.ai refuses the source URL")
            }
            Kind::SourceNotFound => ("source-not-found", StatusCode::NOT_FOUND, "kie.ai does not know the file"),
            Kind::KeyRefused => ("key-refused", StatusCode::BAD_GATEWAY, "kie.ai refuses the API key"),
            Kind::CreditsExhausted => {
                ("credits-exhausted", StatusCode::BAD_GATEWAY, "The kie.ai account has no credits left")
            }
            Kind::RateLimited => ("rate-limited", StatusCode::TOO_MANY_REQUESTS, "Rate limited"),
            Kind::UpstreamUnavailable => {
                ("upstream-unavailable", StatusCode::SERVICE_UNAVAILABLE, "kie.ai is unavailable")
            }
            Kind::UpstreamError => ("upstream-error", StatusCode::BAD_GATEWAY, "kie.ai gave no usable answer"),
            Kind::UpstreamUnreachable => ("upstream-unreachable", StatusCode::BAD_GATEWAY, "kie.ai cannot be reached"),
            Kind::Timeout => ("timeout", StatusCode::GATEWAY_TIMEOUT, "No link in time"),
            Kind::NotCached => ("not-cached", StatusCode::GATEWAY_TIMEOUT, "Not cached"),
            Kind::BodyTooLarge => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "Body too large"),
            Kind::UriTooLong => ("uri-too-long", StatusCode::URI_TOO_LONG, "URI too long"),
            Kind::HeadTooLarge => {
                ("head-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request head too large")
            }
            Kind::Misdirected => ("misdirected", StatusCode::MISDIRECTED_REQUEST, "Misdirected request"),
            Kind::CrossSite => ("cross-site", StatusCode::FORBIDDEN, "Cross-site request"),
            Kind::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Overloaded"),
            Kind::NotFound => ("not-found", StatusCode::NOT_FOUND, "Not found"),
            Kind::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Kind::Internal => ("internal-error", StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        }
    }

    pub(crate) fn slug(self) -> &'static str {
        self.parts().0
    }

    pub(crate) fn status(self) -> StatusCode {
        self.parts().1
    }

    /// Under `/api/`, kie.ai's own contract: clients that repeat a 5xx must not repeat what repeating cannot help.
    pub(crate) fn compat_status(self) -> StatusCode {
        match self {
            Kind::KeyRefused => StatusCode::UNAUTHORIZED,
            Kind::CreditsExhausted => StatusCode::PAYMENT_REQUIRED,
            _ => self.status(),
        }
    }
}

/// kie.ai's envelope, fields in its order.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<'a> {
    pub(crate) code: i64,
    pub(crate) msg: &'a str,
    pub(crate) data: Option<&'a str>,
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
    /// Seconds, in an item of a batch only: it has no header of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// One thing gone wrong, for one caller.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    /// What happened and what to do, for the caller.
    pub(crate) detail: Cow<'static, str>,
    pub(crate) outcome: Outcome,
    pub(crate) source: Option<SourceUrl>,
    retry_after: Option<Duration>,
    /// For the log; its answer, if kie.ai gave one, also for the caller.
    pub(crate) cause: Option<Arc<upstream::Error>>,
}

/// Whether kie.ai's own contract holds there.
pub(crate) fn is_compat(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

impl Problem {
    /// A problem of the request itself or of kielink's limits: kie.ai was not asked.
    pub(crate) fn refused(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        let retry_after = (kind.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
        Problem { kind, detail: detail.into(), outcome: Outcome::Refused, source: None, retry_after, cause: None }
    }

    /// A defect of kielink's own.
    pub(crate) fn internal(detail: &'static str) -> Problem {
        Problem { outcome: Outcome::Error, ..Problem::refused(Kind::Internal, detail) }
    }

    /// Why there is no link for `source`.
    pub(crate) fn of(error: links::Error, source: &SourceUrl) -> Problem {
        let problem = match error {
            links::Error::Upstream(cause) => Problem::upstream(cause, Outcome::Error),
            links::Error::Refused(cause) => Problem::upstream(cause, Outcome::Negative),
            links::Error::NotCached => Problem::refused(
                Kind::NotCached,
                "No link is cached for this file and the request says only-if-cached. Ask without it to have one minted.",
            ),
            links::Error::Crowded => Problem::refused(
                Kind::Overloaded,
                "Too many requests wait for kie.ai. Try again after Retry-After seconds.",
            ),
            links::Error::TimedOut => Problem {
                outcome: Outcome::Error,
                ..Problem::refused(
                    Kind::Timeout,
                    "There was no answer of kie.ai's in time. Trying again later may help.",
                )
            },
            links::Error::Lost => Problem::internal("The mint failed inside kielink. Its log tells more."),
        };
        Problem { source: Some(source.clone()), ..problem }
    }

    fn upstream(cause: Arc<upstream::Error>, outcome: Outcome) -> Problem {
        use upstream::Error;
        // What is told from memory is told in the same words.
        let said = match &*cause {
            Error::Recalled { cause, .. } => cause,
            error => error,
        };
        let (kind, detail) = match said {
            Error::SourceRefused(_) => (
                Kind::SourceRefused,
                "kie.ai makes links only for files that it generated. Check the source URL; asking again does not help.",
            ),
            Error::SourceNotFound(_) => (
                Kind::SourceNotFound,
                "kie.ai does not know this file, or no longer: files are kept for 14 days, uploads for 3.",
            ),
            Error::KeyRefused(_) | Error::KeyReplaced(_) => (
                Kind::KeyRefused,
                "kie.ai refuses the API key that kielink holds. Nothing is wrong with the request; its operator must act.",
            ),
            Error::CreditsExhausted(_) => (
                Kind::CreditsExhausted,
                "The kie.ai account behind kielink has no credits left. Nothing is wrong with the request.",
            ),
            Error::RateLimited { .. } => {
                (Kind::RateLimited, "kie.ai limits the rate of requests. Try again after Retry-After seconds.")
            }
            Error::Maintenance { .. } => {
                (Kind::UpstreamUnavailable, "kie.ai is under maintenance. Try again after Retry-After seconds.")
            }
            Error::Unavailable { .. } => (
                Kind::UpstreamUnavailable,
                "kie.ai fails, and says that it will for a while. Try again after Retry-After seconds.",
            ),
            Error::Failed(_) => (Kind::UpstreamError, "kie.ai failed to make a link. Trying again later may help."),
            Error::Unusable { .. } | Error::NotHttp(_) => {
                (Kind::UpstreamError, "kie.ai's answer cannot be used. Trying again later may help.")
            }
            Error::ShortLived => {
                (Kind::UpstreamError, "kie.ai's links have too little life left to be handed out. Try again later.")
            }
            Error::Unreachable(_) | Error::DeadConnection(_) => {
                (Kind::UpstreamUnreachable, "kie.ai cannot be reached from here. Trying again later may help.")
            }
            Error::NoBudget { .. } => (
                Kind::RateLimited,
                "More links are wanted than kielink may ask kie.ai for. Try again after Retry-After seconds.",
            ),
            Error::Paused { .. } => (
                Kind::RateLimited,
                "kie.ai has limited the rate of requests a moment ago. Try again after Retry-After seconds.",
            ),
            Error::Unwell { .. } => (
                Kind::UpstreamUnavailable,
                "kie.ai has been failing, so it is not asked for now. Try again after Retry-After seconds.",
            ),
            Error::Timeout | Error::SilentConnection => {
                (Kind::Timeout, "kie.ai did not answer in time. Trying again later may help.")
            }
            // Its cause is none itself; and if it were, the caller should know no more.
            Error::Recalled { .. } => {
                (Kind::UpstreamError, "kie.ai failed to make a link a moment ago. Try again after Retry-After seconds.")
            }
            Error::ShuttingDown => (Kind::Overloaded, "kielink is shutting down. Another replica may serve."),
        };
        // Every 429 and 503 says when to come back, known or not.
        let retry_after = cause.retry_after().or(match &*cause {
            Error::RateLimited { .. } => Some(Duration::from_secs(2)),
            Error::Maintenance { .. } => Some(Duration::from_secs(5)),
            Error::ShuttingDown => Some(Duration::from_secs(1)),
            _ => None,
        });
        // kie.ai has been asked, if not for this caller.
        let is_recalled = matches!(&*cause, Error::Recalled { .. });
        let outcome = if cause.is_our_own() && !is_recalled { Outcome::Refused } else { outcome };
        Problem { kind, detail: Cow::Borrowed(detail), outcome, source: None, retry_after, cause: Some(cause) }
    }

    pub(crate) fn about(self, source: &SourceUrl) -> Problem {
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

    fn answer(&self) -> Option<&Answer> {
        self.cause.as_ref()?.answer()
    }

    /// `Cache-Status` (RFC 9211). `fwd-status` is kie.ai's HTTP status, where it answered.
    pub(crate) fn cache_status(&self) -> String {
        let slug = self.kind.slug();
        match self.outcome {
            Outcome::Negative => "kielink; hit; detail=negative".to_owned(),
            Outcome::Error => {
                // What is told from memory was no answer to this request.
                let is_recalled =
                    self.cause.as_deref().is_some_and(|cause| matches!(cause, upstream::Error::Recalled { .. }));
                let fwd_status = self.answer().filter(|_| !is_recalled);
                let fwd_status = fwd_status.map(|answer| format!("; fwd-status={}", answer.http_status));
                format!("kielink; fwd=miss{}; detail={slug}", fwd_status.unwrap_or_default())
            }
            Outcome::Refused | Outcome::Hit | Outcome::HitRefresh | Outcome::Miss | Outcome::Joined => {
                format!("kielink; fwd=bypass; detail={slug}")
            }
        }
    }

    /// The problem document (RFC 9457), for `/v1/` and the admin interface.
    pub(crate) fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        let (slug, status, title) = self.kind.parts();
        Document {
            r#type: format!("urn:kielink:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            request_id,
            upstream_code: self.answer().and_then(|answer| answer.code),
            retry_after: None,
        }
    }

    /// kie.ai's envelope, for `/api/`. `code` and `msg` are kie.ai's own where it gave them, and never say success.
    pub(crate) fn envelope(&self) -> String {
        let (_, _, title) = self.kind.parts();
        let own = format!("{title}: {}", self.detail);
        let code = self.answer().and_then(|answer| answer.code).filter(|code| *code != 200);
        let message = self.answer().and_then(|answer| answer.message.as_deref()).filter(|_| code.is_some());
        let envelope = Envelope {
            code: code.unwrap_or_else(|| i64::from(self.kind.compat_status().as_u16())),
            // Many clients show `msg` and nothing else: it says what to mend.
            msg: message.unwrap_or(&own),
            data: None,
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
        *response.status_mut() = if is_compat { self.kind.compat_status() } else { self.kind.status() };
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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{BadAnswer, Error};

    #[test]
    fn callers_and_metrics_hear_the_same_word() {
        let answer = || Answer { http_status: 200, code: Some(1), message: None };
        let pause = Duration::from_secs(1);
        let errors = [
            Error::SourceRefused(answer()),
            Error::SourceNotFound(answer()),
            Error::KeyRefused(answer()),
            Error::KeyReplaced(answer()),
            Error::CreditsExhausted(answer()),
            Error::RateLimited { answer: answer(), retry_after: None },
            Error::Maintenance { answer: answer(), retry_after: None },
            Error::Unavailable { answer: answer(), retry_after: pause },
            Error::SilentConnection,
            Error::Recalled { cause: Box::new(Error::CreditsExhausted(answer())), retry_after: pause },
            Error::Failed(answer()),
            Error::Unusable { reason: BadAnswer::Empty, answer: answer() },
            Error::ShortLived,
            Error::Timeout,
            Error::NoBudget { retry_after: pause },
            Error::Paused { retry_after: pause },
            Error::Unwell { retry_after: pause },
            Error::ShuttingDown,
        ];
        for error in errors {
            let slug = error.slug();
            assert!(Error::SLUGS.contains(&slug) || slug == "overloaded", "{slug}");
            assert_eq!(Problem::upstream(Arc::new(error), Outcome::Error).kind.slug(), slug);
        }
    }
}
