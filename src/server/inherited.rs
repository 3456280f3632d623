//! Listening sockets that came with the process: socket activation as systemd does it (`sd_listen_fds(3)`). The sockets
//! outlive the process, so that a restart loses no connection: new connections wait in the socket's own queue.

use std::io::{self, ErrorKind};

use listenfd::ListenFd;

use super::Bound;

/// A socket that was handed over.
#[derive(Debug)]
pub struct Inherited {
    /// The name that the socket was handed over with: a systemd socket unit gives its own name by default. May be
    /// empty.
    pub name: String,
    /// The socket accepts already.
    pub bound: Bound,
}

impl Inherited {
    /// Takes every socket that `LISTEN_FDS` announces to this process; `names` is `LISTEN_FDNAMES`. To be called once,
    /// while the process has one thread: it reads the environment and takes `LISTEN_FDS` out of it.
    ///
    /// # Errors
    /// When one of them is neither a TCP nor a Unix stream socket.
    pub fn take_all(names: Option<&str>) -> io::Result<Vec<Inherited>> {
        let mut sockets = ListenFd::from_env();
        let names = names.unwrap_or_default().split(':').chain(std::iter::repeat(""));
        let both = (0..sockets.len()).zip(names);
        both.map(|(at, name)| Ok(Inherited { name: name.to_owned(), bound: take(&mut sockets, at)? })).collect()
    }
}

fn take(sockets: &mut ListenFd, at: usize) -> io::Result<Bound> {
    let unusable = |what: &dyn std::fmt::Display| {
        io::Error::new(ErrorKind::InvalidInput, format!("socket {at} of LISTEN_FDS cannot be used: {what}"))
    };
    // A socket of another family is refused and stays where it is.
    if let Ok(Some(listener)) = sockets.take_unix_listener(at) {
        if listener.local_addr()?.as_pathname().is_none() {
            return Err(unusable(&"it is a Unix socket without a path"));
        }
        listener.set_nonblocking(true)?;
        return Ok(Bound::Unix(None, listener));
    }
    let listener = sockets.take_tcp_listener(at).map_err(|error| unusable(&error))?;
    let listener = listener.ok_or_else(|| unusable(&"it is taken"))?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Tcp(listener))
}
