//! The hosts that links may be asked for. Pure.

use url::Url;

use super::Source;
use crate::host;

/// The hosts that links may be asked for (`sources.allow`).
#[derive(Debug, Clone)]
pub struct AllowList(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// `.example.com`: every name below it, not the name itself.
    Below(String),
    Host(String),
}

/// Why a text is no pattern for `sources.allow`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host name, nor `*.` and a host name, nor `*`")]
pub struct BadPattern(String);

impl AllowList {
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<AllowList, BadPattern> {
        patterns.iter().map(|pattern| Pattern::parse(pattern.as_ref())).collect::<Result<_, _>>().map(AllowList)
    }

    pub fn allows(&self, source: &Source) -> bool {
        self.allows_host(source.host())
    }

    /// `host` as source URLs have it.
    pub fn allows_host(&self, host: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Pattern::Host(name) => host == name,
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, BadPattern> {
        if text == "*" {
            return Ok(Pattern::Any);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        // Through the same parser as source URLs, so that case, IDN and IPv6 compare alike.
        let url = Url::parse(&format!("https://{name}/")).map_err(|_| BadPattern(text.to_owned()))?;
        let host = url.host_str().unwrap_or_default();
        if !url.host().is_some_and(|host| host::is_plain(&host)) {
            return Err(BadPattern(text.to_owned()));
        }
        let plain =
            url.path() == "/" && url.port().is_none() && url.username().is_empty() && !name.contains(['*', ':']);
        let literal = name.starts_with('[') && url.path() == "/" && url.port().is_none();
        if host.is_empty() || !(plain || literal) {
            return Err(BadPattern(text.to_owned()));
        }
        Ok(if below { Pattern::Below(format!(".{host}")) } else { Pattern::Host(host.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list_matches_names_below_and_exact_names() {
        let list = AllowList::new(&["*.aiquickdraw.com", "Files.Example.com", "[::1]"]).unwrap();
        for (text, allowed) in [
            ("https://tempfile.aiquickdraw.com/a", true),
            ("https://a.b.aiquickdraw.com/a", true),
            ("https://TEMPFILE.AIQUICKDRAW.COM/a", true),
            ("https://aiquickdraw.com/a", false),
            ("https://evilaiquickdraw.com/a", false),
            ("https://tempfile.aiquickdraw.com.evil.example/a", false),
            ("https://files.example.com:8443/a", true),
            ("https://x.files.example.com/a", false),
            ("https://[::1]/a", true),
        ] {
            assert_eq!(list.allows(&Source::parse(text).unwrap()), allowed, "{text}");
        }
        let any = AllowList::new(&["*"]).unwrap();
        assert!(any.allows(&Source::parse("https://anything.example/").unwrap()));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "*.",
            "a.*.com",
            "https://a.com",
            "a.com/x",
            "a.com:443",
            "u@a.com",
            "**",
            "a;b.com",
            "a..com",
            "{a,b}.com",
            "[::1]:8443",
            "[::1]/x",
        ] {
            assert!(AllowList::new(&[text]).is_err(), "{text:?}");
        }
    }
}
