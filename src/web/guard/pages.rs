//! Requests that a browser makes for a page of another site. Pure.
//!
//! Such a page cannot read an answer, since no CORS header is ever sent; but it could have links made with the key.

use axum::http::{HeaderMap, HeaderName, Method, header, request::Parts};

use super::hosts::Host;
use crate::web::{
    problem::{Kind, Problem},
    route::{Gives, Route},
};

/// The admin interface's page: people open it, as they open the data interface's pages.
const STATUS: &str = "/status";

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
static SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// SECURITY: a page of another site must not make its visitor's browser ask for links from inside the network.
///
/// Browsers tell https and loopback hosts what a page is to them. For all other hosts there is the page's origin, and
/// where a browser sends none (GET of an image, of a script), the page's address.
pub(super) fn check(parts: &Parts, allowed: &[String]) -> Result<(), Problem> {
    // Most callers are no browsers, and say nothing of a page.
    let tells = |name: &HeaderName| *name == SEC_FETCH_SITE || *name == header::ORIGIN || *name == header::REFERER;
    if !parts.headers.keys().any(tells) {
        return Ok(());
    }
    let path = parts.uri.path();
    let is_for_everybody = path == STATUS || Route::of(path).is_some_and(|route| route.gives() == Gives::Pages);
    if parts.method == Method::GET && is_for_everybody {
        return Ok(());
    }
    let is_welcome = match single(&parts.headers, &SEC_FETCH_SITE) {
        Single::Value("same-origin" | "same-site" | "none") => true,
        Single::Value("cross-site") => is_opened(parts),
        Single::Value(_) | Single::Odd => false,
        Single::Absent => return check_page(parts, allowed),
    };
    if is_welcome {
        return Ok(());
    }
    Err(Problem::refused(Kind::CrossSite, "Pages of other sites may not use this service."))
}

/// Whether somebody opens it as a page, by a link or a form. A page that is fetched before anybody opens it does not
/// count.
fn is_opened(parts: &Parts) -> bool {
    let says = |name, value| matches!(single(&parts.headers, name), Single::Value(said) if said == value);
    parts.method == Method::GET
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
        && !parts.headers.contains_key(&SEC_PURPOSE)
}

fn check_page(parts: &Parts, allowed: &[String]) -> Result<(), Problem> {
    let page = match single(&parts.headers, &header::ORIGIN) {
        Single::Value(origin) => host_of_origin(origin),
        Single::Odd => None,
        Single::Absent => match single(&parts.headers, &header::REFERER) {
            Single::Value(address) if is_relative(address) => return Ok(()),
            Single::Value(address) => host_of_page(address),
            Single::Odd => None,
            Single::Absent => return Ok(()),
        },
    };
    let is_known =
        |page: &Host| page.is_ours(allowed) || page.is_private_address() || asked_at(parts).any(|host| host == *page);
    if page.as_ref().is_some_and(is_known) {
        return Ok(());
    }
    Err(Problem::refused(
        Kind::CrossSite,
        "A page of another site may not use this service, and Origin or Referer names one. If that site is yours, add its \
         host to server.allowed_hosts.",
    ))
}

/// The hosts at which the request was made: its own host, and the hosts that it had before, as proxies in front say. No
/// page can set these headers: a browser asks leave first.
fn asked_at(parts: &Parts) -> impl Iterator<Item = Host> {
    let text = |name: &HeaderName| parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let forwarded = text(&X_FORWARDED_HOST).flat_map(|hosts| hosts.split(',')).map(str::trim);
    let own = text(&header::HOST).chain(parts.uri.authority().map(|authority| authority.as_str()));
    own.chain(forwarded).filter_map(Host::parse)
}

/// The host of `https://host:port` with nothing behind it; `null` has no host.
fn host_of_origin(origin: &str) -> Option<Host> {
    Host::parse(without_scheme(origin)?)
}

fn host_of_page(address: &str) -> Option<Host> {
    let rest = without_scheme(address)?;
    Host::parse(rest.split(['/', '?', '#']).next().unwrap_or_default())
}

/// Whether the address names no host: RFC 9110 section 10.1.3 lets a client name a page of the same host so. Browsers
/// write the whole address.
fn is_relative(address: &str) -> bool {
    let first = address.split(['/', '?', '#']).next().unwrap_or_default();
    !first.contains(':') && !address.starts_with("//")
}

/// The address without `http://` or `https://`. An address with another scheme is no page of ours.
fn without_scheme(address: &str) -> Option<&str> {
    let (scheme, rest) = address.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// What is said by a header that may stand there once.
enum Single<'a> {
    Absent,
    Value(&'a str),
    /// More than one, or no text.
    Odd,
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Single<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (None, _) => Single::Absent,
        (Some(Ok(value)), None) => Single::Value(value),
        (Some(_), _) => Single::Odd,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::web::guard::pattern;

    /// Whether `method target` with these headers, a line each, is served.
    fn is_served(method: &str, target: &str, headers: &[&str]) -> bool {
        let mut request = Request::builder().method(method).uri(target);
        for line in headers {
            let (name, value) = line.split_once(':').unwrap();
            request = request.header(name, value.trim());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let allowed = ["links.example.com", "*.apps.example.com", "203.0.113.7"].map(|text| pattern(text).unwrap());
        match check(&parts, &allowed) {
            Ok(()) => true,
            Err(problem) => {
                assert_eq!(problem.kind, Kind::CrossSite);
                false
            }
        }
    }

    const LINK: &str = "/v1/link?url=x";

    #[test]
    fn a_browser_that_says_where_a_page_is_from_is_believed() {
        let evil = "origin: http://evil.example";
        for site in ["same-origin", "same-site", "none"] {
            let said = format!("sec-fetch-site: {site}");
            for method in ["GET", "POST", "DELETE"] {
                assert!(is_served(method, LINK, &[&said, evil, "referer: http://evil.example/"]), "{method} {site}");
            }
        }
        for site in ["cross-site", "Same-Origin", "same-origin, cross-site", "same-origin;x", "evil", ""] {
            let said = format!("sec-fetch-site: {site}");
            assert!(!is_served("GET", LINK, &[&said, "host: kielink", "origin: http://kielink"]), "{site}");
        }
        assert!(!is_served("GET", LINK, &["sec-fetch-site: none", "sec-fetch-site: none"]), "twice");
        assert!(!is_served("GET", LINK, &["sec-fetch-site: \u{fc}"]), "no text");
    }

    #[test]
    fn a_page_that_somebody_opens_is_no_attack() {
        let opened = ["sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-dest: document"];
        let with = |line: &'static str| [opened.as_slice(), &[line]].concat();
        assert!(is_served("GET", LINK, &opened));
        assert!(is_served("GET", LINK, &with("referer: http://evil.example/")));
        for method in ["POST", "HEAD", "DELETE", "PUT"] {
            assert!(!is_served(method, LINK, &opened), "{method}");
        }
        for left_out in 1..opened.len() {
            let rest: Vec<_> =
                opened.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, line)| *line).collect();
            assert!(!is_served("GET", LINK, &rest), "without {}", opened[left_out]);
        }
        for odd in [
            "sec-purpose: prefetch",
            "sec-purpose: prefetch;prerender",
            "sec-fetch-dest: document",
            "sec-fetch-mode: cors",
        ] {
            assert!(!is_served("GET", LINK, &with(odd)), "{odd}");
        }
        for dest in ["iframe", "embed", "image", "empty", "Document", ""] {
            let dest = format!("sec-fetch-dest: {dest}");
            assert!(!is_served("GET", LINK, &[opened[0], opened[1], &dest]), "{dest}");
        }
        for mode in ["no-cors", "cors", "same-origin", "websocket", "nested-navigate"] {
            let mode = format!("sec-fetch-mode: {mode}");
            assert!(!is_served("GET", LINK, &[opened[0], &mode, opened[2]]), "{mode}");
        }
    }

    #[test]
    fn what_is_for_people_to_open_is_for_everybody() {
        for target in ["/", "/docs", "/openapi.json", "/status", "/status?x=1", "http://kielink/docs"] {
            for lines in
                [["sec-fetch-site: cross-site"].as_slice(), &["origin: null"], &["referer: http://evil.example/"]]
            {
                assert!(is_served("GET", target, lines), "{target}");
                assert!(!is_served("POST", target, lines), "{target}");
            }
        }
        for target in ["/status.json", "/docs/", "//", "/healthz", "/metrics", "/v1/explain?url=x", "/v1/link"] {
            assert!(!is_served("GET", target, &["sec-fetch-site: cross-site"]), "{target}");
            assert!(!is_served("GET", target, &["origin: http://evil.example"]), "{target}");
        }
    }

    #[test]
    fn of_other_pages_only_those_of_our_hosts_are_served() {
        for page in [
            "http://app",
            "http://app:3000",
            "https://App.LOCAL",
            "http://app.shop.svc.cluster.local.:80",
            "http://app.localhost:3000",
            "http://app.test",
            "http://nas.home.arpa",
            "http://links.example.com",
            "https://links.example.com.:8443",
            "https://a.apps.example.com",
            "http://localhost:3000",
            "http://127.0.0.1:3000",
            "http://127.9.9.9",
            "http://10.1.2.3",
            "http://172.31.0.1",
            "http://192.168.0.1",
            "http://169.254.3.4",
            "http://[::1]:3000",
            "http://[fd00::1]",
            "http://[fe80::1]",
            "http://[::ffff:192.168.0.1]",
            "http://203.0.113.7",
            // Its own: with another port, below.
            "http://asked.example",
            "http://ASKED.example.:8443",
            "HTTP://localhost",
            "HTTPS://localhost",
        ] {
            let (origin, referer) = (format!("origin: {page}"), format!("referer: {page}/a/b?c=http://evil.example#d"));
            for method in ["GET", "POST"] {
                assert!(is_served(method, LINK, &["host: asked.example:8080", &origin]), "{origin}");
                assert!(is_served(method, LINK, &["host: asked.example:8080", &referer]), "{referer}");
            }
        }
        for page in [
            "http://evil.example",
            "https://evil.example:8080",
            "http://asked.example.evil.example",
            "http://localhost.evil.example",
            "http://apps.example.com",
            "http://8.8.8.8",
            "http://172.32.0.1",
            "http://100.64.0.1",
            "http://0.0.0.0",
            "http://203.0.113.8",
            "http://[2001:db8::1]",
            "http://[::ffff:8.8.8.8]",
            "http://2130706433",
            "http://0x7f000001",
            "http://127.1",
            "http://localhost@evil.example",
            "http://evil.example\\@localhost",
            "http://evil.example%2elocal",
            "http://localhost:x",
            "http://localhost, http://evil.example",
            "http://localhost http://evil.example",
            "http:localhost",
            "http:///localhost",
            "http://",
            "//localhost",
            "localhost",
            "ftp://localhost",
            "file://",
            "chrome-extension://abcdefghijklmnop",
            "about:blank",
            "null",
            "NULL",
            "",
        ] {
            let (origin, referer) = (format!("origin: {page}"), format!("referer: {page}/a?http://localhost/"));
            for method in ["GET", "POST"] {
                assert!(!is_served(method, LINK, &["host: asked.example:8080", &origin]), "{origin}");
                let names_a_host = page.contains(':') || page.starts_with("//");
                assert_eq!(
                    is_served(method, LINK, &["host: asked.example:8080", &referer]),
                    !names_a_host,
                    "{referer}"
                );
            }
        }
    }

    #[test]
    fn a_referer_counts_where_there_is_no_origin() {
        let (ours, evil) = ("http://localhost", "http://evil.example");
        let [good, bad] = [ours, evil].map(|page| format!("origin: {page}"));
        let [good_page, bad_page] = [ours, evil].map(|page| format!("referer: {page}/"));
        assert!(is_served("GET", LINK, &[]));
        assert!(is_served("GET", LINK, &[&good, &bad_page]));
        assert!(!is_served("GET", LINK, &[&bad, &good_page]));
        assert!(!is_served("GET", LINK, &["origin: null", &good_page]));
        for twice in [[good.as_str(), &good], [&good_page, &good_page]] {
            assert!(!is_served("GET", LINK, &twice), "{twice:?}");
        }
        assert!(!is_served("GET", LINK, &["origin: http://localhost/"]), "an origin has no path");
        assert!(!is_served("GET", LINK, &["origin: \u{fc}", &good_page]), "no text");
        assert!(!is_served("GET", LINK, &["referer: http://localhost/\u{fc}"]), "no text");
        for same_host in ["/a/b", "page", "?a", "", "/a?b=http://evil.example/"] {
            assert!(is_served("GET", LINK, &[&format!("referer: {same_host}")]), "{same_host}");
        }
        for other in ["//evil.example/", "http:evil.example", "evil:", "evil.example:80/a", "://evil.example"] {
            assert!(!is_served("GET", LINK, &[&format!("referer: {other}")]), "{other}");
        }
    }

    #[test]
    fn behind_a_proxy_the_page_is_known_by_the_host_that_it_was_asked_at() {
        let page = "referer: https://shop.example/product";
        let with = |forwarded: &'static str| is_served("GET", LINK, &["host: kielink:8080", page, forwarded]);
        for forwarded in
            ["shop.example", "shop.example:443", "SHOP.example.", "cdn.example, shop.example", "shop.example ,x"]
        {
            let line: &'static str = format!("x-forwarded-host: {forwarded}").leak();
            assert!(with(line), "{forwarded}");
        }
        for forwarded in
            ["", "evil.example", "shop.example.evil.example", "xshop.example", "https://shop.example", "shop.example;x"]
        {
            let line: &'static str = format!("x-forwarded-host: {forwarded}").leak();
            assert!(!with(line), "{forwarded}");
        }
        let twice = ["x-forwarded-host: other.example", "x-forwarded-host: shop.example"];
        assert!(is_served("GET", LINK, &[page, twice[0], twice[1]]));
        assert!(!is_served("GET", LINK, &["origin: null", "x-forwarded-host: null"]));
        assert!(is_served("GET", "http://shop.example/v1/link?url=x", &[page]), "HTTP/2 has the host in its target");
    }
}
