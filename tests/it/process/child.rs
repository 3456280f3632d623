//! kielink as a child process with an environment of its own, everything that it prints captured.
//!
//! When it is dropped it is killed, and every byte it printed is searched for the key and for signatures.

use std::{
    cell::RefCell,
    ffi::{OsStr, OsString},
    io::Read,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};

use super::wire::Wire;
use crate::support::{FakeKie, KEY, Reply, encode, eventually};

/// What is tried: `KIELINK_TEST_BINARY`, where somebody wants that (the release build, say), or what Cargo has just built.
#[expect(clippy::disallowed_methods, reason = "the test run's own setting, not kielink's")]
fn binary() -> OsString {
    std::env::var_os("KIELINK_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_kielink").into())
}

/// A command line in the making.
pub(crate) struct Run {
    command: Command,
    stdout: Option<std::fs::File>,
}

/// kielink, running or ended.
pub(crate) struct Child {
    process: RefCell<std::process::Child>,
    stdout: Output,
    stderr: Output,
}

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One of its pipes, read to the end by a thread, so that it never blocks on a full one, unless a test wants that.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    is_read: Arc<(Mutex<bool>, Condvar)>,
    thread: RefCell<Option<JoinHandle<()>>>,
}

impl Run {
    /// With an empty environment: the developer's own settings must not leak in.
    pub(crate) fn new(arguments: &[&str]) -> Run {
        Run::program(binary()).arguments(arguments)
    }

    /// The same, run by `sh` from this script, in which `"$@"` is the command line.
    pub(crate) fn scripted(script: &str, arguments: &[&str]) -> Run {
        Run::program("sh".into()).arguments(&["-c", script, "sh", binary().to_str().unwrap()]).arguments(arguments)
    }

    fn program(path: OsString) -> Run {
        let mut command = Command::new(path);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run { command, stdout: None }
    }

    /// With the key, in front of `kie`, on ports that the system chooses.
    pub(crate) fn serving(kie: &FakeKie, arguments: &[&str]) -> Run {
        let base_url = format!("upstream.base_url={}", kie.base_url());
        Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .arguments(&["--set", &base_url])
            .arguments(arguments)
            .key()
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Run {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    pub(crate) fn key(self) -> Run {
        self.env("KIE_API_KEY", KEY)
    }

    /// Its standard output goes there instead; `Child::stdout` stays empty.
    pub(crate) fn stdout(mut self, file: std::fs::File) -> Run {
        self.stdout = Some(file);
        self
    }

    /// Its standard input: a script may make any other descriptor of it.
    pub(crate) fn stdin(mut self, descriptor: impl Into<Stdio>) -> Run {
        self.command.stdin(descriptor);
        self
    }

    pub(crate) fn start(mut self) -> Child {
        if let Some(file) = self.stdout {
            self.command.stdout(file);
        }
        let mut process = self.command.spawn().unwrap();
        let stdout: Box<dyn Read + Send> = match process.stdout.take() {
            Some(pipe) => Box::new(pipe),
            None => Box::new(std::io::empty()),
        };
        let stdout = Output::of(stdout);
        let stderr = Output::of(process.stderr.take().unwrap());
        Child { process: RefCell::new(process), stdout, stderr }
    }

    /// Starts it and returns once it listens.
    pub(crate) async fn ready(self) -> Child {
        let child = self.start();
        child.wait_for_log("listening (admin)").await;
        child
    }

    /// Runs it to its end, which must come by itself.
    pub(crate) async fn finished(self) -> Finished {
        let child = self.start();
        let code = child.ended().await;
        Finished { code, stdout: child.stdout(), stderr: child.stderr() }
    }
}

impl Child {
    /// `host:port` or `unix:/path` of the first listener for callers.
    pub(crate) fn data(&self) -> String {
        self.addresses("listening").remove(0)
    }

    pub(crate) fn admin(&self) -> String {
        self.addresses("listening (admin)").remove(0)
    }

    /// The addresses in the log lines with this message.
    pub(crate) fn addresses(&self, message: &str) -> Vec<String> {
        let lines = self.log_lines(message);
        lines.iter().map(|line| line["address"].as_str().unwrap().to_owned()).collect()
    }

    /// A connection of its own to the data interface.
    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(&self.data()).await
    }

    /// `GET` of a path on the data interface, over a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.connect().await.get(path).await
    }

    pub(crate) async fn get_admin(&self, path: &str) -> Reply {
        Wire::connect(&self.admin()).await.get(path).await
    }

    /// `GET /v1/link` for a source URL.
    pub(crate) async fn link(&self, source: &str) -> Reply {
        self.get(&link_path(source)).await
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.borrow().id()
    }

    /// Sockets that it holds: listeners and connections.
    pub(crate) fn sockets(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.borrow().id())).unwrap();
        let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// It does nothing, hears of nothing, until it is resumed.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The same as long as it runs: it may end between two.
    pub(crate) fn terminate_unless_ended(&self) {
        if !self.has_ended() {
            self.terminate();
        }
    }

    pub(crate) fn interrupt_unless_ended(&self) {
        if !self.has_ended() {
            self.interrupt();
        }
    }

    /// Whether none of SIGHUP, SIGINT and SIGTERM has its default effect.
    pub(crate) fn catches_signals(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.borrow().id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        [Signal::HUP, Signal::INT, Signal::TERM].iter().all(|signal| mask >> (signal.as_raw() - 1) & 1 == 1)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.borrow().id()).ok().and_then(Pid::from_raw).unwrap();
        // It has not been waited for, so that the id is still its own.
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.process.borrow_mut().try_wait().unwrap().is_some()
    }

    /// The exit code, once it has ended by itself; `None` where a signal ended it.
    pub(crate) async fn ended(&self) -> Option<i32> {
        eventually("kielink ends", async || self.has_ended()).await;
        let status = self.process.borrow_mut().wait().unwrap();
        self.stdout.finish();
        self.stderr.finish();
        status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Nobody reads what it logs, until somebody does again or it has ended.
    pub(crate) fn leave_stderr_unread(&self) {
        self.stderr.set_read(false);
    }

    pub(crate) fn read_stderr(&self) {
        self.stderr.set_read(true);
    }

    /// Every log line, as JSON; the last one may still be on its way.
    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        let stderr = self.stderr();
        let whole = stderr.rfind('\n').map_or("", |end| &stderr[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        whole.lines().map(parse).collect()
    }

    pub(crate) fn log_lines(&self, message: &str) -> Vec<serde_json::Value> {
        let mut lines = self.log();
        lines.retain(|line| line["message"] == message);
        lines
    }

    /// Panics with everything that was printed where it ends first.
    pub(crate) async fn wait_for_log(&self, message: &str) {
        eventually(&format!("kielink logs {message:?}"), async || {
            // In this order: what it printed before it ended is still found.
            let ended = self.has_ended();
            if ended {
                self.stderr.finish();
            }
            let found = !self.log_lines(message).is_empty();
            assert!(found || !ended, "kielink ended: {}", self.stderr());
            found
        })
        .await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let process = self.process.get_mut();
        let _ = process.kill();
        let _ = process.wait();
        self.stdout.finish();
        self.stderr.finish();
        if std::thread::panicking() {
            eprintln!("kielink printed:\n{}{}", self.stdout(), self.stderr());
            return;
        }
        let printed = format!("{}{}", self.stdout(), self.stderr());
        assert_has_no_secret(&printed);
        assert!(!printed.contains("X-Amz-Signature"), "a signature was printed");
        assert!(!printed.contains("panicked"), "it panicked: {printed}");
    }
}

impl Output {
    fn of(mut pipe: impl Read + Send + 'static) -> Output {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&bytes);
        let is_read = Arc::new((Mutex::new(true), Condvar::new()));
        let gate = Arc::clone(&is_read);
        let wait = move || {
            let (is_read, changed) = &*gate;
            let is_read = is_read.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(is_read, |is_read| !*is_read));
        };
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                let mut bytes = written.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(&chunk[..length]);
                drop(bytes);
                wait();
            }
        });
        Output { bytes, is_read, thread: RefCell::new(Some(thread)) }
    }

    fn set_read(&self, is_read: bool) {
        *self.is_read.0.lock().unwrap_or_else(PoisonError::into_inner) = is_read;
        self.is_read.1.notify_all();
    }

    /// Waits for the last byte; only once the process has ended.
    fn finish(&self) {
        self.set_read(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The canary: neither the test's key nor one that a sandbox made up, plainly or percent-encoded.
pub(crate) fn assert_has_no_secret(text: &str) {
    for secret in [KEY, encode(KEY).as_str()] {
        assert!(!text.contains(secret), "the key is in {text}");
    }
    for (at, mark) in text.match_indices("sandbox-") {
        let hex = text[at + mark.len()..].chars().take(32);
        let hex = hex.take_while(char::is_ascii_hexdigit).count();
        assert!(hex < 16, "the sandbox's key is in {text}");
    }
}

pub(crate) fn link_path(source: &str) -> String {
    format!("/v1/link?url={}", encode(source))
}
