//! Remembered refusals: files of which kie.ai has just said that there is no link to be had.

use std::{sync::Arc, time::Duration};

use crate::{clock::Instant, source::SourceUrl, upstream};

/// Refusals, for `negative_ttl` each, bounded by bytes.
pub(super) struct Refusals {
    memory: moka::sync::Cache<SourceUrl, Refusal>,
    ttl: Duration,
}

#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) error: Arc<upstream::Error>,
    pub(super) since: Instant,
}

impl Refusals {
    pub(super) fn new(ttl: Duration, max_bytes: u64) -> Refusals {
        let memory = moka::sync::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|source: &SourceUrl, _| {
                u32::try_from(source.as_str().len() + super::entry::OVERHEAD).unwrap_or(u32::MAX)
            })
            // Memory only; whether a refusal still holds is decided below, on our own clock.
            .time_to_live(ttl.max(Duration::from_secs(1)))
            .build();
        Refusals { memory, ttl }
    }

    pub(super) fn remember(&self, source: &SourceUrl, error: Arc<upstream::Error>, now: Instant) {
        if !self.ttl.is_zero() {
            self.memory.insert(source.clone(), Refusal { error, since: now });
        }
    }

    pub(super) fn recall(&self, source: &SourceUrl, now: Instant) -> Option<Refusal> {
        self.memory.get(source).filter(|refusal| now.since(refusal.since) < self.ttl)
    }

    /// A link was had after all.
    pub(super) fn forget(&self, source: &SourceUrl) {
        self.memory.invalidate(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Answer, Error};

    #[test]
    fn a_refusal_holds_for_its_ttl_and_not_longer() {
        let refusals = Refusals::new(Duration::from_secs(30), 1 << 20);
        let source = SourceUrl::parse("https://h.kie.ai/a").unwrap();
        let now = Instant::from_origin(Duration::from_secs(100));
        let answer = Answer { http_status: 200, code: Some(422), message: None };
        refusals.remember(&source, Arc::new(Error::SourceRefused(answer)), now);
        assert!(refusals.recall(&source, now + Duration::from_millis(29_999)).is_some());
        assert!(refusals.recall(&source, now + Duration::from_secs(30)).is_none());
        refusals.forget(&source);
        assert!(refusals.recall(&source, now).is_none());
    }
}
