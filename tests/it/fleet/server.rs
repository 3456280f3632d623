//! A real redis-server on a free port; killed when it is dropped.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(super) struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// `None`, with a message, where it is not installed.
    pub(super) fn start() -> Option<Server> {
        // Another test may take the port first.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = TempDir::new().unwrap();
            let Ok(child) = spawn(port, &folder) else {
                eprintln!("skipped: there is no redis-server");
                return None;
            };
            let mut server = Server { child, port, folder };
            if server.is_ready() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn is_ready(&mut self) -> bool {
        while self.child.try_wait().unwrap().is_none() {
            let mut answer = [0; 1];
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port))
                && stream.write_all(b"PING\r\n").is_ok()
                && stream.read_exact(&mut answer).is_ok()
            {
                return self.child.try_wait().unwrap().is_none();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    pub(super) fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub(super) fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, without its memory.
    pub(super) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder).unwrap();
        assert!(self.is_ready(), "redis-server does not start again");
    }

    /// Runs a command, and gives its answer: nil is none, an array its items one after the other.
    pub(super) fn run(&self, command: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut asked = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            asked.extend(format!("${}\r\n", part.len()).into_bytes());
            asked.extend_from_slice(part);
            asked.extend(b"\r\n");
        }
        stream.write_all(&asked).unwrap();
        let mut items = Vec::new();
        read(&mut BufReader::new(stream), &mut items);
        items
    }

    /// The names that match a pattern.
    pub(super) fn names(&self, pattern: &str) -> Vec<Vec<u8>> {
        self.run(&[b"KEYS", pattern.as_bytes()]).into_iter().flatten().collect()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.run(&[b"GET", name]).into_iter().flatten().next()
    }

    pub(super) fn set(&self, name: &[u8], value: &[u8]) {
        self.run(&[b"SET", name, value, b"PX", b"600000"]);
    }
}

fn read(from: &mut impl BufRead, items: &mut Vec<Option<Vec<u8>>>) {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    match kind {
        "+" | ":" => items.push(Some(rest.as_bytes().to_vec())),
        "$" if rest == "-1" => items.push(None),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
            from.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            items.push(Some(bytes));
        }
        "*" => (0..rest.parse::<i64>().unwrap()).for_each(|_| read(from, items)),
        _ => panic!("redis-server answers {line}"),
    }
}

fn spawn(port: u16, folder: &TempDir) -> std::io::Result<Child> {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
        .arg(folder.path())
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
