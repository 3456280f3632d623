//! What links are asked for: source URLs, parsed, normalised, checked against the allow-list; and tasks. Pure.

mod allow;

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use url::Url;

pub use self::allow::{AllowList, BadPattern};
use crate::host;

/// The longest source URL taken, in bytes, as asked and as normalised.
pub const MAX_BYTES: usize = 4096;

/// The longest host and port taken, in bytes, as asked: letters beyond ASCII take more there.
const MAX_AUTHORITY_BYTES: usize = 1024;

/// The longest label of a host, in characters (RFC 1035 section 2.3.4); beyond ASCII fewer fit.
const MAX_LABEL_CHARS: usize = 63;

/// The longest name, in characters.
const MAX_NAME_CHARS: usize = 254;

/// The longest task ID taken, in bytes.
pub const MAX_TASK_BYTES: usize = 256;

/// Stands between the source URL and the task. Neither has control characters.
const BEFORE_TASK: char = '\n';

/// What a link is asked for: the normalised address of a file that kie.ai generated, and, where it is asked of kie.ai's
/// 4o image API, the task that generated it. Two equal ones share one entry.
///
/// `Debug` shows the host only: a full source URL is never logged.
#[derive(Clone)]
pub struct Source {
    /// The URL; behind `BEFORE_TASK` the task, where there is one.
    text: Arc<str>,
    url_end: u16,
    host: HostRange,
}

/// A source URL whose text, as it came, is the normalised one.
#[derive(Clone, Copy)]
pub struct Normal<'a> {
    text: &'a str,
    host: HostRange,
}

/// Where the host stands in the text, so that logging it costs no second parse.
#[derive(Clone, Copy)]
struct HostRange {
    start: u16,
    end: u16,
}

/// A place within the first `MAX_BYTES` bytes.
fn fits(at: usize) -> u16 {
    u16::try_from(at).expect("bounded by MAX_BYTES")
}

impl HostRange {
    fn new(start: usize, end: usize) -> HostRange {
        HostRange { start: fits(start), end: fits(end) }
    }

    fn of(self, text: &str) -> &str {
        &text[usize::from(self.start)..usize::from(self.end)]
    }
}

/// Why a text is no source URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("it has control characters")]
    ControlCharacter,
    #[error("it is not an absolute http or https URL")]
    NotHttp,
    #[error("it carries a user name or password")]
    UserInfo,
    #[error("it is not a valid URL")]
    Syntax,
    #[error("its host is no address, and no name of letters, digits, `-` and `_` (1 to 63 between two dots)")]
    Host,
}

/// Why a text is no task ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not 1 to {MAX_TASK_BYTES} visible ASCII characters")]
pub struct BadTask;

impl Source {
    /// Parses and normalises: scheme and host case, default port, empty path, dot segments, the
    /// percent-encoding of unreserved characters in the path (RFC 3986 section 6.2.2) and the case of hex digits in
    /// what stays encoded there (section 6.2.2.1), the fragment.
    /// The path's case and the query stay as they are, for they may mean something to kie.ai.
    pub fn parse(text: &str) -> Result<Source, Invalid> {
        match Normal::recognise(text) {
            Some(normal) => Ok(normal.into()),
            None => Source::parse_any(text),
        }
    }

    fn parse_any(text: &str) -> Result<Source, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(Invalid::TooLong);
        }
        // SECURITY: the URL standard drops tabs and newlines silently; two readers of one text must not
        // see two URLs.
        if text.chars().any(char::is_control) {
            return Err(Invalid::ControlCharacter);
        }
        // The URL standard also takes `https:host` and `https:/host`; no caller means that.
        let authority = strip_scheme(text).ok_or(Invalid::NotHttp)?;
        let authority = &authority[..authority.find(['/', '\\', '?', '#']).unwrap_or(authority.len())];
        if authority.is_empty() || authority.len() > MAX_AUTHORITY_BYTES {
            return Err(Invalid::Syntax);
        }
        if authority.contains('@') {
            return Err(Invalid::UserInfo);
        }
        // SECURITY: the time that an `xn--` label takes grows with the square of its length.
        let host = authority.rsplit_once(':').map_or(authority, |(host, _port)| host);
        if host.split(['.', ':', '\u{3002}', '\u{ff0e}', '\u{ff61}']).any(is_too_long) {
            return Err(Invalid::Host);
        }
        let mut url = Url::parse(text).map_err(|_| Invalid::Syntax)?;
        url.set_fragment(None);
        let path = normal_triplets(url.path());
        if has_encoded_control(&path) || url.query().is_some_and(has_encoded_control) {
            return Err(Invalid::ControlCharacter);
        }
        if path != url.path() {
            url.set_path(&path);
        }
        let text = url.as_str();
        if text.len() > MAX_BYTES {
            return Err(Invalid::TooLong);
        }
        // SECURITY: what another reader takes for a pattern, or for the end of the name, may lead it to a host that
        // `sources.allow` does not have.
        if !url.host().is_some_and(|host| host::is_plain(&host)) {
            return Err(Invalid::Host);
        }
        let host = url.host_str().ok_or(Invalid::Syntax)?;
        let start = url.scheme().len() + "://".len();
        let host = HostRange::new(start, start + host.len());
        Ok(Source { url_end: fits(text.len()), text: Arc::from(text), host })
    }

    /// The same file, asked of the 4o image API. `task` is kie.ai's name of the task that generated it.
    ///
    /// # Errors
    /// When it is not 1 to `MAX_TASK_BYTES` visible ASCII characters.
    pub fn of_task(self, task: &str) -> Result<Source, BadTask> {
        if !(1..=MAX_TASK_BYTES).contains(&task.len()) || !task.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadTask);
        }
        let text = format!("{}{BEFORE_TASK}{task}", self.url());
        Ok(Source { text: Arc::from(text), ..self })
    }

    /// The normalised source URL, which is also what kie.ai is asked.
    pub fn url(&self) -> &str {
        &self.text[..usize::from(self.url_end)]
    }

    pub fn task(&self) -> Option<&str> {
        self.text[usize::from(self.url_end)..].strip_prefix(BEFORE_TASK)
    }

    /// URL and task as one text, by which its entry is found. Without a task it is the URL.
    pub fn key(&self) -> &str {
        &self.text
    }

    /// The host, without the port; an IPv6 address stands in brackets.
    pub fn host(&self) -> &str {
        self.host.of(&self.text)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        self.text == other.text
    }
}

impl Eq for Source {}

/// As its key alone does: memory is asked by a text that nobody owns yet.
impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for Source {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl From<Normal<'_>> for Source {
    fn from(normal: Normal<'_>) -> Source {
        Source { text: Arc::from(normal.text), url_end: fits(normal.text.len()), host: normal.host }
    }
}

impl<'a> Normal<'a> {
    /// Recognises the usual source URL without building it anew: a name in lower case, no port, no escapes, no segment
    /// that begins with a dot. `None` says nothing: the parser has to look. Where it is `Some`, the parser would come to
    /// the same text (a property holds this).
    pub fn recognise(text: &'a str) -> Option<Normal<'a>> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let start = text.len() - rest.len();
        let end = start + length_of_usual_name(rest.as_bytes())?;
        let (mut at, mut is_query) = (end, false);
        let bytes = text.as_bytes();
        while let Some(unusual) = bytes[at..].iter().position(|byte| !IS_PLAIN[usize::from(*byte)]) {
            at += unusual;
            match bytes[at] {
                b'?' => is_query = true,
                b'.' if is_query || bytes[at - 1] != b'/' => {}
                _ => return None,
            }
            at += 1;
        }
        Some(Normal { text, host: HostRange::new(start, end) })
    }

    pub fn as_str(self) -> &'a str {
        self.text
    }

    pub fn host(self) -> &'a str {
        self.host.of(self.text)
    }
}

/// What stays as it is in the path and in the query of a URL, wherever it stands there and whoever reads it.
const IS_PLAIN: [bool; 256] = all_of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~/!$&()*+,;=:@");

/// What a label of a usual name has.
const IS_LABEL: [bool; 256] = all_of(b"abcdefghijklmnopqrstuvwxyz0123456789-_");

const fn all_of(bytes: &[u8]) -> [bool; 256] {
    let mut is_one = [false; 256];
    let mut at = 0;
    while at < bytes.len() {
        is_one[bytes[at] as usize] = true;
        at += 1;
    }
    is_one
}

/// How long the name is that a text begins with, up to the first slash: labels of `a-z`, `0-9`, `-` and `_` that have
/// nothing encoded, the last of which begins with a letter and so is no number.
fn length_of_usual_name(text: &[u8]) -> Option<usize> {
    let mut begin = 0;
    while begin < MAX_NAME_CHARS {
        let length = text[begin..].iter().position(|byte| !IS_LABEL[usize::from(*byte)])?;
        let (label, end) = (&text[begin..begin + length], begin + length);
        if !(1..=MAX_LABEL_CHARS).contains(&length) || label.starts_with(b"xn--") {
            return None;
        }
        match text[end] {
            b'.' => begin = end + 1,
            b'/' => return (label[0].is_ascii_lowercase() && end < MAX_NAME_CHARS).then_some(end),
            _ => return None,
        }
    }
    None
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.host())
    }
}

/// Whether a host's label has more characters than a label can have. An escaped label may be a whole name, its dots
/// escaped, too.
fn is_too_long(label: &str) -> bool {
    let triplets = label.matches('%').count();
    let most = if triplets == 0 { MAX_LABEL_CHARS } else { MAX_NAME_CHARS };
    label.chars().count().saturating_sub(2 * triplets) > most
}

fn strip_scheme(text: &str) -> Option<&str> {
    ["https://", "http://"].iter().find_map(|scheme| {
        let head = text.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
    })
}

/// Decodes `%41` to `A` and the like: letters, digits, `-`, `.`, `_`, `~` (RFC 3986 section 2.3).
/// Every other triplet stays, its hex digits in upper case: `%c3` is `%C3`.
///
/// A path with a `%` that begins no triplet stays as it is. Decoding next to it could make a triplet that was not
/// there; and a reader that takes `%%` for a percent sign reads `%%c3` as `%c3`, whose case means something.
fn normal_triplets(path: &str) -> String {
    if path.match_indices('%').any(|(at, _)| triplet(&path[at..]).is_none()) {
        return path.to_owned();
    }
    let mut pieces = path.split('%');
    let mut normal = String::with_capacity(path.len());
    normal.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (digits, rest) = piece.split_at(2);
        match octet(digits.as_bytes()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(char::from(byte)),
            Some(_) | None => {
                normal.push('%');
                normal.push_str(&digits.to_ascii_uppercase());
            }
        }
        normal.push_str(rest);
    }
    normal
}

fn has_encoded_control(text: &str) -> bool {
    text.match_indices('%').any(|(at, _)| triplet(&text[at..]).is_some_and(|byte| byte.is_ascii_control()))
}

fn triplet(text: &str) -> Option<u8> {
    octet(text.as_bytes().get(1..3)?)
}

/// The byte that two hex digits stand for.
pub(crate) fn octet(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(digit(digits[0])? << 4 | digit(digits[1])?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Source::parse(text).unwrap_or_else(|why| panic!("{text}: {why}")).url().to_owned()
    }

    #[test]
    fn equal_source_urls_become_one() {
        let expected = "https://tempfile.aiquickdraw.com/s/a.png";
        for text in [
            "https://tempfile.aiquickdraw.com/s/a.png",
            "HTTPS://TempFile.AiQuickDraw.com/s/a.png",
            "https://tempfile.aiquickdraw.com:443/s/a.png",
            "https://tempfile.aiquickdraw.com/x/../s/./a.png",
            "https://tempfile.aiquickdraw.com/x/%2e%2e/s/a.png",
            "https://tempfile.aiquickdraw.com/%73/%61.png",
            "https://tempfile.aiquickdraw.com/s/a%2Epng#top",
        ] {
            assert_eq!(normal(text), expected, "{text}");
        }
        for text in
            ["https://h/%c3%a9%2f%3F?x=%c3%2f", "https://h/%C3%a9%2F%3f?x=%c3%2f", "https://h/\u{e9}%2f%3f?x=%c3%2f"]
        {
            assert_eq!(normal(text), "https://h/%C3%A9%2F%3F?x=%c3%2f", "{text}");
        }
        assert_eq!(normal("http://h.kie.ai:80"), "http://h.kie.ai/");
        assert_eq!(normal("https://h.kie.ai?q"), "https://h.kie.ai/?q");
    }

    #[test]
    fn what_may_mean_something_else_to_kie_ai_stays_apart() {
        for (one, other) in [
            ("https://h/A", "https://h/a"),
            ("https://h/a?x=%61", "https://h/a?x=a"),
            ("https://h/a?", "https://h/a"),
            ("https://h/a%2Fb", "https://h/a/b"),
            ("https://h/a%2541", "https://h/a%41"),
            ("https://h/%%61b", "https://h/%ab"),
            ("https://h/%2%35x", "https://h/%25x"),
            ("https://h/a%%32Fb", "https://h/a%2Fb"),
            ("https://h/a?x=%c3", "https://h/a?x=%C3"),
            ("https://h/%%c3", "https://h/%%C3"),
            ("https://h/%c3%", "https://h/%C3%"),
            ("https://h/c3", "https://h/C3"),
            ("http://h/a", "https://h/a"),
            ("https://h:8443/a", "https://h/a"),
        ] {
            assert_ne!(normal(one), normal(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_source_url_is_refused_with_the_reason() {
        for (text, why) in [
            ("", Invalid::Empty),
            ("/s/a.png", Invalid::NotHttp),
            ("//h/a", Invalid::NotHttp),
            ("h/a", Invalid::NotHttp),
            ("ftp://h/a", Invalid::NotHttp),
            ("javascript:alert(1)", Invalid::NotHttp),
            ("https:h/a", Invalid::NotHttp),
            ("https:/h/a", Invalid::NotHttp),
            (" https://h/a", Invalid::NotHttp),
            ("https://", Invalid::Syntax),
            ("https:///a", Invalid::Syntax),
            ("https:///h/a", Invalid::Syntax),
            ("https://h:99999/a", Invalid::Syntax),
            ("https://{127.0.0.1,h}/a", Invalid::Host),
            ("https://127.0.0.1;.kie.ai/a", Invalid::Host),
            ("https://127.0.0.1'.kie.ai/a", Invalid::Host),
            ("https://a..kie.ai/a", Invalid::Host),
            ("https://.kie.ai/a", Invalid::Host),
            ("https://h.kie.ai../a", Invalid::Host),
            ("https://u:p@h/a", Invalid::UserInfo),
            ("https://@h/a", Invalid::UserInfo),
            ("https://u@h\\a", Invalid::UserInfo),
            ("https://h/a\nb", Invalid::ControlCharacter),
            ("https://h/a\u{0}", Invalid::ControlCharacter),
            ("https://h/a%00", Invalid::ControlCharacter),
            ("https://h/a?b=%0d%0a", Invalid::ControlCharacter),
        ] {
            assert_eq!(Source::parse(text).map(|source| source.url().to_owned()), Err(why), "{text:?}");
        }
    }

    #[test]
    fn the_length_limit_holds_as_asked_and_as_normalised() {
        let fits = format!("https://h/{}", "a".repeat(MAX_BYTES - 10));
        assert_eq!(normal(&fits).len(), MAX_BYTES);
        assert_eq!(Source::parse(&format!("{fits}a")).unwrap_err(), Invalid::TooLong);
        let shrinks = format!("https://h/a#{}", "a".repeat(MAX_BYTES));
        assert_eq!(Source::parse(&shrinks).unwrap_err(), Invalid::TooLong);
        // Each ü becomes six bytes on the wire.
        let grows = format!("https://h/{}", "ü".repeat(1000));
        assert_eq!(Source::parse(&grows).unwrap_err(), Invalid::TooLong);
    }

    #[test]
    fn the_host_has_limits_of_its_own() {
        let of = |host: String| Source::parse(&format!("https://{host}/a")).map(|_| ());
        assert_eq!(of("a".repeat(63)), Ok(()));
        assert_eq!(of("a".repeat(64)), Err(Invalid::Host));
        assert_eq!(of("xn--t".to_owned() + &"da".repeat(29)), Err(Invalid::Syntax), "within them, but no label");
        assert_eq!(of("xn--t".to_owned() + &"da".repeat(30)), Err(Invalid::Host), "not decoded");
        assert_eq!(of("a.xn--t".to_owned() + &"da".repeat(30)), Err(Invalid::Host), "whatever stands before it");
        assert_eq!(of("ü".repeat(40)), Ok(()));
        assert_eq!(of("%78n--t".to_owned() + &"da".repeat(200)), Err(Invalid::Host));
        assert_eq!(of("a.".repeat(126) + "a."), Ok(()));
        assert_eq!(of("a.".repeat(126) + "aa"), Err(Invalid::Host));
        let escaped = |bytes: usize| "%61".repeat(50) + &"%2e%61".repeat(25) + ":" + &"0".repeat(bytes - 301);
        assert_eq!(of(escaped(MAX_AUTHORITY_BYTES)), Ok(()));
        assert_eq!(of(escaped(MAX_AUTHORITY_BYTES + 1)), Err(Invalid::Syntax));
    }

    #[test]
    fn hosts_are_found_whatever_their_form() {
        for (text, host) in [
            ("https://a.kie.ai:8443/x", "a.kie.ai"),
            ("https://[::1]:8443/x", "[::1]"),
            ("https://127.1/x", "127.0.0.1"),
            ("https://bücher.example/x", "xn--bcher-kva.example"),
            ("https://a.kie.ai/u@h/x", "a.kie.ai"),
        ] {
            assert_eq!(Source::parse(text).unwrap().host(), host);
        }
    }

    #[test]
    fn debug_shows_the_host_only() {
        let source = Source::parse("https://a.kie.ai/private/name.png?t=1").unwrap();
        assert_eq!(format!("{source:?}"), "Source(a.kie.ai)");
        assert_eq!(format!("{:?}", source.of_task("task12345").unwrap()), "Source(a.kie.ai)");
    }

    #[test]
    fn a_task_makes_another_source_of_the_same_url() {
        let plain = Source::parse("https://a.kie.ai/x?y").unwrap();
        let of = |task: &str| plain.clone().of_task(task);
        let asked = of("task12345").unwrap();
        assert_eq!((asked.url(), asked.task(), asked.host()), (plain.url(), Some("task12345"), "a.kie.ai"));
        assert_eq!((plain.task(), plain.key()), (None, "https://a.kie.ai/x?y"));
        assert_eq!(asked, of("task12345").unwrap());
        assert_eq!(asked.clone().of_task("other").unwrap(), of("other").unwrap(), "there is one task");
        for other in [&plain, &of("task1234").unwrap(), &of("TASK12345").unwrap()] {
            assert_ne!(&asked, other);
        }
        assert!(of("~").is_ok() && of("\"\\%26?&/").is_ok() && of(&"t".repeat(MAX_TASK_BYTES)).is_ok());
        for bad in ["", " ", "a b", "a\nb", "a\u{0}", "\u{7f}", "\u{e9}", &"t".repeat(MAX_TASK_BYTES + 1)] {
            assert_eq!(of(bad), Err(BadTask), "{bad:?}");
        }
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Source>(), 24);
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent(path in "[a-zA-Z0-9%./_~?&=#\\\\ü -]{0,60}") {
            if let Ok(once) = Source::parse(&format!("https://Tempfile.Kie.ai/{path}")) {
                let twice = Source::parse(once.url());
                prop_assert_eq!(twice.as_ref().map(Source::url), Ok(once.url()));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = Source::parse(&text);
            let _ = Source::parse(&format!("https://{text}"));
        }
    }

    /// A path with a query in one spelling and in another: each piece is written anew, in a way that means the same or
    /// nearly so.
    fn spellings() -> impl Strategy<Value = (String, String)> {
        let alike = [
            &["a", "%61", "%61", "A"][..],
            &["~", "%7e", "%7E"],
            &["%c3%a9", "%C3%A9", "%C3%a9", "\u{e9}", "%c3%a8"],
            &["%2f", "%2F", "/"],
            &["%3f", "%3F"],
            &["%25", "%", "%2525"],
            &["%2e%2e/", "../"],
            &["/.", "/%2E", "/"],
            &["c3", "C3"],
            &["b"],
        ];
        let piece = prop::sample::select(alike.to_vec())
            .prop_flat_map(|alike| (prop::sample::select(alike.to_vec()), prop::sample::select(alike.to_vec())));
        let query =
            prop::sample::select(vec![("", ""), ("?x=%c3", "?x=%c3"), ("?x=%c3", "?x=%C3"), ("?a", "?%61"), ("", "?")]);
        let ends = prop::sample::select(vec![("", ""), ("", "#top"), ("#a", "#b")]);
        (prop::collection::vec(piece, 0..5), query, ends).prop_map(|(pieces, query, ends)| {
            let (one, other): (Vec<&str>, Vec<&str>) = pieces.into_iter().unzip();
            (format!("/{}{}{}", one.concat(), query.0, ends.0), format!("/{}{}{}", other.concat(), query.1, ends.1))
        })
    }

    /// The part that names the object (path decoded, query as it stands) is what kie.ai resolves.
    #[test]
    fn what_is_equal_here_is_equal_for_kie_ai() {
        let (equal, different) = (AtomicU32::new(0), AtomicU32::new(0));
        let meaning = |text: &str| {
            let url = Url::parse(text).unwrap();
            let path = percent_encoding::percent_decode_str(url.path()).collect::<Vec<u8>>();
            (path, url.query().map(str::to_owned))
        };
        // So many that chance does not decide about the counts below.
        proptest!(ProptestConfig::with_cases(1024), |((one, other) in spellings())| {
            let (one, other) = (format!("https://h.kie.ai{one}"), format!("HTTPS://H.kie.ai:443{other}"));
            let (left, right) = (Source::parse(&one).unwrap(), Source::parse(&other).unwrap());
            if left == right {
                equal.fetch_add(1, Ordering::Relaxed);
                prop_assert_eq!(meaning(&one), meaning(&other), "{} {}", one, other);
            } else {
                different.fetch_add(1, Ordering::Relaxed);
            }
            prop_assert_eq!(meaning(left.url()), meaning(&one), "{} is asked as {}", one, left.url());
        });
        // Of 1,024; else the generator has lost its way.
        let (equal, different) = (equal.into_inner(), different.into_inner());
        assert!(equal >= 150 && different >= 160, "{equal} equal, {different} different");
    }

    #[test]
    fn what_is_recognised_is_what_the_parser_makes_of_it() {
        let recognised = AtomicU32::new(0);
        // Mostly what is usual, or nothing would be compared.
        let label =
            prop_oneof![9 => "[a-z][a-z0-9_-]{0,6}", 1 => "xn--[a-z0-9]{0,8}|[0-9]{1,3}|0x[0-9a-f]{1,3}|[A-Z]|"];
        let piece = prop_oneof![
            9 => "[a-zA-Z0-9_~/!$&()*+,;=:@-]{0,8}|[?]|[a-z][.]{1,2}",
            1 => "/[.]|[%'\"<>|{}^`\\\\ #\\[\\]\u{e9}\n\t]|%[0-9a-fA-F]{2}",
        ];
        let (host, rest) = (proptest::collection::vec(label, 1..4), proptest::collection::vec(piece, 0..5));
        proptest!(ProptestConfig::with_cases(1024), |(tls: bool, host in host, rest in rest)| {
            let scheme = if tls { "https" } else { "http" };
            let text = format!("{scheme}://{}/{}", host.join("."), rest.concat());
            if let Some(normal) = Normal::recognise(&text) {
                recognised.fetch_add(1, Ordering::Relaxed);
                let parsed = Source::parse_any(&text);
                prop_assert_eq!(parsed.as_ref().map(Source::url), Ok(normal.as_str()));
                prop_assert_eq!(parsed.as_ref().map(Source::host), Ok(normal.host()));
            }
        });
        // Of 1,024; else nothing was compared.
        let recognised = recognised.into_inner();
        assert!(recognised >= 240, "{recognised} recognised");
    }

    #[test]
    fn the_usual_source_url_is_recognised() {
        for text in [
            "https://tempfile.aiquickdraw.com/s/3f9a7c2e-1b5d-4e60-9a8f-0c1d2e3f4a5b.png",
            "http://h/",
            "https://file.redpandaai.co/a/b.c/d?e=f&g=h.i/.j?k",
        ] {
            assert_eq!(Normal::recognise(text).map(Normal::as_str), Some(text));
        }
        for text in [
            "https://h",
            "https://h?q",
            "https://H/",
            "https://h:443/",
            "https://u@h/",
            "https://h./",
            "https://1.2.3.4/",
            "https://h/%41",
            "https://h/.",
            "https://h/a/../b",
            "https://h/.well-known",
            "https://h/#f",
            "https://h/a b",
            "https://xn--bcher-kva.example/",
            "https://a.0x7f/",
            "https:///",
            "https://a..b/",
        ] {
            assert!(Normal::recognise(text).is_none(), "{text}");
        }
    }
}
