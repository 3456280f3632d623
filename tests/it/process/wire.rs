//! One connection, by hand: what a client library would hide (closing, pipelining, half a request) can be seen.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::child::assert_has_no_secret;
use crate::support::Reply;

/// For whatever should come at once: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Wire {
    /// To `host:port` or `unix:/path`.
    pub(crate) async fn connect(address: &str) -> Wire {
        let stream: Box<dyn Stream> = match address.strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path).await.unwrap()),
            None => Box::new(TcpStream::connect(address).await.unwrap()),
        };
        Wire { stream, unread: Vec::new() }
    }

    /// A `GET` and its answer; the connection can be used again.
    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.ask(path).await;
        self.reply().await
    }

    /// The same where the peer may close without waiting to be asked.
    pub(crate) async fn get_unless_closed(&mut self, path: &str) -> Option<Reply> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        // What was said before the end can be read after it.
        let _ = self.stream.write_all(request.as_bytes()).await;
        while self.unread.is_empty() {
            if !self.read_more().await {
                return None;
            }
        }
        Some(self.reply().await)
    }

    /// A `GET`, not waited for.
    pub(crate) async fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer, interim ones (1xx) included.
    pub(crate) async fn reply(&mut self) -> Reply {
        let head = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break self.take(at + 4);
            }
            assert!(self.read_more().await, "closed before an answer: {:?}", self.unread);
        };
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            let name = name.parse::<HeaderName>().unwrap();
            headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let length = headers.get("content-length");
        let length = length.map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        while self.unread.len() < length {
            assert!(self.read_more().await, "closed inside of an answer");
        }
        let reply = Reply { status: status.parse().unwrap(), headers, body: self.take(length) };
        assert_has_no_secret(&format!("{reply:?}"));
        reply
    }

    /// Returns once the peer has closed; panics where it says anything before, or does not close within 10 s.
    pub(crate) async fn closed(&mut self) {
        while self.read_more().await {}
        assert!(self.unread.is_empty(), "said before closing: {:?}", String::from_utf8_lossy(&self.unread));
    }

    /// Returns once the peer has closed, whatever it said before.
    pub(crate) async fn closed_after_all(&mut self) {
        while self.read_more().await {}
        assert_has_no_secret(&String::from_utf8_lossy(&self.unread));
    }

    /// Everything that is said until the peer closes.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while self.read_more().await {}
        assert_has_no_secret(&String::from_utf8_lossy(&self.unread));
        self.unread
    }

    /// Sends what the peer may stop to read at any byte.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    fn take(&mut self, length: usize) -> String {
        let rest = self.unread.split_off(length);
        String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap()
    }

    /// Whether there was more.
    async fn read_more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        // A reset is an end, too.
        matches!(read.expect("the peer says something or closes"), Ok(1..))
    }
}
