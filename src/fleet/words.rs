//! What kie.ai said, as replicas tell each other. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::upstream::{Answer, Error};

/// Who reads it may be of another version: what it does not know, it does without.
#[derive(Serialize, Deserialize)]
struct Words {
    kind: Kind,
    http_status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    SourceRefused,
    SourceNotFound,
    KeyRefused,
    CreditsExhausted,
    RateLimited,
    Maintenance,
    Unavailable,
    Failed,
}

/// What is told of an answer of kie.ai's; `None` where there was none: a replica's own trouble is its own.
pub(super) fn write(error: &Error) -> Option<String> {
    let kind = match error {
        Error::SourceRefused(_) => Kind::SourceRefused,
        Error::SourceNotFound(_) => Kind::SourceNotFound,
        Error::KeyRefused(_) => Kind::KeyRefused,
        Error::CreditsExhausted(_) => Kind::CreditsExhausted,
        Error::RateLimited { .. } => Kind::RateLimited,
        Error::Maintenance { .. } => Kind::Maintenance,
        Error::Unavailable { .. } => Kind::Unavailable,
        Error::Failed(_) | Error::Unusable { .. } => Kind::Failed,
        Error::KeyReplaced(_)
        | Error::ShortLived
        | Error::Unreachable(_)
        | Error::DeadConnection(_)
        | Error::SilentConnection
        | Error::NotHttp(_)
        | Error::Timeout
        | Error::NoBudget { .. }
        | Error::Paused { .. }
        | Error::Unwell { .. }
        | Error::Recalled { .. }
        | Error::Relayed { .. }
        | Error::MintedElsewhere { .. }
        | Error::ShuttingDown => return None,
    };
    let Answer { http_status, code, message } = error.answer()?.clone();
    let retry_after = error.retry_after().map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    serde_json::to_string(&Words { kind, http_status, code, message, retry_after }).ok()
}

/// The same, as another replica's mint ended with it.
pub(super) fn read(text: &str) -> Option<Error> {
    let Words { kind, http_status, code, message, retry_after } = serde_json::from_str(text).ok()?;
    let answer = Answer { http_status, code, message };
    let retry_after = retry_after.map(Duration::from_millis);
    Some(match kind {
        Kind::SourceRefused => Error::SourceRefused(answer),
        Kind::SourceNotFound => Error::SourceNotFound(answer),
        Kind::KeyRefused => Error::KeyRefused(answer),
        Kind::CreditsExhausted => Error::CreditsExhausted(answer),
        Kind::RateLimited => Error::RateLimited { answer, retry_after },
        Kind::Maintenance => Error::Maintenance { answer, retry_after },
        Kind::Unavailable => Error::Unavailable { answer, retry_after: retry_after.unwrap_or_default() },
        Kind::Failed => Error::Failed(answer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kie_ai_said_is_heard_as_it_was_said() {
        let answer = || Answer { http_status: 200, code: Some(422), message: Some("no \"such\" file".to_owned()) };
        let pause = Duration::from_millis(1500);
        for error in [
            Error::SourceRefused(answer()),
            Error::SourceNotFound(answer()),
            Error::KeyRefused(answer()),
            Error::CreditsExhausted(answer()),
            Error::RateLimited { answer: answer(), retry_after: None },
            Error::RateLimited { answer: answer(), retry_after: Some(pause) },
            Error::Maintenance { answer: answer(), retry_after: Some(pause) },
            Error::Unavailable { answer: answer(), retry_after: pause },
            Error::Failed(Answer { http_status: 502, code: None, message: None }),
        ] {
            let heard = read(&write(&error).unwrap()).unwrap();
            assert_eq!(format!("{heard:?}"), format!("{error:?}"));
        }
    }

    #[test]
    fn a_replica_s_own_trouble_and_another_version_s_words_tell_nothing() {
        for error in [Error::Timeout, Error::ShuttingDown, Error::NoBudget { retry_after: Duration::ZERO }] {
            assert_eq!(write(&error), None);
        }
        for text in ["", "{}", "null", r#"{"kind":"later","http_status":200}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
