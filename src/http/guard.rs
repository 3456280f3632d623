//! Who may ask: the network is the boundary, and a browser is a hole in it. Pure.

use axum::http::{HeaderMap, Uri, Version, header, request::Parts};

use super::problem::{Kind, Problem};
use crate::server::Ambiguous;

/// A source URL takes at most 4,096 bytes, or three times that percent-encoded.
pub(crate) const MAX_URI_BYTES: usize = 16 * 1024;

/// Refuses what no internal caller would send.
pub(crate) fn check(parts: &Parts, allowed_hosts: &[String]) -> Result<(), Problem> {
    // SECURITY: a proxy in front may have seen another request end here.
    if let Some(why) = parts.extensions.get::<Ambiguous>() {
        return Err(Problem::refused(Kind::MalformedRequest, why.detail()));
    }
    if length(&parts.uri) > MAX_URI_BYTES {
        let detail = format!("The request's URI is longer than {MAX_URI_BYTES} bytes.");
        return Err(Problem::refused(Kind::UriTooLong, detail));
    }
    check_host(parts, allowed_hosts)?;
    // SECURITY: a page of another site must not make its visitor's browser fetch links from inside the network.
    if parts.headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site") {
        return Err(Problem::refused(Kind::CrossSite, "Pages of other sites may not use this service."));
    }
    Ok(())
}

/// SECURITY: a page that rebinds its own name to our address still sends its own name here.
fn check_host(parts: &Parts, allowed_hosts: &[String]) -> Result<(), Problem> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            // HTTP/1.0 knows no Host; RFC 9112 section 3.2 has everything else send exactly one.
            None if parts.version <= Version::HTTP_10 => return Ok(()),
            None => {
                return Err(Problem::refused(Kind::MalformedRequest, "The request has no Host header."));
            }
        },
        (_, Some(_)) => {
            return Err(Problem::refused(Kind::MalformedRequest, "The request has more than one Host header."));
        }
    };
    // An absolute-form target overrides Host (RFC 9112 section 3.2.2): both must be ours.
    let target = parts.uri.authority().map(|authority| authority.as_str());
    let internal = |host: &str| is_internal(host, allowed_hosts);
    if host.is_some_and(internal) && target.is_none_or(internal) {
        return Ok(());
    }
    Err(Problem::refused(
        Kind::Misdirected,
        "The Host header names no internal host. Use an IP address, localhost, a single label, a name under .local, \
         .internal, .svc or .cluster.local, or add the name to server.allowed_hosts.",
    ))
}

fn is_internal(host: &str, allowed_hosts: &[String]) -> bool {
    let Some(name) = without_port(host) else { return false };
    let name = name.to_ascii_lowercase();
    if let Some(literal) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return literal.parse::<std::net::Ipv6Addr>().is_ok();
    }
    if allowed_hosts.contains(&name) || name.parse::<std::net::Ipv4Addr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(&name);
    let sane = !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    // A last label of digits only would be read as an address by some.
    let single_label = !name.contains('.') && !name.bytes().all(|byte| byte.is_ascii_digit());
    sane && (single_label
        || [".local", ".internal", ".svc", ".cluster.local"].iter().any(|suffix| name.ends_with(suffix)))
}

/// The host without its port, or `None` where what follows the colon is no port.
fn without_port(host: &str) -> Option<&str> {
    if host.starts_with('[') {
        let end = host.find(']')? + 1;
        return is_port(&host[end..]).then(|| &host[..end]);
    }
    match host.find(':') {
        Some(colon) => is_port(&host[colon..]).then(|| &host[..colon]),
        None => Some(host),
    }
}

fn is_port(text: &str) -> bool {
    // Rust's numbers may begin with a plus.
    let is_number = |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok();
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.is_empty() || is_number(port))
}

fn length(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// The caller's request id, if it may be repeated in headers and logs as it is.
pub(crate) fn sane_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    let sane = (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte));
    sane.then_some(id)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn verdict(build: impl FnOnce(axum::http::request::Builder) -> axum::http::request::Builder) -> Option<Kind> {
        let (parts, ()) = build(Request::builder()).body(()).unwrap().into_parts();
        check(&parts, &["links.example.com".to_owned()]).err().map(|problem| problem.kind)
    }

    #[test]
    fn only_names_that_no_public_page_has_are_taken() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.0.0.7:80",
            "[::1]",
            "[::1]:8080",
            "localhost:8080",
            "LOCALHOST",
            "kielink",
            "kielink:8080",
            "my_service:80",
            "a.local",
            "a.b.internal",
            "kielink.ns.svc",
            "kielink.ns.svc.cluster.local",
            "kielink.ns.svc.cluster.local.:80",
            "links.example.com",
            "Links.Example.com:443",
        ] {
            assert_eq!(verdict(|r| r.uri("/v1/link").header("host", host)), None, "{host}");
        }
        for host in [
            "evil.example",
            "kie.ai",
            "127.0.0.1.evil.example",
            "local",
            "evil.example:8080",
            "x.links.example.com",
            "[::1",
            "[evil]",
            "127.0.0.1:x",
            "127.0.0.1:+80",
            "a b",
            "",
            ".local",
            "a..local",
            "2130706433",
            "svc.evil.example",
            "a.svc.",
        ] {
            // `local` is a single label, and `a.svc.` a rooted name: both are internal.
            let expected = if ["local", "a.svc."].contains(&host) { None } else { Some(Kind::Misdirected) };
            assert_eq!(verdict(|r| r.uri("/v1/link").header("host", host)), expected, "{host}");
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
    fn browsers_on_other_sites_are_refused() {
        let site = |site: &str| verdict(|r| r.uri("/").header("host", "localhost").header("sec-fetch-site", site));
        assert_eq!(site("cross-site"), Some(Kind::CrossSite));
        for friendly in ["same-origin", "same-site", "none"] {
            assert_eq!(site(friendly), None);
        }
        let twice =
            |r: axum::http::request::Builder| r.header("sec-fetch-site", "none").header("sec-fetch-site", "cross-site");
        assert_eq!(verdict(|r| twice(r.uri("/").header("host", "localhost"))), Some(Kind::CrossSite));
    }

    #[test]
    fn the_uri_is_bounded() {
        let long = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        let of = |bytes| verdict(|r| r.uri(long(bytes)).header("host", "localhost"));
        assert_eq!(of(MAX_URI_BYTES), None);
        assert_eq!(of(MAX_URI_BYTES + 1), Some(Kind::UriTooLong));
    }

    #[test]
    fn request_ids_are_repeated_only_if_sane() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", axum::http::HeaderValue::from_bytes(value).unwrap());
            sane_request_id(&headers).map(str::to_owned)
        };
        assert_eq!(id(b"a-B_1.2:3/4+5=6@7").as_deref(), Some("a-B_1.2:3/4+5=6@7"));
        assert_eq!(id("x".repeat(128).as_bytes()).map(|id| id.len()), Some(128));
        for insane in [b"".as_slice(), b"a b", b"a\"b", b"<script>", b"\xff", "x".repeat(129).as_bytes()] {
            assert_eq!(id(insane), None);
        }
    }
}
