//! What is known of the heads of HTTP/1 (`framing`) on its way to the requests that hyper makes of them; over HTTP/2, only whether
//! a head is too large.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use axum::http::{Request, Version};

use super::MAX_HEAD_BYTES;

/// Why it is unclear where a request ends. Travels in the request's extensions; the service answers with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambiguous {
    BareLineFeed,
    FoldedLine,
    TwoLengths,
    LengthAndEncoding,
    BadLength,
    UnknownEncoding,
    /// The request follows another that should have been the last.
    Unseen,
}

/// In a request's extensions: the answer must say `Connection: close`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastRequest;

/// In a request's extensions: the head could be read, but is larger than a head may be. The service answers with 431.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadTooLarge;

impl Ambiguous {
    /// For the caller.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Ambiguous::BareLineFeed => "A line of the request's head ends without a carriage return.",
            Ambiguous::FoldedLine => "A header of the request is folded over several lines.",
            Ambiguous::TwoLengths => "The request has more than one Content-Length header.",
            Ambiguous::LengthAndEncoding => "The request has both Content-Length and Transfer-Encoding.",
            Ambiguous::BadLength => "The request's Content-Length is not a number.",
            Ambiguous::UnknownEncoding => "The request's Transfer-Encoding is not \"chunked\".",
            Ambiguous::Unseen => "The request follows another that was the last on its connection.",
        }
    }
}

/// What is known of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every reader sees the end of the head, and of its body, at the same place.
    Clear,
    /// Clear, but only hyper finds where the body ends: what follows on this connection is neither watched nor served.
    ClearAndLast,
    Refused(Ambiguous),
    TooLarge,
}

/// The heads of requests that were neither answered at once nor handed on by hyper, in order. The connection's task alone
/// reads and hands on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Heads(Arc<Queue>);

/// Hardly ever does more wait than one usual head (`Read::usual`), which takes no lock.
#[derive(Debug, Default)]
struct Queue {
    /// Where the first is a usual head, the length of its body and one; or 0.
    first_usual: AtomicU64,
    /// Whether there are others.
    has_others: AtomicBool,
    others: Mutex<VecDeque<Read>>,
}

/// A head that was read to its end, or to where it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) verdict: Verdict,
    /// Bytes of the body that follows, where the head says so.
    pub(super) body: u64,
    pub(super) has_long_target: bool,
    pub(super) request_id: Option<Box<[u8]>>,
}

impl Read {
    /// A head of which there is nothing to say.
    const fn usual(body: u64) -> Read {
        Read { verdict: Verdict::Clear, body, has_long_target: false, request_id: None }
    }
}

/// What is known of the first of the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstHead {
    /// Clear, and so many bytes of body follow.
    Clear {
        body: u64,
    },
    Other,
}

impl Heads {
    pub(super) fn push(&self, read: Read) {
        let Queue { first_usual, has_others, .. } = &*self.0;
        if read == Read::usual(read.body)
            && let Some(body_and_one) = read.body.checked_add(1)
            && self.is_empty()
        {
            first_usual.store(body_and_one, Relaxed);
        } else {
            self.others().push_back(read);
            has_others.store(true, Relaxed);
        }
    }

    pub(super) fn pop(&self) -> Option<Read> {
        let Queue { first_usual, has_others, .. } = &*self.0;
        if let Some(body) = first_usual.load(Relaxed).checked_sub(1) {
            first_usual.store(0, Relaxed);
            return Some(Read::usual(body));
        }
        if !has_others.load(Relaxed) {
            return None;
        }
        let mut others = self.others();
        let read = others.pop_front();
        has_others.store(!others.is_empty(), Relaxed);
        read
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.first_usual.load(Relaxed) == 0 && !self.0.has_others.load(Relaxed)
    }

    /// What is known of the head that `pop` would return.
    pub(super) fn first(&self) -> Option<FirstHead> {
        if let Some(body) = self.0.first_usual.load(Relaxed).checked_sub(1) {
            return Some(FirstHead::Clear { body });
        }
        if self.is_empty() {
            return None;
        }
        self.others().front().map(|read| match read.verdict {
            Verdict::Clear => FirstHead::Clear { body: read.body },
            Verdict::ClearAndLast | Verdict::Refused(_) | Verdict::TooLarge => FirstHead::Other,
        })
    }

    fn others(&self) -> MutexGuard<'_, VecDeque<Read>> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request its verdict.
    pub(super) fn judge<B>(&self, request: &mut Request<B>) {
        if request.version() == Version::HTTP_2 && list_size(request) > MAX_HEAD_BYTES {
            request.extensions_mut().insert(HeadTooLarge);
        } else if request.version() < Version::HTTP_2 {
            // SECURITY: where hyper sees a request and our reader sees none, the two disagree, and the request is not
            // served.
            let read = self.pop();
            let verdict = read.map_or(Verdict::Refused(Ambiguous::Unseen), |read| read.verdict);
            let extensions = request.extensions_mut();
            match verdict {
                Verdict::Clear => {}
                Verdict::ClearAndLast => drop(extensions.insert(LastRequest)),
                Verdict::Refused(why) => {
                    extensions.insert(LastRequest);
                    extensions.insert(why);
                }
                Verdict::TooLarge => {
                    extensions.insert(LastRequest);
                    extensions.insert(HeadTooLarge);
                }
            }
        }
    }
}

/// The size of a header list (RFC 9113 section 10.5.1), without the few bytes of the pseudo-headers' names.
fn list_size<B>(request: &Request<B>) -> usize {
    const OF_EACH: usize = 32;
    let target = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    target + request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + OF_EACH).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads() -> impl Strategy<Value = Read> {
        prop_oneof![
            3 => prop_oneof![Just(0), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()].prop_map(Read::usual),
            1 => Just(Read { has_long_target: true, ..Read::usual(0) }),
            1 => Just(Read { verdict: Verdict::ClearAndLast, ..Read::usual(0) }),
            1 => (0..9u8).prop_map(|id| Read { request_id: Some([id].into()), ..Read::usual(id.into()) }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_read_first_is_handed_on_first(steps in prop::collection::vec(prop::option::of(reads()), 0..40)) {
            let (heads, mut model) = (Heads::default(), VecDeque::new());
            for step in steps {
                if let Some(read) = step {
                    model.push_back(read.clone());
                    heads.push(read);
                } else {
                    prop_assert_eq!(heads.pop(), model.pop_front());
                }
                prop_assert_eq!(heads.is_empty(), model.is_empty());
                let first = model.front().map(|read| match read.verdict {
                    Verdict::Clear => FirstHead::Clear { body: read.body },
                    _ => FirstHead::Other,
                });
                prop_assert_eq!(heads.first(), first);
            }
            prop_assert!(std::iter::from_fn(|| heads.pop()).eq(model));
        }
    }
}
