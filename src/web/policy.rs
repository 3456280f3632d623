//! What a browser may do with a page of ours (Content Security Policy). Pure.

use axum::http::HeaderValue;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest;

/// SECURITY: nothing is loaded from anywhere, and only this style and this script take effect, whatever a text on the
/// page may contain. A page with a script may ask its own address, and has an icon inside it.
pub(crate) fn for_page(style: &str, script: Option<&str>) -> HeaderValue {
    let script = script.map_or(String::new(), |script| {
        format!("script-src 'sha256-{}'; img-src data:; connect-src 'self'; ", hash(script))
    });
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; {script}base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(style),
    );
    HeaderValue::try_from(policy).expect("ASCII")
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_forbidden() {
        // The hash is that of RFC 6234's "abc".
        assert_eq!(
            for_page("abc", None),
            "default-src 'none'; style-src 'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        assert_eq!(
            for_page("", Some("abc")),
            "default-src 'none'; style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; \
             script-src 'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
    }
}
