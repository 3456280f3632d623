//! Rotation without an event: a new key is taken at once, and the old one kept until the new one has minted.
//!
//! Knows which keys there are and what kie.ai said of them; does not know how it is asked.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ApiKey, KeySource, file,
    metrics::{ReloadResult, Reloads},
};

/// A new key is taken within five seconds; content is compared, since a symlink swap keeps times and events to itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A pipe or a dead mount may never answer, and a caller may be waiting.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// A key that kie.ai has refused is not tried again before this, unless the file changes.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// Keys that are still blotted out of what kie.ai says once they are out of use; more rotations than a day has.
const FORMER_KEYS: usize = 4;

/// Asks for the key file to be read now (SIGHUP). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    pub fn request(&self) {
        self.0.notify_one();
    }
}

/// The keys in use: one that serves, and perhaps a newer one on trial. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

/// The keys, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// Of the key that serves.
    pub fingerprint: String,
    /// `environment`, `file` or `sandbox`.
    pub source: &'static str,
    /// Since it was loaded, or has minted for the first time after a rotation.
    pub age_seconds: u64,
    /// The fingerprint of a newer one that has not minted yet.
    pub on_trial: Option<String>,
    /// Key files read while running, by what became of them.
    pub reloads: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    source: KeySource,
}

#[derive(Debug)]
struct State {
    serving: ApiKey,
    serving_since: Instant,
    trial: Option<ApiKey>,
    /// What the file said last: a fingerprint or a problem. Each is acted on, and logged, once.
    seen: Result<String, String>,
    /// The newer key that kie.ai refused last, and when.
    refused: Option<(ApiKey, Instant)>,
    /// Let go or refused; they may still be good, and kie.ai may still mention them.
    former: VecDeque<ApiKey>,
    reloads: Reloads,
}

impl Keys {
    /// `source` is where `key` came from; newer ones may come from a file only.
    pub fn new(key: ApiKey, source: KeySource) -> Keys {
        let seen = Ok(key.fingerprint().to_owned());
        let state = State {
            serving: key,
            serving_since: Instant::now(),
            trial: None,
            seen,
            refused: None,
            former: VecDeque::new(),
            reloads: Reloads::default(),
        };
        Keys(Arc::new(Inner { state: Mutex::new(state), source }))
    }

    pub(super) fn reloads(&self) -> Reloads {
        self.lock().reloads.clone()
    }

    /// The key that has minted last, or was there first.
    pub(super) fn serving(&self) -> ApiKey {
        self.lock().serving.clone()
    }

    /// What people may know of the keys: fingerprints only.
    pub fn describe(&self) -> Description {
        let state = self.lock();
        Description {
            fingerprint: state.serving.fingerprint().to_owned(),
            source: self.0.source.kind(),
            age_seconds: state.serving_since.elapsed().as_secs(),
            on_trial: state.trial.as_ref().map(|trial| trial.fingerprint().to_owned()),
            reloads: state.reloads.counts(),
        }
    }

    pub(super) fn source(&self) -> &KeySource {
        &self.0.source
    }

    fn file(&self) -> Option<&PathBuf> {
        match &self.0.source {
            KeySource::File(path) => Some(path),
            KeySource::Environment | KeySource::Sandbox => None,
        }
    }

    /// The key for the next request: the newest there is.
    pub fn newest(&self) -> ApiKey {
        let state = self.lock();
        state.trial.as_ref().unwrap_or(&state.serving).clone()
    }

    /// Every key that must not show in anything kie.ai says.
    pub fn all(&self) -> Vec<ApiKey> {
        let state = self.lock();
        state.trial.iter().chain([&state.serving]).chain(&state.former).cloned().collect()
    }

    /// kie.ai has minted with `used`.
    pub fn minted_with(&self, used: &ApiKey) {
        let mut state = self.lock();
        if state.trial.as_ref().is_some_and(|trial| trial.is(used)) {
            tracing::info!(key_fingerprint = used.fingerprint(), "the new API key has minted; the old one is let go");
            let former = std::mem::replace(&mut state.serving, used.clone());
            state.remember(former);
            state.serving_since = Instant::now();
            state.trial = None;
            state.reloads.count(ReloadResult::Minted);
        }
    }

    /// kie.ai refuses `used`, and says `why`. True when there is another key to try at once: the old one, or one that lies in
    /// the file by now.
    pub async fn refused(&self, used: &ApiKey, why: &impl fmt::Display) -> bool {
        {
            let mut state = self.lock();
            if state.trial.as_ref().is_some_and(|trial| trial.is(used)) {
                tracing::error!(
                    key_fingerprint = used.fingerprint(),
                    serving_fingerprint = state.serving.fingerprint(),
                    error = %why,
                    "kie.ai refuses the new API key; the old one goes on",
                );
                state.trial = None;
                state.refused = Some((used.clone(), Instant::now()));
                state.remember(used.clone());
                state.reloads.count(ReloadResult::Refused);
                return true;
            }
            if !state.serving.is(used) || state.trial.is_some() {
                return true;
            }
        }
        // Revoked, and perhaps replaced in the same moment.
        self.read_file(true).await;
        self.lock().trial.is_some()
    }

    /// Looks into the file again and again, and whenever `reload` asks, until `stop`.
    pub async fn watch(self, reload: Reload, stop: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = reload.0.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY), if self.file().is_some() => false,
            };
            if asked && self.file().is_none() {
                tracing::info!("SIGHUP: the API key comes from the environment and cannot be read again");
            }
            // A file on a dead mount must not hold up the end.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.read_file(asked) => {}
            }
        }
    }

    /// `again`: act on it even if it says what it said before.
    async fn read_file(&self, again: bool) {
        let Some(path) = self.file().cloned() else { return };
        let reading = tokio::task::spawn_blocking(move || file::read(&path));
        match tokio::time::timeout(READ_PATIENCE, reading).await {
            Ok(Ok(Ok(key))) => self.lock().take(key, again),
            Ok(Ok(Err(why))) => self.lock().complain(&why.to_string()),
            Ok(Err(_)) | Err(_) => self.lock().complain("the file cannot be read in time"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section is a few assignments.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, former: ApiKey) {
        self.former.retain(|known| !known.is(&former));
        self.former.push_front(former);
        self.former.truncate(FORMER_KEYS);
    }

    fn take(&mut self, key: ApiKey, again: bool) {
        if !again && self.seen.as_deref() == Ok(key.fingerprint()) {
            return;
        }
        self.seen = Ok(key.fingerprint().to_owned());
        if self.serving.is(&key) {
            self.trial = None;
            return;
        }
        if self.refused.as_ref().is_some_and(|(refused, at)| refused.is(&key) && at.elapsed() < REFUSED_FOR) {
            return;
        }
        // Many refusals at once look into the file at once.
        if self.trial.as_ref().is_some_and(|trial| trial.is(&key)) {
            return;
        }
        tracing::info!(key_fingerprint = key.fingerprint(), "a new API key was read; the next mint tries it");
        self.trial = Some(key);
        self.reloads.count(ReloadResult::Taken);
    }

    fn complain(&mut self, why: &str) {
        if self.seen.as_ref().is_err_and(|seen| seen == why) {
            return;
        }
        tracing::error!(
            error = why,
            serving_fingerprint = self.serving.fingerprint(),
            "the key file cannot be used; the API key in use goes on",
        );
        self.seen = Err(why.to_owned());
        self.reloads.count(ReloadResult::Unreadable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ApiKey {
        ApiKey::new(text).unwrap()
    }

    struct Bench {
        keys: Keys,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            std::fs::write(&path, "old").unwrap();
            Bench { keys: Keys::new(key("old"), KeySource::File(path.clone())), path, _folder: folder }
        }

        async fn file_says(&self, content: &[u8]) {
            std::fs::write(&self.path, content).unwrap();
            self.keys.read_file(false).await;
        }

        fn newest_is(&self, text: &str) -> bool {
            self.keys.newest().is(&key(text))
        }
    }

    #[tokio::test]
    async fn a_new_key_is_taken_at_once_and_the_old_one_let_go_when_it_has_minted() {
        let bench = Bench::new();
        bench.file_says(b"new\n").await;
        assert!(bench.newest_is("new"));
        assert_eq!(bench.keys.all().len(), 2);
        bench.keys.minted_with(&key("old"));
        assert_eq!(bench.keys.all().len(), 2, "the old one has, the new one has not");
        bench.keys.minted_with(&key("new"));
        assert!(bench.newest_is("new"));
        assert_eq!(bench.keys.all().len(), 2, "the old one is still blotted out");
    }

    #[tokio::test]
    async fn a_few_former_keys_are_remembered_and_no_more() {
        let bench = Bench::new();
        for n in 0..20 {
            let name = format!("new-{n}");
            bench.file_says(name.as_bytes()).await;
            bench.keys.minted_with(&key(&name));
        }
        assert_eq!(bench.keys.all().len(), 1 + FORMER_KEYS);
        bench.file_says(b"wrong").await;
        bench.keys.refused(&key("wrong"), &"401").await;
        assert!(bench.keys.all().iter().any(|known| known.is(&key("wrong"))));
    }

    #[tokio::test]
    async fn a_new_key_that_is_refused_changes_nothing() {
        let bench = Bench::new();
        bench.file_says(b"wrong").await;
        assert!(bench.keys.refused(&key("wrong"), &"401").await, "the old one is there");
        assert!(bench.newest_is("old"));
        bench.keys.read_file(false).await;
        assert!(bench.newest_is("old"), "it is not tried again as long as the file says the same");
        bench.file_says(b"right").await;
        assert!(bench.newest_is("right"));
    }

    #[tokio::test]
    async fn a_key_revoked_and_replaced_at_the_same_moment_is_found_by_the_refusal() {
        let bench = Bench::new();
        std::fs::write(&bench.path, "new").unwrap();
        assert!(bench.keys.refused(&key("old"), &"401").await);
        assert!(bench.newest_is("new"));
    }

    #[tokio::test]
    async fn refusals_at_the_same_moment_take_the_new_key_once() {
        let bench = Bench::new();
        std::fs::write(&bench.path, "new").unwrap();
        for _ in 0..3 {
            bench.keys.read_file(true).await;
        }
        assert!(bench.newest_is("new"));
        let mut shown = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        bench.keys.register(&mut registry);
        prometheus_client::encoding::prometheus_text::encode(&mut shown, &registry).unwrap();
        assert!(shown.contains("key_reloads_total{result=\"taken\"} 1\n"), "{shown}");
    }

    #[tokio::test]
    async fn a_refused_key_without_another_is_refused() {
        let bench = Bench::new();
        assert!(!bench.keys.refused(&key("old"), &"401").await);
        assert!(!Keys::new(key("old"), KeySource::Environment).refused(&key("old"), &"401").await);
    }

    #[tokio::test]
    async fn where_both_are_refused_each_is_tried_once() {
        let bench = Bench::new();
        bench.file_says(b"wrong").await;
        assert!(bench.keys.refused(&key("wrong"), &"401").await, "the old one is there");
        assert!(
            !bench.keys.refused(&key("old"), &"401").await,
            "the file has only the one that was refused a moment ago"
        );
        bench.file_says(b"right").await;
        assert!(bench.newest_is("right"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_changes_nothing() {
        let bench = Bench::new();
        for content in [b"".as_slice(), b"\xff\xfe", &vec![b'k'; 10 << 20], b"two\nlines"] {
            bench.file_says(content).await;
            assert!(bench.newest_is("old"));
        }
        std::fs::remove_file(&bench.path).unwrap();
        bench.keys.read_file(false).await;
        assert!(bench.newest_is("old"));
        bench.file_says(b"new").await;
        assert!(bench.newest_is("new"));
    }

    #[tokio::test]
    async fn a_rollback_before_the_new_key_was_tried_forgets_it() {
        let bench = Bench::new();
        bench.file_says(b"new").await;
        bench.file_says(b"old").await;
        assert!(bench.newest_is("old"));
        assert_eq!(bench.keys.all().len(), 1);
    }

    #[tokio::test]
    async fn a_symlink_swap_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::create_dir(file("one")).unwrap();
        std::fs::create_dir(file("two")).unwrap();
        std::fs::write(file("one/key"), "old").unwrap();
        std::fs::write(file("two/key"), "new").unwrap();
        std::os::unix::fs::symlink("one", file("..data")).unwrap();
        std::os::unix::fs::symlink("..data/key", file("key")).unwrap();
        let keys = Keys::new(key("old"), KeySource::File(file("key")));
        std::os::unix::fs::symlink("two", file("..data_tmp")).unwrap();
        std::fs::rename(file("..data_tmp"), file("..data")).unwrap();
        keys.read_file(false).await;
        assert!(keys.newest().is(&key("new")));
    }
}
