//! Links: checked before anybody sees them, and asked when they end. Pure.

use std::{fmt, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use url::Url;

use crate::host;

/// How long kie.ai says that a link lives (its documentation, "Get a download link").
pub const LIFE: Duration = Duration::from_secs(20 * 60);

/// Signed links run to 1–2 KiB; beyond this it is something else.
pub const MAX_BYTES: usize = 8 * 1024;

/// A signed, temporary address, fit to be handed out.
///
/// `Debug` does not show it: links and their signatures appear in answers only.
#[derive(Clone, PartialEq, Eq)]
pub struct Link(Arc<str>);

/// Why a text is no link. Never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the link is empty")]
    Empty,
    #[error("the link is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the link has control characters")]
    ControlCharacter,
    #[error("the link is not a valid https URL")]
    NotHttps,
    #[error("the link carries a user name or password")]
    UserInfo,
    #[error("the link points into a private network")]
    PrivateHost,
    #[error("the link spells its host in a way that not everybody reads alike")]
    UnclearHost,
}

/// Where links may point.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `http://host:port` of the sandbox's own file host; nothing else may be plain or private.
    pub sandbox_files: Option<String>,
}

impl Link {
    pub fn parse(text: &str, policy: &Policy) -> Result<Link, Unusable> {
        if text.is_empty() {
            return Err(Unusable::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(Unusable::TooLong);
        }
        // SECURITY: CR and LF would end the Location header.
        if text.chars().any(char::is_control) {
            return Err(Unusable::ControlCharacter);
        }
        let url = Url::parse(text).map_err(|_| Unusable::NotHttps)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unusable::UserInfo);
        }
        let is_sandbox = policy.sandbox_files.as_deref() == Some(url.origin().ascii_serialization().as_str());
        if !is_sandbox {
            // SECURITY: a backslash is a slash to some readers and part of the host to others.
            let spelled_out = text.get(..8).is_some_and(|head| head.eq_ignore_ascii_case("https://"));
            if !spelled_out || text.contains('\\') {
                return Err(Unusable::NotHttps);
            }
            let Some(host) = url.host() else { return Err(Unusable::NotHttps) };
            // SECURITY: callers fetch what they are given; an address inside their network is not a file of kie.ai's.
            if !host::is_public(&host) {
                return Err(Unusable::PrivateHost);
            }
            // SECURITY: curl takes `{a,b}` for two hosts, others end a name at `;` or a quote.
            if !host::is_plain(&host) {
                return Err(Unusable::UnclearHost);
            }
        }
        // To the letter where possible, since a signature covers it; the rest must fit into a header.
        let text = if text.bytes().all(|byte| byte.is_ascii_graphic()) { text } else { url.as_str() };
        if text.len() > MAX_BYTES {
            return Err(Unusable::TooLong);
        }
        // SECURITY: callers read the link with other eyes; to all of them its host must be the one that was checked.
        if !is_sandbox && !spells_its_host(text, &url) {
            return Err(Unusable::UnclearHost);
        }
        Ok(Link(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How much life the link's own parameters leave it at `date`, the clock of whoever signed it.
    /// `None` where it carries none; zero where it has ended, or says so in a way that no signer would.
    ///
    /// Reads `X-Amz-Date` + `X-Amz-Expires` (SigV4), their likes of other makers (`X-Goog-…`, `x-oss-…`), `Expires` (epoch
    /// seconds) and `se` (RFC 3339). Where only the date stands there, the documented 20 minutes count from it; where only
    /// the life does, it counts from `date`. Of several, the earliest end.
    pub fn life_left(&self, date: Timestamp) -> Option<Duration> {
        let (mut signed_at, mut life, mut end) = (None::<Timestamp>, None::<Duration>, None::<Timestamp>);
        let url = Url::parse(&self.0).ok()?;
        for (name, value) in url.query_pairs() {
            let name = name.to_ascii_lowercase();
            let readable = if name.starts_with("x-") && name.ends_with("-date") {
                let date = basic_iso_8601(&value);
                signed_at = earliest(signed_at, date);
                date.is_some()
            } else if name.starts_with("x-") && name.ends_with("-expires") {
                let seconds = value.parse().ok().map(Duration::from_secs);
                life = earliest(life, seconds);
                seconds.is_some()
            } else if name == "expires" {
                let second = value.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
                end = earliest(end, second);
                second.is_some()
            } else if name == "se" {
                end = earliest(end, value.parse().ok());
                true // too short a name to insist
            } else {
                true
            };
            if !readable {
                return Some(Duration::ZERO);
            }
        }
        if signed_at.is_some() || life.is_some() {
            let signed = signed_at.unwrap_or(date).checked_add(life.unwrap_or(LIFE)).unwrap_or(Timestamp::MAX);
            end = earliest(end, Some(signed));
        }
        end.map(|end| Duration::try_from(end.duration_since(date)).unwrap_or(Duration::ZERO))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

/// A doubled parameter: the smaller value is the safe one.
fn earliest<T: Ord>(seen: Option<T>, next: Option<T>) -> Option<T> {
    match (seen, next) {
        (Some(seen), Some(next)) => Some(seen.min(next)),
        (seen, next) => seen.or(next),
    }
}

/// `20250415T101007Z`
fn basic_iso_8601(text: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

/// Whether the host stands in `https://…` as it was understood: nothing percent-encoded, no number for an address.
fn spells_its_host(text: &str, url: &Url) -> bool {
    let rest = text.get(8..).unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let Some((spelled, port)) = authority.split_at_checked(host.len()) else { return false };
    spelled.eq_ignore_ascii_case(host) && (port.is_empty() || port.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Link, Unusable> {
        Link::parse(text, &Policy::default())
    }

    #[test]
    fn a_link_is_kept_to_the_letter() {
        for text in [
            "https://x.x.r2.cloudflarestorage.com/v/x.png?X-Amz-Signature=aB%2f&X-Amz-Date=20250415T101007Z",
            "https://tempfile.1f6c.example",
            "HTTPS://H.example/%61/../b",
        ] {
            assert_eq!(parse(text).unwrap().as_str(), text);
        }
        assert_eq!(parse("https://bü.example/").unwrap().as_str(), "https://xn--b-eha.example/");
        assert_eq!(parse("https://h.example/ü b").unwrap().as_str(), "https://h.example/%C3%BC%20b");
    }

    #[test]
    fn what_must_never_be_handed_out_is_refused() {
        for (text, why) in [
            ("", Unusable::Empty),
            ("https://h.example/\r\nSet-Cookie: a=b", Unusable::ControlCharacter),
            ("https://h.example/\u{85}", Unusable::ControlCharacter),
            ("http://h.example/a", Unusable::NotHttps),
            ("ftp://h.example/a", Unusable::NotHttps),
            ("javascript:alert(1)", Unusable::NotHttps),
            ("data:text/html,x", Unusable::NotHttps),
            ("//h.example/a", Unusable::NotHttps),
            ("h.example/a", Unusable::NotHttps),
            ("https:h.example/a", Unusable::NotHttps),
            ("https://", Unusable::NotHttps),
            ("https://good.example\\@evil.example/", Unusable::NotHttps),
            ("https://good.example@evil.example/", Unusable::UserInfo),
            ("https://u:p@h.example/", Unusable::UserInfo),
            ("https://169.254.169.254/latest", Unusable::PrivateHost),
            ("https://127.0.0.1/", Unusable::PrivateHost),
            ("https://2130706433/", Unusable::PrivateHost),
            ("https://0x7f.1/", Unusable::PrivateHost),
            ("https://10.1.2.3/", Unusable::PrivateHost),
            ("https://100.64.0.1/", Unusable::PrivateHost),
            ("https://0.0.0.0/", Unusable::PrivateHost),
            ("https://[::1]/", Unusable::PrivateHost),
            ("https://[::ffff:10.0.0.1]/", Unusable::PrivateHost),
            ("https://[64:ff9b::a9fe:a9fe]/", Unusable::PrivateHost),
            ("https://[fd00::1]/", Unusable::PrivateHost),
            ("https://[fe80::1]/", Unusable::PrivateHost),
            ("https://localhost/", Unusable::PrivateHost),
            ("https://metadata/", Unusable::PrivateHost),
            ("https://router.lan/", Unusable::PrivateHost),
            ("https://[fec0::1]/", Unusable::PrivateHost),
            ("https://[64:ff9b:1::a00:1]/", Unusable::PrivateHost),
            ("https://[::ffff:0:10.0.0.1]/", Unusable::PrivateHost),
            ("https://[2001:0:a00:1::]/", Unusable::PrivateHost),
            ("https://x.ns.svc/", Unusable::PrivateHost),
            ("https://metadata.google.internal/", Unusable::PrivateHost),
            ("https://168.63.129.16/", Unusable::PrivateHost),
            ("https://[2001:10::1]/", Unusable::PrivateHost),
            ("https://files.corp/", Unusable::PrivateHost),
            ("https://{127.0.0.1,x.y}/", Unusable::UnclearHost),
            ("https://127.0.0.1;.example.com/", Unusable::UnclearHost),
            ("https://127.0.0.1'.evil.com/", Unusable::UnclearHost),
            ("https://a..example/", Unusable::UnclearHost),
            ("https://h%2eexample/", Unusable::UnclearHost),
            ("https://134744072/", Unusable::UnclearHost),
            ("https:///h.example/", Unusable::UnclearHost),
        ] {
            assert_eq!(parse(text), Err(why), "{text:?}");
        }
        let long = format!("https://h.example/{}", "a".repeat(MAX_BYTES));
        assert_eq!(parse(&long), Err(Unusable::TooLong));
        assert!(parse("https://8.8.8.8/a").is_ok());
        assert!(parse("https://[2606:4700::1111]/a").is_ok());
    }

    #[test]
    fn only_the_sandbox_s_own_file_host_may_be_plain() {
        let policy = Policy { sandbox_files: Some("http://127.0.0.1:4000".into()) };
        assert!(Link::parse("http://127.0.0.1:4000/a?b", &policy).is_ok());
        assert!(Link::parse("http://127.0.0.1:4001/a?b", &policy).is_err());
        assert!(Link::parse("http://h.example/a", &policy).is_err());
    }

    #[test]
    fn life_left_is_read_from_the_link() {
        let date: Timestamp = "2025-04-15T10:10:07Z".parse().unwrap();
        let seconds = |query: &str| {
            let link = parse(&format!("https://h.example/a?{query}")).unwrap();
            link.life_left(date).map(|left| left.as_secs())
        };
        assert_eq!(seconds("X-Amz-Date=20250415T101007Z&X-Amz-Expires=1200"), Some(1200));
        assert_eq!(seconds("X-Amz-Expires=1200&a=b&X-Amz-Date=20250415T101007Z"), Some(1200));
        assert_eq!(seconds("x-amz-expires=1200&x-amz-date=20250415T101006Z"), Some(1199));
        assert_eq!(seconds("X-Amz-Date=20250415T095007Z&X-Amz-Expires=1200"), Some(0));
        assert_eq!(seconds("X-Amz-Date=20250415T085007Z&X-Amz-Expires=1200"), Some(0));
        assert_eq!(seconds("X-Goog-Date=20250415T101007Z&X-Goog-Expires=60"), Some(60));
        assert_eq!(seconds("X-Amz-Expires=900"), Some(900));
        assert_eq!(seconds("X-Amz-Date=20250415T100007Z"), Some(600));
        assert_eq!(seconds("X-Amz-Expires=900&X-Amz-Expires=30"), Some(30));
        assert_eq!(seconds("X-Amz-Expires=never"), Some(0));
        assert_eq!(seconds("X-Amz-Expires=900&X-Amz-Expires=never"), Some(0));
        assert_eq!(seconds("se=2025-04-15T10:10:37Z&Expires=never"), Some(0));
        assert_eq!(seconds("X-Amz-Date=20250415T101007Z&X-Amz-Expires=61.0"), Some(0));
        assert_eq!(seconds("X-Amz-Date=2025-04-15"), Some(0));
        assert_eq!(seconds("Expires=1744711837"), Some(30));
        assert_eq!(seconds("se=2025-04-15T10:10:37Z&sv=1"), Some(30));
        assert_eq!(seconds("x-oss-date=20250415T101007Z&x-oss-expires=30"), Some(30));
        assert_eq!(
            seconds("X-Amz-Date=29991231T235959Z&X-Amz-Expires=18446744073709551615").map(|left| left > 0),
            Some(true)
        );
        assert_eq!(seconds("token=abc"), None);
    }

    #[test]
    fn debug_does_not_show_the_link() {
        assert_eq!(format!("{:?}", parse("https://h.example/a?X-Amz-Signature=s").unwrap()), "Link(..)");
    }

    proptest! {
        #[test]
        fn whatever_passes_is_https_and_fits_into_a_header(text in "(https?:/{0,2})?.{0,80}") {
            if let Ok(link) = parse(&text) {
                prop_assert!(link.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                let url = Url::parse(link.as_str()).unwrap();
                prop_assert_eq!(url.scheme(), "https");
                let host = url.host().unwrap();
                prop_assert!(host::is_public(&host) && host::is_plain(&host));
            }
        }

        #[test]
        fn reading_the_life_never_panics(query in "(X-Amz-(Date|Expires)=[0-9TZ]{0,24}&?){0,3}") {
            let link = parse(&format!("https://h.example/a?{query}")).unwrap();
            let _ = link.life_left("2025-04-15T10:10:07Z".parse().unwrap());
        }
    }
}
