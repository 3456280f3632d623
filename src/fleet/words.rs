//! What kie.ai said, as replicas tell each other. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::upstream::{Answer, Error, Said};

/// Who reads it may be of another version: what it does not know, it does without.
#[derive(Serialize, Deserialize)]
struct Words {
    kind: Said,
    http_status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// What is told of an answer of kie.ai's; `None` where there was none: a replica's own trouble is its own.
pub(super) fn write(error: &Error) -> Option<String> {
    let (kind, answer) = error.said()?;
    let Answer { http_status, code, message } = answer.clone();
    let retry_after = error.retry_after().map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    serde_json::to_string(&Words { kind, http_status, code, message, retry_after }).ok()
}

/// The same, as another replica's mint ended with it.
pub(super) fn read(text: &str) -> Option<Error> {
    let Words { kind, http_status, code, message, retry_after } = serde_json::from_str(text).ok()?;
    Some(kind.error(Answer { http_status, code, message }, retry_after.map(Duration::from_millis)))
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
