//! One connection: requests are read and answered one after the other, on the raw stream, so that an answer may
//! break HTTP/1.1 and TCP's good manners wherever it likes.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

pub use super::wire::Ending;
use super::{
    Host, World,
    answer::{Answer, Manner},
    control, files, kie,
    record::{Arrival, Flight},
    render::{Rendered, render},
    request::{LONGEST_REQUEST, Request, Unreadable},
    wire::Line,
};

const DRIP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a whole request may take to come, with the wait since the last one, and a peer to take what is written to
/// it.
const PATIENCE: Duration = Duration::from_secs(75);

/// Serves any stream until the peer or an answer ends the connection. Dropped, it ends without a word.
pub async fn converse<S>(world: &Arc<World>, host: Host, stream: &mut S) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    on_line(world, host, world.line(host), stream).await
}

pub(super) async fn on_line<S>(world: &Arc<World>, host: Host, line: Line, stream: &mut S) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let severed = line.severed();
    let mut peer = Peer { stream, unread: Vec::new(), line };
    let ending = tokio::select! {
        ending = talk(world, host, &mut peer) => ending,
        ending = severed => ending,
    };
    if ending == Ending::Closed {
        // TLS says a word at the end; a peer that does not take it does not get it.
        let _ = timeout(DRIP_INTERVAL, stream.shutdown()).await;
    }
    ending
}

async fn talk<S>(world: &Arc<World>, host: Host, peer: &mut Peer<'_, S>) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut is_kept = false;
    loop {
        let mut request = match timeout(PATIENCE, peer.request()).await {
            Ok(Ok(Some(request))) => request,
            Ok(Err(Unreadable(status))) => {
                world.state().record.unreadable += 1;
                let answer = Answer::plain(status, "text/plain; charset=utf-8", "This is no request.\n");
                let _ = peer.deliver(world, &answer, &Request::default(), None).await;
                return Ending::Closed;
            }
            Ok(Ok(None)) | Err(_) => return Ending::Closed,
        };
        let is_control = host == Host::Kie && request.path() == control::PATH;
        peer.line.is_exempt = host == Host::Files || is_control;
        let considered = match host {
            Host::Files => Some((files::answer(world, &request), None)),
            Host::Kie if is_control => Some((control::answer(world, &request), None)),
            Host::Kie => consider(world, &mut request, is_kept, peer).await,
        };
        let Some((answer, flight)) = considered else { return Ending::Closed };
        match peer.deliver(world, &answer, &request, flight).await {
            Ok(None) if request.keeps => is_kept = true,
            Ok(ending) => return ending.unwrap_or(Ending::Closed),
            // The peer no longer listens, which is its right.
            Err(_) => return Ending::Closed,
        }
    }
}

/// kie.ai's answer, when its time has come; `None` where the peer is gone before.
async fn consider<S>(
    world: &Arc<World>,
    request: &mut Request,
    is_kept: bool,
    peer: &mut Peer<'_, S>,
) -> Option<(Answer, Option<Flight>)>
where
    S: AsyncRead + Unpin + Send,
{
    settle().await;
    let Arrival { flight, gate, latency } = world.arrive(request);
    let chosen = async {
        if let Some(gate) = gate {
            // An error means that the simulation is being dropped, and this task with it.
            let _ = gate.await;
        }
        pause(latency).await;
        let answer = kie::choose(world, request, is_kept);
        pause(answer.latency).await;
        answer
    };
    tokio::select! {
        answer = chosen => Some((answer, flight)),
        () = gone(peer.stream, &mut peer.unread) => None,
    }
}

async fn pause(length: Duration) {
    if !length.is_zero() {
        sleep(length).await;
    }
}

/// Lets other connections notice that their peers are gone before a new request is counted: a client that hangs up
/// and then asks again is not asking twice at once. The first yield polls the sockets, the second runs their tasks.
async fn settle() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

/// Completes when the peer has closed its end. An early next request is kept, to be read when this one is answered.
async fn gone(stream: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) {
    while unread.len() < LONGEST_REQUEST {
        if !matches!(stream.read_buf(unread).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}

struct Peer<'a, S> {
    stream: &'a mut S,
    unread: Vec<u8>,
    line: Line,
}

impl<S> Peer<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// `None` at the end of the connection, even in the middle of a request.
    async fn request(&mut self) -> Result<Option<Request>, Unreadable> {
        loop {
            if let Some((request, used)) = Request::parse(&self.unread)? {
                self.unread.drain(..used);
                return Ok(Some(request));
            }
            if self.unread.len() >= LONGEST_REQUEST {
                return Err(Unreadable(413));
            }
            if !matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Waits until something may be said on this connection, or fails because nobody is there to hear it.
    async fn may_speak(&mut self) -> io::Result<()> {
        tokio::select! {
            biased;
            () = self.line.may_speak() => Ok(()),
            () = gone(self.stream, &mut self.unread) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.may_speak().await?;
        timeout(PATIENCE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await?
    }

    /// Sends the answer as it wants to be sent; `None` keeps the connection.
    ///
    /// The flight ends before the last byte leaves: the peer may act on that byte before this task runs again, and its
    /// next request must not look like a second one at the same time.
    async fn deliver(
        &mut self,
        world: &World,
        answer: &Answer,
        request: &Request,
        flight: Option<Flight>,
    ) -> io::Result<Option<Ending>> {
        // An answer that had to wait is dated when it leaves.
        self.may_speak().await?;
        let Rendered { head, body, link } = render(answer, request, world);
        if let Some(link) = link {
            world.links().gave(link);
        }
        match answer.manner {
            Manner::Whole | Manner::WholeThenClose => {
                let whole = [head.as_slice(), &body].concat();
                let (first, last) = whole.split_at(whole.len() - 1);
                self.write(first).await?;
                drop(flight);
                self.write(last).await?;
                Ok((answer.manner == Manner::WholeThenClose).then_some(Ending::Closed))
            }
            Manner::CutOff => {
                drop(flight);
                self.write(&[head.as_slice(), &body[..body.len() / 2]].concat()).await?;
                Ok(Some(Ending::Closed))
            }
            Manner::Raw | Manner::RawThenKeep => {
                // A peer that reads garbage may stop at any byte of it.
                drop(flight);
                self.write(&body).await?;
                Ok((answer.manner == Manner::Raw).then_some(Ending::Closed))
            }
            Manner::Drip => {
                self.write(&head).await?;
                for byte in &body {
                    tokio::select! {
                        () = sleep(DRIP_INTERVAL) => {}
                        () = gone(self.stream, &mut self.unread) => return Ok(Some(Ending::Closed)),
                    }
                    self.write(&[*byte]).await?;
                }
                Ok(None)
            }
            Manner::Endless => {
                self.write(&head).await?;
                let chunk = format!("4000\r\n{:16384}\r\n", "");
                loop {
                    self.write(chunk.as_bytes()).await?;
                }
            }
            Manner::Hang => {
                gone(self.stream, &mut self.unread).await;
                Ok(Some(Ending::Closed))
            }
            Manner::Reset => Ok(Some(Ending::Reset)),
            Manner::Close => Ok(Some(Ending::Closed)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::request::join_chunks, *};

    /// What came back, the body without its framing.
    pub(crate) struct Reply {
        pub(crate) status: u16,
        headers: String,
        pub(crate) body: Vec<u8>,
    }

    impl Reply {
        /// Empty where there is no such header.
        pub(crate) fn header(&self, name: &str) -> &str {
            let mut headers = self.headers.lines().filter_map(|line| line.split_once(": "));
            headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
        }

        pub(crate) fn text(&self) -> &str {
            std::str::from_utf8(&self.body).unwrap()
        }

        pub(crate) fn json(&self) -> serde_json::Value {
            serde_json::from_slice(&self.body).unwrap()
        }
    }

    /// One request on a connection of its own. `head` is more of its head.
    pub(crate) async fn ask(world: &Arc<World>, host: Host, method: &str, path: &str, head: &str, body: &str) -> Reply {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(converse(world, host, &mut server), client.read_to_end(&mut answer));
        read.unwrap();
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let headers = String::from_utf8(answer[..at].to_vec()).unwrap();
        let mut body = answer[at..].to_vec();
        if headers.contains("chunked") {
            (body, _) = join_chunks(&body).unwrap().unwrap();
        }
        Reply { status: headers[9..12].parse().unwrap(), headers, body }
    }
}
