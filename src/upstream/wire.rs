//! One request to kie.ai over HTTPS, with the key; and what of the answer may be believed.
//!
//! Does not know when to ask, nor how often.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use url::Url;

use super::{
    DOWNLOAD_URL, MAX_ANSWER_BYTES, MintFuture, Minted, Transport,
    envelope::{self, Raw},
    error::{Answer, BadAnswer, Error},
    message,
};
use crate::{
    clock::Clock,
    key::{self, ApiKey, Keys},
    link::{self, Link},
    source::SourceUrl,
    telemetry::trace::Span,
};

/// A `Retry-After` beyond this is taken for this: kie.ai never sent one, so none can be trusted to be sane.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Config {
    pub base_url: Url,
    pub connect_timeout: Duration,
    /// Where links may point.
    pub links: link::Policy,
}

/// The connection to kie.ai.
pub struct Wire {
    client: reqwest::Client,
    endpoint: Url,
    keys: Keys,
    clock: Clock,
    config: Config,
    /// Whether a connection may lie in the pool, open or closed by now.
    kept: AtomicBool,
}

impl Wire {
    /// # Errors
    /// When TLS cannot be set up: most likely the system has no root certificates.
    pub fn new(config: Config, keys: Keys, clock: Clock) -> Result<Wire, reqwest::Error> {
        // Process-wide by rustls's design, and idempotent: an error means that a provider is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("kielink/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            // SECURITY: a redirect would carry the key to another host, or a caller's trust.
            .redirect(reqwest::redirect::Policy::none())
            // SECURITY: a proxy of the environment would see the key on a plain connection.
            .no_proxy()
            // Every request must pass the budget; the client must not repeat any on its own.
            .retry(reqwest::retry::never())
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(60));
        if config.base_url.scheme() == "http" {
            // No TLS will be spoken: a machine without root certificates must do.
            client = client.tls_certs_only([]);
        }
        let mut endpoint = config.base_url.clone();
        let path = format!("{}{DOWNLOAD_URL}", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        Ok(Wire { client: client.build()?, endpoint, keys, clock, config, kept: AtomicBool::new(false) })
    }

    /// One request with the newest key, and what its answer says of that key.
    async fn attempt(&self, source: &SourceUrl, span: &Span) -> Result<Minted, Error> {
        let key = self.keys.newest();
        match self.request(source, &key, span).await {
            Ok(minted) => {
                self.keys.minted_with(&key);
                Ok(minted)
            }
            Err(Error::KeyRefused(answer)) if self.keys.refused(&key, &answer).await => Err(Error::KeyReplaced(answer)),
            // Another key may be another account's. Only where kie.ai says so by its code: a message may repeat a caller's URL.
            Err(Error::CreditsExhausted(answer))
                if answer.code == Some(402) && self.keys.refused(&key, &answer).await =>
            {
                Err(Error::KeyReplaced(answer))
            }
            Err(error) => Err(error),
        }
    }

    async fn request(&self, source: &SourceUrl, key: &ApiKey, span: &Span) -> Result<Minted, Error> {
        let sent_at = self.clock.now();
        let kept = self.kept.load(Ordering::Relaxed);
        let request = self.client.post(self.endpoint.clone());
        let request = match span.traceparent() {
            Some(place) => request.header("traceparent", place),
            None => request,
        };
        let mut response = request
            .header(AUTHORIZATION, authorization(key))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(serde_json::json!({ "url": source.as_str() }).to_string())
            .send()
            .await
            .map_err(|error| {
                let error = Error::of_request(error, kept);
                if matches!(error, Error::DeadConnection(_)) {
                    // Its siblings are as old.
                    self.kept.store(false, Ordering::Relaxed);
                }
                error
            })?;
        self.kept.store(true, Ordering::Relaxed);
        let status = response.status();
        let date = http_date(response.headers());
        let retry_after = retry_after(response.headers(), date);
        let answer = || Answer { http_status: status.as_u16(), code: None, message: None };
        let unreadable = |reason| Error::Unusable { reason, answer: answer() };
        let body = match read_bounded(&mut response).await {
            Ok(Some(body)) => body,
            Err(error) if error.is_timeout() => return Err(Error::Timeout),
            // An HTTP error speaks for itself: a challenge page may be long, a gateway's page may break off.
            Ok(None) | Err(_) if !status.is_success() => Vec::new(),
            Ok(None) => return Err(unreadable(BadAnswer::TooLong)),
            // The connection broke inside the body, or the body is no gzip though it says so.
            Err(_) => return Err(unreadable(BadAnswer::Broken)),
        };
        let raw = Raw { http_status: status.as_u16(), retry_after, body: &body };
        // SECURITY: the key that was sent, too: it may have been let go while its answer was on the way.
        let with_own = |keys: Vec<ApiKey>| keys.into_iter().chain([key.clone()]).collect::<Vec<_>>();
        let secrets = with_own(self.keys.all());
        let text = envelope::read(&raw, |message| message::presentable(message, source, &secrets))?;
        let unusable = |reason| Error::Unusable { reason, answer: Answer { code: Some(200), ..answer() } };
        let link = Link::parse(&text, &self.config.links).map_err(|why| unusable(why.into()))?;
        // SECURITY: an upstream that writes the key into a link would have us hand it out.
        if key::any_is_in(&with_own(self.keys.proven()), link.as_str()) {
            return Err(unusable(BadAnswer::LinkWithKey));
        }
        let ends_at = sent_at + life(&link, date, self.clock.wall());
        Ok(Minted { link, sent_at, ends_at })
    }
}

/// SECURITY: the one place where the key leaves the process.
fn authorization(key: &ApiKey) -> HeaderValue {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", key.expose())).expect("ApiKey admits only what a header can carry");
    value.set_sensitive(true);
    value
}

impl Transport for Wire {
    fn send<'a>(&'a self, source: &'a SourceUrl, span: &'a Span) -> MintFuture<'a> {
        Box::pin(self.attempt(source, span))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The life of a fresh link from the moment it was asked for: the documented 20 minutes, or what the link itself
/// says, whichever is less.
///
/// The link is read against the `Date` of the answer that brought it, which is kie.ai's clock; ours may be wrong.
/// `Date` is cut to the second, so up to one second less may be left than it says. Without a `Date`, our own clock
/// is the only one left to ask.
pub(crate) fn life(link: &Link, date: Option<Timestamp>, wall: Timestamp) -> Duration {
    let own = match date {
        Some(date) => link.life_left(date).map(|left| left.saturating_sub(Duration::from_secs(1))),
        None => link.life_left(wall),
    };
    own.map_or(link::LIFE, |own| own.min(link::LIFE))
}

fn http_date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), the latter against the answer's own clock.
fn retry_after(headers: &HeaderMap, date: Option<Timestamp>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()?;
            Duration::try_from(until.duration_since(date?)).unwrap_or(Duration::ZERO)
        }
    };
    Some(pause.min(LONGEST_RETRY_AFTER))
}

/// The body, unpacked, or `None` when it is longer than any answer of kie.ai's.
async fn read_bounded(response: &mut reqwest::Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(query: &str) -> Link {
        Link::parse(&format!("https://h.example/a?{query}"), &link::Policy::default()).unwrap()
    }

    #[test]
    fn the_earlier_of_the_two_ends_counts() {
        let seconds = |query: &str, date: Option<&str>, wall: &str| {
            life(&link(query), date.map(|date| date.parse().unwrap()), wall.parse().unwrap()).as_secs()
        };
        let signed = "X-Amz-Date=20261123T100000Z&X-Amz-Expires=1200";
        let (on_time, off) = ("2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z");
        assert_eq!(seconds("a=b", Some(on_time), off), 1200, "no expiry of its own");
        assert_eq!(seconds(signed, Some(on_time), off), 1199, "our clock an hour off changes nothing");
        assert_eq!(seconds(signed, Some("2026-11-23T10:19:30Z"), off), 29);
        assert_eq!(seconds(signed, Some(off), on_time), 0, "an old link");
        assert_eq!(seconds(signed, Some("2026-11-23T09:00:00Z"), off), 1200, "never more than 20 minutes");
        assert_eq!(seconds(signed, None, "2026-11-23T10:10:00Z"), 600, "without a Date our clock is all there is");
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let seconds = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(value).unwrap())]);
            retry_after(&headers, Some("2026-11-23T10:00:00Z".parse().unwrap())).map(|pause| pause.as_secs())
        };
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("86400"), Some(300));
        assert_eq!(seconds("Mon, 23 Nov 2026 10:00:05 GMT"), Some(5));
        assert_eq!(seconds("Mon, 23 Nov 2026 09:00:00 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
    }
}
