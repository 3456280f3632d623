//! The two lines of a hit's head that say how much life its link has left. They depend on the whole seconds to the deadline
//! alone, so each second's are written once and kept.

use std::sync::OnceLock;

use super::answer;
use crate::{
    link,
    links::{Found, Lookup},
};

/// `Cache-Control` and `Cache-Status` of hits, as they stand on the wire, for each whole second to the deadline. The table
/// (29 KB) is made at the start, the texts, 110 KB at most, when they are first needed.
#[derive(Debug)]
pub(super) struct LifeLines(Box<[OnceLock<Box<[u8]>>]>);

impl LifeLines {
    pub(super) fn new() -> LifeLines {
        LifeLines((0..=link::LIFE.as_secs()).map(|_| OnceLock::new()).collect())
    }

    /// Writes those of an answer to `lookup` behind `head`.
    pub(super) fn push(&self, head: &mut Vec<u8>, lookup: &Lookup) {
        let place = usize::try_from(answer::seconds_to_deadline(lookup)).ok().and_then(|seconds| self.0.get(seconds));
        match place.filter(|_| lookup.found == Found::Hit) {
            Some(place) => head.extend_from_slice(place.get_or_init(|| {
                let mut lines = Vec::new();
                write(&mut lines, lookup);
                lines.into()
            })),
            None => write(head, lookup),
        }
    }
}

fn write(head: &mut Vec<u8>, lookup: &Lookup) {
    head.extend_from_slice(b"cache-control: ");
    answer::push_life(head, lookup);
    head.extend_from_slice(b"\r\ncache-status: ");
    answer::cache_status(lookup).push(head);
    head.extend_from_slice(b"\r\n");
}
