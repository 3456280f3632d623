//! A real server of the Redis family on a free port; killed when it is dropped. The tests of whole kielinks
//! (`tests/it/fleet`) have this file, too.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server's file of settings.
const SETTINGS: &str = "settings.conf";

/// What a server says when it takes connections, and what a sentinel says.
const READY: [&str; 2] = ["Ready to accept connections", "Sentinel ID is"];

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// `None`, with a message, where it is not installed. `arguments` are those of a configuration file.
    pub(crate) fn start(arguments: &[&str]) -> Option<Server> {
        Server::with("", arguments, &[])
    }

    /// With these variables in its environment.
    #[allow(dead_code, reason = "the library's own tests have no use for it")]
    pub(crate) fn start_in(environment: &[(&str, &str)]) -> Option<Server> {
        Server::with("", &[], environment)
    }

    /// A sentinel with these lines of settings. It writes into them what it learns.
    pub(crate) fn sentinel(settings: &[&str]) -> Option<Server> {
        Server::with(&settings.join("\n"), &["--sentinel"], &[])
    }

    fn with(settings: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Option<Server> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let environment: Vec<_> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        // Another test may take the port first.
        for _ in 0..10 {
            let (port, folder) = (free_port(), TempDir::new().unwrap());
            std::fs::write(folder.path().join(SETTINGS), settings).unwrap();
            let Ok(child) = spawn(port, &folder, &arguments, &environment) else {
                eprintln!("skipped: there is no redis-server");
                return None;
            };
            let mut server =
                Server { child, port, folder, arguments: arguments.clone(), environment: environment.clone() };
            if server.is_ready() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    /// Waits until it says so; false where it ends instead.
    fn is_ready(&mut self) -> bool {
        let mut said = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let is_ready = said.any(|line| line.is_ok_and(|line| READY.iter().any(|ready| line.contains(ready))));
        // What it says after that nobody reads; but it must not wait for a reader.
        std::thread::spawn(move || said.for_each(drop));
        is_ready
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command there, with a connection of its own.
    pub(crate) fn run(&self, command: &[&str]) -> redis::Value {
        self.try_run(command).unwrap()
    }

    pub(crate) fn try_run(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, without its memory.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments, &self.environment).unwrap();
        assert!(self.is_ready(), "redis-server does not start again");
    }
}

fn spawn(
    port: u16,
    folder: &TempDir,
    arguments: &[String],
    environment: &[(String, String)],
) -> std::io::Result<Child> {
    Command::new("redis-server")
        .arg(folder.path().join(SETTINGS))
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
        // A replica would wait five seconds for others that may come.
        .args(["--repl-diskless-sync-delay", "0", "--dir"])
        .arg(folder.path())
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
