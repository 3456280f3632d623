//! `Cache-Status` (RFC 9211): where an answer came from. Written here alone.

use axum::http::{HeaderName, HeaderValue};

use super::outcome::NoLink;
use crate::{kind::Kind, links::Found};

pub(crate) static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheStatus {
    /// `ttl` is whole seconds to the deadline. `forced` is whether the caller had the link minted although a live one
    /// was there.
    Link { found: Found, forced: bool, ttl: u64 },
    /// `fwd_status` is kie.ai's HTTP status, where it answered this request.
    NoLink { why: NoLink, kind: Kind, fwd_status: Option<u16> },
    /// A batch's links come from the cache or not, each for itself; the batch as a whole never does.
    Batch,
    /// The answer is about no link.
    Bypass,
}

impl CacheStatus {
    pub(crate) fn header(self) -> HeaderValue {
        let mut text = Vec::new();
        self.push(&mut text);
        HeaderValue::try_from(text).expect("numbers and fixed words fit into a header")
    }

    /// Written behind `text`.
    pub(crate) fn push(self, text: &mut Vec<u8>) {
        let mut say = |words: &str| text.extend_from_slice(words.as_bytes());
        say("kielink; ");
        match self {
            CacheStatus::Link { found, forced, ttl } => {
                say(match found {
                    Found::Hit | Found::HitRefresh | Found::Shared => "hit; ttl=",
                    Found::Miss if forced => "fwd=request; stored; ttl=",
                    Found::Miss => "fwd=miss; stored; ttl=",
                    Found::Joined => "fwd=miss; collapsed; ttl=",
                });
                push_number(text, ttl);
                match found {
                    Found::HitRefresh => text.extend_from_slice(b"; detail=refresh"),
                    Found::Shared => text.extend_from_slice(b"; detail=shared"),
                    Found::Hit | Found::Miss | Found::Joined => {}
                }
            }
            CacheStatus::NoLink { why: NoLink::Negative, .. } => say("hit; detail=negative"),
            CacheStatus::NoLink { why: NoLink::Refused, kind, .. } => {
                say("fwd=bypass; detail=");
                say(kind.as_str());
            }
            CacheStatus::NoLink { why: NoLink::Error, kind, fwd_status } => {
                say("fwd=miss");
                if let Some(status) = fwd_status {
                    say(&format!("; fwd-status={status}"));
                }
                say("; detail=");
                say(kind.as_str());
            }
            CacheStatus::Batch => say("fwd=bypass; detail=batch"),
            CacheStatus::Bypass => say("fwd=bypass"),
        }
    }
}

/// A number, written behind `text`.
pub(crate) fn push_number(text: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; 20];
    let (mut first, mut rest) = (digits.len() - 1, number);
    loop {
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
        first -= 1;
    }
    text.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_an_answer_came_from() {
        let link = |found, forced| CacheStatus::Link { found, forced, ttl: 60 };
        let none = |why, kind, fwd_status| CacheStatus::NoLink { why, kind, fwd_status };
        for (status, said) in [
            (link(Found::Hit, false), "hit; ttl=60"),
            (link(Found::HitRefresh, false), "hit; ttl=60; detail=refresh"),
            (link(Found::Shared, false), "hit; ttl=60; detail=shared"),
            (link(Found::Miss, false), "fwd=miss; stored; ttl=60"),
            (link(Found::Miss, true), "fwd=request; stored; ttl=60"),
            (link(Found::Joined, false), "fwd=miss; collapsed; ttl=60"),
            (none(NoLink::Negative, Kind::SourceRefused, Some(200)), "hit; detail=negative"),
            (none(NoLink::Refused, Kind::Overloaded, None), "fwd=bypass; detail=overloaded"),
            (none(NoLink::Error, Kind::Timeout, None), "fwd=miss; detail=timeout"),
            (none(NoLink::Error, Kind::UpstreamError, Some(502)), "fwd=miss; fwd-status=502; detail=upstream-error"),
            (CacheStatus::Batch, "fwd=bypass; detail=batch"),
            (CacheStatus::Bypass, "fwd=bypass"),
        ] {
            assert_eq!(status.header(), format!("kielink; {said}"));
        }
    }

    #[test]
    fn a_number_is_written_as_it_is_everywhere() {
        for number in [0, 9, 10, 1138, u64::MAX - 1, u64::MAX] {
            let mut text = b"a=".to_vec();
            push_number(&mut text, number);
            assert_eq!(text, format!("a={number}").as_bytes());
        }
    }
}
