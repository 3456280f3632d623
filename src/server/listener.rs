//! TCP and Unix sockets behind one `accept`.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::address::Address;
use super::goodbye::HasUnread;

/// Connections that may wait to be accepted; the system has a limit of its own (net.core.somaxconn). Beyond it a peer's
/// handshake is dropped, and it tries again a second later.
const BACKLOG: i32 = 4096;

/// A Unix socket is its owner's and its group's.
const SOCKET_MODE: u32 = 0o660;

/// A bound listener that belongs to no runtime yet.
#[derive(Debug)]
pub enum Bound {
    Tcp(StdTcpListener),
    /// `None` where somebody else made the socket's file, and will remove it. The file is dropped before the socket: as
    /// long as the socket is there, no successor's file has its inode.
    Unix(Option<SocketFile>, StdUnixListener),
}

/// A listener on the runtime that it was registered with.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(Option<SocketFile>, UnixListener),
}

/// Removes the socket's file in the end, unless a successor's has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), device_and_inode: device_and_inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if device_and_inode(&self.path).is_ok_and(|found| found == self.device_and_inode) {
            // Worth no more than a try.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn device_and_inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Bound {
    /// # Errors
    /// With a message that names the address, and what helps. `flag` is what gives another address.
    pub fn bind(address: &Address, flag: &str) -> io::Result<Bound> {
        let named = |error: io::Error| {
            let help = help(address, error.kind(), flag).map(|help| format!(". {help}")).unwrap_or_default();
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}{help}", address.shown()))
        };
        match address {
            Address::Tcp { host, port } => bind_tcp(host, *port).map_err(named),
            Address::Unix(path) => bind_unix(path).map_err(named),
        }
    }

    /// As a client reaches it; with the port that the system chose.
    pub fn address(&self) -> Address {
        match self {
            Bound::Tcp(listener) => {
                let address = listener.local_addr().expect("a bound listener has an address");
                Address::Tcp { host: address.ip().to_string(), port: address.port() }
            }
            Bound::Unix(_, listener) => {
                let address = listener.local_addr().expect("a bound listener has an address");
                // A Unix socket without a path is not taken.
                Address::Unix(address.as_pathname().expect("a Unix socket has a path").to_owned())
            }
        }
    }

    /// Must be called on the runtime that will accept.
    pub(crate) fn register(self) -> io::Result<Listener> {
        Ok(match self {
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(file, listener) => Listener::Unix(file, UnixListener::from_std(listener)?),
        })
    }
}

/// Ports that are root's (`net.ipv4.ip_unprivileged_port_start`).
const FIRST_PORT_FOR_ALL: u16 = 1024;

/// What helps where nobody can listen on `address`, if that is known. Pure, but for a look whether a folder is there.
fn help(address: &Address, what: ErrorKind, flag: &str) -> Option<String> {
    let (host, port) = match address {
        // A path that is not shown is not repeated here, either.
        Address::Unix(path) => {
            let folder = path.parent().filter(|_| what == ErrorKind::NotFound)?;
            let is_shown = address.shown() == address.to_string();
            return is_shown.then(|| format!("Make its folder: mkdir -p {}", folder.display()));
        }
        Address::Tcp { host, port } => (host, *port),
    };
    let is_number = host.parse::<IpAddr>().is_ok();
    let at = |host: &str, port: u16| Address::Tcp { host: host.to_owned(), port };
    // A name may be anything, also a secret in the wrong place.
    let same_host = if is_number { host } else { "localhost" };
    Some(match what {
        ErrorKind::AddrInUse => {
            let other = at(same_host, port.checked_add(1).unwrap_or(8080));
            format!("Another program has it: end that one, or listen elsewhere: {flag} {other}")
        }
        ErrorKind::PermissionDenied if port < FIRST_PORT_FOR_ALL => {
            let other = at(same_host, 8080);
            format!("Ports below {FIRST_PORT_FOR_ALL} are root's: take another one: {flag} {other}")
        }
        ErrorKind::AddrNotAvailable => {
            format!("This machine has no such address: take one of its own: {flag} {}", at("127.0.0.1", port))
        }
        // What the resolver says has no kind of its own.
        _ if !is_number => {
            format!("Nobody knows that name: take an address: {flag} {}", at("127.0.0.1", port))
        }
        _ => return None,
    })
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Bound> {
    let mut refused = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match listen(address) {
            Ok(listener) => return Ok(Bound::Tcp(listener)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn listen(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
        }
        match StdUnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(ErrorKind::AddrInUse, "another process is listening there"));
            }
            // Left behind by a process that was killed.
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // SECURITY: the file's permissions are all that guards the socket. On Linux the file gets the socket's permissions
    // when it is made, so that it is never open to others; what the umask took away is put back afterwards.
    fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Bound::Unix(Some(file), socket.into()))
}

impl Listener {
    /// Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _peer) = listener.accept().await?;
                // An answer is one small write; it must not wait for more.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            Listener::Unix(_, listener) => listener.accept().await.map(|(stream, _peer)| Either::Right(stream)),
        }
    }
}

/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// `None` over a Unix socket, whose peers are all of this machine.
    pub(crate) address: Option<IpAddr>,
    /// Tells connections apart, and nothing else.
    pub(crate) connection: u64,
    /// The `Host` that one of its requests had and that was found good: a client hardly ever has another.
    pub(crate) good_host: Arc<OnceLock<Box<str>>>,
}

impl Peer {
    pub(super) fn of(stream: &Stream) -> Peer {
        let address = match stream {
            // A peer that has gone already has no address any more, and will not ask.
            Either::Left(stream) => Some(stream.peer_addr().map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| peer.ip())),
            Either::Right(_) => None,
        };
        Peer { address, connection: fastrand::u64(..), good_host: Arc::default() }
    }
}

/// One connection.
pub(super) type Stream = Either<TcpStream, UnixStream>;

impl HasUnread for Stream {
    fn has_unread(&self) -> bool {
        let socket = match self {
            Either::Left(stream) => SockRef::from(stream),
            Either::Right(stream) => SockRef::from(stream),
        };
        // `peek` does not wait: the sockets are non-blocking.
        matches!(socket.peek(&mut [MaybeUninit::uninit()]), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Address {
        Address::Unix(path.to_owned())
    }

    #[test]
    fn who_cannot_listen_is_told_what_helps() {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("unix:{}/run/kielink.sock", folder.path().display());
        let make = format!("Make its folder: mkdir -p {}/run", folder.path().display());
        for (address, what, expected) in [
            (
                "127.0.0.1:8080",
                ErrorKind::AddrInUse,
                Some("Another program has it: end that one, or listen elsewhere: --listen 127.0.0.1:8081"),
            ),
            (
                "[::1]:65535",
                ErrorKind::AddrInUse,
                Some("Another program has it: end that one, or listen elsewhere: --listen [::1]:8080"),
            ),
            (
                "0.0.0.0:80",
                ErrorKind::PermissionDenied,
                Some("Ports below 1024 are root's: take another one: --listen 0.0.0.0:8080"),
            ),
            ("0.0.0.0:8080", ErrorKind::PermissionDenied, None),
            (
                "10.9.8.7:8080",
                ErrorKind::AddrNotAvailable,
                Some("This machine has no such address: take one of its own: --listen 127.0.0.1:8080"),
            ),
            (
                "kielink.invalid:8080",
                ErrorKind::Other,
                Some("Nobody knows that name: take an address: --listen 127.0.0.1:8080"),
            ),
            (&socket, ErrorKind::NotFound, Some(make.as_str())),
            (&socket, ErrorKind::PermissionDenied, None),
            ("unix:/missing/kielink.sock", ErrorKind::NotFound, None),
        ] {
            let address: Address = address.parse().unwrap();
            assert_eq!(help(&address, what, "--listen").as_deref(), expected, "{address} {what:?}");
        }
        let name: Address = "0123456789abcdef0123456789abcdef:80".parse().unwrap();
        for what in [ErrorKind::AddrInUse, ErrorKind::PermissionDenied, ErrorKind::Other] {
            assert!(!help(&name, what, "--listen").unwrap().contains("0123456789"));
        }
    }

    #[tokio::test]
    async fn what_has_arrived_is_seen_before_the_runtime_tells_of_it() {
        use tokio::io::AsyncReadExt as _;
        let (mine, theirs) = StdUnixStream::pair().unwrap();
        mine.set_nonblocking(true).unwrap();
        let mut stream = Either::Right(UnixStream::from_std(mine).unwrap());
        assert!(!stream.has_unread());
        std::io::Write::write_all(&mut &theirs, b"GET").unwrap();
        assert!(stream.has_unread());
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 3);
        assert!(!stream.has_unread());
        drop(theirs);
        assert!(!stream.has_unread(), "the end is nothing to be read");
    }

    #[test]
    fn a_successor_s_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kielink.sock");
        let first = Bound::bind(&unix(&path), "--listen").unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Bound::bind(&unix(&path), "--listen").unwrap();
        drop(first);
        assert!(path.exists(), "the successor's is still there");
        drop(second);
        assert!(!path.exists(), "and goes with it");
    }

    #[test]
    fn a_socket_is_its_owner_s_and_its_group_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kielink.sock");
        let _bound = Bound::bind(&unix(&path), "--listen").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
    }
}
