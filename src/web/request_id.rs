//! The id of a request: the caller's own, if it may be repeated, else a new one.

use axum::http::{HeaderMap, HeaderName};

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
    NewId(hex(fastrand::u128(..)))
}

fn hex(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (eight, shift) in digits.as_chunks_mut().0.iter_mut().zip([96, 64, 32, 0]) {
        *eight = eight_digits((number >> shift) as u32);
    }
    digits
}

/// Eight digits at once, by arithmetic: every answer has an id, and a table would take eight lines of the core's cache.
fn eight_digits(number: u32) -> [u8; 8] {
    const ALL: u64 = 0x0101_0101_0101_0101;
    // Half a byte into each byte.
    let mut digits = u64::from(number);
    digits = (digits << 16 | digits) & 0x0000_ffff_0000_ffff;
    digits = (digits << 8 | digits) & 0x00ff_00ff_00ff_00ff;
    digits = (digits << 4 | digits) & (0x0f * ALL);
    // One in each byte that is 10 or more: there `a` follows, and not what follows `9`.
    let letters = (digits + 6 * ALL) >> 4 & ALL;
    let gap = u64::from(b'a' - b'9' - 1);
    (digits + u64::from(b'0') * ALL + gap * letters).to_be_bytes()
}

/// The caller's request id, if it may be repeated, else a new one, written behind `head`.
pub(crate) fn push(head: &mut Vec<u8>, headers: Option<&HeaderMap>) {
    match headers.and_then(sane_request_id) {
        Some(id) => head.extend_from_slice(id.as_bytes()),
        None => head.extend_from_slice(&new_id().0),
    }
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
    fn each_byte_has_its_digits() {
        let bytes = (0..=u8::MAX).flat_map(|byte| (0..16).map(move |place| u128::from(byte) << (8 * place)));
        for number in bytes.chain([0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX]) {
            assert_eq!(hex(number), format!("{number:032x}").as_bytes());
        }
    }

    #[test]
    fn a_new_id_is_its_own_and_32_hex_digits() {
        let ids = [(), ()].map(|()| of(&HeaderMap::new()));
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
        assert_ne!(ids[0], ids[1]);
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
