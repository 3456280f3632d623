//! `/docs`: the data interface described for people, as one page of HTML. Made of the same document as
//! `/openapi.json`, so the two cannot say different things.

mod page;

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock, OnceLock},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use maud::html;

use super::openapi;
use crate::web::{guard::Host, policy};

/// The page, cut where the host stands. It is made once somebody has asked for it: the start does not wait for it.
///
/// All answers share the pieces: a peer that asks for many pages and reads none must not have memory filled with
/// copies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page(Arc<OnceLock<Vec<Bytes>>>);

/// SECURITY: the page shows nothing of a caller's but the host, escaped; should that ever fail, no script of anybody's
/// runs and nothing is fetched.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy::for_page(page::STYLE, None));

/// Where the sandbox and the defaults listen, for callers that name no host.
const USUAL_HOST: &str = "127.0.0.1:8080";

/// `GET /docs`
pub(crate) async fn docs(State(page): State<Page>, headers: HeaderMap, uri: Uri) -> Response {
    let pieces = page.0.get_or_init(|| {
        let page = Bytes::from(page::render(openapi::DOCUMENT));
        let text = std::str::from_utf8(&page).expect("it was a String");
        text.split(page::HOST).map(|piece| page.slice_ref(piece.as_bytes())).collect()
    });
    // The commands on the page name the address at which the page was asked for, which over a Unix socket may be any
    // text.
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = named.or(uri.authority().map(|authority| authority.as_str()));
    let host = named.filter(|host| Host::parse(host).is_some()).unwrap_or(USUAL_HOST);
    let host = Bytes::from(html! { (host) }.into_string());
    let mut whole = Vec::with_capacity(2 * pieces.len());
    for piece in pieces {
        whole.extend([piece.clone(), host.clone()]);
    }
    whole.pop();
    let policy = (header::CONTENT_SECURITY_POLICY, POLICY.clone());
    let length = (header::CONTENT_LENGTH, HeaderValue::from(whole.iter().map(Bytes::len).sum::<usize>()));
    ([policy, length], Html(Body::from_stream(stream::iter(whole.into_iter().map(Ok::<_, Infallible>)))))
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_the_page_its_own_style_and_no_other() {
        let page = page::render(openapi::DOCUMENT);
        let (_, rest) = page.split_once("<style>").unwrap();
        let (style, rest) = rest.split_once("</style>").unwrap();
        assert_eq!(*POLICY, policy::for_page(style, None));
        assert!(!rest.contains("<style"), "{rest}");
    }
}
