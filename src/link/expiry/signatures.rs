//! Rule 1: signatures that say when they were made and how long they hold.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;

use super::{LIFE, MAX_NAME_BYTES, duration_of, earliest, later, point, point_of};

/// Makers of signatures: under these names a date is known to be a signature's, whatever stands beside it.
const MAKERS: [&str; 8] = ["x-amz", "x-goog", "x-oss", "x-tos", "x-obs", "x-cos", "x-qs", "x-bos"];

/// The signatures of a query by what stands before `-date` and `-expires` in their names.
pub(super) struct Signatures(BTreeMap<String, Signature>);

#[derive(Default)]
struct Signature {
    date: Option<Timestamp>,
    seconds: Option<u64>,
    /// `-expires` is a point of time, which rule 2 reads.
    has_end: bool,
    /// Another parameter of the same make stands there.
    is_signed: bool,
}

/// What a parameter is to a signature of its make.
enum Part {
    Date,
    Expires,
    Other,
}

impl Signatures {
    pub(super) fn among(pairs: &[(Cow<'_, str>, Cow<'_, str>)]) -> Signatures {
        let mut all: BTreeMap<String, Signature> = BTreeMap::new();
        for (name, value) in pairs {
            let Some((make, part)) = part(name) else { continue };
            let signature = all.entry(make).or_default();
            match part {
                Part::Date => signature.date = earliest(signature.date, point_of(value)),
                Part::Expires => {
                    signature.seconds = earliest(signature.seconds, duration_of(value));
                    signature.has_end |= point_of(value).is_some();
                }
                Part::Other => signature.is_signed = true,
            }
        }
        all.retain(|make, signature| {
            let is_known = signature.is_signed || MAKERS.contains(&make.as_str());
            signature.date.is_some() && (signature.seconds.is_some() || (is_known && !signature.has_end))
        });
        Signatures(all)
    }

    pub(super) fn cover(&self, name: &str, value: &str) -> bool {
        part(name).is_some_and(|(make, part)| match part {
            Part::Date => self.0.contains_key(&make),
            Part::Expires => self.0.contains_key(&make) && duration_of(value).is_some(),
            Part::Other => false,
        })
    }

    pub(super) fn end(&self, date: Timestamp) -> Option<Timestamp> {
        let ends = self
            .0
            .values()
            .map(|signature| later(signature.date.unwrap_or(date), signature.seconds.unwrap_or(LIFE.as_secs())));
        ends.min()
    }
}

fn part(name: &str) -> Option<(String, Part)> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('_', "-");
    let (make, part) = name.rsplit_once('-')?;
    let part = match part {
        "date" => Part::Date,
        "expires" => Part::Expires,
        "signature" | "credential" | "algorithm" | "signedheaders" => Part::Other,
        _ => return None,
    };
    Some((make.to_owned(), part))
}

/// The end of a signature of Baidu's, which has all in one value:
/// `bce-auth-v1/key id/date/seconds/signed headers/hash`.
pub(super) fn baidu(value: &str) -> Option<Timestamp> {
    let mut parts = value.strip_prefix("bce-auth-v")?.split('/').skip(2);
    let date = point::date(parts.next()?)?;
    Some(later(date, point::seconds(parts.next()?)?))
}
