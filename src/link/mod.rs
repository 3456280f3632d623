//! Links: checked before anybody sees them, and asked when they end (`expiry`). Pure.

mod expiry;
pub(crate) mod point;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use url::Url;

use crate::host;

/// How long kie.ai says that a link lives (its documentation, "Get a download link").
pub const LIFE: Duration = Duration::from_secs(20 * 60);

/// Signed links run to 1–2 KiB; beyond this it is something else.
pub const MAX_BYTES: usize = 8 * 1024;

/// A signed, temporary address, fit to be handed out.
///
/// `Debug` does not show it: links and their signatures appear in answers only. It is shared as part of its entry, not by
/// itself, and has no counts of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Link(Box<str>);

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
    #[error("the link is escaped for HTML, so that what follows an ampersand would be lost")]
    EscapedForHtml,
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
        // A caller that fetches `…&amp;X-Amz-Signature=s` as it stands sends no signature.
        if is_escaped_for_html(text) {
            return Err(Unusable::EscapedForHtml);
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
        // The text stays to the letter where possible, since a signature covers it. Otherwise it is encoded, since it
        // must fit into a header.
        let text = if text.bytes().all(|byte| byte.is_ascii_graphic()) { text } else { url.as_str() };
        if text.len() > MAX_BYTES {
            return Err(Unusable::TooLong);
        }
        // SECURITY: callers read the link with other parsers; all of them must find the host that was checked here.
        if !is_sandbox && !spells_its_host(text, &url) {
            return Err(Unusable::UnclearHost);
        }
        Ok(Link(Box::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How much life the link's own text leaves it at `date`, an answer's `Date`: the link is read against the clock of
    /// its signer. `None` where the text names no end, zero where the end has passed. In whole seconds, as `date` is.
    pub fn life_left(&self, date: Timestamp) -> Option<Duration> {
        expiry::life_left(&self.0, date)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link(..)")
    }
}

/// Whether a character is escaped for HTML, by its name or its number: `&amp;`, `&#38;`, `&#x26;`.
fn is_escaped_for_html(text: &str) -> bool {
    let is_number = |digits: &str, radix| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    text.split('&').skip(1).filter_map(|piece| piece.split_once(';')).any(|(reference, _)| match reference {
        number if number.starts_with("#x") || number.starts_with("#X") => is_number(&number[2..], 16),
        number if number.starts_with('#') => is_number(&number[1..], 10),
        name => ["amp", "quot", "apos", "lt", "gt"].iter().any(|escape| name.eq_ignore_ascii_case(escape)),
    })
}

/// Whether the host stands in `https://…` as the parser understood it: nothing percent-encoded, no number for an
/// address.
fn spells_its_host(text: &str, url: &Url) -> bool {
    let rest = text.get(8..).unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let Some((spelled, port)) = authority.split_at_checked(host.len()) else { return false };
    spelled.eq_ignore_ascii_case(host) && (port.is_empty() || port.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

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
            "https://h.example/a?b=c&amp=d&x;y=z&amplitude;=1&amp%3B=2&lt&b=c;d&#;&#x;&#abc;",
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
            ("https://h.example/a?X-Amz-Date=d&amp;X-Amz-Signature=s", Unusable::EscapedForHtml),
            ("https://h.example/a?b=c&AMP;d=e", Unusable::EscapedForHtml),
            ("https://h.example/a?b=c&#38;d=e", Unusable::EscapedForHtml),
            ("https://h.example/a?b=c&#038;d=e", Unusable::EscapedForHtml),
            ("https://h.example/a?b=c&#x26;d=e", Unusable::EscapedForHtml),
            ("https://h.example/a?b=&quot;c&quot;", Unusable::EscapedForHtml),
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
    fn debug_does_not_show_the_link() {
        assert_eq!(format!("{:?}", parse("https://h.example/a?X-Amz-Signature=s").unwrap()), "Link(..)");
    }

    /// Links as kie.ai's file hosts may write them, some of them broken in one place.
    fn texts() -> impl Strategy<Value = String> {
        let public = [
            "x.r2.cloudflarestorage.com",
            "H.Example",
            "b\u{fc}.example",
            "a.b.example:8443",
            "8.8.8.8",
            "[2606:4700::1]",
        ];
        let private =
            ["10.1.2.3", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]", "2130706433", "localhost", "router.lan"];
        let unclear = ["h%2eexample", "h\u{3002}example", "134744072"];
        let host = prop_oneof![
            6 => prop::sample::select(public.to_vec()),
            1 => prop::sample::select(private.to_vec()),
            1 => prop::sample::select(unclear.to_vec()),
        ];
        let scheme =
            prop_oneof![8 => Just("https://"), 1 => Just("HTTPS://"), 1 => Just("http://"), 1 => Just("https:")];
        let rest = "(/[a-zA-Z0-9._~%/ \u{fc}-]{0,30}(\\?[a-zA-Z0-9=&%+;:@ \u{fc}-]{0,40}(#[a-z\u{fc}]{0,5})?)?)?";
        let good = (scheme, host, rest).prop_map(|(scheme, host, rest)| format!("{scheme}{host}{rest}"));
        let breakers =
            ["\\", "\\", "\\", "@", "\r\n", "\u{0}", "\u{7f}", "\u{85}", "&amp;", "/", ":", "%", " ", "\u{ad}"];
        let breaker = prop_oneof![1 => Just(""), 1 => prop::sample::select(breakers.to_vec())];
        (good, breaker, any::<prop::sample::Index>()).prop_map(|(mut text, breaker, at)| {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            text.insert_str(places[at.index(places.len())], breaker);
            text
        })
    }

    #[test]
    fn whatever_passes_is_https_and_fits_into_a_header() {
        let (passed, refused) = (AtomicU32::new(0), AtomicU32::new(0));
        let many = ProptestConfig::with_cases(1024);
        proptest!(many, |(text in texts())| {
            match parse(&text) {
                Ok(link) => {
                    passed.fetch_add(1, Ordering::Relaxed);
                    prop_assert!(link.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(link.as_str().len() <= MAX_BYTES);
                    let url = Url::parse(link.as_str()).unwrap();
                    prop_assert_eq!(url.scheme(), "https");
                    let host = url.host().unwrap();
                    prop_assert!(host::is_public(&host) && host::is_plain(&host));
                    prop_assert!(!link.as_str().contains(['\\', '\r', '\n']) && !link.as_str().contains("&amp;"));
                    prop_assert_eq!(parse(link.as_str()), Ok(link.clone()), "what is handed out would be refused");
                }
                Err(_) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // Else the generator has lost its way.
        let (passed, refused) = (passed.into_inner(), refused.into_inner());
        assert!(passed >= 160 && refused >= 160, "{passed} passed, {refused} were refused");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(https?:/{0,2})?.{0,80}") {
            let _ = parse(&text);
        }
    }
}
