//! The links that are given: signed as R2's are, or written in any other way, and what the file host must remember of
//! these to honour them.
//!
//! It knows neither sockets nor clocks: `now` is an argument.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::hmac;
use url::Url;

use super::{
    answer::{Form, Wish},
    encoding::{encode, encode_path, hex},
    signature::{self, Credential, Refusal},
};

/// How many links in another form, and how many links to be given again, are remembered. Beyond that all are forgotten.
const REMEMBERED: usize = 10_000;

pub(super) struct Links {
    /// Where the files are.
    files: Url,
    root: hmac::Key,
    random: fastrand::Rng,
    /// Every link that was given, at most `remembers` of them.
    pub(super) given: Vec<String>,
    remembers: usize,
    /// The last link for each source URL.
    last: HashMap<String, String>,
    /// Path and query of links whose signature does not say their end, with that end.
    ends: HashMap<String, Timestamp>,
}

impl Links {
    pub(super) fn new(files: Url, seed: u64, remembers: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // It guards nothing but samples, so a seeded, guessable generator will do.
        let root = hmac::Key::new(hmac::HMAC_SHA256, &random.u128(..).to_be_bytes());
        Self { files, root, random, given: Vec::new(), remembers, last: HashMap::new(), ends: HashMap::new() }
    }

    /// A link for a source URL, whether there is such a file or not. The URL's host becomes a part of the path: the
    /// samples of all result hosts are on one file host here. `now` is kie.ai's clock, `life` the usual life.
    pub(super) fn make(&mut self, source: &str, wish: &Wish, now: Timestamp, life: Duration) -> String {
        if let Some(last) = self.last.get(source).filter(|_| wish.again) {
            return last.clone();
        }
        let left = wish.life_left.unwrap_or(life);
        let life = life.max(left);
        let signed_at = now.checked_sub(life - left).unwrap_or(now);
        let end = now.checked_add(left).unwrap_or(Timestamp::MAX);
        // Each link has a key of its own, so that two links of one second differ.
        let id = format!("{:032x}", self.random.u128(..));
        let signed = self.credential(&id).sign("GET", &self.files, &path_of(source), signed_at, life);
        let link = match &wish.form {
            Form::Signed => signed,
            Form::WithoutExpiry => without_expiry(&signed),
            Form::Like(template) => {
                let file = signed.split_once('?').map_or(&*signed, |(file, _)| file);
                fill(template, &[("file", file), ("id", &id)], now, end)
            }
        };
        if wish.form != Form::Signed
            && let Ok(url) = Url::parse(&link)
        {
            remember(&mut self.ends, url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(), end);
        }
        remember(&mut self.last, source.to_owned(), link.clone());
        link
    }

    /// What a servlet container puts into its session cookie.
    pub(super) fn session_id(&mut self) -> u128 {
        self.random.u128(..)
    }

    /// The link is on its way.
    pub(super) fn gave(&mut self, link: String) {
        if self.given.len() < self.remembers {
            self.given.push(link);
        }
    }

    /// Whether a request to the file host leads to a file. `path` and `query` are as they came.
    pub(super) fn check(
        &self,
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let whole = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        if let Some(&end) = self.ends.get(&whole).filter(|_| method == "GET") {
            return if now < end { Ok(()) } else { Err(Refusal::Expired { end }) };
        }
        let id = signature::access_id(query).unwrap_or_default();
        self.credential(&id).verify(method, host, path, query, now)
    }

    /// The key that belongs to an id follows from the id: no key has to be remembered.
    fn credential(&self, id: &str) -> Credential {
        let secret = hex(hmac::sign(&self.root, id.as_bytes()).as_ref());
        Credential { id: id.to_owned(), secret, region: "auto", service: "s3" }
    }
}

fn remember<T>(table: &mut HashMap<String, T>, key: String, value: T) {
    if table.len() >= REMEMBERED {
        table.clear();
    }
    table.insert(key, value);
}

/// The path of a source URL. Tests also ask for what is no URL.
fn path_of(source: &str) -> String {
    match Url::parse(source) {
        Ok(url) if url.has_host() => encode_path(&format!("/{}{}", url.host_str().unwrap_or_default(), url.path())),
        Ok(_) | Err(_) => format!("/{}", encode(source.as_bytes())),
    }
}

fn without_expiry(link: &str) -> String {
    let (file, query) = link.split_once('?').unwrap_or((link, ""));
    let says_an_end = |pair: &&str| pair.starts_with("X-Amz-Date=") || pair.starts_with("X-Amz-Expires=");
    let pairs: Vec<&str> = query.split('&').filter(|pair| !says_an_end(pair)).collect();
    format!("{file}?{}", pairs.join("&"))
}

/// Writes a link. `{file}` is the address without a query, `{id}` is a new id each time, and `{end}` and `{now}` are by
/// kie.ai's clock: `{end}` in seconds, `{end:ms}`, `{end:hex}`, `{end:iso}` (RFC 3339), `{end:basic}` (as in
/// `X-Amz-Date`), `{end:http}`; `{now+120}` and `{end-1:ms}` are so many seconds later or earlier. After that, what
/// stands in `b64(…)` becomes base64url. Braces around anything else stay.
pub(super) fn fill(template: &str, words: &[(&str, &str)], now: Timestamp, end: Timestamp) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled += before;
        let inner = after.split_once('}').and_then(|(inner, rest)| {
            let word = words.iter().find(|(name, _)| *name == inner).map(|(_, value)| (*value).to_owned());
            Some((word.or_else(|| point(inner, now, end))?, rest))
        });
        let (text, after) = inner.unwrap_or_else(|| ("{".to_owned(), after));
        filled += &text;
        rest = after;
    }
    filled += rest;
    encode_parts(&filled)
}

/// `end-1:ms`
fn point(text: &str, now: Timestamp, end: Timestamp) -> Option<String> {
    let (point, form) = text.split_once(':').unwrap_or((text, ""));
    let (name, shift) = point.split_at(point.find(['+', '-']).unwrap_or(point.len()));
    let shift: i64 = if shift.is_empty() { 0 } else { shift.parse().ok()? };
    let point = match name {
        "now" => now,
        "end" => end,
        _ => return None,
    };
    let point = Timestamp::from_second(point.as_second().checked_add(shift)?).ok()?;
    Some(match form {
        "" => point.as_second().to_string(),
        "ms" => point.as_millisecond().to_string(),
        "hex" => format!("{:x}", point.as_second()),
        "iso" => point.to_string(),
        "basic" => point.strftime("%Y%m%dT%H%M%SZ").to_string(),
        "http" => encode(super::render::http_date(point).as_bytes()),
        _ => return None,
    })
}

fn encode_parts(text: &str) -> String {
    let mut encoded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("b64(") {
        let (inner, after) = after.split_once(')').unwrap_or((after, ""));
        encoded += before;
        URL_SAFE_NO_PAD.encode_string(inner, &mut encoded);
        rest = after;
    }
    encoded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "https://file.kie.ai/s/a.png";
    const LIFE: Duration = Duration::from_secs(1200);

    fn now() -> Timestamp {
        "2025-04-15T10:10:07Z".parse().unwrap()
    }

    fn links() -> Links {
        Links::new(Url::parse("https://files.example").unwrap(), 7, 0)
    }

    fn check(links: &Links, link: &str, now: Timestamp) -> Result<(), Refusal> {
        let url = Url::parse(link).unwrap();
        links.check("GET", "files.example", url.path(), url.query().unwrap_or_default(), now)
    }

    #[test]
    fn a_template_is_filled_with_points_in_time_and_leaves_other_braces_alone() {
        let table = [
            ("{file}?x-expires={end}", "https://f/a?x-expires=1744713007"),
            ("{file}?e={end:hex}&t={now}", "https://f/a?e=67fe352f&t=1744711807"),
            ("?expires={end-1:ms}", "?expires=1744713006000"),
            ("?q-sign-time={now-2};{end}", "?q-sign-time=1744711805;1744713007"),
            ("?se={end:iso}&d={now:basic}", "?se=2025-04-15T10:30:07Z&d=20250415T101007Z"),
            ("?expires={now+120:http}", "?expires=Tue%2C%2015%20Apr%202025%2010%3A12%3A07%20GMT"),
            ("?t=a.b64({\"exp\":{end}}).b&n={id}", "?t=a.eyJleHAiOjE3NDQ3MTMwMDd9.b&n=7"),
            ("{never}{end:never}{now+}{", "{never}{end:never}{now+}{"),
            ("b64(", ""),
        ];
        for (template, expected) in table {
            let words = [("file", "https://f/a"), ("id", "7")];
            assert_eq!(fill(template, &words, now(), now() + LIFE), expected, "{template}");
        }
    }

    #[test]
    fn the_file_host_honours_links_of_every_form_until_their_end() {
        let mut links = links();
        for form in [Form::Signed, Form::WithoutExpiry, Form::Like("{file}?se={end:iso}&n={id}".to_owned())] {
            for left in [30, 1200, 7200] {
                let left = Duration::from_secs(left);
                let wish = Wish { form: form.clone(), life_left: Some(left), again: false };
                let link = links.make(SOURCE, &wish, now(), LIFE);
                let end = now() + left;
                assert!(link.starts_with("https://files.example/file.kie.ai/s/a.png?"), "{link}");
                assert_eq!(link.contains("X-Amz-Expires="), form == Form::Signed);
                assert_eq!(check(&links, &link, now()), Ok(()), "{link}");
                assert_eq!(check(&links, &link, end - Duration::from_secs(1)), Ok(()), "{link}");
                assert_eq!(check(&links, &link, end), Err(Refusal::Expired { end }), "{link}");
                assert!(check(&links, &format!("{link}0"), now()).is_err());
            }
        }
    }

    #[test]
    fn links_of_one_second_differ_unless_the_same_is_asked_for() {
        let mut links = links();
        let first = links.make(SOURCE, &Wish::default(), now(), LIFE);
        let second = links.make(SOURCE, &Wish::default(), now(), LIFE);
        assert_ne!(first, second);
        let again = Wish { again: true, ..Wish::default() };
        assert_eq!(links.make(SOURCE, &again, now() + LIFE, LIFE), second);
        assert_ne!(links.make("https://file.kie.ai/s/b.png", &again, now(), LIFE), second);
    }
}
