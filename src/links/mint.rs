//! What a flight does on its way: one mint, and whatever becomes of it in cache, log and metrics.

use std::{sync::Arc, time::Duration};

use moka::notification::RemovalCause;

use super::{Entry, Inner, Purpose, Wish, freshness::URGENT};
use crate::{
    clock::Instant,
    source::Source,
    telemetry::{Failed, NOTED, Severity, What, trace::Span},
    upstream::{self, Ask, Chain, Minted, Reason, Via, Welcome},
};

/// A failed refresh is tried again after this, doubled each time, bounded by a share of the life left.
const FIRST_REFRESH_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_REFRESH_BACKOFF: Duration = Duration::from_secs(60);

/// The same where the refresh is urgent.
const URGENT_REFRESH_BACKOFF: Duration = Duration::from_secs(1);

impl Inner {
    pub(super) async fn fly(
        &self,
        source: &Source,
        purpose: Purpose,
        span: &Span,
    ) -> Result<(Arc<Entry>, Via), Arc<upstream::Error>> {
        let Purpose { reason, insists, ref old, ref note, party, span: _, wish } = purpose;
        let old = old.as_deref();
        let began = self.clock.now();
        let forced_at = if insists { Some(began) } else { old.and_then(Entry::forced_at) };
        let urgent = reason == Reason::Refresh && old.is_some_and(|old| self.times(old, began).is_about_to_die(began));
        let seen_to_fail = self.failures.has_failed(source, began) || old.is_some_and(|old| old.renewal().failures > 0);
        let ask = Ask {
            reason,
            party,
            patience: note.patience.clone(),
            urgent,
            seen_to_fail,
            span: span.clone(),
            welcome: Some(self.welcome(reason, &wish, old)),
            progress: Arc::default(),
        };
        let minted = self.mint_alive(source, ask, forced_at).await;
        let now = self.clock.now();
        let duration_ms = u64::try_from(began.until(now).as_millis()).unwrap_or(u64::MAX);
        let (source_host, source_hash) = (source.host(), self.log_hash.of(source.url()));
        let trace_id = span.trace_id().map(tracing::field::display);
        match minted {
            Ok((entry, minted)) => {
                let entry = Arc::new(entry);
                let via = minted.via;
                self.entries.insert(source.clone(), Arc::clone(&entry));
                self.failures.forget(source);
                // In this order, since `forget` marks the flight first and empties the cache second.
                if note.is_forgotten() {
                    self.remove(source, RemovalCause::Explicit);
                    self.mint.kept(source, None);
                } else {
                    self.mint.kept(source, Some(&minted));
                }
                let life_left_s = now.until(self.times(&entry, now).ends_at).as_secs();
                macro_rules! line {
                    ($message:literal) => {
                        tracing::info!(
                            trace_id,
                            source_host,
                            source_hash,
                            reason = reason.as_str(),
                            duration_ms,
                            life_left_s,
                            $message
                        )
                    };
                }
                match via {
                    Via::Kie => line!("minted"),
                    Via::Shared => line!("found in the shared tier"),
                    Via::Joined => line!("minted by another replica"),
                }
                Ok((entry, via))
            }
            Err(error) => {
                let severity = match &error {
                    // Only its operator can mend a refused key; everything else may mend itself.
                    upstream::Error::KeyRefused(_) | upstream::Error::KeyReplaced(_) => Some(Severity::Error),
                    // The rule that kept kie.ai from being asked has been noted where it took hold.
                    error if error.is_our_own() => None,
                    _ => Some(Severity::Warn),
                };
                macro_rules! line {
                    ($level:ident) => {
                        tracing::$level!(
                            target: NOTED,
                            trace_id, source_host, source_hash, reason = reason.as_str(), duration_ms,
                            error = %Chain(&error), "mint failed",
                        )
                    };
                }
                match severity {
                    Some(Severity::Error) => line!(error),
                    Some(Severity::Warn) => line!(warn),
                    None => line!(debug),
                }
                if let Some(severity) = severity {
                    self.noted.note(Failed {
                        severity,
                        what: What::Mint { reason: reason.as_str(), is_awaited: reason != Reason::Refresh },
                        error: Some(Chain(&error).to_string()),
                        source_host: Some(source_host.to_owned()),
                    });
                }
                let error = Arc::new(error);
                // A refresh that failed has a back-off of its own, below, and a link is there meanwhile.
                if (reason != Reason::Refresh || error.is_refusal()) && !note.is_forgotten() {
                    self.failures.remember(source, &error, now);
                }
                if let Some(old) = old {
                    if reason == Reason::Forced {
                        // Failed or not: a caller that keeps forcing must not become a load on kie.ai.
                        old.forced(began);
                    }
                    let left = now.until(self.times(old, now).deadline);
                    // Where kie.ai was not asked, the next try comes as soon as kie.ai may be asked again.
                    let asked_for = error.retry_after().filter(|_| error.is_our_own());
                    old.refresh_failed(Arc::clone(&error), now, |failures| {
                        refresh_backoff(failures, asked_for, left, fastrand::f64())
                    });
                }
                Err(error)
            }
        }
    }

    /// Which link of another replica's will do, where one is needed for this reason.
    fn welcome(&self, reason: Reason, wish: &Wish, old: Option<&Entry>) -> Welcome {
        let other_than = old.map(|old| old.link.clone());
        match reason {
            Reason::Miss | Reason::Forced => Welcome { max_age: wish.max_age, min_fresh: wish.min_fresh, other_than },
            // A link that is nearly due itself saves nothing.
            Reason::Refresh => Welcome { max_age: Some(self.config.refresh_after / 2), min_fresh: None, other_than },
        }
    }

    /// Mints a link that can be handed out. A link that arrives with less life than the margin is minted once more.
    async fn mint_alive(
        &self,
        source: &Source,
        mut ask: Ask,
        forced_at: Option<Instant>,
    ) -> Result<(Entry, Minted), upstream::Error> {
        for _ in 0..2 {
            let began = self.clock.now();
            let minted = self.mint.mint(source, ask.clone()).await;
            let now = self.clock.now();
            let entry = minted.map(|minted| {
                let minted = self.first_ends.bound(minted, &self.kie_clock);
                (Entry::new(minted.clone(), &self.config, fastrand::f64(), forced_at), minted)
            });
            let dead = upstream::Error::ShortLived;
            let is_dead = entry.as_ref().is_ok_and(|(entry, _)| !self.is_alive(entry, now));
            let error = if is_dead { Some(&dead) } else { entry.as_ref().err() };
            // Whoever has minted a link counts it.
            if entry.as_ref().map_or(true, |(_, minted)| minted.via == Via::Kie) {
                self.metrics.minted(ask.reason, error, began.until(now), ask.span.sampled_trace_id());
            }
            if is_dead {
                // A dead link of the tier's must not be found there again.
                ask.welcome = None;
                continue;
            }
            return entry;
        }
        self.mint.kept(source, None);
        Err(upstream::Error::ShortLived)
    }
}

/// The pause after the `failures`-th failed refresh in a row, for an entry with `left` to its deadline. Where kie.ai
/// was not asked, `asked_for` says when it may be asked again.
///
/// The nearer the deadline, the shorter the pause: at least three more tries fit in, and one of them begins when the
/// refresh becomes urgent. From then on there is a try every second.
pub(super) fn refresh_backoff(failures: u32, asked_for: Option<Duration>, left: Duration, jitter: f64) -> Duration {
    let doubled = FIRST_REFRESH_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let ladder = doubled.min(LONGEST_REFRESH_BACKOFF).min(left / 4).mul_f64(1.0 + jitter / 4.0);
    let to_urgent = left.saturating_sub(URGENT).max(URGENT_REFRESH_BACKOFF);
    asked_for.unwrap_or(ladder).max(FIRST_REFRESH_BACKOFF).min(to_urgent)
}
