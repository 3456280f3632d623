//! The id of a request: the caller's own, if it may be repeated, else a new one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The caller's request id, if it may be repeated, else a new one.
pub(super) fn of(headers: &HeaderMap) -> String {
    sane_request_id(headers).map_or_else(|| new_id().as_str().to_owned(), str::to_owned)
}

/// 32 hex digits.
struct NewId([u8; 32]);

impl NewId {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits")
    }
}

fn new_id() -> NewId {
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(fastrand::u128(..).to_be_bytes()) {
        *pair = HEX[usize::from(byte)];
    }
    NewId(digits)
}

/// The two digits of each byte: every answer has 16 of them.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte / 16], digits[byte % 16]];
        byte += 1;
    }
    pairs
};

/// The same, as a header.
pub(crate) fn header(headers: Option<&HeaderMap>) -> HeaderValue {
    match headers.and_then(sane_request_id) {
        Some(id) => HeaderValue::from_str(id),
        None => HeaderValue::from_bytes(&new_id().0),
    }
    .expect("visible ASCII")
}

/// The caller's request id, if it may be repeated in headers and logs as it is.
pub(crate) fn sane_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    let sane = (1..=128).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte));
    sane.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_is_its_own_and_32_hex_digits() {
        let ids = [(), ()].map(|()| of(&HeaderMap::new()));
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn each_byte_has_its_digits() {
        (0..=u8::MAX).for_each(|byte| assert_eq!(HEX[usize::from(byte)], format!("{byte:02x}").as_bytes()));
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
