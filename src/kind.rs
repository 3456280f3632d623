//! The problem types: one table of what callers, metrics and logs call whatever went wrong.

/// Makes the enum, the list of all of them, and what is said of each, from one table.
macro_rules! kinds {
    ($($(#[$comment:meta])* $kind:ident($slug:literal, $status:literal, $title:literal),)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$comment])* $kind,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// The slug, which is part of the interface.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$kind => $slug,)*
                }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self {
                    $(Kind::$kind => $status,)*
                }
            }

            pub fn title(self) -> &'static str {
                match self {
                    $(Kind::$kind => $title,)*
                }
            }
        }
    };
}

kinds! {
    MalformedRequest("malformed-request", 400, "Malformed request"),
    InvalidSourceUrl("invalid-source-url", 422, "Invalid source URL"),
    SourceNotAllowed("source-not-allowed", 422, "Source not allowed"),
    SourceRefused("source-refused", 422, "kie.ai refuses the source URL"),
    SourceNotFound("source-not-found", 404, "kie.ai does not know the file"),
    KeyRefused("key-refused", 502, "kie.ai refuses the API key"),
    CreditsExhausted("credits-exhausted", 502, "The kie.ai account has no credits left"),
    RateLimited("rate-limited", 429, "Rate limited"),
    UpstreamUnavailable("upstream-unavailable", 503, "kie.ai is unavailable"),
    UpstreamError("upstream-error", 502, "kie.ai gave no usable answer"),
    UpstreamUnreachable("upstream-unreachable", 502, "kie.ai cannot be reached"),
    Timeout("timeout", 504, "No link in time"),
    NotCached("not-cached", 504, "Not cached"),
    BodyTooLarge("body-too-large", 413, "Body too large"),
    UriTooLong("uri-too-long", 414, "URI too long"),
    HeadTooLarge("head-too-large", 431, "Request head too large"),
    Misdirected("misdirected", 421, "Misdirected request"),
    CrossSite("cross-site", 403, "Cross-site request"),
    Overloaded("overloaded", 503, "Overloaded"),
    NotFound("not-found", 404, "Not found"),
    MethodNotAllowed("method-not-allowed", 405, "Method not allowed"),
    /// A defect of kielink's own; not in the published table because it should not happen.
    Internal("internal-error", 500, "Internal error"),
}

impl Kind {
    /// Under `/api/`, kie.ai's own contract: clients that repeat a 5xx must not repeat what repeating cannot help.
    pub fn compat_status(self) -> u16 {
        match self {
            Kind::KeyRefused => 401,
            Kind::CreditsExhausted => 402,
            _ => self.status(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_have_one_slug() {
        let slugs: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }
}
