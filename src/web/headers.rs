//! What every answer has: its id, where it came from, and that nobody may guess what the answer does not say.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::{
    cache_status::{CACHE_STATUS, CacheStatus},
    guard,
    problem::Problem,
};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The caller's request id, if it may be repeated, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    guard::sane_request_id(headers).map_or_else(|| new_id().as_str().to_owned(), str::to_owned)
}

/// 32 hex digits.
struct NewId([u8; 32]);

impl NewId {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits")
    }
}

fn new_id() -> NewId {
    let random = fastrand::u128(..).to_be_bytes();
    NewId(std::array::from_fn(|at| {
        let byte = random[at / 2];
        b"0123456789abcdef"[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })]
    }))
}

/// The caller's request id, if it may be repeated, else a new one, written behind `text`.
pub(crate) fn push_request_id(text: &mut Vec<u8>, headers: Option<&HeaderMap>) {
    match headers.and_then(guard::sane_request_id) {
        Some(id) => text.extend_from_slice(id.as_bytes()),
        None => text.extend_from_slice(&new_id().0),
    }
}

/// A number, written behind `text`.
pub(crate) fn push_number(text: &mut Vec<u8>, number: u64) {
    let mut digits = [b'0'; 20];
    let (mut first, mut rest) = (digits.len() - 1, number);
    loop {
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
        first -= 1;
    }
    text.extend_from_slice(&digits[first..]);
}

/// What every answer has, whatever it says.
pub(crate) fn sign(headers: &mut HeaderMap, request_id: HeaderValue) {
    headers.insert(&X_REQUEST_ID, request_id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

pub(super) fn finish(response: &mut Response, path: &str, request_id: &str) {
    let problem = response.extensions().get::<Arc<Problem>>().cloned();
    if let Some(problem) = &problem {
        problem.render(path, request_id, response);
    }
    let headers = response.headers_mut();
    match &problem {
        Some(problem) => drop(headers.insert(&CACHE_STATUS, problem.cache_status().header())),
        None => drop(headers.entry(&CACHE_STATUS).or_insert_with(|| CacheStatus::Bypass.header())),
    }
    let id = HeaderValue::try_from(request_id).expect("a sane request id fits into a header");
    sign(headers, id);
    // A browser would otherwise guess for how long the answer is fresh.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_it_is_everywhere() {
        for number in [0, 9, 10, 1138, u64::MAX - 1, u64::MAX] {
            let mut text = b"a=".to_vec();
            push_number(&mut text, number);
            assert_eq!(text, format!("a={number}").as_bytes());
        }
    }

    #[test]
    fn a_new_id_is_its_own_and_32_hex_digits() {
        let ids = [(), ()].map(|()| request_id(&HeaderMap::new()));
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids:?}");
        assert_ne!(ids[0], ids[1]);
    }
}
