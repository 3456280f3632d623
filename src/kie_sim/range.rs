//! `Range` (RFC 9110, section 14): which part of a file is asked for. Pure.

use std::ops::Range;

/// What to answer with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Part {
    Whole,
    /// 206.
    Bytes(Range<usize>),
    /// 416.
    None,
}

/// The part of `length` bytes that a `Range` header means. A header that is not understood is ignored, as the RFC has
/// it (section 14.2). So is a header with several ranges: no server must answer them.
pub(super) fn part(header: Option<&str>, length: usize) -> Part {
    let Some((first, last)) = header.and_then(one_range) else {
        return Part::Whole;
    };
    match (first, last) {
        (None, Some(0)) => Part::None,
        // Where the file is shorter, "the entire representation is used" (section 14.1.2).
        (None, Some(suffix)) if length > 0 => Part::Bytes(length.saturating_sub(suffix)..length),
        (Some(first), Some(last)) if last < first => Part::Whole,
        (Some(first), last) if first < length => {
            Part::Bytes(first..last.map_or(length, |last| length.min(last.saturating_add(1))))
        }
        (Some(_), _) | (None, Some(_)) => Part::None,
        (None, None) => Part::Whole,
    }
}

fn one_range(header: &str) -> Option<(Option<usize>, Option<usize>)> {
    let (unit, range) = header.split_once('=')?;
    let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
    Some((position(first)?, position(last)?))
}

/// `None` where there is no number. A number too large for `usize` lies behind the end of every file.
fn position(text: &str) -> Option<Option<usize>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part_and_all_else_is_the_whole_file() {
        let huge = "bytes=99999999999999999999999-";
        let table = [
            (None, Part::Whole),
            (Some("bytes=0-9"), Part::Bytes(0..10)),
            (Some("bytes=0-0"), Part::Bytes(0..1)),
            (Some("Bytes=1-"), Part::Bytes(1..10)),
            (Some("bytes=9-99"), Part::Bytes(9..10)),
            (Some("bytes=9-99999999999999999999999"), Part::Bytes(9..10)),
            (Some("bytes=10-"), Part::None),
            (Some(huge), Part::None),
            (Some("bytes=-1"), Part::Bytes(9..10)),
            (Some("bytes=-10"), Part::Bytes(0..10)),
            (Some("bytes=-11"), Part::Bytes(0..10)),
            (Some("bytes=-0"), Part::None),
            (Some("bytes=2-1"), Part::Whole),
            (Some("bytes=-"), Part::Whole),
            (Some("bytes="), Part::Whole),
            (Some("bytes"), Part::Whole),
            (Some("bytes=0-1,3-4"), Part::Whole),
            (Some("bytes=+1-2"), Part::Whole),
            (Some("lines=1-2"), Part::Whole),
        ];
        for (header, expected) in table {
            assert_eq!(part(header, 10), expected, "{header:?}");
        }
        for (header, expected) in [("bytes=0-", Part::None), ("bytes=-1", Part::None)] {
            assert_eq!(part(Some(header), 0), expected, "{header} of an empty file");
        }
    }
}
