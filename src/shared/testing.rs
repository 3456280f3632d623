//! Real servers on loopback, for tests. Each test that needs one passes, with a message, where there is none.

use std::{
    future::Future,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Config, Names, Seals, State, Tier};
use crate::{clock::Clock, key::ApiKey};

/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's file of settings.
const SETTINGS: &str = "settings.conf";

/// Asks every few milliseconds until it is so.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "never: {what}");
}

/// A server of the Redis family; killed when it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// `None`, with a message, where it is not installed. `arguments` are those of a configuration file.
    pub(super) fn start(arguments: &[&str]) -> Option<Server> {
        Server::with("", arguments)
    }

    fn with(settings: &str, arguments: &[&str]) -> Option<Server> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        // Another test may take the port first.
        for _ in 0..10 {
            let (port, folder) = (free_port(), TempDir::new().unwrap());
            std::fs::write(folder.path().join(SETTINGS), settings).unwrap();
            let Ok(child) = spawn(port, &folder, &arguments) else {
                eprintln!("skipped: there is no redis-server");
                return None;
            };
            let mut server = Server { child, port, folder, arguments: arguments.clone() };
            if server.is_ready() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    /// A sentinel with these lines of settings. It writes into them what it learns.
    pub(super) fn sentinel(settings: &[&str]) -> Option<Server> {
        Server::with(&settings.join("\n"), &["--sentinel"])
    }

    fn is_ready(&mut self) -> bool {
        while self.child.try_wait().unwrap().is_none() {
            let mut answer = [0; 1];
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port))
                && stream.write_all(b"PING\r\n").is_ok()
                && stream.read_exact(&mut answer).is_ok()
            {
                // Another test's server on this port has another parent.
                return self.child.try_wait().unwrap().is_none();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Runs a command there, with a connection of its own.
    pub(super) fn run(&self, command: &[&str]) -> redis::Value {
        self.try_run(command).unwrap()
    }

    pub(super) fn try_run(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut asked = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| {
            asked.arg(argument);
        });
        asked.query(&mut connection)
    }

    pub(super) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub(super) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, without its memory.
    pub(super) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments).unwrap();
        assert!(self.is_ready(), "redis-server does not start again");
    }
}

fn spawn(port: u16, folder: &TempDir, arguments: &[String]) -> std::io::Result<Child> {
    Command::new("redis-server")
        .arg(folder.path().join(SETTINGS))
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a replica has of the tier.
pub(super) struct Replica {
    pub(super) tier: Tier,
    pub(super) names: Names,
    pub(super) seals: Seals,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Replica {
    /// With a patience that no busy machine exhausts.
    pub(super) fn patient(url: &str) -> Replica {
        Replica::new(url, PATIENCE)
    }

    pub(super) fn new(url: &str, timeout: Duration) -> Replica {
        let secret = ApiKey::new("first-key").unwrap().fleet_secret();
        let (names, seals) = (Names::new(&secret), Seals::new(&secret));
        let config = Config { address: url.parse().unwrap(), timeout };
        let (tier, supervisor) = Tier::new(config, names.clone(), Clock::system());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(supervisor.run(stop.clone()));
        Replica { tier, names, seals, tasks, stop }
    }

    pub(super) async fn of(server: &Server) -> Replica {
        let replica = Replica::patient(&format!("redis://127.0.0.1:{}", server.port));
        replica.is(State::Up).await;
        replica
    }

    /// Waits until the tier is in this state.
    pub(super) async fn is(&self, state: State) {
        let mut changes = self.tier.changes();
        let reached = tokio::time::timeout(PATIENCE, changes.wait_for(|now| *now == state)).await;
        assert!(reached.is_ok(), "never {state:?}: {:?}", self.tier.describe());
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What stands between a replica and its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Manner {
    Honest,
    /// What the tier answers is lost.
    Swallows,
    /// What the tier answers is no protocol.
    Garbles,
    /// A simple answer comes before each of the tier's.
    Doubles,
    /// An answer never ends.
    Floods,
    /// An array of two thousand million items begins.
    Promises,
    /// The connection is closed instead of an answer.
    Closes,
}

/// A proxy in front of a server.
pub(super) struct Proxy {
    pub(super) port: u16,
    manner: Arc<AtomicU8>,
}

impl Proxy {
    pub(super) async fn before(server: &Server, tasks: &TaskTracker) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, manner, behind) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU8::new(0)), server.port);
        let proxy = Proxy { port, manner: Arc::clone(&manner) };
        let own = tasks.clone();
        tasks.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                own.spawn(carry(client, behind, Arc::clone(&manner)));
            }
        });
        proxy
    }

    pub(super) fn set(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::Relaxed);
    }
}

async fn carry(client: tokio::net::TcpStream, port: u16, manner: Arc<AtomicU8>) -> Option<()> {
    let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
            let is = |one: Manner| manner.load(Ordering::Relaxed) == one as u8;
            if is(Manner::Swallows) {
                continue;
            } else if is(Manner::Closes) {
                return None;
            } else if is(Manner::Garbles) {
                to_client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?;
            } else if is(Manner::Doubles) {
                to_client.write_all(b"+OK\r\n").await.ok()?;
                to_client.write_all(&buffer[..read]).await.ok()?;
            } else if is(Manner::Floods) {
                to_client.write_all(b"$4000000000\r\n").await.ok()?;
                while is(Manner::Floods) {
                    to_client.write_all(&buffer).await.ok()?;
                }
                return None;
            } else if is(Manner::Promises) {
                to_client.write_all(b"*2000000000\r\n:1\r\n").await.ok()?;
            } else {
                to_client.write_all(&buffer[..read]).await.ok()?;
            }
        }
    };
    tokio::select! {
        () = there => None,
        ended = back => ended,
    }
}
