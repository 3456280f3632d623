//! What kielink is compared with: hyper, and next to nothing around it. Each runs in a process of its own.

use std::convert::Infallible;

use ::hyper::{Request, Response, body::Incoming, header::HeaderValue, server::conn::http1, service::service_fn};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::task::TaskTracker;

/// About as long as kielink's answers.
const BODY: &[u8] = &[b'x'; 500];

/// As many as kielink sets itself, of the same lengths.
const SIX: [(&str, &str); 6] = [
    ("cache-control", "private, max-age=1138"),
    ("cache-status", "kielink; hit; ttl=1138"),
    ("content-type", "application/json"),
    ("x-request-id", "1a876f8b506ae584d28cccaef7e2f57a"),
    ("x-content-type-options", "nosniff"),
    ("keep-alive", "timeout=74"),
];

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Manner {
    /// Answers at once.
    Bare,
    /// Reads the request's body first; the answer has six more headers.
    SixHeaders,
    /// Answers nobody until somebody asks for `/open`, but for `/healthz`.
    Gate,
}

impl Manner {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Manner::Bare => "bare",
            Manner::SixHeaders => "six-headers",
            Manner::Gate => "gate",
        }
    }
}

/// Serves until the process is ended; prints its address.
pub(crate) fn serve(manner: Manner) {
    // As kielink has it; TOKIO_WORKER_THREADS says how many.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let gate = watch::Sender::new(manner != Manner::Gate);
        let connections = TaskTracker::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let gate = gate.clone();
            connections.spawn(async move {
                let io = TokioIo::new(stream);
                // An error is a client that has gone.
                let _ = match manner {
                    Manner::Bare => http1::Builder::new().serve_connection(io, service_fn(bare)).await,
                    Manner::SixHeaders => http1::Builder::new().serve_connection(io, service_fn(six_headers)).await,
                    Manner::Gate => {
                        let held = service_fn(|request| held(request, &gate));
                        http1::Builder::new().serve_connection(io, held).await
                    }
                };
            });
        }
    });
}

async fn bare(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(BODY))))
}

async fn six_headers(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // An error is a client that has gone.
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(BODY)));
    for (name, value) in SIX {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn held(request: Request<Incoming>, gate: &watch::Sender<bool>) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        "/healthz" => {}
        path => {
            if path == "/open" {
                gate.send_replace(true);
            }
            // An error would mean that the sender is gone.
            let _ = gate.subscribe().wait_for(|open| *open).await;
        }
    }
    bare(request).await
}
