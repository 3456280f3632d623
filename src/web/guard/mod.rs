//! Who may ask: the network is the boundary, and a browser is a hole in it. Pure.
//!
//! `hosts` has the names under which we are asked, `pages` what browsers say of the pages for which they ask.

mod hosts;
mod pages;

use axum::http::{Uri, request::Parts};

pub(crate) use self::hosts::{Host, pattern};
use super::problem::{Kind, Problem};
use crate::server::{Ambiguous, Peer};

/// A source URL takes at most 4,096 bytes, or three times that percent-encoded.
pub(crate) const MAX_URI_BYTES: usize = 16 * 1024;

/// Refuses what no internal caller would send. `allowed_hosts` as `pattern` makes them.
pub(crate) fn check(parts: &Parts, peer: Option<&Peer>, allowed_hosts: &[String]) -> Result<(), Problem> {
    // SECURITY: a proxy in front may have seen another request end here.
    if let Some(why) = parts.extensions.get::<Ambiguous>() {
        return Err(Problem::refused(Kind::MalformedRequest, why.detail()));
    }
    if length(&parts.uri) > MAX_URI_BYTES {
        let detail = format!("The request's URI is longer than {MAX_URI_BYTES} bytes.");
        return Err(Problem::refused(Kind::UriTooLong, detail));
    }
    hosts::check(parts, peer, allowed_hosts)?;
    pages::check(parts, allowed_hosts)
}

fn length(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |path| path.as_str().len())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn verdict(build: impl FnOnce(axum::http::request::Builder) -> axum::http::request::Builder) -> Option<Kind> {
        let (parts, ()) = build(Request::builder()).body(()).unwrap().into_parts();
        check(&parts, None, &[]).err().map(|problem| problem.kind)
    }

    #[test]
    fn the_uri_is_bounded() {
        let long = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        let of = |bytes| verdict(|r| r.uri(long(bytes)).header("host", "localhost"));
        assert_eq!(of(MAX_URI_BYTES), None);
        assert_eq!(of(MAX_URI_BYTES + 1), Some(Kind::UriTooLong));
    }
}
