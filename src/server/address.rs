//! Where to listen: TCP or a Unix socket.

use std::{
    fmt,
    net::{IpAddr, ToSocketAddrs},
    path::PathBuf,
};

use crate::key::misplaced;

/// `host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// The address as a client on this machine reaches it: a wildcard listens on loopback, too.
    pub fn local(&self) -> Address {
        match self {
            Address::Tcp { host, port } => {
                let host = match host.parse::<IpAddr>() {
                    Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
                    Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1".to_owned(),
                    Ok(_) | Err(_) => host.clone(),
                };
                Address::Tcp { host, port: *port }
            }
            Address::Unix(path) => Address::Unix(path.clone()),
        }
    }
}

impl Address {
    /// Whether it stands for every address of this machine.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Address::Tcp { host, .. } if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
    }

    /// The address as error messages show it. SECURITY: a host that is no word may be a key in the wrong place.
    pub fn shown(&self) -> String {
        match self {
            Address::Tcp { host, .. } if host.parse::<IpAddr>().is_err() && misplaced::may_be_a_key(host) => {
                "an address that is not shown: its host may be a key".to_owned()
            }
            Address::Tcp { .. } => self.to_string(),
            Address::Unix(path) => format!("unix:{}", misplaced::shown_path(path)),
        }
    }

    /// The addresses by number, as bound sockets name themselves: none for a name that cannot be resolved. Blocks.
    pub fn resolved(&self) -> Vec<Address> {
        match self {
            Address::Tcp { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs().into_iter().flatten();
                found.map(|at| Address::Tcp { host: at.ip().to_string(), port: at.port() }).collect()
            }
            Address::Unix(_) => vec![self.clone()],
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `sockaddr_un` holds 108 bytes, one of them a NUL.
            return match path {
                _ if !path.starts_with('/') => Err("a Unix socket needs an absolute path (unix:/path.sock)".to_owned()),
                _ if path.len() > 107 => Err("a Unix socket's path has at most 107 bytes".to_owned()),
                _ => Ok(Address::Unix(PathBuf::from(path))),
            };
        }
        let expected = || "expected host:port, [IPv6]:port or unix:/path.sock, e.g. 127.0.0.1:8080".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().map_err(|_| expected())?;
        let host = match host.strip_prefix('[') {
            Some(literal) => literal.strip_suffix(']').ok_or_else(expected)?,
            None if host.contains(':') => return Err(expected()),
            None => host,
        };
        if host == "*" {
            return Err("all addresses are 0.0.0.0, e.g. 0.0.0.0:8080; or [::]:8080".to_owned());
        }
        if host.is_empty() || host.contains(['/', ' ', '[', ']']) || host.contains(char::is_control) {
            return Err(expected());
        }
        Ok(Address::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in ["127.0.0.1:8080", "[::1]:8080", "localhost:0", "unix:/run/kielink/kielink.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8080",
            ":8080",
            "::1:8080",
            "host:port",
            "host:70000",
            "unix:relative.sock",
            "http://h:1",
            "*:8080",
            "[::1:80",
            "[[h]]:1",
            "h\n:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        assert!(format!("unix:/{}", "a".repeat(107)).parse::<Address>().is_err());
    }

    #[test]
    fn a_host_that_may_be_a_key_is_not_shown() {
        for (text, shown) in [
            ("127.0.0.1:8080", true),
            ("[2001:db8:1234:5678:9abc:def0:1234:5678]:1", true),
            ("localhost:1", true),
            ("kielink-7d9f8b6c5d-x2x4z.internal:1", true),
            ("unix:/tmp", true),
            ("0123456789abcdef0123456789abcdef:1", false),
            ("unix:/0123456789abcdef/0123", false),
        ] {
            let address = text.parse::<Address>().unwrap();
            assert_eq!(address.shown() == text, shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_one_to_copy() {
        for (text, said) in [("8080", "127.0.0.1:8080"), ("*:8080", "0.0.0.0:8080"), ("unix:k.sock", "unix:/path.sock")]
        {
            assert!(text.parse::<Address>().unwrap_err().contains(said), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_reached_over_loopback() {
        for (listen, reach) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            let address = listen.parse::<Address>().unwrap();
            assert_eq!(address.local().to_string(), reach);
            assert_eq!(address.is_wildcard(), reach != listen);
        }
    }
}
