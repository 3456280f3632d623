//! One connection: requests are read and answered one after the other, on the raw stream, so that an answer may
//! break HTTP/1.1 and TCP's good manners wherever it likes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{Answer, Manner};
use super::record::{Arrival, Flight, Record, Recorded};
use super::render::{Rendered, render};

/// kielink sends some hundred bytes; whatever is larger than this is a bug to report, not to read.
const MAX_REQUEST_BYTES: usize = 1 << 20;

const DRIP_INTERVAL: Duration = Duration::from_secs(1);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Closed,
    Reset,
}

/// Serves until the peer or an answer ends the connection.
pub(super) async fn converse(stream: &mut TcpStream, record: &Arc<Record>) -> Ending {
    let mut unread = Vec::new();
    while let Some(request) = read_request(stream, &mut unread, record).await {
        settle().await;
        let Arrival { flight, gate } = record.arrive(&request);
        let chosen = async {
            if let Some(gate) = gate {
                // An error means that the fake is being dropped, and this task with it.
                let _ = gate.await;
            }
            let answer = record.choose(&request);
            tokio::time::sleep(answer.latency).await;
            answer
        };
        let answer = tokio::select! {
            answer = chosen => answer,
            () = gone(stream) => return Ending::Closed,
        };
        let rendered = render(&answer, &request, record.seed());
        if let Some(link) = &rendered.link {
            record.lock().links.push(link.clone());
        }
        match deliver(stream, &answer, &rendered, flight).await {
            Ok(None) => {}
            Ok(Some(ending)) => return ending,
            // The peer no longer listens, which is its right.
            Err(_) => return Ending::Closed,
        }
    }
    Ending::Closed
}

/// Sends the answer as it wants to be sent; `None` keeps the connection.
///
/// The flight ends before the last byte leaves: the peer may act on that byte before this task runs again, and its
/// next request must not look like a second one at the same time.
async fn deliver(
    stream: &mut TcpStream,
    answer: &Answer,
    rendered: &Rendered,
    flight: Option<Flight>,
) -> io::Result<Option<Ending>> {
    let Rendered { head, body, link: _ } = rendered;
    match answer.manner {
        Manner::Whole | Manner::WholeThenClose => {
            let whole = [head.as_slice(), body].concat();
            let (last, first) = whole.split_last().expect("there is a head");
            stream.write_all(first).await?;
            drop(flight);
            stream.write_all(&[*last]).await?;
            Ok((answer.manner == Manner::WholeThenClose).then_some(Ending::Closed))
        }
        Manner::Raw | Manner::RawThenKeep => {
            // Whoever reads garbage may stop at any byte of it.
            drop(flight);
            stream.write_all(body).await?;
            Ok((answer.manner == Manner::Raw).then_some(Ending::Closed))
        }
        Manner::Drip => {
            stream.write_all(head).await?;
            for byte in body {
                tokio::select! {
                    () = tokio::time::sleep(DRIP_INTERVAL) => stream.write_all(&[*byte]).await?,
                    () = gone(stream) => return Ok(Some(Ending::Closed)),
                }
            }
            Ok(None)
        }
        Manner::Endless => {
            stream.write_all(head).await?;
            let chunk = format!("4000\r\n{:16384}\r\n", "");
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Manner::Hang => {
            gone(stream).await;
            Ok(Some(Ending::Closed))
        }
        Manner::Reset => Ok(Some(Ending::Reset)),
        Manner::Close => Ok(Some(Ending::Closed)),
    }
}

/// Lets other connections notice that their peers are gone before a new request is counted: a client that hangs up
/// and then asks again is not asking twice at once. The first yield polls the sockets, the second runs their tasks.
async fn settle() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

/// Completes when the peer has closed its end.
async fn gone(stream: &TcpStream) {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        // An early next request; it is read when this one is answered.
        Ok(_) => std::future::pending().await,
    }
}

/// `None` at the end of the connection, even in the middle of a request.
async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>, record: &Record) -> Option<Recorded> {
    let head_bytes = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        read_some(stream, unread).await?;
    };
    let head = String::from_utf8_lossy(&unread[..head_bytes]).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let request_line: Vec<_> = lines.next()?.split(' ').collect();
    let [method, path, "HTTP/1.1"] = request_line[..] else {
        panic!("not a request line: {request_line:?}");
    };
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        (name.to_owned(), value.trim().to_owned())
    });
    let mut request = Recorded {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
        source: None,
        at: Duration::ZERO,
    };
    let known_length = request.header("transfer-encoding").is_none();
    assert!(known_length, "the fake reads only bodies of a known length");
    let body_bytes = request.header("content-length").map_or(0, |length| length.parse().expect("a length in bytes"));
    while unread.len() < head_bytes + body_bytes {
        read_some(stream, unread).await?;
    }
    request.body = unread[head_bytes..head_bytes + body_bytes].to_vec();
    unread.drain(..head_bytes + body_bytes);
    let json: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    request.source = json["url"].as_str().map(str::to_owned);
    request.at = record.started.elapsed();
    Some(request)
}

async fn read_some(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    assert!(unread.len() < MAX_REQUEST_BYTES, "a request of more than {MAX_REQUEST_BYTES} bytes");
    match stream.read_buf(unread).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}
