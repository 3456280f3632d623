//! The key in other people's text, in whatever spelling a program may have given it: in another case, with blanks or
//! signs between its letters, percent-encoded, escaped, as hex or base64, and any of these upon another. Pure.
//!
//! The text is searched as it stands and in every way in which it can be decoded. What comes of that is decoded in
//! turn, until nothing is left that could hold a key. Each step makes a text shorter, and most leave nothing that is
//! text.

use std::{
    collections::{BTreeMap, HashSet},
    str,
};

use secrecy::zeroize::Zeroizing;

/// So many letters and digits of a key in a row give it away. A key with fewer is given away only by all of them.
const TELLING: usize = 16;

/// How many bytes are searched, all decodings of a text together. A text that needs more was made to be decoded in many
/// ways: it is taken for a text that has the key. Eight times the longest answer of kie.ai's; an ordinary answer takes
/// once or twice its length. This bounds the time, too: some 20 ms.
const MOST_SEARCHED: usize = 512 << 10;

/// Whether a telling part of any of `keys` is in `text`.
pub(super) fn holds_any(text: &str, keys: &[&str]) -> bool {
    let keys: Vec<_> = keys.iter().map(|key| Zeroizing::new(folded(key.as_bytes()))).collect();
    let parts = Parts::of(&keys);
    let Some(least) = parts.shortest() else { return false };
    let mut left = MOST_SEARCHED;
    let mut texts = vec![Text { bytes: text.as_bytes().to_vec(), is_squeezed: false }];
    // The same text comes about in several ways, where escapes of several kinds stand in it.
    let mut seen = HashSet::new();
    while let Some(text) = texts.pop() {
        if seen.contains(&text.bytes) {
            continue;
        }
        match left.checked_sub(text.bytes.len()) {
            Some(rest) => left = rest,
            None => return true,
        }
        if parts.are_in(&folded(&text.bytes)) {
            return true;
        }
        decode(&text, least, &mut texts);
        seen.insert(text.bytes);
    }
    false
}

/// A text to search.
struct Text {
    bytes: Vec<u8>,
    /// What does not belong to an encoding was taken out. What the text is as hex or base64 has been seen.
    is_squeezed: bool,
}

/// The telling parts of keys, by length, so that a text is passed once for each length, and not once for each key.
struct Parts<'a>(BTreeMap<usize, (HashSet<&'a [u8]>, Beginnings)>);

/// Which three letters parts begin with: almost no position in a text has any, and all other positions need no search.
struct Beginnings(Box<[bool; 1 << 12]>);

impl<'a> Parts<'a> {
    fn of(keys: &'a [Zeroizing<Vec<u8>>]) -> Parts<'a> {
        let mut parts: BTreeMap<usize, (HashSet<&[u8]>, Beginnings)> = BTreeMap::new();
        for key in keys.iter().filter(|key| !key.is_empty()) {
            let length = key.len().min(TELLING);
            let (parts, beginnings) =
                parts.entry(length).or_insert_with(|| (HashSet::new(), Beginnings(Box::new([false; 1 << 12]))));
            for part in key.windows(length) {
                beginnings.0[Beginnings::place(part)] = true;
                parts.insert(part);
            }
        }
        Parts(parts)
    }

    fn shortest(&self) -> Option<usize> {
        self.0.keys().next().copied()
    }

    fn are_in(&self, letters: &[u8]) -> bool {
        self.0.iter().any(|(length, (parts, beginnings))| {
            let mut windows = letters.windows(*length);
            windows.any(|window| beginnings.0[Beginnings::place(window)] && parts.contains(window))
        })
    }
}

impl Beginnings {
    /// Some twelve bits of the first letters.
    fn place(part: &[u8]) -> usize {
        let bits = part.iter().take(3).fold(0usize, |bits, letter| bits * 41 + usize::from(*letter));
        bits % (1 << 12)
    }
}

/// Letters and digits alone, in lower case.
fn folded(text: &[u8]) -> Vec<u8> {
    text.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
}

/// The letters whose numbers stand in the text.
fn from_numbers(text: &[u8], radix: u32) -> Vec<u8> {
    let words = text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| (2..=3).contains(&word.len()));
    let numbers = words.filter_map(|word| u8::from_str_radix(str::from_utf8(word).ok()?, radix).ok());
    numbers.filter(u8::is_ascii_graphic).collect()
}

/// Without `ESC [ 1 ; 31 m` and the like (ECMA-48), whether or not its first sign is still there. `None` where there is none.
fn without_colours(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'[') {
        let end =
            rest[at + 1..].iter().position(|byte| !byte.is_ascii_digit() && *byte != b';').map(|end| at + 1 + end);
        match end.filter(|end| rest[*end] == b'm') {
            Some(end) => {
                plain.extend_from_slice(&rest[..at]);
                rest = &rest[end + 1..];
            }
            None => {
                plain.extend_from_slice(&rest[..=at]);
                rest = &rest[at + 1..];
            }
        }
    }
    plain.extend_from_slice(rest);
    (plain.len() < text.len()).then_some(plain)
}

/// Adds to `texts` everything that `text` may be the encoding of, as far as it has `least` letters and digits in one
/// piece.
fn decode(text: &Text, least: usize, texts: &mut Vec<Text>) {
    let bytes = &text.bytes;
    let is_long_enough = |bytes: &Vec<u8>| bytes.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() >= least;
    // One kind at a time: which of them was written first cannot be known.
    let plain = [percent as Escape, backslash, entity].into_iter().filter_map(|escape| unescaped(bytes, escape));
    texts.extend(plain.filter(is_long_enough).map(|bytes| Text { bytes, is_squeezed: false }));
    if text.is_squeezed {
        return;
    }
    // Blanks may have come between the signs of an escape.
    if bytes.iter().any(|byte| b"%\\&".contains(byte)) {
        // A quote that is escaped is a sign of its own: without it, `\"n` would be `\n`.
        let mut is_escape = false;
        let squeezed = bytes.iter().copied().filter(|byte| {
            let is_kept = is_of_an_encoding(*byte) || (is_escape && *byte == b'"');
            if is_kept {
                is_escape = *byte == b'\\' && !is_escape;
            }
            is_kept
        });
        let squeezed = squeezed.collect::<Vec<u8>>();
        if squeezed.len() < bytes.len() {
            texts.push(Text { bytes: squeezed, is_squeezed: true });
        }
    }
    // A list of numbers, as programs show bytes; and letters in colour, as terminals show them.
    for radix in [10, 8] {
        texts.extend(legible(&from_numbers(bytes, radix), least));
    }
    if let Some(bytes) = without_colours(bytes).filter(is_long_enough) {
        texts.push(Text { bytes, is_squeezed: false });
    }
    for skipped in 0..2 {
        texts.extend(legible(&from_hex(bytes, skipped), least));
    }
    // `-`, `_`, `+` and `/` are digits of base64, or stand between them.
    let has_signs = bytes.iter().any(|byte| b"-_+/".contains(byte));
    for with_signs in if has_signs { &[true, false][..] } else { &[false] } {
        let digits: Vec<u8> = bytes.iter().filter_map(|byte| sextet(*byte, *with_signs)).collect();
        for skipped in 0..4.min(digits.len()) {
            texts.extend(legible(&from_sextets(&digits[skipped..]), least));
        }
    }
}

/// The pieces of `bytes` that are ASCII and long enough. Decoding what was never encoded gives noise, which has no such
/// piece.
fn legible(bytes: &[u8], least: usize) -> Option<Text> {
    let mut found = Vec::new();
    for piece in bytes.split(|byte| !byte.is_ascii()) {
        if piece.len() >= least && piece.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() >= least {
            found.extend_from_slice(piece);
            found.push(b' ');
        }
    }
    (!found.is_empty()).then_some(Text { bytes: found, is_squeezed: false })
}

/// Pairs of hex digits as bytes, whatever stands between them, without the first `skipped` of each row of digits: where
/// the first pair begins cannot be known.
fn from_hex(text: &[u8], skipped: usize) -> Vec<u8> {
    let (mut bytes, mut high, mut row) = (Vec::new(), None, 0);
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if !byte.is_ascii_alphanumeric() {
            continue;
        }
        // As in `0x41, 0x42`.
        let has_mark = byte == b'0' && after.first().is_some_and(|next| next.eq_ignore_ascii_case(&b'x'));
        if has_mark {
            rest = &after[1..];
            continue;
        }
        let Some(digit) = hex_digit(byte) else {
            (high, row) = (None, 0);
            continue;
        };
        row += 1;
        if row <= skipped {
            continue;
        }
        match high.take() {
            Some(high) => bytes.push(high << 4 | digit),
            None => high = Some(digit),
        }
    }
    bytes
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A digit of base64, in both alphabets (RFC 4648 sections 4 and 5).
fn sextet(byte: u8, with_signs: bool) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' if with_signs => Some(62),
        b'/' | b'_' if with_signs => Some(63),
        _ => None,
    }
}

fn from_sextets(digits: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// Whether encoded text may have `byte`, beside what splits it.
fn is_of_an_encoding(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"%\\&#;+/-_".contains(&byte)
}

/// What the escape at the front of a text means, if one of its kind stands there, and its length.
type Escape = fn(&[u8]) -> Option<(char, usize)>;

/// `text` with one layer of one kind of escape taken off; `None` where it has none.
fn unescaped(text: &[u8], escape: Escape) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.first() {
        match escape(rest) {
            Some((meant, length)) => {
                plain.extend_from_slice(meant.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[length..];
            }
            None => {
                plain.push(*byte);
                rest = &rest[1..];
            }
        }
    }
    (plain.len() < text.len()).then_some(plain)
}

/// `%41`, `%u0041`.
fn percent(text: &[u8]) -> Option<(char, usize)> {
    match text {
        [b'%', b'u', digits @ ..] => Some((number(digits.get(..4)?, 16)?, 6)),
        [b'%', digits @ ..] => Some((number(digits.get(..2)?, 16)?, 3)),
        _ => None,
    }
}

/// As JSON and programming languages have them: `\u0041`, `\x41`, `\n`, `\/`.
fn backslash(text: &[u8]) -> Option<(char, usize)> {
    match text {
        [b'\\', b'u', digits @ ..] => Some((number(digits.get(..4)?, 16)?, 6)),
        [b'\\', b'x', digits @ ..] => Some((number(digits.get(..2)?, 16)?, 4)),
        // A control character, which stands between letters at most.
        [b'\\', b'n' | b'r' | b't' | b'b' | b'f' | b'v' | b'0', ..] => Some((' ', 2)),
        [b'\\', next, ..] if next.is_ascii() => Some((char::from(*next), 2)),
        _ => None,
    }
}

/// As HTML has them: `&#65;`, `&#x41;`, `&amp;`.
fn entity(text: &[u8]) -> Option<(char, usize)> {
    let [b'&', entity @ ..] = text else { return None };
    // The longest is `&#x10ffff;`.
    let end = entity.iter().take(10).position(|byte| *byte == b';')?;
    let meant = match &entity[..end] {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16)?,
        [b'#', digits @ ..] => number(digits, 10)?,
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        _ => return None,
    };
    Some((meant, end + 2))
}

/// The character of this number; a replacement for half of a surrogate pair.
fn number(digits: &[u8], radix: u32) -> Option<char> {
    if !digits.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let number = u32::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()?;
    Some(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "canary/key+0123456789abcdef==";

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn holds(text: &str) -> bool {
        holds_any(text, &[KEY])
    }

    #[test]
    fn a_key_is_found_in_every_spelling_that_a_program_writes() {
        let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let folds = |n: u32| (0..n).fold(KEY.to_owned(), |text, _| text.replace('%', "%25").replace('/', "%2f"));
        let json = KEY.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>();
        let pieces = |text: &str, by: &str| {
            text.as_bytes().chunks(4).map(|four| str::from_utf8(four).unwrap()).collect::<Vec<_>>().join(by)
        };
        let utf16 = KEY.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        for text in [
            KEY.to_owned(),
            format!("Bearer {KEY} is wrong"),
            KEY.to_uppercase(),
            KEY.replace('0', "0\u{0}").replace('a', " a "),
            KEY.chars().map(|c| format!("{c}\n")).collect(),
            KEY.chars().map(|c| format!("{c}.")).collect(),
            KEY.chars().map(|c| format!("{c}\u{200b}")).collect(),
            percent(KEY),
            percent(&percent(KEY)),
            folds(1),
            folds(5),
            folds(40),
            json.clone(),
            json.replace('\\', "\\\\"),
            KEY.replace('/', "\\/").replace('+', "\\u002b"),
            KEY.replace('/', "&#x2F;").replace('+', "&#43;"),
            // In the middle, so that what is left on either side does not give it away.
            KEY.replace('5', "\\n5"),
            KEY.replace('5', "\\x35"),
            KEY.replace('5', "\\u0035"),
            KEY.replace('5', "%35"),
            KEY.replace('5', "%u0035"),
            KEY.replace('5', "&#53;"),
            KEY.replace('5', "&#x35;"),
            KEY.replace('5', "&#X35;"),
            hex(KEY),
            hex(KEY).to_uppercase(),
            format!("de{}", hex(KEY)),
            format!("ade{}", hex(KEY)),
            KEY.bytes().map(|byte| format!("0x{byte:02x}, ")).collect(),
            KEY.bytes().map(|byte| format!("{byte:02X}:")).collect(),
            KEY.bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
            hex(&hex(KEY)),
            STANDARD.encode(KEY),
            URL_SAFE_NO_PAD.encode(KEY),
            STANDARD.encode(format!("Bearer {KEY}")),
            STANDARD.encode(format!("x:{KEY}")),
            format!("basic {}", STANDARD_NO_PAD.encode(format!("xy:{KEY}"))),
            STANDARD.encode(STANDARD.encode(KEY)),
            STANDARD.encode(hex(&URL_SAFE.encode(percent(KEY)))),
            STANDARD.encode(utf16),
            STANDARD.encode(KEY).chars().map(|c| format!("{c} ")).collect(),
            pieces(&STANDARD.encode(KEY), "-"),
            pieces(&STANDARD.encode(KEY), "_"),
            // A part of it is as bad.
            "...key+0123456789abc...".to_owned(),
            hex("0123456789abcdef"),
        ] {
            assert!(holds(&text), "{text}");
            assert!(holds(&format!("kie.ai says: ({text}), and no more")), "{text}");
        }
    }

    #[test]
    fn what_is_less_than_the_key_or_another_text_is_not_found() {
        for text in [
            "",
            "canary",
            "canary/key+01234",
            "https://x.r2.cloudflarestorage.com/v/x.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20250415T101007Z",
            "Unauthorized - Authentication failed. Please check your API key",
            "0123456789 abcde",
        ] {
            assert!(!holds(text), "{text}");
        }
        assert!(!holds_any(KEY, &[]));
        // Of a shorter key all must be there.
        assert!(holds_any("the 12-34-ab-CD one", &["1234abcd"]));
        assert!(!holds_any("the 12-34-ab-C one", &["1234abcd"]));
        // Of several, any.
        assert!(holds_any("the 12-34-ab-CD one", &[KEY, "1234abcd", "another-key"]));
    }

    #[test]
    fn signs_that_have_a_name_in_html_are_signs() {
        for (sign, name) in [('&', "amp"), ('<', "lt"), ('>', "gt"), ('"', "quot"), ('\'', "apos")] {
            let key = format!("01234567{sign}89abcdef");
            assert!(holds_any(&key.replace(sign, &format!("&{name};")), &[&key]), "{name}");
        }
    }

    #[test]
    fn lists_of_bytes_and_letters_in_colour_are_the_key() {
        let list = |by: &str, write: &dyn Fn(u8) -> String| KEY.bytes().map(write).collect::<Vec<_>>().join(by);
        for text in [
            format!("[{}]", list(", ", &|byte| byte.to_string())),
            list(" ", &|byte| byte.to_string()),
            format!("{{\"type\":\"Buffer\",\"data\":[{}]}}", list(",", &|byte| byte.to_string())),
            list("", &|byte| format!("\\{byte:03o}")),
            list(" ", &|byte| format!("{byte:03o}")),
            list("", &|byte| format!("\x1b[1m{}\x1b[0m", char::from(byte))),
            list("", &|byte| format!("[01;31m{}[m", char::from(byte))),
            format!("{}\x1b[31m{}\x1b[0m", &KEY[..14], &KEY[14..]),
        ] {
            assert!(holds_any(&format!("the key {text} is wrong"), &[KEY]), "{text}");
        }
        let harmless = "took [12, 34, 56] ms, codes 101 116 103, a list [m] and [0 of 1m]".repeat(20);
        assert!(!holds_any(&harmless, &[KEY]));
    }

    #[test]
    fn an_escaped_quote_takes_no_letter_along_whatever_stands_between() {
        for letter in ['n', 'r', 't', 'b', 'f', 'v', '0', 'u', 'x'] {
            let key = format!("abcdefgh\"{letter}ijklmno");
            let json = key.replace('a', "\\u0061").replace('"', "\\\"");
            for by in [" ", "\n", ", "] {
                let text: Vec<String> = json.chars().map(String::from).collect();
                assert!(holds_any(&text.join(by), &[&key]), "{letter} {by:?}");
            }
        }
    }

    #[test]
    fn signs_of_base64_are_digits_of_it() {
        // One in each group of four.
        let key = "ab>cd?ef>gh?ij>kl?mn>op?";
        for text in [STANDARD.encode(key), URL_SAFE.encode(key)] {
            assert!(holds_any(&text, &[key]), "{text}");
        }
    }

    #[test]
    fn the_shortest_of_several_keys_is_found_where_it_is_encoded_too() {
        for text in [hex("1234abcd"), STANDARD.encode("1234abcd"), "%31%32%33%34abcd".to_owned()] {
            assert!(holds_any(&text, &["1234abcd", KEY]), "{text}");
        }
    }

    #[test]
    fn an_ordinary_answer_of_any_length_is_no_key_and_what_explodes_is() {
        let words = "The quick brown fox of https://file.kie.ai/a_b-c/d+e.png?x=%20%41& 0x12 12ab34cd, ".repeat(600);
        assert!(words.len() < 64 << 10 && !holds(&words));
        for unit in ["a", "A", "0", "41", "%25", "\\", "x ", "QUFB", "\u{fc}", "deadbeef "] {
            let long = unit.repeat((64 << 10) / unit.len());
            assert!(!holds(&long), "{unit}");
        }
        // Escapes of three kinds, which may have been written in any order.
        assert!(holds(&words.replace("%20", "%20\\u0041&amp;")));
    }

    /// How programs write a text.
    #[derive(Debug, Clone)]
    enum Writing {
        Upper,
        Lower,
        /// Those characters whose turn it is in the pattern, and the percent sign; in upper or lower case.
        Percent(u8, bool),
        Json(u8),
        Html(u8),
        Hex(bool),
        Base64(u8),
        Split(&'static str, usize),
        Within(&'static str, &'static str),
    }

    fn write(text: &str, writing: &Writing) -> String {
        let some = |pattern: u8, at: usize| pattern >> (at % 8) & 1 == 1;
        let each =
            |escape: &dyn Fn(usize, char) -> String| text.chars().enumerate().map(|(at, c)| escape(at, c)).collect();
        match *writing {
            Writing::Upper => text.to_uppercase(),
            Writing::Lower => text.to_lowercase(),
            Writing::Percent(pattern, upper) => each(&|at, c| match c {
                c if c.is_ascii() && (c == '%' || some(pattern, at)) && upper => format!("%{:02X}", u32::from(c)),
                c if c.is_ascii() && (c == '%' || some(pattern, at)) => format!("%{:02x}", u32::from(c)),
                c => c.to_string(),
            }),
            Writing::Json(pattern) => each(&|at, c| match c {
                '\\' | '"' => format!("\\{c}"),
                c if c.is_control() || some(pattern, at) => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            }),
            Writing::Html(pattern) => each(&|at, c| match c {
                '&' => "&amp;".to_owned(),
                c if some(pattern, at) => format!("&#x{:x};", u32::from(c)),
                c => c.to_string(),
            }),
            Writing::Hex(true) => hex(text).to_uppercase(),
            Writing::Hex(false) => hex(text),
            Writing::Base64(0) => STANDARD.encode(text),
            Writing::Base64(1) => STANDARD_NO_PAD.encode(text),
            Writing::Base64(2) => URL_SAFE.encode(text),
            Writing::Base64(_) => URL_SAFE_NO_PAD.encode(text),
            Writing::Split(by, every) => {
                let pieces = text.chars().collect::<Vec<_>>();
                pieces.chunks(every).map(String::from_iter).collect::<Vec<_>>().join(by)
            }
            Writing::Within(before, after) => format!("{before}{text}{after}"),
        }
    }

    fn writing() -> impl Strategy<Value = Writing> {
        prop_oneof![
            (any::<u8>(), any::<bool>()).prop_map(|(pattern, upper)| Writing::Percent(pattern, upper)),
            any::<u8>().prop_map(Writing::Json),
            any::<u8>().prop_map(Writing::Html),
            any::<bool>().prop_map(Writing::Hex),
            (0u8..4).prop_map(Writing::Base64),
            (prop::sample::select(vec![" ", "\n", "\r\n ", "\u{1}", ".", "\t", "\u{7f}", ", "]), 1usize..30)
                .prop_map(|(by, every)| Writing::Split(by, every)),
            prop::sample::select(vec![
                ("Bearer ", ""),
                ("key=", "&b"),
                ("a:", ", b"),
                ("\"", "\""),
                ("dead ", " beef"),
                ("x", "y")
            ])
            .prop_map(|(before, after)| Writing::Within(before, after)),
        ]
    }

    proptest! {
        #[test]
        fn no_composition_of_writings_hides_a_key(
            key in "[!-~]{0,6}[A-Za-z0-9]{8,24}[!-~]{0,30}",
            case in prop::option::of(prop_oneof![Just(Writing::Upper), Just(Writing::Lower)]),
            writings in prop::collection::vec(writing(), 0..6),
        ) {
            // Base64 is lost with its case: a text whose case was changed has no key any more.
            let text = case.iter().chain(&writings).fold(key.clone(), |text, writing| write(&text, writing));
            prop_assert!(holds_any(&text, &[&key]), "{}", text);
        }

        #[test]
        fn a_text_that_does_not_have_the_key_is_left_alone(key in "[0-9a-f]{32}", text in "[ -~]{0,300}") {
            prop_assert!(!holds_any(&text, &[&key]));
        }
    }
}
