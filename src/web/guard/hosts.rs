//! Which host a request is for, and which names are ours: names that no page of the public internet has. Pure.

use std::{fmt, net::IpAddr};

use axum::http::{Version, header, request::Parts};
use url::Host as UrlHost;

use crate::{
    server::Peer,
    web::problem::{Kind, Problem},
};

/// Nobody can have a name that ends so on the public internet: clusters and local networks use these endings, or they
/// are reserved for such use (RFC 6761, RFC 6762, RFC 8375), or ICANN has set them aside (`.internal`).
/// `.cluster.local` is below `.local`.
const OURS: [&str; 6] = [".local", ".internal", ".svc", ".localhost", ".test", ".home.arpa"];

/// A host as headers name it, without its port, in lower case and without the root's dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// Reads `host` or `host:port`; `None` where some reader would not find one host in it.
    pub(crate) fn parse(text: &str) -> Option<Host> {
        let name = without_port(text)?;
        if let Some(literal) = name.strip_prefix('[') {
            return Some(Host::Address(IpAddr::V6(literal.strip_suffix(']')?.parse().ok()?)));
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Ok(address) = name.parse() {
            return Some(Host::Address(IpAddr::V4(address)));
        }
        is_name(name).then(|| Host::Name(name.to_ascii_lowercase()))
    }

    /// Whether it is one of our names or in `server.allowed_hosts`. An address is nobody's name.
    pub(super) fn is_ours(&self, allowed: &[String]) -> bool {
        let is_ours = match self {
            Host::Name(name) => !name.contains('.') || OURS.iter().any(|suffix| name.ends_with(suffix)),
            Host::Address(_) => false,
        };
        is_ours || allowed.iter().any(|pattern| self.matches(pattern))
    }

    /// Whether it is an address of this machine itself, or of a private network.
    pub(super) fn is_private_address(&self) -> bool {
        match self {
            Host::Name(_) => false,
            Host::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
                IpAddr::V6(address) => {
                    address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local()
                }
            },
        }
    }

    /// `pattern` is what the function `pattern` below makes.
    fn matches(&self, pattern: &str) -> bool {
        match (self, pattern.strip_prefix('*')) {
            (Host::Name(name), Some(below)) => name.len() > below.len() && name.ends_with(below),
            (Host::Name(name), None) => name == pattern,
            (Host::Address(_), _) => self.to_string() == pattern,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// What `server.allowed_hosts` may hold, as it is compared: a name, an address, or `*.` and a name, which stands for
/// all names below that. `None` for everything else.
pub(crate) fn pattern(text: &str) -> Option<String> {
    let below = text.strip_prefix("*.");
    let name = below.unwrap_or(text);
    // Names in other scripts become what browsers send.
    let read = UrlHost::parse(name.strip_suffix('.').unwrap_or(name)).ok()?.to_string();
    let host = Host::parse(&read).filter(|host| host.to_string() == read)?;
    match (below, host) {
        (Some(_), Host::Address(_)) => None,
        (Some(_), Host::Name(name)) => Some(format!("*.{name}")),
        (None, host) => Some(host.to_string()),
    }
}

/// SECURITY: a page that rebinds its own name to our address still sends its own name here. No page asks over a Unix
/// socket.
pub(super) fn check(parts: &Parts, peer: Option<&Peer>, allowed: &[String]) -> Result<(), Problem> {
    let malformed = |detail| Err(Problem::refused(Kind::MalformedRequest, detail));
    // To look at the few headers that came costs less than to look for one.
    let mut hosts = parts.headers.iter().filter(|(name, _)| *name == header::HOST).map(|(_, host)| host);
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.as_bytes(),
        (None, None) => match parts.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            // HTTP/1.0 knows no Host; RFC 9112 section 3.2 has everything else send exactly one.
            None if parts.version <= Version::HTTP_10 => return Ok(()),
            None => return malformed("The request has no Host header."),
        },
        (_, Some(_)) => return malformed("The request has more than one Host header."),
    };
    if peer.is_some_and(|peer| peer.address.is_none()) {
        return Ok(());
    }
    // An absolute-form target overrides Host (RFC 9112 section 3.2.2): both must be ours.
    let target = parts.uri.authority().map(|authority| authority.as_str());
    let good = peer.filter(|_| target.is_none()).map(|peer| &*peer.good_host);
    if good.and_then(|good| good.get()).is_some_and(|good| good.as_bytes() == host) {
        return Ok(());
    }
    let host = std::str::from_utf8(host).ok().filter(|host| host.is_ascii());
    let is_ours = |text: &str| match Host::parse(text) {
        Some(Host::Address(_)) => true,
        Some(host @ Host::Name(_)) => host.is_ours(allowed),
        None => false,
    };
    if host.is_some_and(is_ours) && target.is_none_or(is_ours) {
        if let (Some(good), Some(host)) = (good, host.filter(|host| host.len() <= LONGEST_KEPT)) {
            good.get_or_init(|| host.into());
        }
        return Ok(());
    }
    Err(Problem::refused(
        Kind::Misdirected,
        "The Host header names no internal host. Use an IP address, localhost, a single label, a name under .local, \
         .internal, .svc, .cluster.local, .localhost, .test or .home.arpa, or add the name to server.allowed_hosts.",
    ))
}

/// A host of more bytes is read anew with each request.
const LONGEST_KEPT: usize = 255;

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // Some readers would take a name whose last part is a number for an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let (digits, is_digit): (_, fn(u8) -> bool) = match last.strip_prefix("0x").or_else(|| last.strip_prefix("0X")) {
        Some(digits) => (digits, |byte| byte.is_ascii_hexdigit()),
        None => (last, |byte| byte.is_ascii_digit()),
    };
    name.split('.').all(is_label) && !digits.bytes().all(is_digit)
}

/// The host without its port, or `None` where what follows the colon is no port.
fn without_port(host: &str) -> Option<&str> {
    if host.starts_with('[') {
        let end = host.find(']')? + 1;
        return is_port(&host[end..]).then(|| &host[..end]);
    }
    match host.bytes().position(|byte| byte == b':') {
        Some(colon) => is_port(&host[colon..]).then(|| &host[..colon]),
        None => Some(host),
    }
}

fn is_port(text: &str) -> bool {
    // Rust's numbers may begin with a plus.
    let is_number = |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok();
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.is_empty() || is_number(port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::http::Request;

    use super::*;

    fn verdict(build: impl FnOnce(axum::http::request::Builder) -> axum::http::request::Builder) -> Option<Kind> {
        let (parts, ()) = build(Request::builder()).body(()).unwrap().into_parts();
        let allowed = ["links.example.com", "*.apps.example.com"].map(|text| pattern(text).unwrap());
        check(&parts, parts.extensions.get(), &allowed).err().map(|problem| problem.kind)
    }

    #[test]
    fn only_names_that_no_public_page_has_are_taken() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.0.0.1.",
            "8.8.8.8",
            "10.0.0.7:80",
            "[::1]",
            "[::1]:8080",
            "localhost:8080",
            "localhost.",
            "LOCALHOST",
            "kielink",
            "kielink:8080",
            "my_service:80",
            "0xen",
            "local",
            "a.local",
            "a.b.internal",
            "kielink.ns.svc",
            "a.svc.",
            "kielink.ns.svc.cluster.local",
            "kielink.ns.svc.cluster.local.:80",
            "kielink.localhost",
            "Kielink.LocalHost.:8080",
            "kielink.test",
            "nas.home.arpa",
            "2.local",
            "links.example.com",
            "links.example.com.",
            "Links.Example.com:443",
            "a.apps.example.com",
            "a.b.apps.example.com.:80",
        ] {
            assert_eq!(verdict(|r| r.uri("/v1/link").header("host", host)), None, "{host}");
        }
        for host in [
            "evil.example",
            "kie.ai",
            "127.0.0.1.evil.example",
            "evil.example:8080",
            "x.links.example.com",
            "apps.example.com",
            "evilapps.example.com",
            "[::1",
            "[::1].",
            "[evil]",
            "127.0.0.1:x",
            "127.0.0.1:+80",
            "127.0.0.1..",
            "127.1",
            "a b",
            "",
            ".",
            ".local",
            "a..local",
            "a.local..",
            "2130706433",
            "0x7f000001",
            "0X7f000001.",
            "0x",
            "svc.evil.example",
            "home.arpa",
            "evilhome.arpa",
            "localhost.evil.example",
            "a.tests",
            "\u{fc}",
        ] {
            assert_eq!(verdict(|r| r.uri("/v1/link").header("host", host)), Some(Kind::Misdirected), "{host}");
        }
    }

    #[test]
    fn host_must_stand_there_once() {
        assert_eq!(verdict(|r| r.uri("/")), Some(Kind::MalformedRequest));
        assert_eq!(verdict(|r| r.uri("/").version(Version::HTTP_10)), None);
        assert_eq!(verdict(|r| r.uri("/").header("host", "a").header("host", "b")), Some(Kind::MalformedRequest));
        assert_eq!(verdict(|r| r.uri("http://kielink:8080/").version(Version::HTTP_2)), None);
        assert_eq!(verdict(|r| r.uri("http://evil.example/").version(Version::HTTP_2)), Some(Kind::Misdirected));
        assert_eq!(verdict(|r| r.uri("http://evil.example/").header("host", "localhost")), Some(Kind::Misdirected));
    }

    #[test]
    fn over_a_unix_socket_any_host_will_do_but_there_is_one() {
        let over = |r: axum::http::request::Builder| {
            r.uri("/").extension(Peer { address: None, connection: 1, good_host: Arc::default() })
        };
        for host in ["evil.example", "links.example.com:x", "", "a b", "\u{fc}"] {
            assert_eq!(verdict(|r| over(r).header("host", host)), None, "{host}");
        }
        assert_eq!(verdict(|r| over(r).uri("http://evil.example/").header("host", "x.example")), None);
        assert_eq!(verdict(over), Some(Kind::MalformedRequest));
        assert_eq!(verdict(|r| over(r).header("host", "a").header("host", "a")), Some(Kind::MalformedRequest));
    }

    #[test]
    fn a_setting_is_a_name_an_address_or_all_names_below_one() {
        for (text, expected) in [
            ("Links.Example.com", "links.example.com"),
            ("links.example.com.", "links.example.com"),
            ("*.Example.com", "*.example.com"),
            ("*.example.com.", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("my_app.example", "my_app.example"),
            ("203.0.113.7", "203.0.113.7"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(pattern(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "**.a.com",
            "a..",
            "a b",
            "a.com:443",
            "https://a.com",
            "a.com/x",
            "u@a.com",
            "a;b.com",
            "*.127.0.0.1",
            "*.[::1]",
            "*a.com",
        ] {
            assert_eq!(pattern(text), None, "{text}");
        }
    }
}
