//! What a flight does on its way: one mint, and whatever becomes of it in cache, log and metrics.

use std::{sync::Arc, time::Duration};

use super::{Caller, Entry, Inner, Purpose};
use crate::{
    clock::Instant,
    source::SourceUrl,
    telemetry::trace::Span,
    upstream::{self, Ask, Chain, Reason},
};

/// A failed refresh is tried again after this, doubled each time, bounded by a share of the life left.
const FIRST_REFRESH_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_REFRESH_BACKOFF: Duration = Duration::from_secs(60);

impl Inner {
    pub(super) async fn fly(
        &self,
        source: &SourceUrl,
        purpose: Purpose,
        span: &Span,
    ) -> Result<Arc<Entry>, Arc<upstream::Error>> {
        let Purpose { reason, insists, ref old, caller: Caller { deadline, .. } } = purpose;
        let old = old.as_deref();
        let began = self.clock.now();
        let forced_at = if insists { Some(began) } else { old.and_then(Entry::forced_at) };
        let urgent = reason == Reason::Refresh && old.is_some_and(|old| old.times.is_about_to_die(began));
        let ask = Ask { reason, deadline, urgent, span: span.clone() };
        let minted = self.mint_alive(source, ask, forced_at).await;
        let now = self.clock.now();
        let duration_ms = u64::try_from(began.until(now).as_millis()).unwrap_or(u64::MAX);
        let (source_host, source_hash) = (source.host(), self.log_hash.of(source.as_str()));
        let trace_id = span.trace_id().map(tracing::field::display);
        match minted {
            Ok(entry) => {
                let entry = Arc::new(entry);
                self.entries.insert(source.clone(), Arc::clone(&entry));
                self.refusals.forget(source);
                let life_left_s = now.until(entry.ends_at).as_secs();
                tracing::info!(
                    trace_id,
                    source_host,
                    source_hash,
                    reason = reason.as_str(),
                    duration_ms,
                    life_left_s,
                    "minted"
                );
                Ok(entry)
            }
            Err(error) => {
                macro_rules! line {
                    ($level:ident) => {
                        tracing::$level!(
                            trace_id, source_host, source_hash, reason = reason.as_str(), duration_ms,
                            error = %Chain(&error), "mint failed",
                        )
                    };
                }
                // Only its operator can mend a refused key; everything else may mend itself.
                if matches!(error, upstream::Error::KeyRefused(_) | upstream::Error::KeyReplaced(_)) {
                    line!(error);
                } else if error.is_our_own() {
                    // The rule that kept kie.ai from being asked has been logged where it took hold.
                    line!(debug);
                } else {
                    line!(warn);
                }
                let error = Arc::new(error);
                if error.is_refusal() {
                    self.refusals.remember(source, Arc::clone(&error), now);
                }
                if let Some(old) = old {
                    if reason == Reason::Forced {
                        // Failed or not: a caller that keeps forcing must not become a load on kie.ai.
                        old.forced(began);
                    }
                    let left = now.until(old.times.deadline);
                    old.refresh_failed(Arc::clone(&error), now, |failures| match error.retry_after() {
                        // kie.ai was not asked: as soon as it may be again.
                        Some(retry_after) if error.is_our_own() => retry_after.max(FIRST_REFRESH_BACKOFF),
                        Some(_) | None => refresh_backoff(failures, left, fastrand::f64()),
                    });
                }
                Err(error)
            }
        }
    }

    /// Mints a link that can be handed out. One that arrives with less than the margin is minted once more.
    async fn mint_alive(
        &self,
        source: &SourceUrl,
        ask: Ask,
        forced_at: Option<Instant>,
    ) -> Result<Entry, upstream::Error> {
        for _ in 0..2 {
            let began = self.clock.now();
            let minted = self.mint.mint(source, ask.clone()).await;
            let now = self.clock.now();
            let entry = minted.map(|minted| Entry::new(minted, &self.config, fastrand::f64(), forced_at));
            let dead = upstream::Error::ShortLived;
            let is_dead = entry.as_ref().is_ok_and(|entry| now >= entry.times.deadline);
            let error = if is_dead { Some(&dead) } else { entry.as_ref().err() };
            self.metrics.minted(ask.reason, error, began.until(now), ask.span.sampled_trace_id());
            if is_dead {
                continue;
            }
            return entry;
        }
        Err(upstream::Error::ShortLived)
    }
}

/// The pause after the `failures`-th failed refresh in a row, for an entry with `left` to its deadline.
/// The nearer the deadline, the sooner: at least three more tries fit in, down to one every half second.
pub(super) fn refresh_backoff(failures: u32, left: Duration, jitter: f64) -> Duration {
    let doubled = FIRST_REFRESH_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let backoff = doubled.min(LONGEST_REFRESH_BACKOFF).min(left / 4).max(FIRST_REFRESH_BACKOFF);
    backoff.mul_f64(1.0 + jitter / 4.0)
}
