//! Listening sockets that came with the process: socket activation as systemd does it (`sd_listen_fds(3)`). They outlive
//! it, so that a restart loses no connection: whoever comes meanwhile waits in the socket's own queue.

use std::io::{self, ErrorKind};

use listenfd::ListenFd;

use super::Bound;

/// A socket and the name that came with it, which may be empty.
#[derive(Debug)]
pub struct Inherited {
    pub name: String,
    pub bound: Bound,
}

impl Inherited {
    /// Takes every socket that `LISTEN_FDS` announces to this process; `names` is `LISTEN_FDNAMES`. To be called once, while
    /// the process has one thread: it reads the environment and takes `LISTEN_FDS` out of it.
    ///
    /// # Errors
    /// When one of them is neither a TCP nor a Unix stream socket.
    pub fn take_all(names: Option<&str>) -> io::Result<Vec<Inherited>> {
        let mut sockets = ListenFd::from_env();
        let mut names = names.unwrap_or_default().split(':');
        let mut next = |at| {
            let name = names.next().unwrap_or_default().to_owned();
            let bound = take(&mut sockets, at)?;
            Ok(bound.map(|bound| Inherited { name, bound }))
        };
        (0..).map_while(|at| next(at).transpose()).collect()
    }
}

fn take(sockets: &mut ListenFd, at: usize) -> io::Result<Option<Bound>> {
    if at >= sockets.len() {
        return Ok(None);
    }
    // A socket of another family is refused and stays where it is.
    if let Ok(Some(listener)) = sockets.take_unix_listener(at) {
        listener.set_nonblocking(true)?;
        return Ok(Some(Bound::Unix(listener, None)));
    }
    let listener = sockets.take_tcp_listener(at).map_err(|error| {
        let what = format!("socket {at} of LISTEN_FDS is neither a TCP nor a Unix stream socket: {error}");
        io::Error::new(ErrorKind::InvalidInput, what)
    })?;
    match listener {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            Ok(Some(Bound::Tcp(listener)))
        }
        None => Ok(None),
    }
}
