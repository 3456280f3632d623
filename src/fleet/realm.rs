//! What replicas with one API key share: names, seals, and a connection to the tier. A replica has one, and a second one
//! while its key is replaced by another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::poll::Polls;
use crate::{
    clock::{Clock, Instant},
    key::ApiKey,
    shared::{self, FileNames, Known, Level, Names, Rejection, Seals, State, Supervisor, Tier},
    source::Source,
};

/// For so long after a key was let go, its fleet's quota is kept, too: other replicas may still have it. Kubernetes takes up to
/// two minutes to bring a changed secret to all nodes (its documentation: the kubelet's sync period and the delay of its cache).
pub(super) const KEPT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(super) struct Realm {
    /// Of its key.
    pub(super) fingerprint: String,
    pub(super) names: Names,
    pub(super) seals: Arc<Seals>,
    pub(super) tier: Tier,
    /// Ends its connection.
    pub(super) stop: CancellationToken,
    /// Who asks together next whether mints of other replicas are over.
    pub(super) polls: Polls,
    /// The number of the last invalidation that was heard of.
    sequence: Mutex<Option<i64>>,
    /// How its bucket was when it was heard of last.
    bucket: Mutex<Known>,
    /// Since when the key is none of those in use.
    retired_at: Mutex<Option<Instant>>,
}

impl Realm {
    /// The supervisor is to be run.
    pub(super) fn new(
        key: &ApiKey,
        config: &shared::Config,
        beside: Option<&Tier>,
        clock: &Clock,
    ) -> (Realm, Supervisor) {
        let secret = key.fleet_secret();
        let names = Names::new(&secret);
        let (tier, supervisor) = match beside {
            Some(tier) => tier.beside(config.clone(), names.clone(), clock.clone()),
            None => Tier::new(config.clone(), names.clone(), clock.clone()),
        };
        let realm = Realm {
            fingerprint: key.fingerprint().to_owned(),
            names,
            seals: Arc::new(Seals::new(&secret)),
            tier,
            stop: CancellationToken::new(),
            polls: Polls::default(),
            sequence: Mutex::default(),
            bucket: Mutex::default(),
            retired_at: Mutex::default(),
        };
        (realm, supervisor)
    }

    /// The same at another address, which may be the same tier's: what was heard of that holds.
    pub(super) fn moved(&self, config: &shared::Config, clock: &Clock) -> (Realm, Supervisor) {
        let (tier, supervisor) = self.tier.beside(config.clone(), self.names.clone(), clock.clone());
        let realm = Realm {
            fingerprint: self.fingerprint.clone(),
            names: self.names.clone(),
            seals: Arc::clone(&self.seals),
            tier,
            stop: CancellationToken::new(),
            polls: Polls::default(),
            sequence: Mutex::new(self.sequence()),
            bucket: Mutex::new(self.bucket()),
            retired_at: Mutex::new(*self.retired_at.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        (realm, supervisor)
    }

    pub(super) fn is_up(&self) -> bool {
        self.tier.state() == State::Up
    }

    pub(super) fn file(&self, source: &Source) -> FileNames {
        self.names.file(source.key())
    }

    pub(super) fn rejected(&self, why: Rejection) {
        self.tier.rejected(why);
    }

    pub(super) fn sequence(&self) -> Option<i64> {
        *self.sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_sequence(&self, sequence: i64) {
        *self.sequence.lock().unwrap_or_else(PoisonError::into_inner) = Some(sequence);
    }

    fn bucket(&self) -> Known {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell the tier of its bucket.
    pub(super) fn known(&self, now: Instant) -> Level {
        self.bucket().level(now)
    }

    /// The tier, asked at `asked_at`, has told of its bucket.
    pub(super) fn heard(&self, bucket: Level, asked_at: Instant) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).heard(bucket, asked_at);
    }

    /// Notes whether its key is in use, and tells whether it is still needed.
    pub(super) fn is_needed(&self, is_in_use: bool, now: Instant) -> bool {
        let mut retired_at = self.retired_at.lock().unwrap_or_else(PoisonError::into_inner);
        if is_in_use {
            *retired_at = None;
            return true;
        }
        now.since(*retired_at.get_or_insert(now)) < KEPT
    }
}
