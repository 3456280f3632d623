//! Why there is no link.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{kind::Kind, link::Unusable};

/// Why a mint gave no link. Messages are for operators; callers see a `web::problem::Problem`.
///
/// No variant holds a source URL, a link or the key: `reqwest` errors lose their URL before they get here,
/// and kie.ai's messages are scrubbed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("kie.ai refuses the source URL: {0}")]
    SourceRefused(Answer),
    #[error("kie.ai does not know the file: {0}")]
    SourceNotFound(Answer),
    #[error("kie.ai refuses the API key: {0}")]
    KeyRefused(Answer),
    /// There is another key; the request is worth repeating with it.
    #[error("kie.ai refuses an API key that there is another one for: {0}")]
    KeyReplaced(Answer),
    #[error("the kie.ai account has no credits left: {0}")]
    CreditsExhausted(Answer),
    #[error("kie.ai limits the rate: {answer}")]
    RateLimited { answer: Answer, retry_after: Option<Duration> },
    #[error("kie.ai is under maintenance: {answer}")]
    Maintenance { answer: Answer, retry_after: Option<Duration> },
    /// A failure of which kie.ai says when it will be over.
    #[error("kie.ai is unavailable for a while: {answer}")]
    Unavailable { answer: Answer, retry_after: Duration },
    #[error("kie.ai failed: {0}")]
    Failed(Answer),
    #[error("kie.ai's answer cannot be used ({reason}): {answer}")]
    Unusable { reason: BadAnswer, answer: Answer },
    #[error("kie.ai's link has too little life left, twice in a row")]
    ShortLived,
    #[error("kie.ai cannot be reached")]
    Unreachable(#[source] Arc<reqwest::Error>),
    /// Most likely kie.ai has not seen the request.
    #[error("a kept connection to kie.ai turned out to be closed")]
    DeadConnection(#[source] Arc<reqwest::Error>),
    /// No answer in time, where the connection may be to blame: it was open already.
    #[error("a kept connection to kie.ai fell silent")]
    SilentConnection,
    #[error("kie.ai's answer is not HTTP, or its head is too long")]
    NotHttp(#[source] Arc<reqwest::Error>),
    #[error("kie.ai did not answer in time")]
    Timeout,
    /// Our own: `upstream.rate` leaves no room before the deadline.
    #[error("the budget of requests to kie.ai has no room in time")]
    NoBudget { retry_after: Duration },
    /// Our own: kie.ai has said 429 to somebody else's request a moment ago.
    #[error("requests to kie.ai pause after a 429")]
    Paused { retry_after: Duration },
    /// Our own: the breaker is open.
    #[error("kie.ai is unwell, so it is not asked")]
    Unwell { retry_after: Duration },
    /// Our own: kie.ai has said this a moment ago, of the account or of this file, and is not asked again so soon.
    #[error("kie.ai is not asked again so soon: {cause}")]
    Recalled { cause: Box<Error>, retry_after: Duration },
    /// Our own: another replica of the fleet asked a moment ago, and this is what kie.ai said. A refusal holds for `left`.
    #[error("another replica has asked kie.ai: {cause}")]
    Relayed { cause: Box<Error>, left: Duration },
    /// Our own, of a refresh: another replica of the fleet mints the file at this moment.
    #[error("another replica mints the file")]
    MintedElsewhere { retry_after: Duration },
    #[error("the mint was cut short by shutdown")]
    ShuttingDown,
}

/// What an answer of kie.ai's says that gives no link: enough to make the same error of it elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    SourceRefused,
    SourceNotFound,
    KeyRefused,
    CreditsExhausted,
    RateLimited,
    Maintenance,
    Unavailable,
    Failed,
}

impl Said {
    /// The error of whoever has asked.
    pub fn error(self, answer: Answer, retry_after: Option<Duration>) -> Error {
        match self {
            Said::SourceRefused => Error::SourceRefused(answer),
            Said::SourceNotFound => Error::SourceNotFound(answer),
            Said::KeyRefused => Error::KeyRefused(answer),
            Said::CreditsExhausted => Error::CreditsExhausted(answer),
            Said::RateLimited => Error::RateLimited { answer, retry_after },
            Said::Maintenance => Error::Maintenance { answer, retry_after },
            Said::Unavailable => Error::Unavailable { answer, retry_after: retry_after.unwrap_or_default() },
            Said::Failed => Error::Failed(answer),
        }
    }
}

/// What kie.ai refuses the whole account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AccountTrouble {
    Key,
    Credits,
    Unavailable,
    Disabled,
}

/// What is wrong with an answer that claims to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    #[error("it is empty")]
    Empty,
    #[error("it is not JSON")]
    NotJson,
    #[error("it is JSON of another shape")]
    OtherShape,
    #[error("it is longer than {} bytes", super::MAX_ANSWER_BYTES)]
    TooLong,
    #[error("its `data` is no string")]
    NoLink,
    #[error("its `data` is no number")]
    NoNumber,
    #[error(transparent)]
    BadLink(#[from] Unusable),
    #[error("its link carries the API key")]
    LinkWithKey,
    #[error("it redirects elsewhere")]
    Redirect,
    #[error("it ended or turned to nonsense half-way")]
    Broken,
}

/// What kie.ai answered, as far as it may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub http_status: u16,
    /// The envelope's own code, where there was an envelope.
    pub code: Option<i64>,
    /// The envelope's message, scrubbed of the key, without control characters, bounded.
    pub message: Option<String>,
}

impl Answer {
    /// Whether the code tells of a passing failure rather than of this request: 408, 5xx, kie.ai's 531 and 550; not
    /// 501 and 505, which say that it will not be done.
    fn is_hiccup(&self) -> bool {
        let code = self.code.filter(|code| *code != 200).unwrap_or(i64::from(self.http_status));
        code == 408 || (code >= 500 && code != 501 && code != 505)
    }
}

/// A word with one of these may be an address, or a part of one, in any spelling.
const ADDRESS_MARKS: [char; 5] = ['/', '?', '=', '%', '&'];

impl std::fmt::Display for Answer {
    /// For logs: addresses in the message are left out, since they may be links or source URLs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HTTP {}", self.http_status)?;
        if let Some(code) = self.code {
            write!(f, ", code {code}")?;
        }
        if let Some(message) = &self.message {
            let words: Vec<&str> =
                message.split(' ').map(|word| if word.contains(ADDRESS_MARKS) { "[url]" } else { word }).collect();
            write!(f, ", {:?}", words.join(" "))?;
        }
        Ok(())
    }
}

impl Error {
    /// Every kind that a mint may end with, for the counters; a mint cut short by our own end has none.
    pub const KINDS: [Kind; 9] = [
        Kind::SourceRefused,
        Kind::SourceNotFound,
        Kind::KeyRefused,
        Kind::CreditsExhausted,
        Kind::RateLimited,
        Kind::UpstreamUnavailable,
        Kind::UpstreamError,
        Kind::UpstreamUnreachable,
        Kind::Timeout,
    ];

    /// The kind that callers are told; metrics and traces use the same word.
    pub fn kind(&self) -> Kind {
        self.told().0
    }

    /// What callers are told: the kind, and what happened and what to do.
    pub fn told(&self) -> (Kind, &'static str) {
        match self {
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
            Error::NoBudget { .. } => (
                Kind::RateLimited,
                "More is wanted of kie.ai than kielink may ask for. Try again after Retry-After seconds.",
            ),
            Error::Paused { .. } => (
                Kind::RateLimited,
                "kie.ai has limited the rate of requests a moment ago. Try again after Retry-After seconds.",
            ),
            Error::Maintenance { .. } => {
                (Kind::UpstreamUnavailable, "kie.ai is under maintenance. Try again after Retry-After seconds.")
            }
            Error::Unavailable { .. } => (
                Kind::UpstreamUnavailable,
                "kie.ai fails, and says that it will for a while. Try again after Retry-After seconds.",
            ),
            Error::Unwell { .. } => (
                Kind::UpstreamUnavailable,
                "kie.ai has been failing, so it is not asked for now. Try again after Retry-After seconds.",
            ),
            Error::Failed(_) => (Kind::UpstreamError, "kie.ai failed. Trying again later may help."),
            Error::Unusable { .. } | Error::NotHttp(_) => {
                (Kind::UpstreamError, "kie.ai's answer cannot be used. Trying again later may help.")
            }
            Error::ShortLived => {
                (Kind::UpstreamError, "kie.ai's links have too little life left to be handed out. Try again later.")
            }
            Error::Unreachable(_) | Error::DeadConnection(_) => {
                (Kind::UpstreamUnreachable, "kie.ai cannot be reached from here. Trying again later may help.")
            }
            Error::Timeout | Error::SilentConnection => {
                (Kind::Timeout, "kie.ai did not answer in time. Trying again later may help.")
            }
            // What is told from memory is told in the same words.
            Error::Recalled { cause, .. } | Error::Relayed { cause, .. } => cause.told(),
            Error::MintedElsewhere { .. } => (
                Kind::UpstreamUnavailable,
                "Another kielink asks kie.ai for this link. Try again after Retry-After seconds.",
            ),
            Error::ShuttingDown => (Kind::Overloaded, "kielink is shutting down. Another replica may serve."),
        }
    }

    /// kie.ai's answer, where there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Error::Recalled { cause, .. } | Error::Relayed { cause, .. } => cause.answer(),
            error => error.said().map(|(_, answer)| answer),
        }
    }

    /// What kie.ai said, where it was asked and has answered.
    pub fn said(&self) -> Option<(Said, &Answer)> {
        match self {
            Error::SourceRefused(answer) => Some((Said::SourceRefused, answer)),
            Error::SourceNotFound(answer) => Some((Said::SourceNotFound, answer)),
            Error::KeyRefused(answer) | Error::KeyReplaced(answer) => Some((Said::KeyRefused, answer)),
            Error::CreditsExhausted(answer) => Some((Said::CreditsExhausted, answer)),
            Error::RateLimited { answer, .. } => Some((Said::RateLimited, answer)),
            Error::Maintenance { answer, .. } => Some((Said::Maintenance, answer)),
            Error::Unavailable { answer, .. } => Some((Said::Unavailable, answer)),
            Error::Failed(answer) | Error::Unusable { answer, .. } => Some((Said::Failed, answer)),
            Error::Recalled { .. }
            | Error::Relayed { .. }
            | Error::ShortLived
            | Error::Unreachable(_)
            | Error::DeadConnection(_)
            | Error::SilentConnection
            | Error::NotHttp(_)
            | Error::Timeout
            | Error::NoBudget { .. }
            | Error::Paused { .. }
            | Error::Unwell { .. }
            | Error::MintedElsewhere { .. }
            | Error::ShuttingDown => None,
        }
    }

    /// For people who look at a probe: nothing that kie.ai or a caller wrote.
    pub(super) fn in_a_few_words(&self) -> String {
        match self.answer() {
            Some(Answer { code: Some(401 | 403), .. }) => "the key is refused".to_owned(),
            Some(Answer { code: Some(402), .. }) => "no credits are left".to_owned(),
            Some(Answer { http_status: 200, code: Some(code), .. }) if *code != 200 => format!("code {code}"),
            Some(Answer { http_status, .. }) => format!("HTTP {http_status}"),
            None => self.kind().as_str().to_owned(),
        }
    }

    /// Whether kie.ai has decided about the file itself, so that asking again soon is of no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::Relayed { cause, .. } => cause.is_refusal(),
            error => matches!(error, Error::SourceRefused(_) | Error::SourceNotFound(_)),
        }
    }

    /// When it is worth coming back, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::RateLimited { retry_after, .. } | Error::Maintenance { retry_after, .. } => *retry_after,
            Error::Unavailable { retry_after, .. }
            | Error::NoBudget { retry_after }
            | Error::Paused { retry_after }
            | Error::Unwell { retry_after }
            | Error::MintedElsewhere { retry_after }
            | Error::Recalled { retry_after, .. } => Some(*retry_after),
            Error::Relayed { cause, .. } => cause.retry_after(),
            Error::SourceRefused(_)
            | Error::SourceNotFound(_)
            | Error::KeyRefused(_)
            | Error::KeyReplaced(_)
            | Error::CreditsExhausted(_)
            | Error::Failed(_)
            | Error::Unusable { .. }
            | Error::ShortLived
            | Error::Unreachable(_)
            | Error::DeadConnection(_)
            | Error::SilentConnection
            | Error::NotHttp(_)
            | Error::Timeout
            | Error::ShuttingDown => None,
        }
    }

    /// Whether kie.ai was not asked at all.
    pub fn is_our_own(&self) -> bool {
        matches!(
            self,
            Error::NoBudget { .. }
                | Error::Paused { .. }
                | Error::Unwell { .. }
                | Error::Recalled { .. }
                | Error::Relayed { .. }
                | Error::MintedElsewhere { .. }
                | Error::ShuttingDown
        )
    }

    /// Whether a connection that was open already is to blame, rather than kie.ai.
    pub(super) fn is_of_a_kept_connection(&self) -> bool {
        matches!(self, Error::DeadConnection(_) | Error::SilentConnection)
    }

    /// Whether the same request may well succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            // The pause that follows keeps the next try from coming soon.
            Error::RateLimited { .. }
            | Error::KeyReplaced(_)
            | Error::Unreachable(_)
            | Error::DeadConnection(_)
            | Error::SilentConnection
            | Error::NotHttp(_)
            | Error::Timeout
            | Error::Unavailable { .. } => true,
            Error::Failed(answer) => answer.is_hiccup(),
            Error::Unusable { reason, answer } => match reason {
                BadAnswer::Empty | BadAnswer::Broken => true,
                // A gateway's page in place of an answer; with HTTP 200 it is a wrong base_url.
                BadAnswer::NotJson | BadAnswer::OtherShape => answer.http_status >= 500,
                BadAnswer::TooLong
                | BadAnswer::NoLink
                | BadAnswer::NoNumber
                | BadAnswer::BadLink(_)
                | BadAnswer::LinkWithKey
                | BadAnswer::Redirect => false,
            },
            Error::SourceRefused(_)
            | Error::SourceNotFound(_)
            | Error::KeyRefused(_)
            | Error::CreditsExhausted(_)
            | Error::Maintenance { .. }
            | Error::ShortLived
            | Error::NoBudget { .. }
            | Error::Paused { .. }
            | Error::Unwell { .. }
            | Error::Recalled { .. }
            | Error::Relayed { .. }
            | Error::MintedElsewhere { .. }
            | Error::ShuttingDown => false,
        }
    }

    /// Whether no answer came at all: a connection that could not be made, or silence.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Error::Unreachable(_) | Error::Timeout)
    }

    /// What this says of the account, and whether kie.ai says so by its own code. Anything else (a gateway's bare
    /// HTTP status, the words of a message) may be about one file alone.
    pub(super) fn account_trouble(&self) -> Option<(AccountTrouble, bool)> {
        let code = self.answer().and_then(|answer| answer.code);
        match self {
            Error::KeyRefused(_) => Some((AccountTrouble::Key, matches!(code, Some(401 | 403)))),
            Error::CreditsExhausted(_) => Some((AccountTrouble::Credits, code == Some(402))),
            Error::Maintenance { .. } => Some((AccountTrouble::Unavailable, code == Some(455))),
            Error::Unavailable { .. } => Some((AccountTrouble::Unavailable, false)),
            Error::Failed(_) if code == Some(505) => Some((AccountTrouble::Disabled, true)),
            _ => None,
        }
    }

    /// Whether a file that failed with this error has a back-off of its own. Not where kie.ai was not asked, nor where
    /// it spoke of the whole account or of its rate: other rules keep kie.ai from being asked then.
    pub fn is_failure_of_the_file(&self) -> bool {
        if let Error::Relayed { cause, .. } = self {
            return cause.is_failure_of_the_file();
        }
        let is_of_the_account = self.account_trouble().is_some_and(|(_, by_code)| by_code);
        let is_of_the_rate_or_the_key = matches!(self, Error::RateLimited { .. } | Error::KeyReplaced(_));
        !(self.is_our_own() || self.is_refusal() || is_of_the_account || is_of_the_rate_or_the_key)
    }

    /// No answer could be read: because none came, or because what came is no HTTP. `kept` tells whether the request
    /// may have gone over a connection that was open already.
    pub(super) fn of_request(error: reqwest::Error, kept: bool) -> Error {
        if error.is_timeout() && !error.is_connect() {
            return Error::Timeout;
        }
        let error = Arc::new(error.without_url());
        if cause(&error).is_some_and(hyper::Error::is_parse) {
            Error::NotHttp(error)
        } else if kept && !error.is_connect() && was_closed(&error) {
            Error::DeadConnection(error)
        } else {
            Error::Unreachable(error)
        }
    }
}

fn was_closed(error: &reqwest::Error) -> bool {
    let closed = |hyper: &hyper::Error| hyper.is_incomplete_message() || hyper.is_canceled() || hyper.is_closed();
    // A peer, or a box between, that has forgotten the connection answers with a reset.
    let reset = |io: &io::Error| {
        matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
    };
    cause(error).is_some_and(closed) || cause(error).is_some_and(reset)
}

/// The first error of this kind behind `error`.
fn cause<E: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_mint_ends_with_one_of_the_kinds_that_are_counted() {
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
        ];
        let said: BTreeSet<_> = errors.iter().map(|error| error.kind().as_str()).collect();
        let counted = Error::KINDS.into_iter().filter(|kind| *kind != Kind::UpstreamUnreachable);
        assert_eq!(said, counted.map(Kind::as_str).collect());
        assert!(!Error::KINDS.contains(&Error::ShuttingDown.kind()));
    }
}
