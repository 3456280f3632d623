//! The `Date` of answers that hyper does not write (RFC 9110 section 6.6.1).

use std::{
    cell::RefCell,
    time::{Duration, UNIX_EPOCH},
};

use httpdate::HttpDate;
use jiff::Timestamp;

thread_local! {
    /// The last second for which it was written, and the text.
    static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// Writes the date behind `head`.
pub(crate) fn push(head: &mut Vec<u8>, wall: Timestamp) {
    LAST.with_borrow_mut(|(second, text)| {
        if *second != wall.as_second() {
            *second = wall.as_second();
            // No clock that shows a time before 1970 is right.
            let since_epoch = Duration::from_secs(u64::try_from(*second).unwrap_or_default());
            *text = HttpDate::from(UNIX_EPOCH + since_epoch).to_string();
        }
        head.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_date() {
        for (at, date) in [
            ("2026-11-29T10:00:00.9Z", "Sun, 29 Nov 2026 10:00:00 GMT"),
            ("2026-11-29T10:00:00Z", "Sun, 29 Nov 2026 10:00:00 GMT"),
            ("2026-11-29T10:00:01Z", "Sun, 29 Nov 2026 10:00:01 GMT"),
            ("1969-11-29T10:00:01Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            let mut text = Vec::new();
            push(&mut text, at.parse().unwrap());
            assert_eq!(String::from_utf8(text).unwrap(), date);
        }
    }
}
