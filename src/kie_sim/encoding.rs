//! How SigV4 writes paths, queries and bytes, so that signer and checker hash the same text.
//!
//! Pure. It does not know what any parameter means.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// "UriEncode" of the SigV4 specification: all but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// In a path the slash separates and is kept.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// The query's pairs, with names decoded and values encoded in the one way that the signature counts on. Not
/// `form_urlencoded`: to SigV4 a plus sign is a plus sign.
pub(super) fn split(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| {
            let value: Vec<u8> = percent_decode_str(value).collect();
            let name: Vec<u8> = percent_decode_str(name).collect();
            (encode(&name), encode(&value))
        })
        .collect()
}

pub(super) fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, RESERVED).to_string()
}

/// The path is decoded first: `%7E` and `~` are one path, and must have one signature.
pub(super) fn encode_path(path: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    percent_encode(&bytes, RESERVED_IN_PATH).to_string()
}

pub(super) fn join(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower case only, as S3 has it.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_without_the_habits_of_forms_and_written_in_one_way() {
        let table = [
            ("", ""),
            ("a=b&c=d", "a=b&c=d"),
            ("&a=b&&", "a=b"),
            ("a", "a="),
            ("a=b=c", "a=b%3Dc"),
            ("a=1+1", "a=1%2B1"),
            ("%61=%7e~&x=%2f/", "a=~~&x=%2F%2F"),
            ("a=%ff%", "a=%FF%25"),
        ];
        for (query, expected) in table {
            assert_eq!(join(&split(query)), expected, "{query}");
        }
    }

    #[test]
    fn a_path_keeps_its_slashes_and_has_one_form() {
        for path in ["/a b/~c+d", "/a%20b/%7Ec%2Bd", "/a%20b/%7ec%2bd"] {
            assert_eq!(encode_path(path), "/a%20b/~c%2Bd");
        }
    }

    #[test]
    fn hexadecimal_is_lower_case_and_comes_in_pairs() {
        assert_eq!(hex(&[0x00, 0x9a, 0xff]), "009aff");
        assert_eq!(unhex("009aff"), Some(vec![0x00, 0x9a, 0xff]));
        for text in ["009aF", "009AFF", "0g", "é"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
