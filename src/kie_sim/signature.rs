//! AWS Signature Version 4 in a query: what makes links look, and die, like kie.ai's.
//!
//! Pure: the time is an argument. It does not know which files exist, nor what HTTP makes of a refusal.

use std::time::Duration;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use percent_encoding::percent_decode_str;
use ring::{digest, hmac};
use url::{Position, Url};

use super::encoding::{encode, encode_path, hex, join, split, unhex};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// SigV4's own limit for a presigned request: seven days.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Whole seconds are all that `X-Amz-Expires` can say, and SigV4 wants at least one.
pub(super) const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// Why a request is not answered with the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the query carries no signature")]
    Unsigned,
    #[error("a signature parameter is missing, repeated or unreadable")]
    Malformed,
    #[error("the signature belongs to another method, host, path, query or key")]
    WrongSignature,
    #[error("the link ended at {end}")]
    Expired { end: Timestamp },
    #[error("the link begins at {start}")]
    NotYetValid { start: Timestamp },
}

/// The key that signs and checks: SigV4 is symmetric.
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) region: &'static str,
    pub(super) service: &'static str,
}

impl Credential {
    /// A link to `path` (percent-encoded as in a URL) below the root of `files`, good from `now` for `life`, both in
    /// whole seconds. `life` should lie between [`SHORTEST_LIFE`] and [`LONGEST_LIFE`]: a link with any other life is
    /// [`Refusal::Malformed`].
    pub(super) fn sign(&self, method: &str, files: &Url, path: &str, now: Timestamp, life: Duration) -> String {
        let date = now.strftime(DATE_FORMAT).to_string();
        let mut pairs: Vec<(String, String)> = [
            ("X-Amz-Algorithm", ALGORITHM.to_owned()),
            ("X-Amz-Date", date.clone()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
            ("X-Amz-Expires", life.as_secs().to_string()),
            ("X-Amz-Credential", format!("{}/{}", self.id, self.scope(&date))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), encode(value.as_bytes())))
        .collect();
        let path = encode_path(path);
        let host = &files[Position::BeforeHost..Position::AfterPort];
        let tag =
            hmac::sign(&self.signing_key(&date), self.string_to_sign(method, host, &path, &pairs, &date).as_bytes());
        pairs.push(("X-Amz-Signature".to_owned(), hex(tag.as_ref())));
        vary_order(&mut pairs, tag.as_ref());
        let scheme = files.scheme();
        format!("{scheme}://{host}{path}?{}", join(&pairs))
    }

    /// Checks a request as it came: `host` is its Host header, `path` and `query` are still percent-encoded.
    ///
    /// The signature is checked before the dates: an end that the caller rewrote is a wrong signature, not a longer
    /// life.
    pub(super) fn verify(
        &self,
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let mut pairs = split(query);
        if !pairs.iter().any(|(name, _)| name.starts_with("X-Amz-")) {
            return Err(Refusal::Unsigned);
        }
        let algorithm = value_of(&pairs, "X-Amz-Algorithm")?;
        let signed_headers = value_of(&pairs, "X-Amz-SignedHeaders")?;
        let date = value_of(&pairs, "X-Amz-Date")?;
        let credential = value_of(&pairs, "X-Amz-Credential")?;
        let life = parse_life(&value_of(&pairs, "X-Amz-Expires")?)?;
        let signature = unhex(&value_of(&pairs, "X-Amz-Signature")?).ok_or(Refusal::Malformed)?;
        let start = parse_date(&date)?;
        if algorithm != ALGORITHM || signed_headers != "host" {
            return Err(Refusal::Malformed);
        }
        if credential != format!("{}/{}", self.id, self.scope(&date)) {
            return Err(Refusal::WrongSignature);
        }

        pairs.retain(|(name, _)| name != "X-Amz-Signature");
        let claim = self.string_to_sign(method, host, &encode_path(path), &pairs, &date);
        // SECURITY: `hmac::verify` compares in constant time; `==` would tell how much of a forged signature is right.
        hmac::verify(&self.signing_key(&date), claim.as_bytes(), &signature).map_err(|_| Refusal::WrongSignature)?;

        let end = start.checked_add(life).map_err(|_| Refusal::Malformed)?;
        if now < start {
            return Err(Refusal::NotYetValid { start });
        }
        if now >= end {
            return Err(Refusal::Expired { end });
        }
        Ok(())
    }

    fn scope(&self, date: &str) -> String {
        let day = day_of(date);
        format!("{day}/{}/{}/aws4_request", self.region, self.service)
    }

    fn string_to_sign(&self, method: &str, host: &str, path: &str, pairs: &[(String, String)], date: &str) -> String {
        let mut sorted = pairs.to_vec();
        sorted.sort();
        let query = join(&sorted);
        // The headers block ends with its own newline, hence the empty line before the list of their names.
        let request = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        format!("{ALGORITHM}\n{date}\n{}\n{hash}", self.scope(date))
    }

    fn signing_key(&self, date: &str) -> hmac::Key {
        let first = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{}", self.secret).as_bytes());
        [day_of(date), self.region, self.service, "aws4_request"]
            .into_iter()
            .fold(first, |key, part| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref()))
    }
}

/// The id of the credential that the query names.
pub(super) fn access_id(query: &str) -> Option<String> {
    let credential = value_of(&split(query), "X-Amz-Credential").ok()?;
    credential.split_once('/').map(|(id, _)| id.to_owned())
}

/// `20250415T101007Z` to `20250415`.
fn day_of(date: &str) -> &str {
    date.split_once('T').map_or(date, |(day, _)| day)
}

/// kie.ai's parameters come in no particular order, so a reader that counts on an order must fail here, too. The order
/// follows from the signature: it is as good as random, and yet the function stays pure.
fn vary_order(pairs: &mut [(String, String)], tag: &[u8]) {
    for (index, byte) in (1..pairs.len()).rev().zip(tag) {
        pairs.swap(index, usize::from(*byte) % (index + 1));
    }
}

/// The decoded value of a parameter that must be there exactly once.
fn value_of(pairs: &[(String, String)], name: &str) -> Result<String, Refusal> {
    let mut values = pairs.iter().filter(|(candidate, _)| candidate == name);
    let (Some((_, value)), None) = (values.next(), values.next()) else {
        return Err(Refusal::Malformed);
    };
    percent_decode_str(value).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| Refusal::Malformed)
}

fn parse_life(text: &str) -> Result<Duration, Refusal> {
    let life = Duration::from_secs(text.parse().map_err(|_| Refusal::Malformed)?);
    if (SHORTEST_LIFE..=LONGEST_LIFE).contains(&life) { Ok(life) } else { Err(Refusal::Malformed) }
}

fn parse_date(text: &str) -> Result<Timestamp, Refusal> {
    let date = DateTime::strptime(DATE_FORMAT, text)
        .and_then(|date| TimeZone::UTC.to_timestamp(date))
        .map_err(|_| Refusal::Malformed)?;
    // strptime forgives missing zeros, S3 does not.
    if date.strftime(DATE_FORMAT).to_string() == text { Ok(date) } else { Err(Refusal::Malformed) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LIFE: Duration = Duration::from_secs(1200);

    fn credential() -> Credential {
        Credential { id: "0123456789abcdef".to_owned(), secret: "between us".to_owned(), region: "auto", service: "s3" }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn signed(path: &str, now: Timestamp, life: Duration) -> Url {
        let files = Url::parse("http://127.0.0.1:40001").unwrap();
        let link = credential().sign("GET", &files, path, now, life);
        Url::parse(&link).unwrap()
    }

    fn check(link: &Url, method: &str, now: Timestamp) -> Result<(), Refusal> {
        let host = &link[Position::BeforeHost..Position::AfterPort];
        let query = link.query().unwrap_or_default();
        credential().verify(method, host, link.path(), query, now)
    }

    /// "Example: GET Object" of "Authenticating Requests: Using Query Parameters" in the Amazon S3 API reference.
    #[test]
    fn the_published_example_gets_the_published_signature() {
        let amazon = Credential {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            region: "us-east-1",
            service: "s3",
        };
        let bucket = Url::parse("https://examplebucket.s3.amazonaws.com").unwrap();
        let now = at("2013-05-24T00:00:00Z");
        let link = amazon.sign("GET", &bucket, "/test.txt", now, Duration::from_secs(86400));
        assert!(link.starts_with("https://examplebucket.s3.amazonaws.com/test.txt?"));
        for part in [
            "X-Amz-Date=20130524T000000Z",
            "X-Amz-Expires=86400",
            "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request",
            "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        ] {
            assert!(link.contains(part), "{part} is missing in {link}");
        }
    }

    #[test]
    fn a_link_works_from_its_first_second_until_its_end_and_not_at_it() {
        let start = at("2025-04-15T10:10:07Z");
        let end = at("2025-04-15T10:30:07Z");
        let link = signed("/v/x.png", start, LIFE);
        let table = [
            ("2025-04-15T10:10:06Z", Err(Refusal::NotYetValid { start })),
            ("2025-04-15T10:10:07Z", Ok(())),
            ("2025-04-15T10:10:08Z", Ok(())),
            ("2025-04-15T10:30:06Z", Ok(())),
            ("2025-04-15T10:30:06.999999999Z", Ok(())),
            ("2025-04-15T10:30:07Z", Err(Refusal::Expired { end })),
            ("2025-04-15T10:30:08Z", Err(Refusal::Expired { end })),
        ];
        for (now, expected) in table {
            assert_eq!(check(&link, "GET", at(now)), expected, "at {now}");
        }
    }

    #[test]
    fn a_link_signed_within_a_second_counts_from_its_beginning() {
        let link = signed("/v/x.png", at("2025-04-15T10:10:07.9Z"), LIFE);
        assert!(link.as_str().contains("X-Amz-Date=20250415T101007Z"));
        let end = at("2025-04-15T10:30:07Z");
        assert_eq!(check(&link, "GET", end), Err(Refusal::Expired { end }));
    }

    #[test]
    fn lives_outside_of_one_second_to_seven_days_are_malformed() {
        let now = at("2025-04-15T10:10:07Z");
        let table = [(0, Err(Refusal::Malformed)), (1, Ok(())), (604_800, Ok(())), (604_801, Err(Refusal::Malformed))];
        for (life_secs, expected) in table {
            let link = signed("/v/x.png", now, Duration::from_secs(life_secs));
            assert_eq!(check(&link, "GET", now), expected, "{life_secs} s");
        }
    }

    #[test]
    fn whatever_is_altered_breaks_the_signature() {
        let now = at("2025-04-15T10:10:07Z");
        let link = signed("/v/x.png", now, LIFE);
        assert_eq!(check(&link, "GET", now), Ok(()));
        assert_eq!(check(&link, "HEAD", now), Err(Refusal::WrongSignature));
        let table = [
            ("127.0.0.1", "127.0.0.2"),
            (":40001", ":40002"),
            ("/v/x.png", "/v/y.png"),
            ("X-Amz-Expires=1200", "X-Amz-Expires=1201"),
            ("T101007Z", "T101008Z"),
            ("X-Amz-Credential=0", "X-Amz-Credential=1"),
            ("%2Fauto%2F", "%2Feast%2F"),
            ("?", "?download=1&"),
        ];
        for (from, to) in table {
            let altered = link.as_str().replacen(from, to, 1);
            assert_ne!(altered, link.as_str(), "{from} is not in the link");
            let altered = Url::parse(&altered).unwrap();
            assert_eq!(check(&altered, "GET", now), Err(Refusal::WrongSignature), "{from} -> {to}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed_and_what_is_not_there_is_unsigned() {
        let now = at("2025-04-15T10:10:07Z");
        let link = signed("/v/x.png", now, LIFE);
        let table = [
            ("X-Amz-Expires=1200", "X-Amz-Expires=soon"),
            ("X-Amz-Expires=1200", "X-Amz-Expires=-1"),
            ("X-Amz-Expires=1200", "x-amz-expires=1200"),
            ("X-Amz-Expires=1200", "X-Amz-Expires=1200&X-Amz-Expires=1200"),
            ("X-Amz-Date=20250415T101007Z", "X-Amz-Date=2025-04-15T10:10:07Z"),
            ("X-Amz-Date=20250415T101007Z", "X-Amz-Date=20250415T1017Z"),
            ("X-Amz-Date=20250415T101007Z", "X-Amz-Date=%ff"),
            ("SignedHeaders=host", "SignedHeaders=host%3Brange"),
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
            ("X-Amz-Signature=", "X-Amz-Signature=g0"),
            ("X-Amz-Signature=", "X-Amz-Signature=0"),
            ("X-Amz-Signature=", "Signature="),
        ];
        for (from, to) in table {
            let altered = link.as_str().replacen(from, to, 1);
            assert_ne!(altered, link.as_str(), "{from} is not in the link");
            let altered = Url::parse(&altered).unwrap();
            assert_eq!(check(&altered, "GET", now), Err(Refusal::Malformed), "{from} -> {to}");
        }
        for bare in ["", "?", "?download=1"] {
            let bare = Url::parse(&format!("http://127.0.0.1:40001/v/x.png{bare}")).unwrap();
            assert_eq!(check(&bare, "GET", now), Err(Refusal::Unsigned), "{bare}");
        }
    }

    #[test]
    fn the_parameters_are_those_of_a_real_link_in_varying_order() {
        let mut orders = BTreeSet::new();
        for second in 0..32 {
            let link = signed("/v/x.png", Timestamp::from_second(second).unwrap(), LIFE);
            let names: Vec<String> = link.query_pairs().map(|(name, _)| name.into()).collect();
            let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            let expected = BTreeSet::from([
                "X-Amz-Algorithm",
                "X-Amz-Credential",
                "X-Amz-Date",
                "X-Amz-Expires",
                "X-Amz-Signature",
                "X-Amz-SignedHeaders",
            ]);
            assert_eq!(known, expected);
            orders.insert(names);
        }
        assert!(orders.len() > 8, "only {} orders", orders.len());
    }

    #[test]
    fn a_path_may_be_encoded_more_or_less_and_remains_the_same_path() {
        let now = at("2025-04-15T10:10:07Z");
        for path in ["/v/a b.png", "/v/a%20b.png", "/v/%61%20b.png"] {
            let link = signed(path, now, LIFE);
            assert_eq!(link.path(), "/v/a%20b.png");
            assert_eq!(check(&link, "GET", now), Ok(()));
            let variant = link.as_str().replacen("/v/a", "/v/%61", 1);
            let variant = Url::parse(&variant).unwrap();
            assert_eq!(check(&variant, "GET", now), Ok(()));
        }
    }
}
