//! Hostile input, checked against what its parsers promise. There is one function for each parser, for `cargo fuzz` and
//! for the test below, which runs the kept inputs of `fuzz/corpus/`.
//!
//! Those of the shared tier are in `shared::fuzzing`, since what they call is private there.
//!
//! No function here asks only that nothing panics. Each states what must hold of input that is taken, and of what is
//! said about input that is refused, where possible in words of its own: a rule that is copied from the parser finds
//! nothing.

use std::{borrow::Cow, slice, str, sync::Arc, time::Duration};

use axum::http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use url::{Host, Url, form_urlencoded};

use crate::{
    app,
    config::{self, Sources},
    http::{batch, directives},
    key::ApiKey,
    link::{self, Link},
    links,
    server::Address,
    source::{self, AllowList, Source},
    upstream::{self, BadAnswer, Error, envelope::Raw},
    web::{
        guard,
        problem::{Kind, Problem},
        query::{self as asked, Asked},
    },
};

pub use crate::shared::fuzzing::{sealed, tier_reply};

/// A target's name, which is also the name of its corpus, and the target.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("query", query),
    ("compat_body", compat_body),
    ("batch_body", batch_body),
    ("request_head", request_head),
    ("envelope", envelope),
    ("link_expiry", link_expiry),
    ("config", config),
    ("sealed", sealed),
    ("tier_reply", tier_reply),
];

/// What `sources.allow` and `server.allowed_hosts` say where a target needs them.
const ALLOWED_SOURCES: [&str; 3] = ["*.aiquickdraw.com", "file.kie.ai", "[2001:db8::1]"];
const ALLOWED_HOST: &str = "links.example.com";

/// The default of the setting.
const BATCH: usize = 500;

/// The key that is in use. No input has it by chance.
const KEY: &str = "Fixed-Key-0123456789";

/// Stands in inputs where somebody has put a secret in the wrong place. No setting's name has such a form.
const MISPLACED: &str = "Misplaced-7f3a";

/// The query string of whatever asks for one link.
pub fn query(data: &[u8]) {
    let Ok(query) = str::from_utf8(data) else { return };
    let asked = match asked::asked(Some(query)) {
        Ok(asked) => asked,
        Err(problem) => return check_problem(&problem, Kind::MalformedRequest),
    };
    // A reader that takes queries for forms reads the same.
    let mut form: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    form.sort();
    form.iter_mut().filter(|(name, _)| name == "taskId").for_each(|(name, _)| *name = "task_id".into());
    form.reverse();
    let pairs = [Some(("url".into(), asked.url.clone())), asked.task.clone().map(|task| ("task_id".into(), task))];
    assert_eq!(form, pairs.into_iter().flatten().collect::<Vec<_>>(), "a form has it otherwise");
    check_source(&asked.url);
    check_task(&asked);
}

/// The body of kie.ai's own contracts, with a task and without.
pub fn compat_body(data: &[u8]) {
    match asked::task_fields(data) {
        Ok(asked) => {
            if let Ok(value) = serde_json::from_slice::<Value>(data) {
                assert_eq!(item(&value), Some((&*asked.url, asked.task.as_deref())), "the body says otherwise");
            }
            let again = json!({ "taskId": asked.task, "url": asked.url }).to_string();
            assert_eq!(
                asked::task_fields(again.as_bytes()).as_ref().ok(),
                Some(&asked),
                "written again, it is another"
            );
            check_task(&asked);
        }
        Err(problem) => check_problem(&problem, Kind::MalformedRequest),
    }
    let text = match asked::source_field(data).map(std::borrow::Cow::into_owned) {
        Ok(text) => text,
        Err(problem) => return check_problem(&problem, Kind::MalformedRequest),
    };
    // Numbers and surrogates in fields that nobody reads may be beyond what a `Value` holds.
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        assert_eq!(value.get("url").and_then(Value::as_str), Some(text.as_str()), "the body says otherwise");
    }
    let again = json!({ "url": text }).to_string();
    assert_eq!(
        asked::source_field(again.as_bytes()).ok().as_deref(),
        Some(text.as_str()),
        "written again, it is another"
    );
    check_source(&text);
}

/// The body of `POST /v1/links`.
pub fn batch_body(data: &[u8]) {
    let asked = match batch::parse(data, BATCH) {
        Ok(asked) => asked,
        Err(problem) => return check_problem(&problem, Kind::MalformedRequest),
    };
    let items: Vec<Asked<'_>> = (0..asked.len()).map(|place| asked.get(place)).collect();
    assert!(items.len() <= BATCH, "{} source URLs", items.len());
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        let said = value.get("urls").and_then(Value::as_array).expect("a list");
        let said: Vec<_> = said.iter().map(item).collect();
        let found = items.iter().map(|asked| Some((&*asked.url, asked.task.as_deref())));
        assert_eq!(said, found.collect::<Vec<_>>(), "the body says otherwise");
    }
    let written = items.iter().map(|Asked { url, task }| match task {
        Some(task) => json!({ "url": url, "task_id": task }),
        None => json!(url),
    });
    let again = json!({ "urls": written.collect::<Vec<_>>() }).to_string();
    assert_eq!(batch::parse(again.as_bytes(), items.len()).ok().as_ref(), Some(&asked), "written again, it is another");
    if let Some(fewer) = items.len().checked_sub(1) {
        assert!(batch::parse(data, fewer).is_err(), "the limit is one off");
    }
    // All items are read alike; to check only a few leaves time for other batches.
    for asked in items.iter().take(8) {
        check_source(&asked.url);
        check_task(asked);
    }
}

/// A source URL and a task as JSON has them: a text, or an object.
fn item(value: &Value) -> Option<(&str, Option<&str>)> {
    let Some(fields) = value.as_object() else { return Some((value.as_str()?, None)) };
    let task = fields.get("task_id").or(fields.get("taskId")).and_then(Value::as_str);
    Some((fields.get("url")?.as_str()?, task))
}

/// What must hold of every task that is taken.
fn check_task(asked: &Asked<'_>) {
    let Some(task) = &asked.task else { return };
    let is_sane = (1..=256).contains(&task.len()) && !task.contains(|c: char| !('!'..='~').contains(&c));
    match asked.source() {
        Ok(source) => {
            assert!(is_sane && source.task() == Some(task), "{task:?}");
            let plain = Asked::from(asked.url.clone()).source().expect("the same URL");
            assert!(source != plain && source.url() == plain.url() && source.host() == plain.host(), "{task:?}");
        }
        Err(problem) if problem.kind == Kind::MalformedRequest => assert!(!is_sane, "{task:?}: {}", problem.detail),
        Err(problem) => check_problem(&problem, Kind::InvalidSourceUrl),
    }
}

/// A request's head: `METHOD target VERSION`, then a header a line, as on the wire.
pub fn request_head(data: &[u8]) {
    let Some(parts) = head(data) else { return };
    if let Some(id) = crate::web::request_id::sane_request_id(&parts.headers) {
        assert!((1..=128).contains(&id.len()) && HeaderValue::from_str(id).is_ok(), "{id:?}");
        assert!(!id.contains(|c: char| !c.is_ascii_graphic() || "\"'\\<>{},;".contains(c)), "not for logs: {id:?}");
    }
    let wish = directives::wish(&parts.headers);
    let longest = Duration::from_secs(1 << 31);
    assert!(wish.max_age.is_none_or(|age| age <= longest) && wish.min_fresh.is_none_or(|life| life <= longest));
    if batch::wants_lines(&parts.headers) {
        let mut ranges = parts.headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes);
        assert!(ranges.any(|range| range.to_ascii_lowercase().windows(6).any(|word| word == b"ndjson")));
    }
    if let Err(problem) = guard::check(&parts, parts.extensions.get(), &[ALLOWED_HOST.to_owned()]) {
        return check_problem(&problem, problem.kind);
    }
    assert!(parts.uri.path_and_query().is_none_or(|path| path.as_str().len() <= guard::MAX_URI_BYTES));
    let is_cross_site = parts.headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site");
    let is_opened = parts.headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    let is_for_everybody = ["/", "/docs", "/openapi.json", "/status"].contains(&parts.uri.path());
    assert!(!is_cross_site || (parts.method == "GET" && (is_opened || is_for_everybody)), "from another site");
    let page = parts.headers.get(header::ORIGIN);
    let is_told = parts.headers.contains_key("sec-fetch-site") || (parts.method == "GET" && is_for_everybody);
    assert!(is_told || page.is_none_or(|page| page != "null"), "from nowhere");
    let hosts: Vec<&HeaderValue> = parts.headers.get_all(header::HOST).iter().collect();
    assert!(hosts.len() <= 1, "several hosts");
    let named = hosts.iter().map(|host| host.to_str().expect("a host that was taken is text"));
    let named: Vec<&str> = named.chain(parts.uri.authority().map(|authority| authority.as_str())).collect();
    assert!(!named.is_empty() || parts.version <= Version::HTTP_10, "no host");
    for host in named {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        assert!(host.bytes().all(plain), "{host:?}");
        // Read as a browser reads it: a page's own name must not pass. What a browser cannot read is no page's name.
        let read = Url::parse(&format!("http://{host}/"));
        assert!(!matches!(read, Err(url::ParseError::InvalidPort)), "{host:?}");
        let Ok(read) = read else { continue };
        let Some(Host::Domain(name)) = read.host() else { continue };
        let name = name.strip_suffix('.').unwrap_or(name);
        let internal = [".local", ".internal", ".svc", ".localhost", ".test", ".home.arpa"];
        let is_internal = !name.contains('.') || internal.iter().any(|suffix| name.ends_with(suffix));
        assert!(is_internal || name == ALLOWED_HOST, "{host:?} is a public name");
    }
}

/// An answer of kie.ai's: its HTTP status on a line of its own, then its body.
pub fn envelope(data: &[u8]) {
    let (status, body) = first_line(data, |line| line.parse().ok().filter(|status| (100..600).contains(status)));
    let http_status = status.unwrap_or(200);
    let key = ApiKey::new(KEY).expect("a key");
    let raw = Raw { http_status, retry_after: Some(Duration::from_secs(3)), body };
    let source = Source::parse("https://file.kie.ai/a.png").expect("a source URL");
    let present = |text: &str| upstream::message::presentable(text, &source, slice::from_ref(&key));
    let error = match upstream::envelope::read(&raw, present) {
        Ok(text) => {
            assert!((200..300).contains(&http_status), "a link under HTTP {http_status}");
            let json = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
            let value: Value = serde_json::from_slice(json).expect("an answer that was taken is JSON");
            let number = |code: &str| code.trim().parse::<f64>() == Ok(200.0);
            let is_200 = |code: &Value| code.as_f64() == Some(200.0) || code.as_str().is_some_and(number);
            assert!(value.get("code").is_some_and(is_200), "a link without code 200");
            assert_eq!(value.get("data").and_then(Value::as_str), Some(text.as_str()), "another link");
            return;
        }
        Err(error) => error,
    };
    let answer = error.answer().expect("whatever kie.ai answers stays with the error");
    assert_eq!(answer.http_status, http_status);
    assert!(answer.code.is_none_or(|code| (-9_999..10_000).contains(&code)), "{:?} is no code", answer.code);
    if (300..400).contains(&http_status) {
        assert!(matches!(error, Error::Unusable { reason: BadAnswer::Redirect, .. }), "believes a redirect: {error:?}");
    }
    if error.is_refusal() {
        assert!(matches!(answer.code, Some(404 | 422)), "remembers what kie.ai has not said: {error:?}");
    }
    if let Some(message) = answer.message.as_deref() {
        assert!(message.chars().count() <= upstream::message::MAX_CHARS, "too long: {message:?}");
        assert!(!message.contains(char::is_control), "control characters: {message:?}");
        assert!(!key.is_in(message), "the key: {message:?}");
        let signed = |word: &str| word.split_once("://").is_some_and(|(_, address)| address.contains('?'));
        assert!(!message.split(' ').any(signed), "an address with its query: {message:?}");
    }
    let logged = error.to_string();
    assert!(!logged.contains(char::is_control) && !key.is_in(&logged) && !logged.contains("://"), "{logged:?}");

    let problem = Problem::of(links::Error::Upstream(Arc::new(error)), &source);
    assert!((400..600).contains(&problem.kind.status()));
    let shown: Value = serde_json::from_str(&problem.envelope()).expect("an envelope is JSON");
    assert_ne!(shown["code"], 200, "a failure that looks like success");
    assert_eq!(shown["data"], Value::Null, "a link in a failure");
    let shown = shown["msg"].as_str().expect("an envelope has a message");
    assert!(!key.is_in(shown) && !shown.contains(char::is_control), "{shown:?}");
}

/// What an answer has for a link, behind a line with the date on which it is read (RFC 3339).
pub fn link_expiry(data: &[u8]) {
    let (date, text) = first_line(data, |line| line.parse().ok());
    let date: Timestamp = date.unwrap_or(Timestamp::UNIX_EPOCH);
    let Ok(text) = str::from_utf8(text) else { return };
    let Ok(link) = Link::parse(text, &link::Policy::default()) else { return };

    let handed_out = link.as_str();
    assert!(handed_out.len() <= link::MAX_BYTES && handed_out.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(HeaderValue::from_str(handed_out).is_ok(), "no header carries it");
    let again = Link::parse(handed_out, &link::Policy::default());
    assert_eq!(again.as_ref().map(Link::as_str), Ok(handed_out), "what is handed out would be refused");
    check_link_host(handed_out);

    let left = link.life_left(date);
    // Two readings of one clock: in a second a link loses at most a second of life, and a life that is over stays over.
    // (A point in time whose name tells nothing comes and goes: within a minute it is when the link was signed, beyond
    // 20 minutes it is something else.)
    let second = Duration::from_secs(1);
    if let Ok(later) = date.checked_add(second).map(|later| link.life_left(later)) {
        let capped = |left: Option<Duration>| left.map_or(link::LIFE, |left| left.min(link::LIFE));
        assert!(capped(later) + second >= capped(left), "{left:?}, a second later {later:?}");
        assert!(left != Some(Duration::ZERO) || later == left, "over, and a second later {later:?}");
    }
    let all_time = Duration::try_from(Timestamp::MAX.duration_since(Timestamp::MIN)).expect("MAX is after MIN");
    assert!(left.is_none_or(|left| left <= all_time), "{left:?}");
    for life in [upstream::life(&link, Some(date), None, date), upstream::life(&link, None, None, date)] {
        assert!(life.left <= link::LIFE && life.left <= left.unwrap_or(link::LIFE), "{life:?}");
    }
    // kie.ai's parameters come in no particular order.
    let bare = handed_out.split('#').next().unwrap_or_default();
    if let Some((head, pairs)) = bare.split_once('?') {
        let reversed: Vec<&str> = pairs.split('&').rev().collect();
        let reversed = Link::parse(&format!("{head}?{}", reversed.join("&")), &link::Policy::default());
        assert_eq!(reversed.map(|link| link.life_left(date)), Ok(left), "the order of the parameters matters");
    }
}

/// A settings file. After a line `%%`, the environment as `NAME=value`; after another, flags as `section.key=value`.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, "%%\n");
    let file = parts.next().unwrap_or_default();
    let lines = |part: Option<&str>| -> Vec<(String, String)> {
        let pairs = part.unwrap_or_default().lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let mut sources = Sources { file: Some("kielink.toml".into()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    // A key file would be a real file. Other variables that are not ours are not looked at.
    let environment = lines(parts.next()).into_iter().filter(|(name, _)| name != "KIE_API_KEY_FILE");
    sources.environment.extend(environment);
    sources.flags = lines(parts.next());
    // The code itself fixes which names flags can set.
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
    sources.flags.retain(|(name, _)| !name.is_empty() && is_plain(name));

    let loaded = config::load_text(&sources, Some(file));
    let config = match loaded {
        Ok(config) => config,
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason");
            for problem in &problems.0 {
                assert!(!problem.is_empty() && !problem.contains(char::is_control), "{problem:?}");
                assert!(!problem.contains(KEY), "the key: {problem:?}");
                let problem = problem.to_lowercase();
                assert!(!problem.contains(&MISPLACED.to_lowercase()), "what may be a secret: {problem:?}");
            }
            return;
        }
    };
    check_config(&config);

    let shown = format!("{config:?}\n{}", config::render(&config));
    assert!(!shown.contains(KEY) || text.contains(KEY), "the key: {shown}");
    // What `check-config` prints says everything, and can be loaded again.
    sources.environment.retain(|name, _| name == "KIE_API_KEY");
    let printed = Sources { file: Some("printed.toml".into()), flags: Vec::new(), ..sources };
    let again = config::load_text(&printed, Some(&config::render(&config)));
    let again = again.unwrap_or_else(|problems| panic!("{problems}\nin {}", config::render(&config)));
    assert_eq!(config::render(&again), config::render(&config));
    assert_eq!(again.warnings, config.warnings);
}

/// What must hold of every source URL that is taken, and of what is said of one that is not.
fn check_source(text: &str) {
    let allow = AllowList::new(&ALLOWED_SOURCES).expect("patterns");
    let source = match (Source::parse(text), Asked::from(Cow::from(text)).allowed(&allow)) {
        (Ok(source), Ok(allowed)) => {
            assert_eq!(source, allowed);
            let host = source.host();
            let below = host.strip_suffix(".aiquickdraw.com").is_some_and(|name| !name.is_empty());
            assert!(below || host == "file.kie.ai" || host == "[2001:db8::1]", "{host} is not allowed");
            source
        }
        (Ok(source), Err(problem)) => {
            check_problem(&problem, Kind::SourceNotAllowed);
            source
        }
        (Err(_), Err(problem)) => return check_problem(&problem, Kind::InvalidSourceUrl),
        (Err(why), Ok(_)) => panic!("allowed though {why}"),
    };
    let normal = source.url();
    assert!(normal.len() <= source::MAX_BYTES && text.len() <= source::MAX_BYTES, "{} bytes", normal.len());
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{normal:?}");
    assert!(!percent_decode_str(normal).any(|byte| byte.is_ascii_control()), "control characters: {normal:?}");
    let (scheme, rest) = normal.split_once("://").expect("a source URL is absolute");
    assert!(["http", "https"].contains(&scheme), "{normal:?}");
    let authority = rest.split(['/', '?', '\\']).next().unwrap_or_default();
    assert!(!authority.contains('@'), "user information: {normal:?}");
    // Two readers of one text see one host.
    assert!(authority.strip_prefix(source.host()).is_some_and(is_port), "{normal:?}");
    let url = Url::parse(normal).expect("a source URL is a URL");
    assert_eq!(url.host_str(), Some(source.host()));
    assert_eq!(format!("{source:?}"), format!("Source({})", source.host()), "what logs show");

    // A caller that takes the answer's `source_url` and asks again asks for the same file.
    const LEAST: &AsciiSet = &CONTROLS.add(b'%').add(b'&').add(b'+');
    let again = |query: String| asked::asked(Some(&query)).and_then(|asked| asked.source()).ok();
    assert_eq!(Source::parse(normal).as_ref(), Ok(&source), "not normal: {normal:?}");
    assert_eq!(again(format!("url={}", utf8_percent_encode(normal, NON_ALPHANUMERIC))), Some(source.clone()));
    assert_eq!(again(format!("url={}", utf8_percent_encode(normal, LEAST))), Some(source.clone()));
    assert_eq!(again(format!("url={}", utf8_percent_encode(text, NON_ALPHANUMERIC))), Some(source));
}

/// A refusal of our own tells its caller what is wrong, in one line, and is the caller's to mend.
fn check_problem(problem: &Problem, kind: Kind) {
    assert_eq!(problem.kind, kind, "{}", problem.detail);
    assert!((400..500).contains(&problem.kind.status()));
    assert!(!problem.detail.is_empty() && !problem.detail.contains(char::is_control), "{:?}", problem.detail);
    assert!(problem.cause.is_none(), "kie.ai was not asked");
    let document = serde_json::to_value(problem.item("id")).expect("texts serialise");
    assert_eq!(document["status"], problem.kind.status());
}

/// Callers of any make fetch a link as it stands: all must see the host that was checked.
fn check_link_host(text: &str) {
    let url = Url::parse(text).expect("a link is a URL");
    assert_eq!(url.scheme(), "https", "{text:?}");
    let rest = text.get(8..).expect("`https://` stands at the front");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let spelled = authority.get(..host.len()).is_some_and(|spelled| spelled.eq_ignore_ascii_case(host));
    assert!(spelled && is_port(&authority[host.len()..]), "{authority:?} is {host:?} to some");
    match url.host() {
        Some(Host::Ipv4(address)) => {
            assert!(!(address.is_private() || address.is_loopback() || address.is_link_local()), "{text:?}");
            assert!(!(address.is_unspecified() || address.is_multicast() || address.is_broadcast()), "{text:?}");
        }
        Some(Host::Ipv6(address)) => {
            assert!(!(address.is_loopback() || address.is_unspecified() || address.is_multicast()), "{text:?}");
            assert!(!(address.is_unique_local() || address.is_unicast_link_local()), "{text:?}");
            let inner = address.to_ipv4();
            assert!(inner.is_none_or(|address| !(address.is_private() || address.is_loopback())), "{text:?}");
        }
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            assert!(name.contains('.') && !name.ends_with(".localhost"), "{text:?}");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            assert!(name.split('.').all(|label| label.len() <= 63 && label.chars().all(plain)), "{text:?}");
            assert!(!name.contains("..") && !name.starts_with('.'), "{text:?}");
        }
        None => panic!("no host: {text:?}"),
    }
}

/// What a port looks like behind a host, if one stands there.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The rules that `docs/settings.md` and `config/default.toml` state.
fn check_config(config: &app::Config) {
    let app::Config { data, admin, drain, http, links, upstream, .. } = config;
    assert!(!data.listen.is_empty() && !admin.listen.is_empty(), "nowhere to listen");
    for address in data.listen.iter().chain(&admin.listen) {
        assert_eq!(
            address.to_string().parse::<Address>().as_ref(),
            Ok(address),
            "an address is another when read again"
        );
    }
    let day = Duration::from_secs(24 * 60 * 60);
    for (positive, duration) in [
        (true, http.request_timeout),
        (true, http.body_timeout),
        (true, drain.grace),
        (true, data.header_timeout),
        (true, data.idle_timeout),
        (true, upstream.wire.connect_timeout),
        (true, upstream.kie.attempt_timeout),
        (true, links.ttl),
        (true, links.refresh_after),
        (false, drain.delay),
        (false, links.negative_ttl),
        (false, links.force_interval),
    ] {
        assert!(duration <= day && !(positive && duration.is_zero()), "{duration:?}");
    }
    assert!(links.refresh_after < links.ttl, "nothing is ever renewed");
    assert!(links.ttl + links.margin <= link::LIFE, "{:?} + {:?}", links.ttl, links.margin);
    for number in [http.places, http.batch, data.connections, upstream.kie.attempts as usize] {
        assert!(number > 0);
    }
    assert!(http.body >= 1024 && http.batch_body >= 1024 && links.max_bytes >= 1024);
    assert!(http.allowed_hosts.iter().all(|host| !host.is_empty() && *host == host.to_ascii_lowercase()));

    let url = &upstream.wire.base_url;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => panic!("no host to ask"),
    };
    let on_request = config.effective.contains(&("upstream.allow_plain_http".into(), "true".into()));
    assert!(url.scheme() == "https" || (url.scheme() == "http" && (is_loopback || on_request)), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
}

/// The first line, if `parse` takes it, and what follows the line; otherwise everything.
fn first_line<T>(data: &[u8], parse: impl Fn(&str) -> Option<T>) -> (Option<T>, &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    match str::from_utf8(&data[..end]).ok().and_then(parse) {
        Some(found) => (Some(found), data.get(end + 1..).unwrap_or_default()),
        None => (None, data),
    }
}

/// A head as hyper would hand it on, or `None` where it would not.
fn head(data: &[u8]) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(words.next()?).ok()?;
    parts.uri = Uri::try_from(words.next()?).ok()?;
    parts.version = match words.next()? {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/2" => Version::HTTP_2,
        _ => return None,
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        parts.headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, panic, path::Path};

    use super::*;

    fn names(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn every_kept_input_keeps_every_promise() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&corpora), targets, "a corpus without a target, or a target without a corpus");
        let mut broken = Vec::new();
        for (name, target) in TARGETS {
            let corpus = corpora.join(name);
            let inputs = names(&corpus);
            assert!(!inputs.is_empty(), "{} is empty", corpus.display());
            for input in inputs {
                let data = fs::read(corpus.join(&input)).unwrap();
                if panic::catch_unwind(|| target(&data)).is_err() {
                    broken.push(format!("{name}/{input}"));
                }
            }
        }
        assert!(broken.is_empty(), "promises broken by {broken:#?}");
    }

    #[test]
    fn every_target_has_its_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let programs: BTreeSet<String> = TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect();
        assert_eq!(names(&folder), programs);
    }
}
