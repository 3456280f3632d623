//! Reads one setting after the other out of the merged layers and keeps a list of what is wrong.
//!
//! A struct with serde would stop at the first problem, and would print a rejected value, which may be a secret
//! in the wrong place.

use std::{collections::BTreeMap, fmt::Display, num::NonZeroU32, time::Duration};

use bytesize::ByteSize;
use config::{Value, ValueKind};

use super::Sources;
use crate::key::misplaced;

/// No setting is meant to be longer than a day; with years, sums would overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is said of a setting that no layer has, though the built-in one has them all.
const MISSING: &str = ": it is missing";

/// Bytes. No setting that is a size makes sense with less.
const SMALLEST: ByteSize = ByteSize::kib(1);

pub(super) struct Reader {
    /// `section.key` to value. What is left at the end is no setting that anybody reads.
    left: BTreeMap<String, Value>,
    pub(super) problems: Vec<String>,
    pub(super) effective: Vec<(String, String)>,
    known: Vec<&'static str>,
    /// The keys that flags set.
    flags: Vec<String>,
    file: Option<String>,
}

impl Reader {
    pub(super) fn new(root: BTreeMap<String, Value>, sources: &Sources) -> Reader {
        let mut left = BTreeMap::new();
        for (section, value) in root {
            match value.kind {
                ValueKind::Table(table) => {
                    left.extend(table.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
                }
                _ => drop(left.insert(section, value)),
            }
        }
        Reader {
            left,
            problems: Vec::new(),
            effective: Vec::new(),
            known: Vec::new(),
            flags: sources.flags.iter().map(|(key, _)| key.clone()).collect(),
            file: sources.file.as_ref().map(|path| path.display().to_string()),
        }
    }

    /// A duration; zero is allowed.
    pub(super) fn duration(&mut self, key: &'static str) -> Duration {
        self.any_duration(key).unwrap_or_default()
    }

    /// A duration of more than zero.
    pub(super) fn some_time(&mut self, key: &'static str) -> Duration {
        let duration = self.any_duration(key);
        if duration == Some(Duration::ZERO) {
            self.problem(key, "it must be more than zero");
        }
        duration.unwrap_or_default()
    }

    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    fn any_duration(&mut self, key: &'static str) -> Option<Duration> {
        let parse = |text: &str| match humantime::parse_duration(text) {
            Ok(duration) if duration <= LONGEST => Ok(duration),
            // The library's month, which nobody means here.
            Ok(_) if text.contains('M') => Err("M means months: minutes are m, like \"19m\""),
            Ok(_) => Err("it must be at most 24h"),
            Err(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err("expected a duration like \"19m\", with its unit: s, m or h")
            }
            Err(_) => Err("expected a duration like \"19m\""),
        };
        self.scalar(key, parse, |value| format!("\"{}\"", humantime::format_duration(*value)))
    }

    /// A size in bytes, at least `SMALLEST`.
    pub(super) fn size(&mut self, key: &'static str) -> u64 {
        let parse = |text: &str| text.parse::<ByteSize>().map_err(|_| "expected a size like \"64MiB\"");
        let size = self.scalar(key, parse, |value| format!("\"{}\"", exact_size(value.as_u64())));
        if size.is_some_and(|size| size < SMALLEST) {
            self.problem(key, "it must be at least 1KiB");
        }
        size.unwrap_or_default().as_u64()
    }

    /// A whole number, at least one.
    pub(super) fn number(&mut self, key: &'static str) -> NonZeroU32 {
        let parse = |text: &str| text.parse::<u32>().map_err(|_| "expected a whole number");
        let number = self.scalar(key, parse, u32::to_string);
        if number == Some(0) {
            self.problem(key, "it must be at least 1");
        }
        number.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        let parse = |text: &str| text.parse::<bool>().map_err(|_| "expected true or false");
        self.scalar(key, parse, bool::to_string).unwrap_or_default()
    }

    pub(super) fn text<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T>
    where
        T: Display,
    {
        self.scalar(key, parse, |value| toml_text(&value.to_string()))
    }

    /// A setting that may be absent; its value is for the caller to render.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let value = self.left.remove(key)?;
        let text = value.into_string().ok();
        match &text {
            Some(text) => self.effective.push((key.to_owned(), toml_text(text))),
            None => self.problem(key, "expected a text"),
        }
        text
    }

    /// A secret that may be absent, parsed. SECURITY: of what was written, only what `show` makes of it is ever shown.
    pub(super) fn secret<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.left.remove(key)?;
        let origin = self.origin(key, &value);
        let parsed = value.into_string().map_err(|_| "expected a text".to_owned()).and_then(|text| parse(text.trim()));
        match parsed {
            Ok(parsed) => {
                self.effective.push((key.to_owned(), toml_text(&show(&parsed))));
                Some(parsed)
            }
            Err(why) => {
                self.problem(key, format!("{why} (from {origin})"));
                None
            }
        }
    }

    /// A list, or one text that is split at commas (as the environment has no lists).
    pub(super) fn list<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.known.push(key);
        let Some(value) = self.left.remove(key) else {
            self.problem(key, "it is missing");
            return Vec::new();
        };
        let origin = self.origin(key, &value);
        let texts: Option<Vec<String>> = match value.kind {
            ValueKind::Array(items) => items.into_iter().map(|item| item.into_string().ok()).collect(),
            ValueKind::String(text) => {
                Some(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect())
            }
            _ => None,
        };
        let Some(texts) = texts else {
            self.problem(key, "expected a list of texts");
            return Vec::new();
        };
        let items: Vec<String> = texts.iter().map(|text| toml_text(text)).collect();
        self.effective.push((key.to_owned(), format!("[{}]", items.join(", "))));
        let (mut parsed, mut wrong) = (Vec::new(), BTreeMap::<String, Vec<String>>::new());
        for (place, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(item) => parsed.push(item),
                Err(why) => wrong.entry(why).or_default().push((place + 1).to_string()),
            }
        }
        // One line for all items that are wrong alike.
        for (why, places) in wrong {
            let items = if places.len() == 1 { "item" } else { "items" };
            match texts.len() {
                1 => self.problem(key, format!("{why} (from {origin})")),
                _ => self.problem(key, format!("{why} ({items} {}, from {origin})", places.join(", "))),
            }
        }
        parsed
    }

    pub(super) fn problem(&mut self, key: &str, what: impl Display) {
        self.problems.push(format!("{key}: {what}"));
    }

    /// A setting that nothing reads is a slip of the pen, and with a slip kielink refuses to start.
    pub(super) fn refuse_unknown(&mut self) {
        for (key, value) in std::mem::take(&mut self.left) {
            let origin = self.origin(&key, &value);
            let is_below = |name: &str| name.strip_prefix(&*key).is_some_and(|rest| rest.starts_with('.'));
            if let Some(first) = self.known.iter().find(|known| is_below(known)) {
                // It stands in the place of all its settings, which are not missing for any other reason.
                self.problems.retain(|problem| !(is_below(problem) && problem.ends_with(MISSING)));
                self.problems
                    .push(format!("{key}: it is a section and has no value of its own (from {origin}): set {first}"));
                continue;
            }
            let shown = shown_name(&key);
            self.problems.push(match key.rsplit('.').next() {
                Some("api_key" | "kie_api_key" | "apikey" | "key") => format!(
                    "{shown}: a key is no setting (from {origin}): write it into a file, which KIE_API_KEY_FILE or \
                     upstream.api_key_file names, or set KIE_API_KEY"
                ),
                _ => format!("{shown}: unknown setting (from {origin}){}", self.meant(&key)),
            });
        }
    }

    /// Which known setting an unknown one was most likely meant to be.
    fn meant(&self, key: &str) -> String {
        let known = || self.known.iter().copied();
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut meant: Vec<_> = known().filter(|known| last(known) == last(key)).collect();
        if meant.is_empty() {
            let near = known().map(|known| (strsim::levenshtein(known, key), known)).min();
            meant.extend(near.filter(|(distance, _)| *distance <= 4).map(|(_, near)| near));
        }
        if !meant.is_empty() {
            return format!("; did you mean {}?", meant.join(" or "));
        }
        let section = key.split_once('.').map(|(section, _)| format!("{section}."));
        let own: Vec<_> = known().filter_map(|known| known.strip_prefix(section.as_deref()?)).collect();
        if own.is_empty() { String::new() } else { format!("; there are {}", own.join(", ")) }
    }

    /// Where the value that won was written. The config crate itself tells only of the environment.
    fn origin(&self, key: &str, value: &Value) -> String {
        let flag =
            |name: &String| key == name || key.starts_with(&format!("{name}.")) || name.starts_with(&format!("{key}."));
        match (value.origin(), &self.file) {
            (Some(origin), _) => origin.to_owned(),
            (None, Some(file)) if !self.flags.iter().any(flag) => file.clone(),
            (None, _) => "the command line".to_owned(),
        }
    }

    fn scalar<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
        render: impl Fn(&T) -> String,
    ) -> Option<T> {
        self.known.push(key);
        let Some(value) = self.left.remove(key) else {
            self.problem(key, "it is missing");
            return None;
        };
        let origin = self.origin(key, &value);
        let parsed = value.into_string().map_err(|_| "expected one value".to_owned()).and_then(|text| {
            // SECURITY: the text itself is not repeated; it may be a secret in the wrong place.
            parse(text.trim()).map_err(|why| why.to_string())
        });
        match parsed {
            Ok(value) => {
                self.effective.push((key.to_owned(), render(&value)));
                Some(value)
            }
            Err(why) => {
                self.problem(key, format!("{why} (from {origin})"));
                None
            }
        }
    }
}

/// The name of a setting, for a message about it. SECURITY: a name that does not look like one may be a secret in the
/// wrong place.
pub(super) fn shown_name(key: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.';
    let is_shown = key.len() <= 60 && key.bytes().all(plain) && !misplaced::may_be_a_key(key);
    if is_shown { key } else { "(no name of a setting)" }
}

/// A text as TOML writes it; Rust's own `{:?}` is another language: `"\u{1}"`.
fn toml_text(text: &str) -> String {
    // TOML knows all of JSON's escapes, but wants one for DEL, too.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// In the largest unit that holds the size exactly: a rounded size would load again as another one.
fn exact_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let exact = units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    match exact {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}
