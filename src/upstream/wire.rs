//! One request to kie.ai over HTTPS, with the key; and what of the answer may be believed.
//!
//! Does not know when to ask, nor how often.

use std::{
    fmt,
    future::Future,
    io::{self, Read as _},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use reqwest::{
    RequestBuilder,
    header::{
        ACCEPT_ENCODING, AGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER,
    },
};
use url::Url;

use super::{
    CREDIT, DOWNLOAD_URL, DOWNLOAD_URL_4O, Doubt, MAX_ANSWER_BYTES, MintFuture, Minted, Transport, Via,
    connections::{Connections, Pool, Settings, SetupError},
    credits::{Amount, CreditsFuture},
    envelope::{self, Raw},
    error::{AccountTrouble, Answer, BadAnswer, Error},
    message, retry_after,
    suspicion::Suspicion,
};
use crate::{
    clock::{Clock, Heard, Instant, KieClock},
    key::{self, ApiKey, Keys},
    link::{self, Link},
    source::Source,
    telemetry::trace::Span,
};

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Config {
    pub base_url: Url,
    pub connect_timeout: Duration,
    /// Connections that are kept while nothing is asked.
    pub most_idle: usize,
    /// Where links may point.
    pub links: link::Policy,
}

/// The way to kie.ai.
pub struct Wire {
    connections: Arc<Connections>,
    /// Where links are asked for, and where those of a task are.
    endpoint: Url,
    endpoint_4o: Url,
    credit: Url,
    keys: Keys,
    /// About a key on trial, by its version: a file was refused with it, and served with the old key.
    suspicion: Mutex<Suspicion<u64>>,
    clock: Clock,
    kie_clock: KieClock,
    config: Config,
}

impl Wire {
    /// What its answers show of kie.ai's clock goes to `kie_clock`.
    ///
    /// # Errors
    /// When TLS cannot be set up: most likely the system has no root certificates.
    pub fn new(config: Config, keys: Keys, clock: Clock, kie_clock: KieClock) -> Result<Wire, SetupError> {
        let connections = Connections::new(
            config.base_url.scheme() != "http",
            Settings { connect_timeout: config.connect_timeout, most_idle: config.most_idle },
        )?;
        let at = |path: &str| {
            let mut url = config.base_url.clone();
            url.set_path(&format!("{}{path}", config.base_url.path().trim_end_matches('/')));
            url
        };
        let (endpoint, endpoint_4o, credit) = (at(DOWNLOAD_URL), at(DOWNLOAD_URL_4O), at(CREDIT));
        let (connections, suspicion) = (Arc::new(connections), Mutex::default());
        Ok(Wire { connections, endpoint, endpoint_4o, credit, keys, suspicion, clock, kie_clock, config })
    }

    /// Where kie.ai is asked for a link, and with what body.
    fn question(&self, source: &Source) -> (Url, serde_json::Value) {
        let url = source.url();
        match source.task() {
            None => (self.endpoint.clone(), serde_json::json!({ "url": url })),
            Some(task) => (self.endpoint_4o.clone(), serde_json::json!({ "taskId": task, "url": url })),
        }
    }

    /// One request, and what its answer says of the key that it carried.
    async fn attempt(
        &self,
        source: &Source,
        doubt: Option<&Doubt>,
        patience: Duration,
        span: &Span,
    ) -> Result<Minted, Error> {
        let stand_in = doubt.and_then(|doubt| Some((doubt, self.keys.in_place_of(doubt.key)?)));
        let key = stand_in.as_ref().map_or_else(|| self.keys.newest(), |(_, key)| key.clone());
        let result = self.within(patience, async |pool| self.mint(source, &key, &pool, span).await).await;
        let error = match result {
            Ok(minted) => {
                self.keys.minted_with(&key);
                if let Some((doubt, _)) = stand_in {
                    self.suspect(doubt);
                }
                return Ok(minted);
            }
            Err(error) => error,
        };
        // Only its own code shows that kie.ai speaks of the key, or of its account, which another key may not share: a
        // gateway may not like a caller's URL, and a message may repeat that URL.
        let (answer, by_code) = match (error.account_trouble(), error.answer()) {
            (Some((AccountTrouble::Key, by_code)), Some(answer)) => (answer.clone(), by_code),
            (Some((AccountTrouble::Credits, true)), Some(answer)) => (answer.clone(), true),
            _ => return Err(error),
        };
        let has_another = match stand_in {
            // What ails the old key says nothing of the new one: the answer that the file had with the new key stands.
            Some((doubt, _)) => return Err(Error::KeyRefused(doubt.answer.clone())),
            None if by_code => self.keys.refused(&key, &answer).await,
            None => self.keys.doubted(&key).await,
        };
        Err(if has_another { Error::KeyReplaced(answer) } else { error })
    }

    /// Notes a file that was refused with the key on trial and served with the old key: it is the new key's fault, or a
    /// gateway's mood.
    fn suspect(&self, doubt: &Doubt) {
        // A section of a few assignments.
        let mut suspicion = self.suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        if suspicion.is_shared(doubt.key, doubt.file) {
            self.keys.outdone(doubt.key, &doubt.answer);
        }
    }

    /// One request over the connections in use, which are given up where no answer comes.
    async fn within<T>(
        &self,
        patience: Duration,
        request: impl AsyncFnOnce(Arc<Pool>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let pool = self.connections.pool();
        let was_kept = pool.may_be_kept();
        let result = tokio::time::timeout(patience, request(Arc::clone(&pool))).await;
        let result = result.unwrap_or(Err(if was_kept { Error::SilentConnection } else { Error::Timeout }));
        if let Err(error) = &result
            && (error.is_silence() || error.is_of_a_kept_connection())
        {
            self.connections.renew(&pool);
        }
        result
    }

    async fn mint(&self, source: &Source, key: &ApiKey, pool: &Pool, span: &Span) -> Result<Minted, Error> {
        let (endpoint, question) = self.question(source);
        let request = pool.client().post(endpoint);
        let request = match span.traceparent() {
            Some(position) => request.header("traceparent", position),
            None => request,
        };
        let request =
            request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(question.to_string());
        let answer = self.exchange(request, key, pool).await?;
        // SECURITY: the key that was sent, too: it may have been let go while its answer was on the way.
        let with_own = |keys: Vec<ApiKey>| keys.into_iter().chain([key.clone()]).collect::<Vec<_>>();
        let secrets = with_own(self.keys.all());
        let text = envelope::read(&answer.raw(), |message| message::presentable(message, source, &secrets))?;
        let unusable = |reason| Error::Unusable { reason, answer: answer.good() };
        let link = Link::parse(&text, &self.config.links).map_err(|why| unusable(why.into()))?;
        // SECURITY: an upstream that writes the key into a link would have us hand it out.
        if key::any_is_in(&with_own(self.keys.proven()), link.as_str()) {
            return Err(unusable(BadAnswer::LinkWithKey));
        }
        let Reply { sent_at, heard, date, age, .. } = answer;
        let Life { left, says_its_end } = life(&link, date, age, self.clock.wall());
        Ok(Minted { link, sent_at, ends_at: sent_at + left, heard, says_its_end, via: Via::Kie })
    }

    async fn credits(&self, key: &ApiKey, pool: &Pool) -> Result<Amount, Error> {
        let answer = self.exchange(pool.client().get(self.credit.clone()), key, pool).await?;
        let secrets: Vec<_> = self.keys.all().into_iter().chain([key.clone()]).collect();
        let read = envelope::number(&answer.raw(), |message| message::presentable_alone(message, &secrets));
        let amount = Amount::from(read.map_err(|error| match error {
            // There is no file that this could be about.
            Error::SourceRefused(answer) | Error::SourceNotFound(answer) => Error::Failed(answer),
            error => error,
        })?);
        // SECURITY: a key may be made of digits.
        if key::any_is_in(&secrets, &amount.to_string()) {
            return Err(Error::Unusable { reason: BadAnswer::NoNumber, answer: answer.good() });
        }
        Ok(amount)
    }

    /// Sends a request with the key, and reads what comes, whatever it says.
    async fn exchange(&self, request: RequestBuilder, key: &ApiKey, pool: &Pool) -> Result<Reply, Error> {
        let was_kept = pool.may_be_kept();
        let sent_at = self.clock.now();
        let mut response = request
            .header(AUTHORIZATION, authorization(key))
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
            .send()
            .await
            .map_err(|error| Error::of_request(error, was_kept))?;
        let status = response.status();
        let (date, age) = (http_date(response.headers()), age(response.headers()));
        let heard = self.kie_clock.heard(date, age, sent_at, self.clock.now());
        let pauses = response.headers().get_all(RETRY_AFTER).iter().filter_map(|value| value.to_str().ok());
        let retry_after = retry_after::read(pauses, date);
        let unreadable = |reason| Error::Unusable {
            reason,
            answer: Answer { http_status: status.as_u16(), code: None, message: None },
        };
        let is_packed = is_packed(response.headers());
        let read = read_bounded(&mut response).await;
        if let Err(error) = &read
            && error.is_timeout()
        {
            return Err(Error::Timeout);
        }
        let whole = read.map_err(|_| BadAnswer::Broken).and_then(|body| match body {
            Some(body) if is_packed => unpack(&body),
            body => body.ok_or(BadAnswer::TooLong),
        });
        let body = match whole {
            Ok(body) => body,
            // An HTTP error speaks for itself: a challenge page may be long, a gateway's page may break off.
            Err(_) if !status.is_success() => Vec::new(),
            // Among the reasons: the connection broke inside the body, or the body is no gzip though it says so.
            Err(reason) => return Err(unreadable(reason)),
        };
        pool.answered();
        Ok(Reply { http_status: status.as_u16(), retry_after, body, sent_at, heard, date, age })
    }
}

/// What came back.
struct Reply {
    http_status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
    sent_at: Instant,
    heard: Heard,
    date: Option<Timestamp>,
    age: Option<Duration>,
}

impl Reply {
    fn raw(&self) -> Raw<'_> {
        Raw { http_status: self.http_status, retry_after: self.retry_after, body: &self.body }
    }

    /// The answer of an envelope that says success.
    fn good(&self) -> Answer {
        Answer { http_status: self.http_status, code: Some(200), message: None }
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
    fn send<'a>(
        &'a self,
        source: &'a Source,
        doubt: Option<&'a Doubt>,
        patience: Duration,
        span: &'a Span,
    ) -> MintFuture<'a> {
        Box::pin(self.attempt(source, doubt, patience, span))
    }

    fn key_version(&self) -> u64 {
        self.keys.version()
    }

    fn credits<'a>(&'a self, patience: Duration) -> CreditsFuture<'a> {
        Box::pin(async move {
            let key = self.keys.newest();
            let result = self.within(patience, async |pool| self.credits(&key, &pool).await).await;
            // Only its own code shows that kie.ai speaks of the key.
            match result {
                Err(Error::KeyRefused(answer)) if matches!(answer.code, Some(401 | 403)) => {
                    // A key on trial stays on trial: it is for minting.
                    let has_another = self.keys.has_another_than(&key).await;
                    Err(if has_another { Error::KeyReplaced(answer) } else { Error::KeyRefused(answer) })
                }
                result => result,
            }
        })
    }

    fn greet<'a>(&'a self, patience: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let pool = self.connections.pool();
            let sent_at = self.clock.now();
            let request = pool.client().head(self.config.base_url.clone()).send();
            if let Ok(Ok(response)) = tokio::time::timeout(patience, request).await {
                let (date, age) = (http_date(response.headers()), age(response.headers()));
                self.kie_clock.heard(date, age, sent_at, self.clock.now());
            }
        })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// How long a fresh link lives, from the moment it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) left: Duration,
    /// Whether the link itself says so.
    pub(crate) says_its_end: bool,
}

/// The documented 20 minutes, less the time for which a gateway kept the answer; or what the link itself says,
/// whichever is less.
///
/// The link is read against kie.ai's clock as its answer shows it (`Date`); ours may be wrong. The time for which a
/// gateway kept the answer (`Age`) has passed since, whether the link names its end or has the documented 20 minutes.
/// `Date` is cut to the second, so up to one second less may be left than it says. Without a `Date`, our own clock is
/// the only one left to ask.
pub(crate) fn life(link: &Link, date: Option<Timestamp>, age: Option<Duration>, wall: Timestamp) -> Life {
    let kept = age.unwrap_or_default();
    let own = match date {
        Some(date) => link.life_left(date).map(|left| left.saturating_sub(kept + Duration::from_secs(1))),
        None => link.life_left(wall),
    };
    let documented = link::LIFE.saturating_sub(kept);
    match own {
        Some(own) if own < documented => Life { left: own, says_its_end: true },
        Some(_) | None => Life { left: documented, says_its_end: false },
    }
}

/// How long a gateway has kept the answer, where one has (RFC 9111 section 5.1): whole seconds, in the nearest sensible
/// reading; of several values, the longest. An age beyond a link's life counts as a link's life.
fn age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(AGE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let seconds = values.filter_map(retry_after::seconds).fold(0.0, f64::max);
    // Whole seconds: kie.ai's clock tells none shorter.
    let seconds = seconds.min(link::LIFE.as_secs_f64()) as u64;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn http_date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()
}

/// The body as it came, or `None` when it is longer than any answer of kie.ai's.
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

/// Whether the body is gzip, in any case and by its old name, too (RFC 9110 section 8.4.1). The HTTP client's own
/// unpacking knows one spelling only, which is why it is not used.
fn is_packed(headers: &HeaderMap) -> bool {
    let named = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    named
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|coding| ["gzip", "x-gzip"].iter().any(|known| coding.eq_ignore_ascii_case(known)))
}

fn unpack(body: &[u8]) -> Result<Vec<u8>, BadAnswer> {
    let mut unpacked = Vec::new();
    let most = MAX_ANSWER_BYTES as u64;
    let read: io::Result<usize> = MultiGzDecoder::new(body).take(most + 1).read_to_end(&mut unpacked);
    match read {
        Ok(bytes) if bytes as u64 > most => Err(BadAnswer::TooLong),
        Ok(_) => Ok(unpacked),
        Err(_) => Err(BadAnswer::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(query: &str) -> Link {
        Link::parse(&format!("https://h.example/a?{query}"), &link::Policy::default()).unwrap()
    }

    #[test]
    fn the_header_that_carries_the_key_is_marked_and_not_shown() {
        let header = authorization(&ApiKey::new("very-secret-key").unwrap());
        assert_eq!(header, "Bearer very-secret-key");
        assert!(header.is_sensitive() && !format!("{header:?}").contains("secret"), "{header:?}");
    }

    #[test]
    fn the_earlier_of_the_two_ends_counts() {
        let seconds = |query: &str, date: Option<&str>, wall: &str| {
            life(&link(query), date.map(|date| date.parse().unwrap()), None, wall.parse().unwrap()).left.as_secs()
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
    fn an_answer_that_a_gateway_has_kept_has_lost_that_much_life() {
        let life = |query: &str, date: &str, age: u64| {
            let age = (age > 0).then(|| Duration::from_secs(age));
            let wall = "2026-11-23T11:00:00Z".parse().unwrap();
            let life = life(&link(query), Some(date.parse().unwrap()), age, wall);
            (life.left.as_secs(), life.says_its_end)
        };
        let signed = "X-Amz-Date=20261123T100000Z&X-Amz-Expires=1200";
        assert_eq!(life(signed, "2026-11-23T10:00:00Z", 900), (299, true));
        assert_eq!(life("a=b", "2026-11-23T10:00:00Z", 900), (300, false));
        assert_eq!(life("a=b", "2026-11-23T10:00:00Z", 0), (1200, false));
        assert_eq!(life("a=b", "2026-11-23T10:00:00Z", 1200), (0, false));
    }

    #[test]
    fn an_age_is_read_in_its_nearest_sensible_reading_and_the_longest_counts() {
        let seconds = |values: &[&'static str]| {
            let headers = values.iter().map(|value| (AGE, HeaderValue::from_static(value)));
            age(&HeaderMap::from_iter(headers)).map(|age| age.as_secs())
        };
        for (values, expected) in [
            (&[][..], None),
            (&["0"], None),
            (&["900"], Some(900)),
            (&["5, 900"], Some(900)),
            (&[" 7 "], Some(7)),
            (&["+900"], Some(900)),
            (&["\"900\""], Some(900)),
            (&["'900'"], Some(900)),
            (&["900.5"], Some(900)),
            (&["900."], Some(900)),
            (&["\"5, +900.9\""], Some(900)),
            (&["900s"], Some(900)),
            (&["0.9"], None),
            (&["99999999999999999999999"], Some(1200)),
            (&["1e400"], Some(1200)),
            (&["inf"], None),
            (&["NaN"], None),
            (&["-0"], None),
            (&["+"], None),
            (&["\"\""], None),
            (&["9 00"], None),
            (&["0x384"], None),
            (&["-5"], None),
            (&["soon"], None),
            (&[""], None),
        ] {
            assert_eq!(seconds(values), expected, "{values:?}");
        }
    }
}
