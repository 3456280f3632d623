//! The fake's own thread: accepts connections, and shuts and opens the port when it is told to.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::connection::{Ending, converse};
use super::record::Record;

/// Each is answered when it is done. The end of the orders is the end of the server.
pub(super) enum Order {
    StopListening(Sender<()>),
    ListenAgain(Sender<()>),
}

enum Door {
    Open(TcpListener),
    /// Bound but not listening: connections are refused, and no other process is given the port meanwhile.
    Shut(TcpSocket),
}

impl Door {
    async fn accept(&self) -> TcpStream {
        match self {
            Self::Open(listener) => listener.accept().await.expect("the listener accepts").0,
            Self::Shut(_) => std::future::pending().await,
        }
    }
}

/// Panics where a connection panicked.
pub(super) async fn serve(listener: TcpListener, mut orders: mpsc::UnboundedReceiver<Order>, record: Arc<Record>) {
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut door = Door::Open(listener);
    let mut connections = JoinSet::new();
    let resets = watch::Sender::new(());
    loop {
        tokio::select! {
            stream = door.accept() => {
                record.lock().connections += 1;
                connections.spawn(connection(stream, Arc::clone(&record), resets.subscribe()));
            }
            Some(ended) = connections.join_next() => check(ended),
            order = orders.recv() => match order {
                Some(Order::StopListening(done)) => {
                    // First the listener, whose backlog is reset with it: nobody is to slip in behind the resets.
                    drop(door);
                    door = Door::Shut(reserve(address));
                    resets.send_replace(());
                    while let Some(ended) = connections.join_next().await {
                        check(ended);
                    }
                    // Whoever gave the order may have gone.
                    let _ = done.send(());
                }
                Some(Order::ListenAgain(done)) => {
                    door = match door {
                        Door::Shut(socket) => Door::Open(socket.listen(1024).expect("the port was kept")),
                        open @ Door::Open(_) => open,
                    };
                    let _ = done.send(());
                }
                None => {
                    // One that panicked before it could be aborted still says so.
                    connections.abort_all();
                    while let Some(ended) = connections.join_next().await {
                        check(ended);
                    }
                    return;
                }
            },
        }
    }
}

async fn connection(mut stream: TcpStream, record: Arc<Record>, mut resets: watch::Receiver<()>) {
    // Some answers leave in two writes; Nagle's algorithm would hold the second back for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    let ending = tokio::select! {
        ending = converse(&mut stream, &record) => ending,
        _ = resets.changed() => Ending::Reset,
    };
    match ending {
        // An error means that the peer was faster.
        Ending::Reset => drop(stream.set_zero_linger()),
        Ending::Closed => {}
    }
}

fn reserve(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("there are sockets left");
    // The connections that just ended may still have the port.
    socket.set_reuseaddr(true).expect("SO_REUSEADDR can be set");
    socket.bind(address).expect("the port is still free");
    socket
}

fn check(ended: Result<(), tokio::task::JoinError>) {
    if let Err(Ok(panic)) = ended.map_err(tokio::task::JoinError::try_into_panic) {
        resume_unwind(panic);
    }
}
