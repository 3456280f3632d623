//! `healthcheck` and `wait`: one HTTP request to the admin interface of the running kielink.

use std::{io, time::Duration};

use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::server::Address;

/// What a probe found.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("cannot connect to the admin interface at {address}", address = .0.shown())]
    Connect(Address, #[source] io::Error),
    #[error("the admin interface at {address} does not speak HTTP", address = .0.shown())]
    Protocol(Address, #[source] hyper::Error),
    #[error("{address} says HTTP {1}: {2}", address = .0.shown())]
    Says(Address, u16, String),
    #[error("{address} did not answer within {timeout}", address = .0.shown(), timeout = humantime::format_duration(*.1))]
    TimedOut(Address, Duration),
}

/// More than the answer of any probe takes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Asks `/readyz` at `address` once.
///
/// # Errors
/// Whenever the answer is not 200, for whatever reason.
pub async fn ready(address: &Address, timeout: Duration) -> Result<(), NotReady> {
    let address = address.local();
    let asked = async {
        let connect = |error| NotReady::Connect(address.clone(), error);
        match &address {
            Address::Tcp { host, port } => {
                ask(TcpStream::connect((host.as_str(), *port)).await.map_err(connect)?, &address).await
            }
            Address::Unix(path) => ask(UnixStream::connect(path).await.map_err(connect)?, &address).await,
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(result) => result,
        Err(_elapsed) => Err(NotReady::TimedOut(address.clone(), timeout)),
    }
}

async fn ask<S>(stream: S, address: &Address) -> Result<(), NotReady>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let protocol = |error| NotReady::Protocol(address.clone(), error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let request = Request::get("/readyz?verbose")
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .expect("a fixed request is valid");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().replace('\n', ", "));
        Err(NotReady::Says(address.clone(), status.as_u16(), text.unwrap_or_default()))
    };
    tokio::pin!(exchange);
    // The connection is driven here, not in a task: nothing outlives the probe.
    tokio::select! {
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(protocol(error)),
        },
    }
}

/// Asks every `pause` until kielink is ready or `max` has passed; the last failure tells why not.
///
/// # Errors
/// The last failure, once `max` has passed.
pub async fn wait(address: &Address, max: Duration) -> Result<(), NotReady> {
    const PAUSE: Duration = Duration::from_millis(100);
    let attempt = Duration::from_secs(1).min(max.max(PAUSE));
    let mut last = NotReady::TimedOut(address.clone(), max);
    let until_ready = async {
        loop {
            match ready(address, attempt).await {
                Ok(()) => return,
                Err(why) => last = why,
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(max, until_ready).await {
        Ok(()) => Ok(()),
        Err(_elapsed) => Err(last),
    }
}
