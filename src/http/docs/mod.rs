//! `/docs`: the data interface described for people, as one page of HTML. Made of the same document as
//! `/openapi.json`, so the two cannot say different things.

mod json;
mod page;

use std::sync::{Arc, OnceLock};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{Html, IntoResponse, Response},
};

use super::openapi;

/// The page, once somebody has asked for it: the start does not wait for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page(Arc<OnceLock<String>>);

/// SECURITY: the page shows nothing of a caller's but the host, escaped; should that ever fail, no script of anybody's runs
/// and nothing is fetched. The hash is that of `page.css`; a test says which one it must be.
const POLICY: &str = "default-src 'none'; style-src 'sha256-LvEN1jig8pXYWCNXDXzxWs+OhHyActOcljYx3kiKU/s='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where the sandbox and the defaults listen, for callers that name no host.
const USUAL_HOST: &str = "127.0.0.1:8080";

/// `GET /docs`
pub(crate) async fn docs(State(page): State<Page>, headers: HeaderMap, uri: Uri) -> Response {
    let page = page.0.get_or_init(|| page::render(openapi::DOCUMENT));
    // The commands on it are for the address that it was asked at.
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or(uri.authority().map(|authority| authority.as_str())).unwrap_or(USUAL_HOST);
    let page = page.replace(page::HOST, &page::escape(host));
    let policy = (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    ([policy], Html(page)).into_response()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn the_policy_allows_the_page_its_own_style_and_no_other() {
        let page = page::render(openapi::DOCUMENT);
        let (_, rest) = page.split_once("<style>").unwrap();
        let (style, rest) = rest.split_once("</style>").unwrap();
        let hash = BASE64_STANDARD.encode(digest(&SHA256, style.as_bytes()));
        assert!(POLICY.contains(&format!("style-src 'sha256-{hash}';")), "page.css has the hash {hash}");
        assert!(!rest.contains("<style"), "{rest}");
    }
}
