//! Headers that tell how much life a link has left. The seconds are few, and what is written of them stands for ever: to
//! hand that out costs a hit less than to write it anew and to check again that it fits into a header.

use std::sync::OnceLock;

use axum::http::HeaderValue;

use super::answer;
use crate::{
    link,
    links::{Found, Lookup},
    web::cache_status::CacheStatus,
};

/// `Cache-Control` and `Cache-Status` of hits, by whole seconds to the deadline. As large as it is from the beginning; the
/// texts, of 50 bytes a second, come when they are first needed and stay.
#[derive(Debug)]
pub(super) struct Lasting(Box<[OnceLock<[HeaderValue; 2]>]>);

impl Lasting {
    pub(super) fn new() -> Lasting {
        Lasting((0..=link::LIFE.as_secs()).map(|_| OnceLock::new()).collect())
    }

    /// Of a hit. Both are cheap: no thread counts what another has of them.
    pub(super) fn of(&self, lookup: &Lookup) -> [HeaderValue; 2] {
        let place = usize::try_from(answer::seconds_to_deadline(lookup)).ok().and_then(|seconds| self.0.get(seconds));
        match (place, lookup.found) {
            (Some(place), Found::Hit) if !lookup.forced => place.get_or_init(|| written(lookup)).clone(),
            _ => [answer::life(lookup), answer::cache_status(lookup).header()],
        }
    }
}

fn written(lookup: &Lookup) -> [HeaderValue; 2] {
    let lasting = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut text = Vec::new();
        write(&mut text);
        HeaderValue::from_static(String::from_utf8(text).expect("ASCII").leak())
    };
    let status: CacheStatus = answer::cache_status(lookup);
    [lasting(&|text| answer::push_life(text, lookup)), lasting(&|text| status.push(text))]
}
