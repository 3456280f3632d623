//! What stands between a kielink and its tier, with manners that a test sets. The tests of whole kielinks
//! (`tests/it/fleet`) have this file, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Manner {
    Honest,
    /// What the tier answers is lost.
    Swallows,
    /// What the tier answers is no protocol.
    Garbles,
    /// A simple answer comes before each of the tier's.
    Doubles,
    /// Of two answers the second comes first.
    Swaps,
    /// An answer never ends.
    Floods,
    /// An array of two thousand million items begins.
    Promises,
    /// The connection is closed instead of an answer.
    Closes,
    /// The connection is reset instead of an answer.
    Resets,
}

/// A proxy in front of a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    ways: Arc<Ways>,
}

struct Ways {
    manner: AtomicU8,
    /// Milliseconds that each answer takes.
    delay: AtomicU64,
}

impl Ways {
    fn are(&self, manner: Manner) -> bool {
        self.manner.load(Ordering::Relaxed) == manner as u8
    }
}

impl Proxy {
    pub(crate) async fn before(behind: u16, tasks: &TaskTracker) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ways = Arc::new(Ways { manner: AtomicU8::new(Manner::Honest as u8), delay: AtomicU64::new(0) });
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), ways: Arc::clone(&ways) };
        let own = tasks.clone();
        tasks.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                own.spawn(carry(client, behind, Arc::clone(&ways)));
            }
        });
        proxy
    }

    pub(crate) fn set(&self, manner: Manner) {
        self.ways.manner.store(manner as u8, Ordering::Relaxed);
    }

    /// Each answer takes so long from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.ways.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

async fn carry(client: tokio::net::TcpStream, port: u16, ways: Arc<Ways>) -> Option<()> {
    let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let (coming, mut come) = tokio::sync::mpsc::unbounded_channel();
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(read) = from_server.read(&mut buffer).await.ok().filter(|read| *read > 0) {
            // Which begins now, so that answers overtake no other, and none is later for those before it.
            let delay = tokio::time::sleep(Duration::from_millis(ways.delay.load(Ordering::Relaxed)));
            let _ = coming.send((Box::pin(delay), buffer[..read].to_vec()));
        }
    };
    let back = async {
        let mut held = Vec::new();
        loop {
            let (delay, answer) = come.recv().await?;
            delay.await;
            if ways.are(Manner::Swallows) {
                continue;
            } else if ways.are(Manner::Closes) {
                return None;
            } else if ways.are(Manner::Resets) {
                socket2::SockRef::from(to_client.as_ref()).set_linger(Some(Duration::ZERO)).ok()?;
                return None;
            } else if ways.are(Manner::Garbles) {
                to_client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?;
            } else if ways.are(Manner::Doubles) {
                to_client.write_all(b"+OK\r\n").await.ok()?;
                to_client.write_all(&answer).await.ok()?;
            } else if ways.are(Manner::Swaps) && held.is_empty() {
                held.extend_from_slice(&answer);
            } else if ways.are(Manner::Floods) {
                to_client.write_all(b"$4000000000\r\n").await.ok()?;
                while ways.are(Manner::Floods) {
                    to_client.write_all(&[b'x'; 64 * 1024]).await.ok()?;
                }
                return None;
            } else if ways.are(Manner::Promises) {
                to_client.write_all(b"*2000000000\r\n:1\r\n").await.ok()?;
            } else {
                to_client.write_all(&answer).await.ok()?;
                to_client.write_all(&std::mem::take(&mut held)).await.ok()?;
            }
        }
    };
    tokio::select! {
        () = there => None,
        () = answers => None,
        ended = back => ended,
    }
}
