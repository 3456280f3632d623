//! Rotation without an event: a new key is taken at once, and the old one kept until the new one has minted.
//!
//! Knows which keys there are and what kie.ai said of them; does not know how it is asked.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::dispatcher;

use super::{
    ApiKey, KeySource,
    file::{self, Unreadable},
    looks::Looks,
    metrics::{ReloadResult, Reloads},
};
use crate::clock::{Clock, Instant};

/// A new key is taken within five seconds. The content is compared, since a symlink swap may show in no time stamp and
/// no event.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A key that kie.ai has refused is not tried again before this, unless the file changes.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// Keys out of use that are still blotted out of what kie.ai says; a day has fewer rotations.
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
    /// The fingerprint of a newer key that has not minted yet.
    pub on_trial: Option<String>,
    /// Key files read while running, by what became of them.
    pub reloads: BTreeMap<&'static str, u64>,
}

struct Inner {
    state: Mutex<State>,
    source: KeySource,
    clock: Clock,
    looks: Mutex<Looks>,
    /// The number of the last look whose finding has been acted on.
    looked: watch::Sender<u64>,
    read: Read,
}

/// How a key file is read; tests have files that never answer.
type Read = Box<dyn Fn(&Path) -> Result<ApiKey, Unreadable> + Send + Sync>;

#[derive(Debug)]
struct State {
    serving: ApiKey,
    serving_since: Instant,
    /// A key that has never minted may be any text: it is not looked for in links that other keys brought.
    serving_has_minted: bool,
    trial: Option<ApiKey>,
    /// Grows whenever the newest key changes.
    version: u64,
    /// What the file said last: a fingerprint or a problem. Each is acted on, and logged, once.
    seen: Result<String, String>,
    /// The fingerprint of the newer key that kie.ai refused last, and when.
    refused: Option<(String, Instant)>,
    /// Keys that have minted and were let go; they may still be good, and kie.ai may still mention them.
    former: VecDeque<ApiKey>,
    reloads: Reloads,
}

impl Keys {
    /// `source` is where `key` came from; newer ones may come from a file only.
    pub fn new(key: ApiKey, source: KeySource, clock: Clock) -> Keys {
        Keys::reading(key, source, clock, Box::new(file::read))
    }

    fn reading(key: ApiKey, source: KeySource, clock: Clock, read: Read) -> Keys {
        let seen = Ok(key.fingerprint().to_owned());
        let state = State {
            serving: key,
            serving_since: clock.now(),
            serving_has_minted: false,
            trial: None,
            version: 0,
            seen,
            refused: None,
            former: VecDeque::new(),
            reloads: Reloads::default(),
        };
        let (state, looks, looked) = (Mutex::new(state), Mutex::default(), watch::Sender::new(0));
        Keys(Arc::new(Inner { state, source, clock, looks, looked, read }))
    }

    pub(super) fn reloads(&self) -> Reloads {
        self.lock().reloads.clone()
    }

    /// The key that has minted last, or was there first.
    pub fn serving(&self) -> ApiKey {
        self.lock().serving.clone()
    }

    /// What people may know of the keys: fingerprints only.
    pub fn describe(&self) -> Description {
        let now = self.0.clock.now();
        let state = self.lock();
        Description {
            fingerprint: state.serving.fingerprint().to_owned(),
            source: self.0.source.kind(),
            age_seconds: now.since(state.serving_since).as_secs(),
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

    /// The keys in use, the newest first: one on trial, if there is one, and the one that serves.
    pub fn held(&self) -> Vec<ApiKey> {
        let state = self.lock();
        state.trial.iter().chain([&state.serving]).cloned().collect()
    }

    /// The key for the next request: the newest there is.
    pub fn newest(&self) -> ApiKey {
        self.lock().newest().clone()
    }

    /// Changes whenever `newest` becomes another key: what was said of the key before may be void.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Every key that must not show in anything kie.ai says.
    pub fn all(&self) -> Vec<ApiKey> {
        let state = self.lock();
        state.trial.iter().chain([&state.serving]).chain(&state.former).cloned().collect()
    }

    /// Keys that have minted: they must not show in a link, whichever key asked for it. A key that has never minted may
    /// be any text, even a part of every link (`host`): it must not take the links of the other keys with it.
    pub fn proven(&self) -> Vec<ApiKey> {
        let state = self.lock();
        let serving = Some(&state.serving).filter(|_| state.serving_has_minted);
        serving.into_iter().chain(&state.former).cloned().collect()
    }

    /// kie.ai has minted with `used`.
    pub fn minted_with(&self, used: &ApiKey) {
        let now = self.0.clock.now();
        let mut state = self.lock();
        if state.serving.is(used) {
            state.serving_has_minted = true;
        } else if state.is_on_trial(used) {
            tracing::info!(key_fingerprint = used.fingerprint(), "the new API key has minted; the old one is let go");
            let former = std::mem::replace(&mut state.serving, used.clone());
            if std::mem::replace(&mut state.serving_has_minted, true) {
                state.remember(former);
            }
            state.serving_since = now;
            state.trial = None;
            state.reloads.count(ReloadResult::Minted);
        } else {
            // The key was taken back while its request was on the way.
            state.remember(used.clone());
        }
    }

    /// The key that serves, as long as the newest key is of this version and on trial.
    pub fn in_place_of(&self, version: u64) -> Option<ApiKey> {
        let state = self.lock();
        (state.version == version && state.trial.is_some()).then(|| state.serving.clone())
    }

    /// kie.ai refuses `used`, and says `why`. True when there is another key to try at once: the old key, or a key that
    /// lies in the file by now. Waits for the file a moment, and not at all where the file is slow.
    pub async fn refused(&self, used: &ApiKey, why: &impl fmt::Display) -> bool {
        let now = self.0.clock.now();
        let was_on_trial = self.lock().refuse_trial(used, why, now);
        was_on_trial || self.has_another_than(used).await
    }

    /// The key of this version is refused where the key that serves is not. A key that is no longer on trial is not
    /// harmed.
    pub fn outdone(&self, version: u64, why: &impl fmt::Display) {
        let now = self.0.clock.now();
        let mut state = self.lock();
        if let Some(trial) = state.trial.clone().filter(|_| state.version == version) {
            state.refuse_trial(&trial, why, now);
        }
    }

    /// One file was refused with `used`, perhaps for its own sake: a key on trial stays on trial. True when there is
    /// another key to try this file with, as for `refused`.
    pub async fn doubted(&self, used: &ApiKey) -> bool {
        let is_on_trial = self.lock().is_on_trial(used);
        is_on_trial || self.has_another_than(used).await
    }

    /// Whether the next request would go out with another key than `used`, which was refused; the file is looked at for
    /// one. Nothing is concluded for the key. Cancel safe.
    pub async fn has_another_than(&self, used: &ApiKey) -> bool {
        if self.lock().has_another_than(used) {
            return true;
        }
        // The key was revoked, and perhaps replaced in the same moment.
        self.look_and_wait(true).await;
        self.lock().has_another_than(used)
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
                tracing::info!("SIGHUP: the API key comes from no file and cannot be read again");
            }
            if self.looks().is_slow(self.0.clock.now()) {
                self.lock().complain(&Unreadable::TooSlow.to_string());
            }
            self.look(asked);
        }
    }

    /// Has the file looked into, and waits for its answer, if that comes soon.
    async fn look_and_wait(&self, again: bool) {
        let mut looked = self.0.looked.subscribe();
        if let Some((number, patience)) = self.look(again) {
            let _ = tokio::time::timeout(patience, looked.wait_for(|looked| *looked >= number)).await;
        }
    }

    /// Has the file looked into. Returns the number of the look that will answer, and how long that is worth waiting
    /// for. With `again`, the answer is acted on even if the file says what it said before.
    fn look(&self, again: bool) -> Option<(u64, Duration)> {
        let path = self.file()?.clone();
        let asked = self.looks().ask(again, self.0.clock.now());
        if let Some(number) = asked.start {
            let keys = self.clone();
            // Tests capture logs by a thread's subscriber; the new thread takes over its maker's.
            let logs = dispatcher::get_default(Clone::clone);
            let looking = move || dispatcher::with_default(&logs, || keys.look_until_all_is_seen(number, &path));
            if thread::Builder::new().name("key file".to_owned()).spawn(looking).is_err() {
                self.looks().failed(number);
                self.lock().complain("there is no thread left to read it");
            }
        }
        Some((asked.number, asked.patience))
    }

    /// What a thread of its own does: the file may never answer.
    fn look_until_all_is_seen(&self, thread: u64, path: &Path) {
        loop {
            let look = self.looks().begin(thread, self.0.clock.now());
            let Some(look) = look else { return };
            let found = (self.0.read)(path);
            if !self.looks().ended(thread) {
                return;
            }
            let now = self.0.clock.now();
            match found {
                Ok(key) => self.lock().take(key, look.again, now),
                Err(why) => self.lock().complain(&why.to_string()),
            }
            self.0.looked.send_replace(look.number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every section is a few assignments.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.0.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("state", &self.state).field("source", &self.source).finish_non_exhaustive()
    }
}

impl State {
    fn newest(&self) -> &ApiKey {
        self.trial.as_ref().unwrap_or(&self.serving)
    }

    /// Whether the next request would go out with another key.
    fn has_another_than(&self, used: &ApiKey) -> bool {
        !self.newest().is(used)
    }

    fn is_on_trial(&self, key: &ApiKey) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.is(key))
    }

    /// Ends the trial of `key`; false where it is not on trial.
    fn refuse_trial(&mut self, key: &ApiKey, why: &impl fmt::Display, now: Instant) -> bool {
        if !self.is_on_trial(key) {
            return false;
        }
        tracing::error!(
            key_fingerprint = key.fingerprint(),
            serving_fingerprint = self.serving.fingerprint(),
            error = %why,
            "kie.ai refuses the new API key; the old one goes on",
        );
        self.set_trial(None);
        self.refused = Some((key.fingerprint().to_owned(), now));
        self.reloads.count(ReloadResult::Refused);
        true
    }

    fn set_trial(&mut self, trial: Option<ApiKey>) {
        let before = self.newest().clone();
        self.trial = trial;
        if !self.newest().is(&before) {
            self.version += 1;
        }
    }

    fn remember(&mut self, former: ApiKey) {
        self.former.retain(|known| !known.is(&former));
        self.former.push_front(former);
        self.former.truncate(FORMER_KEYS);
    }

    fn take(&mut self, key: ApiKey, again: bool, now: Instant) {
        if self.seen.is_err() {
            tracing::info!(key_fingerprint = key.fingerprint(), "the key file can be used again");
        }
        if !again && self.seen.as_deref() == Ok(key.fingerprint()) {
            return;
        }
        self.seen = Ok(key.fingerprint().to_owned());
        if self.serving.is(&key) {
            self.set_trial(None);
            return;
        }
        let is_refused =
            |(refused, at): &(String, Instant)| refused == key.fingerprint() && now.since(*at) < REFUSED_FOR;
        if self.refused.as_ref().is_some_and(is_refused) {
            return;
        }
        // Where many requests are refused at once, the first look may have put this key on trial already.
        if self.is_on_trial(&key) {
            return;
        }
        tracing::info!(key_fingerprint = key.fingerprint(), "a new API key was read; the next mint tries it");
        self.set_trial(Some(key));
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

    /// Has the file looked into, and waits for it, however long it takes.
    async fn see(keys: &Keys, again: bool) {
        let mut looked = keys.0.looked.subscribe();
        let (number, _) = keys.look(again).expect("they come from a file");
        looked.wait_for(|looked| *looked >= number).await.expect("the keys are there");
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
            std::fs::write(&path, "the-old-key").unwrap();
            Bench {
                keys: Keys::new(key("the-old-key"), KeySource::File(path.clone()), Clock::system()),
                path,
                _folder: folder,
            }
        }

        async fn file_says(&self, content: &[u8]) {
            std::fs::write(&self.path, content).unwrap();
            see(&self.keys, false).await;
        }

        fn newest_is(&self, text: &str) -> bool {
            self.keys.newest().is(&key(text))
        }
    }

    #[tokio::test]
    async fn a_new_key_is_taken_at_once_and_the_old_one_let_go_when_it_has_minted() {
        let bench = Bench::new();
        bench.file_says(b"the-new-key\n").await;
        assert!(bench.newest_is("the-new-key"));
        assert_eq!(bench.keys.all().len(), 2);
        bench.keys.minted_with(&key("the-old-key"));
        assert_eq!(bench.keys.all().len(), 2, "the old one has, the new one has not");
        bench.keys.minted_with(&key("the-new-key"));
        assert!(bench.newest_is("the-new-key"));
        assert_eq!(bench.keys.all().len(), 2, "the old one is still blotted out");
    }

    #[tokio::test]
    async fn a_few_former_keys_are_remembered_and_no_more() {
        let bench = Bench::new();
        for n in 0..20 {
            let name = format!("the-new-key-{n}");
            bench.file_says(name.as_bytes()).await;
            bench.keys.minted_with(&key(&name));
        }
        assert_eq!(bench.keys.all().len(), 1 + FORMER_KEYS);
        bench.file_says(b"the-wrong-key").await;
        bench.keys.refused(&key("the-wrong-key"), &"401").await;
        assert!(!bench.keys.all().iter().any(|known| known.is(&key("the-wrong-key"))), "it may be anything");
    }

    #[tokio::test]
    async fn only_keys_that_have_minted_are_looked_for_in_the_links_of_others() {
        let bench = Bench::new();
        let proven = || bench.keys.proven().iter().map(|key| key.expose().to_owned()).collect::<Vec<_>>();
        assert!(proven().is_empty(), "the first one may be a wrong one, too");
        bench.file_says(b"cloudflarestorage").await;
        assert!(proven().is_empty());
        bench.keys.minted_with(&key("the-old-key"));
        assert_eq!(proven(), ["the-old-key"]);
        bench.keys.refused(&key("cloudflarestorage"), &"401").await;
        bench.file_says(b"the-new-key").await;
        assert_eq!(proven(), ["the-old-key"], "the new one is on trial");
        bench.keys.minted_with(&key("the-new-key"));
        assert_eq!(proven(), ["the-new-key", "the-old-key"]);
    }

    #[tokio::test]
    async fn a_first_key_that_never_minted_is_forgotten_with_its_successors_first_link() {
        let bench = Bench::new();
        bench.file_says(b"the-new-key").await;
        bench.keys.minted_with(&key("the-new-key"));
        assert_eq!(bench.keys.all().len(), 1);
    }

    #[tokio::test]
    async fn a_key_that_minted_though_it_was_taken_back_is_remembered() {
        let bench = Bench::new();
        bench.file_says(b"the-new-key").await;
        bench.file_says(b"the-old-key").await;
        bench.keys.minted_with(&key("the-new-key"));
        assert!(bench.newest_is("the-old-key"));
        assert!(bench.keys.proven().iter().any(|known| known.is(&key("the-new-key"))));
        // However often a key is taken back, the other keys are remembered, too.
        for number in 0..FORMER_KEYS {
            bench.file_says(format!("another-key-{number}").as_bytes()).await;
            bench.file_says(b"the-old-key").await;
            bench.keys.minted_with(&key(&format!("another-key-{}", number.min(1))));
        }
        assert!(bench.keys.all().iter().any(|known| known.is(&key("the-new-key"))));
    }

    #[tokio::test]
    async fn the_version_changes_with_the_newest_key_and_with_nothing_else() {
        let bench = Bench::new();
        let mut last = bench.keys.version();
        let mut has_changed = || {
            let before = std::mem::replace(&mut last, bench.keys.version());
            before != bench.keys.version()
        };
        bench.file_says(b"the-old-key").await;
        assert!(!has_changed());
        bench.file_says(b"the-new-key").await;
        assert!(has_changed(), "on trial");
        bench.keys.minted_with(&key("the-new-key"));
        assert!(!has_changed(), "it serves, and was the newest before");
        bench.file_says(b"the-wrong-key").await;
        assert!(has_changed());
        bench.keys.refused(&key("the-wrong-key"), &"401").await;
        assert!(has_changed(), "back to the one before");
        bench.file_says(b"").await;
        assert!(!has_changed());
        bench.keys.refused(&key("the-new-key"), &"401").await;
        assert!(!has_changed(), "there is no other");
        bench.file_says(b"the-right-key").await;
        bench.file_says(b"the-third-key").await;
        assert!(has_changed());
        bench.file_says(b"the-new-key").await;
        assert!(has_changed(), "taken back");
    }

    #[tokio::test]
    async fn a_new_key_that_is_refused_changes_nothing() {
        let bench = Bench::new();
        bench.file_says(b"the-wrong-key").await;
        assert!(bench.keys.refused(&key("the-wrong-key"), &"401").await, "the old one is there");
        assert!(bench.newest_is("the-old-key"));
        see(&bench.keys, false).await;
        assert!(bench.newest_is("the-old-key"), "it is not tried again as long as the file says the same");
        bench.file_says(b"the-right-key").await;
        assert!(bench.newest_is("the-right-key"));
    }

    #[tokio::test]
    async fn a_key_revoked_and_replaced_at_the_same_moment_is_found_by_the_refusal() {
        let bench = Bench::new();
        std::fs::write(&bench.path, "the-new-key").unwrap();
        assert!(bench.keys.refused(&key("the-old-key"), &"401").await);
        assert!(bench.newest_is("the-new-key"));
    }

    #[tokio::test]
    async fn refusals_at_the_same_moment_take_the_new_key_once() {
        let bench = Bench::new();
        std::fs::write(&bench.path, "the-new-key").unwrap();
        for _ in 0..3 {
            see(&bench.keys, true).await;
        }
        assert!(bench.newest_is("the-new-key"));
        let mut shown = String::new();
        let mut registry = prometheus_client::registry::Registry::default();
        bench.keys.register(&mut registry);
        prometheus_client::encoding::prometheus_text::encode(&mut shown, &registry).unwrap();
        assert!(shown.contains("key_reloads_total{result=\"taken\"} 1\n"), "{shown}");
    }

    #[tokio::test]
    async fn a_refused_key_without_another_is_refused() {
        let bench = Bench::new();
        assert!(!bench.keys.refused(&key("the-old-key"), &"401").await);
        assert!(
            !Keys::new(key("the-old-key"), KeySource::Environment, Clock::system())
                .refused(&key("the-old-key"), &"401")
                .await
        );
    }

    #[tokio::test]
    async fn where_both_are_refused_each_is_tried_once() {
        let bench = Bench::new();
        bench.file_says(b"the-wrong-key").await;
        assert!(bench.keys.refused(&key("the-wrong-key"), &"401").await, "the old one is there");
        assert!(
            !bench.keys.refused(&key("the-old-key"), &"401").await,
            "the file has only the one that was refused a moment ago"
        );
        bench.file_says(b"the-right-key").await;
        assert!(bench.newest_is("the-right-key"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_changes_nothing() {
        let bench = Bench::new();
        for content in [b"".as_slice(), b"\xff\xfe", &vec![b'k'; 10 << 20], b"the-two\nlines-key"] {
            bench.file_says(content).await;
            assert!(bench.newest_is("the-old-key"));
        }
        std::fs::remove_file(&bench.path).unwrap();
        see(&bench.keys, false).await;
        assert!(bench.newest_is("the-old-key"));
        bench.file_says(b"the-new-key").await;
        assert!(bench.newest_is("the-new-key"));
    }

    #[tokio::test]
    async fn a_rollback_before_the_new_key_was_tried_forgets_it() {
        let bench = Bench::new();
        bench.file_says(b"the-new-key").await;
        bench.file_says(b"the-old-key").await;
        assert!(bench.newest_is("the-old-key"));
        assert_eq!(bench.keys.all().len(), 1);
    }

    #[tokio::test]
    async fn a_symlink_swap_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::create_dir(file("one")).unwrap();
        std::fs::create_dir(file("two")).unwrap();
        std::fs::write(file("one/key"), "the-old-key").unwrap();
        std::fs::write(file("two/key"), "the-new-key").unwrap();
        std::os::unix::fs::symlink("one", file("..data")).unwrap();
        std::os::unix::fs::symlink("..data/key", file("key")).unwrap();
        let keys = Keys::new(key("the-old-key"), KeySource::File(file("key")), Clock::system());
        std::os::unix::fs::symlink("two", file("..data_tmp")).unwrap();
        std::fs::rename(file("..data_tmp"), file("..data")).unwrap();
        see(&keys, false).await;
        assert!(keys.newest().is(&key("the-new-key")));
    }

    /// A file that answers when the test says so, as one on a dead mount may.
    struct SlowFile {
        keys: Keys,
        /// One text for each reading.
        answers: std::sync::mpsc::Sender<&'static str>,
        readings: Arc<std::sync::atomic::AtomicUsize>,
    }

    impl SlowFile {
        fn new(clock: Clock) -> SlowFile {
            let (answers, asked) = std::sync::mpsc::channel::<&'static str>();
            let (asked, readings) = (Mutex::new(asked), Arc::<std::sync::atomic::AtomicUsize>::default());
            let count = Arc::clone(&readings);
            let read = move |_: &Path| {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let text = asked.lock().unwrap().recv().unwrap_or("");
                Ok(ApiKey::new(text)?)
            };
            let source = KeySource::File("key".into());
            let keys = Keys::reading(key("the-old-key"), source, clock, Box::new(read));
            SlowFile { keys, answers, readings }
        }

        async fn is_being_read(&self) {
            while self.readings() == 0 {
                tokio::task::yield_now().await;
            }
        }

        fn readings(&self) -> usize {
            self.readings.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn a_file_that_does_not_answer_takes_one_thread_and_nobody_waits_for_it() {
        let file = SlowFile::new(Clock::system());
        file.keys.look(true);
        file.is_being_read().await;
        let refused = futures_util::future::join_all((0..200).map(|_| async {
            assert!(!file.keys.refused(&key("the-old-key"), &"401").await, "there is no other");
        }));
        refused.await;
        // The second look begins when the first has ended, and it is the last: it answers all of them.
        assert_eq!(file.readings(), 1);
        file.answers.send("the-old-key").unwrap();
        file.answers.send("the-new-key").unwrap();
        let mut looked = file.keys.0.looked.subscribe();
        looked.wait_for(|looked| *looked == 201).await.unwrap();
        assert!(file.keys.newest().is(&key("the-new-key")), "it recovers with the file");
        assert_eq!(file.readings(), 2);
    }

    #[tokio::test]
    async fn a_refusal_that_comes_while_the_file_is_read_waits_for_the_reading_after_that() {
        let file = SlowFile::new(Clock::system());
        file.keys.look(false);
        file.is_being_read().await;
        // What is being read may be the key that has just been replaced.
        file.answers.send("the-old-key").unwrap();
        file.answers.send("the-new-key").unwrap();
        see(&file.keys, true).await;
        assert!(file.keys.newest().is(&key("the-new-key")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_thread_reads_that_was_given_up_is_too_old_to_be_taken() {
        let time = crate::clock::testing::VirtualTime::new();
        let file = SlowFile::new(time.clock());
        file.keys.look(true);
        file.is_being_read().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut looked = file.keys.0.looked.subscribe();
        file.keys.look(true);
        while file.readings() < 2 {
            tokio::task::yield_now().await;
        }
        // The one that has waited for longest is answered first.
        file.answers.send("what-stood-there-a-minute-ago").unwrap();
        file.answers.send("the-old-key").unwrap();
        looked.wait_for(|looked| *looked == 2).await.unwrap();
        assert!(file.keys.newest().is(&key("the-old-key")));
        assert_eq!(file.keys.describe().reloads["taken"], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn watching_a_file_that_does_not_answer_complains_once_and_ends_at_once() {
        let time = crate::clock::testing::VirtualTime::new();
        let file = SlowFile::new(time.clock());
        let (reload, stop) = (Reload::default(), CancellationToken::new());
        let watching = file.keys.clone().watch(reload, stop.clone());
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            stop.cancel();
        };
        tokio::join!(watching, stopping);
        assert_eq!(file.keys.describe().reloads["unreadable"], 1);
        assert_eq!(file.keys.describe().age_seconds, 3600);
        assert!(file.readings() <= 3, "{} threads", file.readings());
    }
}
