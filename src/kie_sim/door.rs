//! Accepts connections, and shuts and opens the port when it is told to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Host, World,
    connection::{Ending, on_line},
    wire::Line,
};
use crate::clock::Instant;

/// More than any trial opens; beyond that, connections wait to be accepted.
const CONNECTIONS: usize = 1024;

/// How long to wait before trying again what the system refused.
const RETRY: Duration = Duration::from_millis(100);

enum Door {
    Open(TcpListener),
    /// Bound but not listening, where that was possible: connections are refused, and no other process gets the port
    /// meanwhile.
    Shut(io::Result<TcpSocket>),
}

impl Door {
    async fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Open(listener) => Ok(listener.accept().await?.0),
            Self::Shut(_) => std::future::pending().await,
        }
    }
}

/// Serves until it is told to stop, and then ends all connections. Panics where a connection panicked.
pub async fn serve(listener: TcpListener, world: Arc<World>, host: Host, stop: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut door = Door::Open(listener);
    let mut connections = JoinSet::new();
    let mut wire = world.wire.subscribe();
    // The file host never does what only kie.ai is told to do.
    let is_on = |until: Option<Instant>| host == Host::Kie && until.is_some_and(|until| until > world.clock.now());
    loop {
        let refuses_until = wire.borrow_and_update().refuses_until;
        door = match door {
            Door::Open(listener) if is_on(refuses_until) => {
                // First the listener, whose backlog is reset with it: no connection is to slip in behind the resets.
                drop(listener);
                let door = Door::Shut(reserve(address));
                world.reset_connections();
                while let Some(ended) = connections.join_next().await {
                    check(ended);
                }
                world.wire.send_modify(|wire| wire.is_shut = true);
                door
            }
            Door::Shut(socket) if !is_on(refuses_until) => {
                match socket.or_else(|_| reserve(address)).and_then(|socket| socket.listen(CONNECTIONS as u32)) {
                    Ok(listener) => {
                        world.wire.send_modify(|wire| wire.is_shut = false);
                        Door::Open(listener)
                    }
                    Err(error) => Door::Shut(Err(error)),
                }
            }
            door @ (Door::Open(_) | Door::Shut(_)) => door,
        };
        let pause = match (&door, refuses_until.map(|until| world.clock.now().until(until))) {
            (Door::Open(_), _) => Duration::MAX,
            (Door::Shut(_), Some(left)) => left.max(RETRY),
            (Door::Shut(_), None) => RETRY,
        };
        tokio::select! {
            accepted = door.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    let line = world.line(host);
                    let hangs_up_until = world.wire.borrow().hangs_up_until;
                    if !is_on(hangs_up_until) {
                        connections.spawn(connection(stream, Arc::clone(&world), host, line));
                    }
                }
                // No descriptors are left, say.
                Err(_) => sleep(RETRY).await,
            },
            Some(ended) = connections.join_next() => check(ended),
            _ = wire.changed() => {}
            () = sleep(pause) => {}
            () = stop.cancelled() => {
                // A connection that panicked before it could be aborted still says so.
                connections.abort_all();
                while let Some(ended) = connections.join_next().await {
                    check(ended);
                }
                return Ok(());
            }
        }
    }
}

async fn connection(mut stream: TcpStream, world: Arc<World>, host: Host, line: Line) {
    // Some answers leave in two writes; Nagle's algorithm would hold the second back for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    match on_line(&world, host, line, &mut stream).await {
        // An error means that the peer closed first.
        Ending::Reset => drop(stream.set_zero_linger()),
        Ending::Closed => {}
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // The connections that just ended may still have the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn check(ended: Result<(), JoinError>) {
    if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
        resume_unwind(panic);
    }
}
