//! A client that is a bare socket: the fake must be right on the wire, not in the eyes of one library.

use jiff::fmt::strtime;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{FakeKie, MINT_PATH};

pub(super) const AGENT: &str = "User-Agent: test\r\nAuthorization: Bearer canary\r\n";

/// One connection to the fake.
pub(super) struct Client(pub(super) TcpStream);

/// What came back: all of the head, and the body without its framing.
pub(super) struct Reply {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) async fn new(kie: &FakeKie) -> Self {
        Self(TcpStream::connect(("127.0.0.1", kie.port)).await.unwrap())
    }

    pub(super) async fn send(&mut self, request_line: &str, headers: &str, body: &str) {
        let length = body.len();
        let request = format!("{request_line} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    pub(super) async fn send_mint(&mut self, source: &str) {
        self.send(&format!("POST {MINT_PATH}"), AGENT, &json!({ "url": source }).to_string()).await;
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap()
    }

    pub(super) async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line().await;
        }
        head
    }

    pub(super) async fn reply(&mut self) -> Reply {
        let head = self.head().await;
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line().await.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.0.read_exact(&mut chunk).await.unwrap();
            if size == 0 {
                return Reply { head, body };
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    pub(super) async fn mint(&mut self, source: &str) -> Reply {
        self.send_mint(source).await;
        self.reply().await
    }

    /// What is left until the end of the connection, or why it broke.
    pub(super) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.map(|_| rest)
    }
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn link(&self) -> Link {
        Link(self.json()["data"].as_str().unwrap().to_owned())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn date(&self) -> i64 {
        let date = strtime::parse("%a, %d %b %Y %H:%M:%S GMT", self.header("date").unwrap()).unwrap();
        seconds(&date)
    }
}

fn seconds(time: &strtime::BrokenDownTime) -> i64 {
    let utc = jiff::tz::TimeZone::UTC.to_timestamp(time.to_datetime().unwrap());
    utc.unwrap().as_second()
}

/// A link, taken apart by hand.
pub(super) struct Link(pub(super) String);

impl Link {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.0.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    pub(super) fn file(&self) -> &str {
        self.0.split('?').next().unwrap()
    }

    /// Unix seconds.
    pub(super) fn end(&self) -> i64 {
        let signed = strtime::parse("%Y%m%dT%H%M%SZ", self.parameter("X-Amz-Date").unwrap()).unwrap();
        seconds(&signed) + self.parameter("X-Amz-Expires").unwrap().parse::<i64>().unwrap()
    }
}
