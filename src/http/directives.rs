//! What a caller wants of a link: `Cache-Control` of the request (RFC 9111 section 5.2.1). Pure.

use std::time::Duration;

use axum::http::{HeaderMap, header};

use crate::links::Wish;

/// Reads every directive that means something here. Other directives, and what cannot be read, are ignored, as the RFC
/// has it. Where a directive stands there twice, the stricter one counts.
pub(crate) fn wish(headers: &HeaderMap) -> Wish {
    let mut wish = Wish::default();
    for value in headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()) {
        for directive in value.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            let seconds = || seconds(argument);
            match name.trim().to_ascii_lowercase().as_str() {
                "no-cache" => wish.max_age = Some(Duration::ZERO),
                "max-age" => wish.max_age = wish.max_age.into_iter().chain(seconds()).min(),
                "min-fresh" => wish.min_fresh = wish.min_fresh.max(seconds()),
                "only-if-cached" => wish.only_if_cached = true,
                // `max-stale` among them: there is no such thing as a stale link.
                _ => {}
            }
        }
    }
    wish
}

/// Delta-seconds, possibly quoted; beyond what fits they mean "very long" (RFC 9111 section 1.2.2).
fn seconds(argument: &str) -> Option<Duration> {
    let digits = argument.trim().trim_matches('"');
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(digits.parse::<u64>().unwrap_or(u64::MAX).min(1 << 31)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> Wish {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(value).unwrap());
        }
        wish(&headers)
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn directives_are_read_in_every_spelling() {
        let none = Wish::default();
        for (values, expected) in [
            (&[][..], none),
            (&["no-cache"], Wish { max_age: seconds(0), ..none }),
            (&["No-Cache=\"field\""], Wish { max_age: seconds(0), ..none }),
            (&["max-age=10"], Wish { max_age: seconds(10), ..none }),
            (&[" max-age = \"10\" "], Wish { max_age: seconds(10), ..none }),
            (&["max-age=10, max-age=5"], Wish { max_age: seconds(5), ..none }),
            (&["max-age=10", "no-cache"], Wish { max_age: seconds(0), ..none }),
            (&["no-cache, max-age=10"], Wish { max_age: seconds(0), ..none }),
            (&["min-fresh=60,min-fresh=90"], Wish { min_fresh: seconds(90), ..none }),
            (&["only-if-cached"], Wish { only_if_cached: true, ..none }),
            (&["max-stale=99, no-store, foo=bar,,="], none),
            (&["max-age=soon", "min-fresh=-1", "max-age="], none),
            (&["min-fresh=99999999999999999999999"], Wish { min_fresh: seconds(1 << 31), ..none }),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }
}
