//! kie.ai's messages, made fit for callers, logs and pages. Pure.
//!
//! A message may repeat what kie.ai was sent: the key, the caller's URL and task; and what it has made: a link and its
//! signature. It is searched whole and cut to its length last, so that no half of a secret is left at the cut.

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{
    key::{self, ApiKey},
    source::Source,
};

/// Messages are shown to callers; a page of HTML is not a message.
pub(crate) const MAX_CHARS: usize = 300;

/// Stands for the address that was asked for.
const ADDRESS: &str = "[url]";

/// Stands for the task that was asked for.
const TASK: &str = "[task]";

/// Stands for what may be a signature.
const BLOT: &str = "[…]";

/// The most letters in a row that one word of kie.ai's has: `insufficient`, `authentication`. Two words in one have
/// more.
const LONGEST_WORD: usize = 16;

/// Letters and digits in a row that may be (a part of) a signature. Words are shorter.
const LONGEST_RUN: usize = 24;

/// The most jumps that a row of words has (`jumps`); two points of time have six.
const MOST_JUMPS: usize = 6;

/// Escapes (`\u0041`) that a message of words has at most.
const MOST_ESCAPES: usize = 8;

/// What may be repeated of `message`, which kie.ai gave when it was asked for `source`: one printable line, bounded,
/// without any of `keys`, without what may be a signature.
pub(crate) fn presentable(message: &str, source: &Source, keys: &[ApiKey]) -> String {
    // SECURITY: what a caller wrote is taken out before the key is looked for. Otherwise a caller could complete a part
    // of the key that kie.ai tells with words of its own, and would see from the answer when they fit.
    tidy(&key::scrub(keys, &without_source(message, source)))
}

/// What may be repeated of a message that kie.ai gave to a call which names no file.
pub(super) fn presentable_alone(message: &str, keys: &[ApiKey]) -> String {
    tidy(&key::scrub(keys, message))
}

/// `message` without source URL and task, in the spellings in which they may come back.
fn without_source<'a>(message: &'a str, source: &Source) -> Cow<'a, str> {
    let mut message = Cow::Borrowed(message);
    for (spelling, by) in spellings(source) {
        if let Some(replaced) = replace_ignoring_case(&message, &spelling, by) {
            message = replaced.into();
        }
    }
    // A source URL that was changed or cut off still names its host.
    let host = source.host().to_ascii_lowercase();
    let is_of_source = |word: &str| {
        let lower = word.to_ascii_lowercase();
        lower
            .match_indices(&host)
            .any(|(at, host)| lower[at + host.len()..].starts_with(['/', '\\', '?', ':', '%', '#']))
    };
    if message.split(' ').any(is_of_source) {
        let words: Vec<&str> = message.split(' ').map(|word| if is_of_source(word) { ADDRESS } else { word }).collect();
        message = words.join(" ").into();
    }
    message
}

/// The forms in which a message may repeat what was asked, and what stands for each: the whole URL, the whole without its
/// scheme, its path, the file's name; the task; each as it stands, encoded and decoded; the longest first. A query is not
/// decoded, and a name of one word is left out: both could be kie.ai's own words.
fn spellings(source: &Source) -> Vec<(String, &'static str)> {
    /// What is shorter may be a word of kie.ai's.
    const LEAST: usize = 6;
    let whole = source.url();
    let rest = whole.split_once("://").map_or(whole, |(_, rest)| rest);
    let path_and_query = rest.find('/').map_or("", |at| &rest[at..]);
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let is_word = |name: &str| name.len() <= LONGEST_WORD && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    let names = [(name, ADDRESS), (stem, ADDRESS), (source.task().unwrap_or_default(), TASK)];
    let names = names.into_iter().filter(|(name, _)| !is_word(name));
    let addresses = [whole, rest, path_and_query, path].map(|part| (part, ADDRESS));
    let mut all = Vec::new();
    for (part, by) in addresses.into_iter().chain(names) {
        let decoded = percent_decode_str(part).decode_utf8_lossy().into_owned();
        let encoded = utf8_percent_encode(part, NON_ALPHANUMERIC).to_string();
        // Encoded as by `encodeURIComponent` and its likes, which leave some signs alone.
        let signs = [(':', "%3A"), ('/', "%2F"), ('?', "%3F"), ('=', "%3D"), ('&', "%26")];
        let half_encoded = signs.iter().fold(part.to_owned(), |text, (sign, code)| text.replace(*sign, code));
        let escaped = part.replace('/', "\\/");
        all.extend([part.to_owned(), decoded, encoded, half_encoded, escaped].map(|spelling| (spelling, by)));
    }
    if query.contains(['=', '&', '/', '%']) {
        all.push((query.to_owned(), ADDRESS));
    }
    all.retain(|(spelling, _)| spelling.len() >= LEAST);
    all.sort_by_key(|(spelling, _)| std::cmp::Reverse(spelling.len()));
    all.dedup();
    all
}

/// `None` where `what` is not there. Ignores ASCII's case alone, which keeps every letter's position.
fn replace_ignoring_case(text: &str, what: &str, by: &str) -> Option<String> {
    let (lower, what) = (text.to_ascii_lowercase(), what.to_ascii_lowercase());
    let mut replaced = String::new();
    let mut end = 0;
    for (at, found) in lower.match_indices(&what) {
        replaced.push_str(&text[end..at]);
        replaced.push_str(by);
        end = at + found.len();
    }
    (end > 0).then(|| replaced + &text[end..])
}

/// `message` as one line, printable and bounded, without signatures. Of an address, only what stands before the query
/// is kept, since a signature stands in the query.
fn tidy(message: &str) -> String {
    let printable: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let is_escaped = |word: &str| word.contains("\\u") || word.contains("\\x") || word.contains("&#");
    let escapes = ["\\u", "\\x", "&#"].iter().map(|mark| printable.matches(mark).count()).sum::<usize>();
    let mut shown = Vec::new();
    // A secret has just been named: the next word is the secret, where it looks like one.
    let mut is_due = false;
    for word in printable.split(' ') {
        let whole = decoded(word);
        let (kept, plain) = match address(word) {
            Some(address) => (address, decoded(address)),
            None => (word, whole.clone()),
        };
        let is_secret = is_parameter(&whole) || has_secret(&plain) || is_mixed(&plain) || address(&plain).is_some();
        let is_blotted = is_secret || (escapes > MOST_ESCAPES && is_escaped(word)) || (is_due && looks_random(word));
        let kept = if is_blotted { BLOT } else { kept };
        // Some programs make a blank of a `+`: the next word may be the rest of the secret.
        is_due = kept != word || names_secret(&whole) || (is_due && !plain.contains(char::is_alphanumeric));
        shown.push(kept);
    }
    blot_jumpy_rows(&mut shown);
    let mut tidy: String = without_long_runs(&shown.join(" ")).chars().take(MAX_CHARS).collect();
    tidy.truncate(tidy.trim_end().len());
    tidy
}

/// What stands before the query, where the word has an address with a query. The address may begin anywhere in the
/// word: what stands before it may be another address that has lost its scheme.
fn address(word: &str) -> Option<&str> {
    let (before, query) = word.split_once('?')?;
    (word.contains("://") || query.contains('=')).then_some(before)
}

/// Without percent-encoding, that of an address within an address included.
fn decoded(word: &str) -> String {
    let once = percent_decode_str(word).decode_utf8_lossy();
    percent_decode_str(&once).decode_utf8_lossy().into_owned()
}

/// Whether `word` names a parameter of a signed link, `X-Amz-Signature` above all.
fn is_parameter(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ["x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-tos-", "x-obs-"].iter().any(|start| word.contains(start))
}

/// Names of parameters that are secrets, or end so (`auth_token`).
const SECRETS: [&str; 14] = [
    "signature",
    "sig",
    "sign",
    "token",
    "key",
    "keyid",
    "key-pair-id",
    "policy",
    "secret",
    "credential",
    "auth",
    "authorization",
    "bearer",
    "password",
];

/// Whether `text` ends in the name of a secret, whatever quotes stand behind it.
fn names_secret(text: &str) -> bool {
    let text = text.trim_end_matches(|c: char| "\"'\\:=".contains(c)).to_ascii_lowercase();
    let name = text.rsplit(|c| !is_letter(c) && !"-_".contains(c)).next().unwrap_or_default();
    SECRETS.iter().any(|secret| match name.strip_suffix(secret) {
        // Not `design`.
        Some(before) => !matches!(*secret, "sig" | "sign") || before.is_empty() || before.ends_with(['-', '_']),
        None => false,
    })
}

/// Whether `word` has the name of a secret and the secret itself.
fn has_secret(word: &str) -> bool {
    let mut is_named = false;
    word.split(['=', ':']).filter(|part| part.contains(is_letter)).any(|part| {
        let was_named = is_named;
        is_named = names_secret(part);
        was_named
    })
}

/// Whether `word` has a long row of what base64 is made of, in both cases and with digits, as words and paths hardly
/// have.
fn is_mixed(word: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_alphanumeric() || "+/=-_~".contains(c);
    word.split(|c| !is_digit(c)).any(|row| {
        let has = |test: fn(&u8) -> bool| row.bytes().any(|byte| test(&byte));
        row.len() > LONGEST_RUN && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
    })
}

/// How often letters and digits follow each other as they do not in words: `aB`, `a1`, `1a`, but not `Ab`.
fn jumps(text: &str) -> usize {
    let jumps = |pair: &&[u8]| {
        let [a, b] = [pair[0], pair[1]];
        let is_jump = a.is_ascii_digit() != b.is_ascii_digit() || (a.is_ascii_lowercase() && b.is_ascii_uppercase());
        a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric() && is_jump
    };
    text.as_bytes().windows(2).filter(jumps).count()
}

/// A word of hex digits alone does not count here: for hex the whole row is looked at (`HexRow`).
fn looks_random(word: &str) -> bool {
    let is_hex = || word.chars().filter(|c| is_letter(*c)).all(|c| c.is_ascii_hexdigit());
    jumps(word) > 0 && !is_hex()
}

/// Blots words in a row that look random and are together as long as a signature: it may be one signature in pieces.
fn blot_jumpy_rows(words: &mut [&str]) {
    let is_piece = |word: &str| jumps(word) > 1 && looks_random(word);
    for row in words.chunk_by_mut(|a, b| is_piece(a) && is_piece(b)) {
        let whole = row.concat();
        if looks_random(&whole)
            && jumps(&whole) > MOST_JUMPS
            && whole.bytes().filter(u8::is_ascii_alphanumeric).count() > LONGEST_RUN
        {
            row.fill(BLOT);
        }
    }
}

/// `text` with a blot for every run that has more letters and digits than a word, and for every row of hex digits that
/// has more than a word in several runs, whatever stands between the runs.
fn without_long_runs(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let row = HexRow::at_the_front_of(rest);
        if row.is_telling() {
            kept.push_str(BLOT);
            rest = &rest[row.end..];
            continue;
        }
        // No row that begins within this one is telling, either.
        let mut end = row.end;
        loop {
            let run = run(rest);
            let length = if run > 0 { run } else { rest.find(is_letter).unwrap_or(rest.len()) };
            kept.push_str(if run > LONGEST_RUN { BLOT } else { &rest[..length] });
            rest = &rest[length..];
            end = end.saturating_sub(length);
            if end == 0 {
                break;
            }
        }
    }
    kept
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// The length of the letters and digits at the front of `text`.
fn run(text: &str) -> usize {
    text.find(|c| !is_letter(c)).unwrap_or(text.len())
}

/// Runs of hex digits and nothing else, and what stands between them.
#[derive(Default)]
struct HexRow {
    end: usize,
    digits: usize,
    has_letter: bool,
    has_digit: bool,
}

impl HexRow {
    fn at_the_front_of(text: &str) -> HexRow {
        let mut row = HexRow::default();
        let mut rest = text;
        loop {
            let (digits, after) = rest.split_at(run(rest));
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return row;
            }
            row.digits += digits.len();
            row.has_letter |= digits.bytes().any(|byte| byte.is_ascii_alphabetic());
            row.has_digit |= digits.bytes().any(|byte| byte.is_ascii_digit());
            row.end = text.len() - after.len();
            let Some(next) = after.find(is_letter) else { return row };
            rest = &after[next..];
        }
    }

    /// More hex digits than a word has, letters and decimal digits among them: a number has no letter, and words have
    /// no decimal digit.
    fn is_telling(&self) -> bool {
        self.digits > LONGEST_RUN && self.has_letter && self.has_digit
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use proptest::prelude::*;

    use super::*;

    const SOURCE: &str = "https://tempfile.aiquickdraw.com/s/a%20b.png?size=1&name=x";
    const SIGNATURE: &str = "3f9a0b1c2d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5061728394a5b6c7d8e";

    fn source() -> Source {
        Source::parse(SOURCE).unwrap()
    }

    fn shown(message: &str) -> String {
        presentable(message, &source(), &[ApiKey::new("canary/key+0123456789abcdef==").unwrap()])
    }

    #[test]
    fn a_message_of_words_stays_as_it_is() {
        for message in [
            "",
            "url is wrong",
            "Your call frequency is too high. Please try again later.",
            "Unauthorized \u{2013} Authentication failed.",
            "No static resource api/v1/common/download-url.",
            "2026-11-23 10:00:00.000: 12 of 20 requests in 10 s, from 10.0.0.1:8080 (code 500, task12345)",
            "a bad face, a dead bee: add cafe decade, be faded; feed a dad",
            "请求过于频繁，请稍后再试，谢谢您的理解与支持，欢迎再次使用我们的服务",
            "1234567890 1234567890 1234567890",
        ] {
            assert_eq!(shown(message), message);
        }
    }

    #[test]
    fn a_message_that_has_the_key_in_a_spelling_of_its_own_says_nothing_else() {
        assert_eq!(shown("Bearer canary/key+0123456789abcdef== is wrong"), "Bearer [key] is wrong");
        for message in [
            "CANARY-KEY-0123456789ABCDEF",
            "key Y2FuYXJ5L2tleSswMTIzNDU2Nzg5YWJjZGVmPT0= is wrong",
            &format!("{} 0123456789abcdef", "x ".repeat(10_000)),
        ] {
            assert_eq!(shown(message), "[key]", "{message}");
        }
    }

    #[test]
    fn no_signature_is_shown_however_it_is_told() {
        let blotted = |message: &str| {
            let shown = shown(message);
            let letters: String = shown.chars().filter(char::is_ascii_alphanumeric).collect();
            let letters = letters.to_ascii_lowercase();
            let survives = (0..=SIGNATURE.len() - 16).any(|at| letters.contains(&SIGNATURE[at..at + 16]));
            assert!(!survives && !shown.to_ascii_lowercase().contains("x-amz-"), "{shown}");
            shown
        };
        assert_eq!(blotted(&format!("signature {SIGNATURE} does not match")), "signature […] does not match");
        assert_eq!(blotted(&format!("X-Amz-Signature: {SIGNATURE}")), "[…] […]");
        blotted(&format!("{}: X-Amz-Signature={SIGNATURE}", "x".repeat(20)));
        blotted(&format!("X-AMZ-SIGNATURE%3D{}", SIGNATURE.to_uppercase()));
        for every in 1..40 {
            for by in [" ", "\n", ".", "-", ", ", "\u{1}", "\u{a0}", "_", " / "] {
                let digits: Vec<char> = SIGNATURE.chars().collect();
                let split = digits.chunks(every).map(String::from_iter).collect::<Vec<_>>().join(by);
                assert_eq!(
                    blotted(&format!("signature {split}; no match")),
                    "signature […]; no match",
                    "{every} {by:?}"
                );
            }
        }
        blotted(&SIGNATURE.chars().map(|c| format!("%{:02x}", u32::from(c))).collect::<String>());
        for between in ["", " "] {
            for (mark, end) in [("\\u00", ""), ("\\x", ""), ("&#x", ";")] {
                let escaped = |c: char| format!("{mark}{:02x}{end}{between}", u32::from(c));
                let shown = blotted(&SIGNATURE.chars().map(escaped).collect::<String>());
                assert!(!shown.contains(is_letter), "{shown}");
                // More than a message of words has.
                let nine = blotted(&SIGNATURE.chars().take(MOST_ESCAPES + 1).map(escaped).collect::<String>());
                assert!(!nine.contains(is_letter), "{nine}");
            }
        }
        let base64 = "signature u7Xy/pAbC3deF+gHi9kLmN0pQr= does not match";
        assert_eq!(blotted(base64), "signature […] does not match");
        // Where it is cut, too.
        blotted(&format!("{}{SIGNATURE}", "x ".repeat(140)));
    }

    #[test]
    fn an_address_in_a_message_loses_its_query() {
        for (message, shown_as) in [
            ("cannot fetch https://h/a?X-Amz-Signature=s, why? because", "cannot fetch […] why? because"),
            ("cannot fetch https://h/a?token=s, why? because", "cannot fetch https://h/a why? because"),
            ("why?https://h/a?token=s", "why"),
            ("h/a?token=s&from=https://h/b now", "h/a now"),
            ("cannot fetch https%3A%2F%2Fh%2Fa%3Fq%3Ds now", "cannot fetch […] now"),
        ] {
            assert_eq!(shown(message), shown_as);
        }
    }

    #[test]
    fn no_part_of_a_signature_is_shown_in_whatever_form_it_comes() {
        // As long as an HMAC-SHA1, as OSS, S3 and CloudFront write it: no run is long, and the second has no digit.
        let (base64, plain) = ("vjbyPxybdZaNmGa+yT272YEAiv4=", "QmFzZVNpeHR/FourIsNoNumber=");
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N";
        for (message, secret) in [
            ("cannot read v/x.png?Expires=1141889120&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv4%3D now", base64),
            ("cannot read v/x.png?Expires=1141889120&Signature=vjbyPxybdZaNmGa%252ByT272YEAiv4%253D now", base64),
            (
                "cannot read v%2Fx.png%3FExpires%3D1141889120%26Signature%3DvjbyPxybdZaNmGa%252ByT272YEAiv4%253D now",
                base64,
            ),
            ("cannot read x.png?Expires=1&Signature=vjbyPxybdZaNmGa yT272YEAiv4= now", base64),
            ("cannot read x.png&amp;Signature=vjbyPxybdZaNmGa%2byT272YEAiv4%3d now", base64),
            ("cannot read https://h/x.png?Signature=QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read /x.png?QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read Signature=QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read Signature: QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read Signature = QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read signature QmFzZVNpeHR/FourIsNoNumber= now", plain),
            ("cannot read sig=QmFzZVNpeHR/FourIsNoNumber=; now", plain),
            ("cannot read {\"Signature\":\"QmFzZVNpeHR/FourIsNoNumber=\"} now", plain),
            ("cannot read {\"Signature\": \"QmFzZVNpeHR/FourIsNoNumber=\"} now", plain),
            ("cannot read {\\\"Signature\\\":\\\"QmFzZVNpeHR/FourIsNoNumber=\\\"} now", plain),
            ("cannot read 'signature': 'QmFzZVNpeHR/FourIsNoNumber=' now", plain),
            ("cannot read Signature=QmFzZVNpeHR\n/FourIsNoNumber= now", plain),
            ("cannot read Signature: vjbyPxybdZaN\r\nmGa+yT272YEAiv4= now", base64),
            ("cannot read vjbyPxybdZaN\nmGa+yT272YEAiv4= now", base64),
            ("cannot read vjbyPxybdZaNmGa+yT272YEAiv4= now", base64),
            ("cannot read \"vjbyPxybdZaNmGa+yT272YEAiv4=\" now", base64),
            ("cannot read (vjbyPxybdZaNmGa-yT272YEAiv4_), now", base64),
            ("cannot read vjbyPxybdZaNmGa~yT272YEAiv4_ now", base64),
            ("cannot read vjbyPxybdZaNmGa\\u002ByT272YEAiv4\\u003d now", base64),
            ("cannot read /s/vjbyPxybdZaNmGa-yT272YEAiv4_/x.png now", base64),
            ("cannot read https://h/s/vjbyPxybdZaNmGa-yT272YEAiv4_/x.png now", base64),
            ("cannot read eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N now", jwt),
            ("cannot read Bearer eyJhbGciOiJIUzI1NiJ9 now", "eyJhbGciOiJIUzI1NiJ9"),
            ("cannot read Policy=eyJTdGF0ZW1lbnQi now", "eyJTdGF0ZW1lbnQi"),
            ("cannot read Key-Pair-Id=APKAEIBAERJR2EXAMPLE now", "APKAEIBAERJR2EXAMPLE"),
            ("cannot read Key-Pair-Id: APKAEIBAERJR2EXAMPLE now", "APKAEIBAERJR2EXAMPLE"),
            ("cannot read OSSAccessKeyId=LTAI5tEXAMPLE now", "LTAI5tEXAMPLE"),
            ("cannot read token=abcdefgh now", "abcdefgh"),
            ("cannot read auth_token='a8Kd72' now", "a8Kd72"),
            ("cannot read token: a8Kd72mQ now", "a8Kd72mQ"),
            ("cannot read ?key=hunter2hunter2 now", "hunter2hunter2"),
            ("cannot read api_key=hunter2hunter2 now", "hunter2hunter2"),
            ("cannot read auth=abcdefgh&apikey=abcdefgh now", "abcdefgh"),
            ("cannot read sign=3f9a0b1c2d4e5f60 now", "3f9a0b1c2d4e5f60"),
            ("cannot read url_sign=abcdefgh now", "abcdefgh"),
            // It has a capital letter and a digit, and looks like words otherwise.
            ("cannot read \"Qmfzdvnpehr+fourisnonumbe4r=\" now", "Qmfzdvnpehrfourisnonumbe4r"),
            ("cannot read 3f9a0b1c2d4e5f60-718293a4b5c6d7e8 now", "3f9a0b1c2d4e5f60718293a4b5c6d7e8"),
            ("cannot read SharedAccessSignature sr=x&sig=QmFzZVNpeHR%2fFourIsNoNumber%3d&se=1 now", plain),
        ] {
            let shown = shown(message);
            assert!(shown.starts_with("cannot read ") && shown.ends_with(" now"), "{message}: {shown}");
            let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
            let (shown_letters, secret) = (letters(&shown), letters(secret));
            let survives = (0..=secret.len() - 6).any(|at| shown_letters.contains(&secret[at..at + 6]));
            assert!(!survives, "{message}: {shown}");
        }
    }

    #[test]
    fn words_that_only_remind_of_a_signature_are_shown() {
        for message in [
            "Signature does not match: token expired, the key is wrong",
            "invalid signature: please sign again; policy: none",
            "Unauthorized: Invalid API key. Token limit 4096 exceeded",
            "token: missing; key: null; Signature: Expired",
            "task12345 has no file sunrise-2026-11-26.png (v/sunrise-2026-11-26.png)",
            "no file https://file.kie.ai/v/Sunrise1.png, is it there? yes",
            "no file file.kie.ai/v/sunrise_over_the_sea_4k.png",
            "model gpt4o-image, flux1-kontext, veo3 or V3_5, V4, V4_5, V4_5PLUS, V5",
            "from 2026-11-23T10:00:00Z to 2026-11-23T11:00:00.123Z, 100%",
            "retry=3; design=new; taskId=task12345; recordId: 1732332323",
            "No static resource api/v1/gpt4o-image/download-url.",
            "why? a=b, c = d, e: f",
            "\\u00fcber \\xfc, \\xfc, \\xfc, \\xfc, &#252; &#252; &#252; is no name",
            "AUTHENTICATION GATEWAY FAILED AT KIE",
            "from10 to20 at30 in40 of50 by60 on70",
            "gpt4oimage flux1kontext veo3fastmode are models",
            "x1y2z3w4v5u6 t7s8r9q1p2o3 is as long as may be",
            "Sunrise1/over-the-sea-ab is as long as may be",
            "abcdefghijklmnopqrstuvwx is as long as may be",
            "fedcba9876543210fedcba98 is as long as may be",
            "token 无效 task12345",
        ] {
            assert_eq!(shown(message), message);
        }
    }

    #[test]
    fn messages_are_one_printable_line_and_bounded() {
        assert_eq!(shown("Bearer\r\nis\u{0}wrong\u{1b}[31m"), "Bearer  is wrong [31m");
        assert_eq!(shown(&"ab ".repeat(20_000)).chars().count(), MAX_CHARS - 1);
        assert_eq!(shown(&"x".repeat(20_000)), BLOT);
    }

    #[test]
    fn the_name_of_the_callers_own_file_is_taken_out_and_a_single_word_is_not() {
        let shown = |source: &str, message: &str| {
            presentable(message, &Source::parse(&format!("https://file.kie.ai/s/{source}")).unwrap(), &[])
        };
        for (source, name) in [
            ("credits-insufficient-1.png", "credits-insufficient-1.png"),
            ("credits-insufficient-1.png", "Credits-Insufficient-1.PNG"),
            ("credits-insufficient-1.png", "credits-insufficient-1"),
            ("credits-insufficient-1.png?size=1", "credits-insufficient-1.png"),
            ("credits-insufficient-1/", "credits-insufficient-1"),
            ("credits%20insufficient.png", "credits%20insufficient.png"),
            ("credits%20insufficient.png", "credits insufficient.png"),
            ("credits%20insufficient.png", "credits insufficient"),
            ("creditsinsufficient.tar.gz", "creditsinsufficient.tar.gz"),
            ("creditsinsufficient.tar.gz", "creditsinsufficient.tar"),
            ("creditsinsufficient", "creditsinsufficient"),
            // Short, but no word.
            ("task-12345.png", "task-12345.png"),
            ("ab-1.x", "ab-1.x"),
            // Whatever stands in the query.
            ("credits-insufficient-1.png?from=https://h/a-b-c.png", "credits-insufficient-1.png"),
            ("credits-insufficient-1.png?a=b?c", "credits-insufficient-1.png"),
            ("task-12345.png?of=task-12345.png&x=1", "of=task-12345.png&x=1"),
        ] {
            assert_eq!(shown(source, &format!("file {name}: no")), "file [url]: no", "{source}");
        }
        for source in ["insufficient", "insufficient.png", "credits", "a.b", "", "a.b?insufficient", "misunderstanding"]
        {
            let message = "Credits insufficient, a. b, a misunderstanding";
            assert_eq!(shown(source, message), message, "{source}");
        }
    }

    #[test]
    fn the_callers_own_task_is_taken_out_and_a_single_word_is_not() {
        let shown = |task: &str, message: &str| presentable(message, &source().of_task(task).unwrap(), &[]);
        for (task, said) in [
            ("task12345", "task12345"),
            ("task12345", "TASK12345"),
            ("281e5b0f39b9", "281e5b0f39b9"),
            ("a&b=c/d", "a%26b%3Dc%2Fd"),
        ] {
            assert_eq!(shown(task, &format!("task {said}: no")), "task [task]: no", "{task}");
        }
        for task in ["insufficient", "task", "t1"] {
            assert_eq!(shown(task, "Credits insufficient, task t1"), "Credits insufficient, task t1", "{task}");
        }
    }

    #[test]
    fn the_callers_own_address_is_taken_out_in_every_spelling() {
        for address in [
            SOURCE.to_owned(),
            SOURCE.to_uppercase(),
            SOURCE.replace("https://", ""),
            SOURCE.replace("%20", " "),
            SOURCE.replace("https://tempfile.aiquickdraw.com", ""),
            SOURCE.replace('/', "\\/"),
            utf8_percent_encode(SOURCE, NON_ALPHANUMERIC).to_string(),
            utf8_percent_encode(SOURCE, NON_ALPHANUMERIC).to_string().to_lowercase(),
            "size=1&name=x".to_owned(),
            "tempfile.aiquickdraw.com/s/a%20b".to_owned(),
            "https://tempfile.aiquickdraw.com/s/a%2".to_owned(),
        ] {
            assert_eq!(shown(&format!("no file {address} here")), "no file [url] here", "{address}");
        }
        assert_eq!(shown("tempfile.aiquickdraw.com is down"), "tempfile.aiquickdraw.com is down");
    }

    /// Otherwise a caller who is told a part of the key could find the rest, letter by letter.
    #[test]
    fn what_a_caller_wrote_does_not_complete_what_kie_ai_tells_of_the_key() {
        let guess = Source::parse("https://file.kie.ai/?a=canary/key+01234").unwrap();
        let key = ApiKey::new("canary/key+0123456789abcdef==").unwrap();
        let message = format!("no {} 56789abc", guess.url());
        assert!(key.is_in(&message));
        assert_eq!(presentable(&message, &guess, slice::from_ref(&key)), "no [url] 56789abc");
        let guess = source().of_task("canary/key+01234").unwrap();
        assert_eq!(presentable("no canary/key+01234 56789abc", &guess, &[key]), "no [task] 56789abc");
    }

    proptest! {
        #[test]
        fn whatever_kie_ai_says_becomes_one_short_line(message in "(.|[a-f0-9%&\\\\u ]{20}){0,15}") {
            let shown = shown(&message);
            prop_assert!(shown.chars().count() <= MAX_CHARS && !shown.contains(char::is_control));
            let longest = shown.split(|c| !is_letter(c)).map(str::len).max();
            prop_assert!(longest <= Some(LONGEST_RUN), "{}", shown);
        }
    }
}
