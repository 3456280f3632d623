//! Requests that no client library would send, byte by byte.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Reply, Sidecar};

/// For what should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sidecar {
    /// `host:port` for callers.
    pub(crate) fn address(&self) -> &str {
        self.base_url().strip_prefix("http://").unwrap()
    }

    /// Sends these bytes on a connection of their own and reads until kielink closes it: ask for that with
    /// `Connection: close`, or send something after which it must.
    pub(crate) async fn wire(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // It may refuse before it has read everything.
        let _ = stream.write_all(request.as_ref()).await;
        let mut answer = Vec::new();
        // Unread bytes make the close a reset; what came before it counts.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("kielink answers and closes");
        let reply = parse(&answer);
        self.saw(&reply);
        reply
    }
}

fn parse(answer: &[u8]) -> Reply {
    let answer = std::str::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        let name = reqwest::header::HeaderName::try_from(name).unwrap();
        (name, value.trim().try_into().unwrap())
    });
    Reply { status: status.parse().unwrap(), headers: headers.collect(), body: body.to_owned() }
}
