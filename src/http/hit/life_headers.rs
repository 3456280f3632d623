//! The two headers of a hit that say how much life its link has left. They depend on the whole seconds to the deadline
//! alone, so each second's are written once and kept: to clone them costs less than to write them again and check again
//! that they fit into a header.

use std::sync::OnceLock;

use axum::http::HeaderValue;

use super::answer;
use crate::{
    link,
    links::{Found, Lookup},
};

/// `Cache-Control` and `Cache-Status` of hits, a pair for each whole second to the deadline. The table (105 KB) is made at
/// the start. The texts are made when first needed and leaked, at most 85 KB: clones of a static text share no reference
/// count, which threads would contend for.
#[derive(Debug)]
pub(super) struct LifeHeaders(Box<[OnceLock<[HeaderValue; 2]>]>);

impl LifeHeaders {
    pub(super) fn new() -> LifeHeaders {
        LifeHeaders((0..=link::LIFE.as_secs()).map(|_| OnceLock::new()).collect())
    }

    /// For an answer to `lookup`.
    pub(super) fn headers(&self, lookup: &Lookup) -> [HeaderValue; 2] {
        let place = usize::try_from(answer::seconds_to_deadline(lookup)).ok().and_then(|seconds| self.0.get(seconds));
        if lookup.found == Found::Hit
            && let Some(place) = place
        {
            return place.get_or_init(|| written(lookup)).clone();
        }
        [answer::life(lookup), answer::cache_status(lookup).header()]
    }
}

fn written(lookup: &Lookup) -> [HeaderValue; 2] {
    let fixed = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut text = Vec::new();
        write(&mut text);
        HeaderValue::from_static(String::from_utf8(text).expect("ASCII").leak())
    };
    let status = answer::cache_status(lookup);
    [fixed(&|text| answer::push_life(text, lookup)), fixed(&|text| status.push(text))]
}
