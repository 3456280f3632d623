//! A real kielink on ports of its own, in a thread of its own, with its logs captured.
//!
//! When it is dropped it is stopped as SIGTERM would stop it, and every byte it let out is searched for the key and for
//! signatures: the canary check at the end of every integration test.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use kielink::{
    app::{self, Ended, Listeners},
    clock::Clock,
    config::{self, Sources},
    key::Reload,
    server::{Address, Inherited},
    telemetry::Telemetry,
};
use tokio::{runtime::RuntimeMetrics, sync::oneshot};

use super::{FakeKie, assert_described};

/// The canary: looks like nothing else, and has characters that change when percent-encoded.
pub(crate) const KEY: &str = "canary/key+0123456789abcdef==";

pub(crate) const SOURCE: &str = "https://tempfile.aiquickdraw.com/s/a.png";

pub(crate) struct Sidecar {
    data: String,
    admin: String,
    client: reqwest::Client,
    seen: Arc<Seen>,
    reload: Reload,
    tasks: RuntimeMetrics,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Ended>>,
}

/// Everything it let out.
#[derive(Default)]
struct Seen {
    logs: Mutex<Vec<u8>>,
    answers: Mutex<Vec<Reply>>,
    /// Those of the admin interface once more, with their paths.
    admin: Mutex<Vec<(String, Reply)>>,
}

/// One answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {:?}", self.body))
    }

    /// The slug of a problem document.
    pub(crate) fn slug(&self) -> String {
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        kind.strip_prefix("urn:kielink:problem:").unwrap_or_default().to_owned()
    }
}

impl Sidecar {
    pub(crate) fn start(kie: &FakeKie) -> Sidecar {
        Sidecar::with(kie, &[])
    }

    /// `settings` as `section.key` and value, over those that every test has.
    pub(crate) fn with(kie: &FakeKie, settings: &[(&str, &str)]) -> Sidecar {
        Sidecar::on(Vec::new(), kie, settings)
    }

    /// As `with`, on sockets that were handed over.
    pub(crate) fn on(sockets: Vec<Inherited>, kie: &FakeKie, settings: &[(&str, &str)]) -> Sidecar {
        let mut flags = vec![
            ("server.listen", "127.0.0.1:0"),
            ("admin.listen", "127.0.0.1:0"),
            ("log.level", "trace"),
            ("log.format", "json"),
            // So that kie.ai hears what the test asks for, and nothing else.
            ("upstream.credits_every", "0s"),
        ];
        let base_url = kie.base_url();
        flags.push(("upstream.base_url", &base_url));
        flags.extend_from_slice(settings);
        let from_file = flags.iter().any(|(key, _)| *key == "upstream.api_key_file");
        let environment = if from_file { None } else { Some(("KIE_API_KEY".to_owned(), KEY.to_owned())) };
        let sources = Sources {
            environment: environment.into_iter().collect::<HashMap<_, _>>(),
            flags: flags.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..Sources::default()
        };
        let config = config::load(&sources).unwrap();
        let listeners = Listeners::bind(&config, sockets).unwrap();
        let base = |addresses: Vec<Address>| format!("http://{}", addresses[0]);
        let (data, admin) = (base(listeners.addresses().data), base(listeners.addresses().admin));
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::new(Seen::default());
        let writer = LogWriter(Arc::clone(&seen));
        let reload = Reload::default();
        let served = reload.clone();
        // One thread for all its tasks, so that the subscriber of that thread sees everything.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = runtime.metrics();
        let thread = std::thread::spawn(move || {
            let telemetry = Telemetry::default();
            let dispatch = config.log.dispatch(move || writer.clone(), &telemetry);
            let _guard = tracing::dispatcher::set_default(&dispatch);
            let stop = async { drop(stopped.await) };
            runtime.block_on(async {
                let app = app::build(config, listeners, telemetry, Clock::system()).unwrap();
                app.run(served, stop).await.unwrap()
            })
        });
        // The same provider that kielink installs; whoever comes first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_certs_only([])
            // A connection that is kept cannot close while a test waits, on its only thread, for kielink's end.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Sidecar { data, admin, client, seen, reload, tasks, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://host:port` for callers.
    pub(crate) fn base_url(&self) -> &str {
        &self.data
    }

    /// How many tasks it has, but for those of its admin interface.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.num_alive_tasks()
    }

    pub(crate) fn admin_url(&self) -> &str {
        &self.admin
    }

    /// `GET` of a path on the data interface.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.client.get(format!("{}{path}", self.data))).await
    }

    /// With one header more.
    pub(crate) async fn get_with(&self, path: &str, name: &str, value: &str) -> Reply {
        self.send(self.client().get(format!("{}{path}", self.base_url())).header(name, value)).await
    }

    pub(crate) async fn get_admin(&self, path: &str) -> Reply {
        self.send(self.client.get(format!("{}{path}", self.admin))).await
    }

    /// `GET /v1/link` for a source URL.
    pub(crate) async fn link(&self, source: &str) -> Reply {
        self.get(&format!("/v1/link?url={}", encode(source))).await
    }

    /// kie.ai's own contract.
    pub(crate) async fn download_url(&self, source: &str) -> Reply {
        self.post(serde_json::json!({ "url": source }).to_string()).await
    }

    /// Any body to kie.ai's own endpoint.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Reply {
        self.send(self.client.post(format!("{}/api/v1/common/download-url", self.data)).body(body)).await
    }

    /// For requests of any shape: build with `client()`, send with this, so that the answer is captured and, if it is one
    /// to a caller, held against the description of the interface.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let (method, url) = (request.method().clone(), request.url().clone());
        let response = client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let reply = Reply { status, headers, body: response.text().await.unwrap() };
        // So that the connection goes before whatever the test does next.
        tokio::task::yield_now().await;
        self.saw(&reply);
        if url.as_str().starts_with(&self.admin) {
            lock(&self.seen.admin).push((url.path().to_owned(), reply.clone()));
        }
        if url.as_str().starts_with(&self.data) {
            assert_described(&method, url.path(), &reply);
        }
        reply
    }

    /// An answer that came another way, for the canary check.
    pub(crate) fn saw(&self, reply: &Reply) {
        lock(&self.seen.answers).push(reply.clone());
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn logs(&self) -> String {
        String::from_utf8(lock(&self.seen.logs).clone()).unwrap()
    }

    /// The log lines with this message, as JSON.
    pub(crate) fn log_lines(&self, message: &str) -> Vec<serde_json::Value> {
        let lines = self.logs();
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &serde_json::Value| line["message"] == message).collect()
    }

    /// Has the key file read again, as SIGHUP does.
    pub(crate) fn reload(&self) {
        self.reload.request();
    }

    /// Begins to stop, as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Stops and tells how it ended.
    pub(crate) async fn stopped(&mut self) -> Ended {
        self.stop();
        let thread = self.thread.take().expect("stopped once");
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
    }

    fn check_canary(&self) {
        let encoded = encode(KEY);
        let logs = self.logs();
        for secret in [KEY, encoded.as_str()] {
            assert!(!logs.contains(secret), "a log has the key");
            for reply in lock(&self.seen.answers).iter() {
                assert!(!format!("{reply:?}").contains(secret), "an answer has the key: {reply:?}");
            }
        }
        for mark in ["X-Amz-Signature", "X-Amz-Credential", "Bearer"] {
            // "[key]" is what a scrubbed message has in the key's place; the other is what a key file should leave out.
            let logs = logs.replace("Bearer [key]", "").replace("begins with `Bearer `", "");
            assert!(!logs.contains(mark), "a log has {mark}");
        }
        for line in logs.lines() {
            assert!(!line.contains("/s/a.png"), "a log has a full source URL: {line}");
        }
        for reply in lock(&self.seen.answers).iter().filter(|reply| reply.status >= 400) {
            assert!(!format!("{reply:?}").contains("X-Amz-Signature"), "an error has a signature: {reply:?}");
        }
        for (path, reply) in lock(&self.seen.admin).iter() {
            let shown = format!("{reply:?}");
            assert!(!shown.contains("X-Amz-"), "{path} shows a link: {reply:?}");
            // Only `explain` is asked about one.
            assert!(path == "/v1/explain" || !shown.contains("/s/a.png"), "{path} shows a source URL: {reply:?}");
        }
    }

    /// Ends it beside the test. Where it is merely dropped, the test's own connections cannot close meanwhile, and it waits for
    /// them for half a second.
    pub(crate) async fn ended(self) {
        tokio::task::spawn_blocking(move || drop(self)).await.expect("it ends as it should");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("kielink does not panic");
            }
        }
        if !std::thread::panicking() {
            self.check_canary();
        }
    }
}

/// Everything but unreserved characters, as a query parameter wants it.
pub(crate) fn encode(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

#[derive(Clone)]
struct LogWriter(Arc<Seen>);

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0.logs).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
