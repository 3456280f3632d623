//! From layers to valid settings: what was written, then what it must obey.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Environment, File, FileFormat, Source};
use url::{Host, Url};

use super::{
    LINK_LIFE, Problems, Sources,
    files::ADMIN_CONNECTIONS,
    memory::{self, ADMIN_STREAMS, FEW_STREAMS, Share},
    reader::{Reader, shown_name},
};
use crate::{
    app, credits, drain,
    fleet::{self, Fleet},
    http,
    key::{self, ApiKey, KeySource, misplaced},
    link, links,
    server::{self, Address, GivesWay, HEADER_LIST, MAX_STREAMS, SMALL_HEADER_LIST},
    shared,
    source::AllowList,
    telemetry::{self, Format, Level},
    upstream::{self, DOWNLOAD_URL},
    web::guard,
};

/// Every setting with its default and what it means.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "KIELINK";

/// Requests a second beyond which the time between two of them is no longer measured.
const MOST_A_SECOND: u32 = 1_000_000;

/// A trip to the tier takes a millisecond or two.
const MOST_WAIT_FOR_THE_TIER: Duration = Duration::from_secs(1);

/// So many bodies may be on their way at once, however few requests may wait: a large body takes some time.
const FEWEST_ARRIVALS: u64 = 16;

/// Large bodies that are under way at once may take as much memory as so many of the largest batches: a flood of bodies
/// must not end the process for want of memory. A usual batch of 500 source URLs takes a fiftieth of the largest.
const LARGEST_BATCHES: u64 = 8;

/// At least so many items of a batch wait for kie.ai at a time: the default of `upstream.in_flight`.
const LEAST_AT_ONCE: usize = 32;

/// The settings as written, each parsed for itself and within its own bounds; rules that span several settings come in
/// `load`.
pub(super) struct Raw {
    listen: Vec<Address>,
    pub(super) admin_listen: Vec<Address>,
    request_timeout: Duration,
    allowed_hosts: Vec<String>,
    drain_delay: Duration,
    shutdown_grace: Duration,
    base_url: Option<Url>,
    allow_plain_http: bool,
    api_key_file: Option<String>,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    attempts: u32,
    rate: NonZeroU32,
    burst: NonZeroU32,
    upstream_in_flight: NonZeroU32,
    credits_every: Duration,
    ttl: Duration,
    margin: Duration,
    refresh_after: Duration,
    negative_ttl: Duration,
    force_interval: Duration,
    max_bytes: u64,
    allow: Vec<String>,
    in_flight: u32,
    connections: u32,
    body: u64,
    batch_body: u64,
    batch: u32,
    header_timeout: Duration,
    idle_timeout: Duration,
    shared_url: Option<shared::Address>,
    shared_url_file: Option<String>,
    shared_timeout: Duration,
    shared_replicas: NonZeroU32,
    pub(super) log_format: Option<Format>,
    log_level: Option<Level>,
}

/// Merges the layers and parses every setting. Problems with single settings stay in the reader.
///
/// # Errors
/// When a layer cannot be read at all.
pub(super) fn read(sources: &Sources, file: Option<&str>) -> Result<(Raw, Reader), Problems> {
    let layers = layers(sources, file).map_err(|why| Problems(vec![why]))?;
    let mut r = Reader::new(layers, sources);
    let raw = Raw {
        listen: addresses(&mut r, "server.listen"),
        request_timeout: r.some_time("server.request_timeout"),
        allowed_hosts: r.list("server.allowed_hosts", |text| {
            guard::pattern(text)
                .ok_or_else(|| "expected a host name, or \"*.\" and a host name, without scheme and port".to_owned())
        }),
        drain_delay: r.duration("server.drain_delay"),
        shutdown_grace: r.some_time("server.shutdown_grace"),
        admin_listen: addresses(&mut r, "admin.listen"),
        base_url: r.text("upstream.base_url", |text| Url::parse(text).map_err(|_| "expected a URL".to_owned())),
        allow_plain_http: r.flag("upstream.allow_plain_http"),
        api_key_file: r.optional("upstream.api_key_file"),
        connect_timeout: r.some_time("upstream.connect_timeout"),
        attempt_timeout: r.some_time("upstream.attempt_timeout"),
        attempts: r.number("upstream.attempts").get(),
        rate: r.number("upstream.rate"),
        burst: r.number("upstream.burst"),
        upstream_in_flight: r.number("upstream.in_flight"),
        credits_every: r.duration("upstream.credits_every"),
        ttl: r.some_time("cache.ttl"),
        margin: r.duration("cache.margin"),
        refresh_after: r.some_time("cache.refresh_after"),
        negative_ttl: r.duration("cache.negative_ttl"),
        force_interval: r.duration("cache.force_interval"),
        max_bytes: r.size("cache.max_bytes"),
        allow: r.list("sources.allow", |text| {
            AllowList::new(&[text])
                .map(|_| text.to_owned())
                // SECURITY: without the text, as in `Reader`: it may be a secret in the wrong place.
                .map_err(|_| "expected a host name, \"*.\" and a host name, or \"*\"".to_owned())
        }),
        in_flight: r.number("limits.in_flight").get(),
        connections: r.number("limits.connections").get(),
        body: r.size("limits.body"),
        batch_body: r.size("limits.batch_body"),
        batch: r.number("limits.batch").get(),
        header_timeout: r.some_time("limits.header_timeout"),
        idle_timeout: r.some_time("limits.idle_timeout"),
        shared_url: r.secret("shared.url", shared_address, shared::Address::describe),
        shared_url_file: r.optional("shared.url_file"),
        shared_timeout: r.some_time("shared.timeout"),
        shared_replicas: r.number("shared.replicas"),
        log_format: r.text("log.format", str::parse::<Format>),
        log_level: r.text("log.level", str::parse::<Level>),
    };
    r.refuse_unknown();
    Ok((raw, r))
}

fn shared_address(text: &str) -> Result<shared::Address, String> {
    text.parse().map_err(|why: shared::Invalid| why.to_string())
}

/// The address of the shared tier, from one of two settings, and its file; `None` where neither is there.
fn find_shared(raw: &mut Raw, r: &mut Reader) -> Option<(shared::Address, Option<PathBuf>)> {
    let Some(path) = raw.shared_url_file.take() else { return raw.shared_url.take().map(|address| (address, None)) };
    let key = "shared.url_file";
    if raw.shared_url.is_some() {
        r.problem(key, "shared.url is set, too; keep one of them");
        return None;
    }
    // SECURITY: neither the path, which may be the address in the wrong place, nor what the file says is repeated.
    let path = PathBuf::from(path);
    let address = Fleet::read_address(&path).map_err(|why| r.problem(key, why.to_string())).ok()?;
    Some((address, Some(path)))
}

/// At least one address, or a problem.
fn addresses(r: &mut Reader, key: &'static str) -> Vec<Address> {
    let problems = r.problems.len();
    let addresses = r.list(key, str::parse::<Address>);
    // An entry that does not parse has been named already.
    if addresses.is_empty() && r.problems.len() == problems {
        r.problem(key, "it needs at least one address");
    }
    addresses
}

/// The text of the settings file, where there is one.
///
/// # Errors
/// When it cannot be read.
pub(super) fn file(sources: &Sources) -> Result<Option<String>, Problems> {
    let Some(path) = &sources.file else { return Ok(None) };
    if path.as_os_str().is_empty() {
        return Err(Problems(vec![empty("KIELINK_CONFIG")]));
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) => {
            let path = misplaced::shown_path(path);
            Err(Problems(vec![format!("cannot read the configuration file: {path}: {why}")]))
        }
    }
}

fn layers(sources: &Sources, file: Option<&str>) -> Result<BTreeMap<String, config::Value>, String> {
    let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    let fitted = Share::of(sources.memory_limit).map(|share| share.defaults());
    for defaults in
        [fitted.as_deref(), sources.sandbox.as_ref().map(|sandbox| &*sandbox.defaults)].into_iter().flatten()
    {
        let lines = defaults.iter().map(|(key, value)| format!("{key} = {value:?}\n"));
        builder = builder.add_source(File::from_str(&lines.collect::<String>(), FileFormat::Toml));
    }
    // Given as a text: with a path, the crate would go looking for other endings.
    if let (Some(path), Some(text)) = (&sources.file, file) {
        // The file is tried alone first: the crate's messages quote the line, which may hold a secret.
        let file = File::from_str(text, FileFormat::Toml);
        let names = file.collect().map_err(|why| {
            let place = toml_fault(&why.to_string()).unwrap_or_default();
            format!("{} is not valid TOML {place}", path.display())
        })?;
        refuse_indices(names.keys(), &path.display().to_string())?;
        builder = builder.add_source(file);
    }
    // No `try_parsing` and no global `list_separator`: both mangle values.
    let environment = Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .source(Some(sources.environment.clone()));
    let names = environment.collect().map_err(|_| "cannot read the settings of the environment".to_owned())?;
    refuse_indices(names.keys(), "the environment")?;
    builder = builder.add_source(environment);
    for (key, value) in &sources.flags {
        // The name is not repeated: it may be anything, also a secret in the wrong place.
        if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte)) {
            return Err("--set: a name of a setting has letters, digits, dots and underscores only".to_owned());
        }
        builder =
            builder.set_override(key, value.as_str()).map_err(|_| format!("{}: not a setting", shown_name(key)))?;
    }
    // Without the crate's own message, which quotes what it cannot use.
    let merged = builder.build().map_err(|_| "cannot merge the layers of the configuration".to_owned())?;
    let root = merged.cache.into_table().map_err(|_| "the configuration is not a table".to_owned())?;
    Ok(root.into_iter().collect())
}

/// The config crate takes a name with `[9]` at its end for a list's tenth item, and makes room for the whole list: with
/// a large number, more room than there is.
fn refuse_indices<'a>(mut names: impl Iterator<Item = &'a String>, origin: &str) -> Result<(), String> {
    match names.any(|name| name.contains('[')) {
        true => Err(format!("a name of a setting has no brackets (from {origin})")),
        false => Ok(()),
    }
}

/// What is wrong where, out of `TOML parse error at line 3, column 7`, the line itself, a mark below it, and a sentence of
/// the reader's own. SECURITY: the line is not repeated.
fn toml_fault(message: &str) -> Option<String> {
    let at = message.find("at line ")?;
    let mut lines = message[at..].lines();
    let place = lines.next()?;
    let is_mark = |line: &&str| line.trim_start().starts_with('|') && line.trim_end().ends_with('^');
    // What follows the mark, and nothing where there is none.
    let why = lines.skip_while(|line| !is_mark(line)).nth(1).filter(|why| !misplaced::may_be_a_key(why));
    Some(why.map_or_else(|| format!("({place})"), |why| format!("({place}): {why}")))
}

pub(super) fn load(sources: &Sources, file: Option<&str>) -> Result<app::Config, Problems> {
    let (mut raw, mut reader) = read(sources, file)?;
    let shared = find_shared(&mut raw, &mut reader);
    let key = match sources.sandbox.as_ref().and_then(|sandbox| sandbox.key.clone()) {
        Some(key) => Some((key, KeySource::Sandbox)),
        None => find_key(sources, raw.api_key_file.as_deref(), &mut reader.problems),
    };
    check(&raw, &mut reader);
    check_roots(&raw, &sources.environment, &mut reader);
    if let Some((key, _)) = &key {
        refuse_the_key_elsewhere(key, &mut reader);
    }
    let mut warnings = warnings(&raw, sources.in_container);
    warnings.extend(misspelled(&sources.environment, reader.known()));
    let share = Share::of(sources.memory_limit);
    let effective = &reader.effective;
    let fitted = share.iter().flat_map(Share::defaults).filter(|(key, value)| {
        // The defaults that nobody has replaced.
        effective.iter().any(|(name, shown)| name == key && shown.trim_matches('"') == value)
    });
    let fitted: Vec<_> = fitted.collect();
    if let Some(share) = &share {
        warnings.extend(share.warnings(raw.max_bytes, raw.connections.into(), raw.in_flight.into()));
    }
    let bodies = share.map_or(u64::MAX, |share| share.bodies);
    let bodies = raw.batch_body.saturating_mul(LARGEST_BATCHES).min(bodies);
    let items = u64::from(raw.batch) * http::ITEM_BYTES as u64;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    // `links` itself bounds the requests that wait for a link (`limits.in_flight`). The places beyond that are for
    // batches that are being read, so that a kie.ai that hangs does not shut them out.
    let requests = share.map_or(u64::MAX, |share| share.requests);
    let aside = u64::from(raw.in_flight.div_ceil(4));
    let places = (u64::from(raw.in_flight) + aside).min(requests / 4 * 3);
    let arrivals = aside.max(FEWEST_ARRIVALS).min(requests.div_ceil(4));
    // So that it takes many batches to fill the little memory that there is for requests.
    let batch_at_once = share.map_or(usize::MAX, |share| bytes(share.requests / 32).max(8));
    let (unread, admin_unread) = memory::unread(share.as_ref());
    let allow = AllowList::new(&raw.allow).ok();
    let (Some((key, key_source)), Some(base_url), Some(sources_allowed), Some(format), Some(level), true) =
        (key, raw.base_url, allow, raw.log_format, raw.log_level, reader.problems.is_empty())
    else {
        return Err(Problems(reader.problems));
    };
    let data = server::Config {
        listen: raw.listen,
        connections: raw.connections as usize,
        gives_way: GivesWay::Quiet,
        header_timeout: raw.header_timeout,
        idle_timeout: raw.idle_timeout,
        streams: share.map_or(MAX_STREAMS, |_| FEW_STREAMS),
        header_list: share.map_or(HEADER_LIST, |_| SMALL_HEADER_LIST),
        unread: bytes(unread),
    };
    let admin_connections = share.map_or(usize::MAX, |share| bytes(share.admin_connections));
    let admin = server::Config {
        listen: raw.admin_listen,
        connections: admin_connections.min(ADMIN_CONNECTIONS),
        gives_way: GivesWay::Any,
        streams: ADMIN_STREAMS,
        unread: bytes(admin_unread),
        ..data
    };
    Ok(app::Config {
        key,
        key_source,
        data,
        admin,
        drain: drain::Config { delay: raw.drain_delay, grace: raw.shutdown_grace },
        http: http::Config {
            request_timeout: raw.request_timeout,
            allowed_hosts: raw.allowed_hosts,
            sources: sources_allowed,
            places: bytes(places),
            // The other connections are for what memory knows: over HTTP/1.1 each request that waits keeps a
            // connection.
            waiting_connections: (raw.connections as usize * 3 / 4).max(1),
            arrivals: bytes(arrivals),
            body: usize::try_from(raw.body).unwrap_or(usize::MAX),
            batch_body: usize::try_from(raw.batch_body).unwrap_or(usize::MAX),
            // Batches have the larger part of what both kinds of bodies may take, and one batch of any size always
            // fits.
            batch_budget: bytes((bodies / 4 * 3).max(raw.batch_body.saturating_add(items))),
            body_budget: bytes((bodies / 4).max(raw.body)),
            batch: raw.batch as usize,
            // Items of one batch beyond what may be on its way to kie.ai would only wait. Where that is little, items
            // that are tried again after a pause must not keep other items from going.
            batch_at_once: (raw.upstream_in_flight.get() as usize).max(LEAST_AT_ONCE).min(batch_at_once),
            body_timeout: raw.header_timeout,
        },
        links: links::Config {
            ttl: raw.ttl,
            margin: raw.margin,
            refresh_after: raw.refresh_after,
            negative_ttl: raw.negative_ttl,
            force_interval: raw.force_interval,
            max_bytes: raw.max_bytes,
            flight_timeout: raw.request_timeout,
            waiting: raw.in_flight as usize,
        },
        upstream: upstream::Config {
            wire: upstream::WireConfig {
                base_url,
                connect_timeout: raw.connect_timeout,
                most_idle: upstream::most_idle(raw.rate, raw.upstream_in_flight),
                links: link::Policy { sandbox_files: sources.sandbox.as_ref().map(|sandbox| sandbox.files.clone()) },
            },
            kie: upstream::KieConfig {
                gate: upstream::GateConfig {
                    rate: raw.rate,
                    burst: raw.burst,
                    in_flight: raw.upstream_in_flight,
                    waiting: usize::try_from(places.min(raw.in_flight.into())).unwrap_or(usize::MAX),
                    // A request takes some time; a tenth of what callers wait is more than kie.ai usually needs.
                    reserve: raw.request_timeout / 10,
                },
                attempt_timeout: raw.attempt_timeout,
                attempts: raw.attempts,
            },
        },
        credits: credits::Config { every: raw.credits_every },
        fleet: shared.map(|(address, address_file)| fleet::Config {
            tier: shared::Config { address, timeout: raw.shared_timeout },
            address_file,
            presumed: raw.shared_replicas,
            rate: raw.rate,
            burst: raw.burst,
            margin: raw.margin,
            negative_ttl: raw.negative_ttl,
            force_interval: raw.force_interval,
            reserve: raw.request_timeout / 10,
            links: link::Policy { sandbox_files: sources.sandbox.as_ref().map(|sandbox| sandbox.files.clone()) },
        }),
        log: telemetry::Config { format, level, priorities: false },
        warnings,
        fitted,
        changed: changed(&reader.effective),
        effective: reader.effective,
    })
}

/// What is not as by default, with that default, where there is one.
fn changed(effective: &[(String, String)]) -> Vec<(String, Option<String>)> {
    let built_in = read(&Sources::default(), None).map(|(_, reader)| reader.effective).unwrap_or_default();
    let default = |key: &str| built_in.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let all = effective.iter().map(|(key, value)| (key, value, default(key)));
    all.filter(|(_, value, default)| default.as_ref() != Some(*value))
        .map(|(key, _, default)| (key.clone(), default))
        .collect()
}

/// The rules that span several settings, and those that hold for one setting only.
fn check(raw: &Raw, r: &mut Reader) {
    if raw.rate.get() > MOST_A_SECOND {
        r.problem("upstream.rate", format!("it must be at most {MOST_A_SECOND}"));
    }
    if raw.refresh_after >= raw.ttl && !raw.ttl.is_zero() {
        r.problem("cache.refresh_after", "it must be less than cache.ttl, or nothing is ever renewed in time");
    }
    if raw.ttl.saturating_add(raw.margin) > LINK_LIFE {
        let limit = humantime::format_duration(LINK_LIFE);
        r.problem(
            "cache.ttl",
            format!("cache.ttl + cache.margin must be at most {limit}: kie.ai's links live no longer"),
        );
    }
    if let Some(url) = &raw.base_url {
        check_base_url(url, raw.allow_plain_http, r);
    }
}

/// SECURITY: settings are printed, logged and shown on a page.
fn refuse_the_key_elsewhere(key: &ApiKey, r: &mut Reader) {
    let (with_key, without): (Vec<_>, Vec<_>) =
        std::mem::take(&mut r.effective).into_iter().partition(|(_, value)| key.is_in(value));
    r.effective = without;
    for (name, _) in with_key {
        r.problem(&name, "it has the API key in it, which belongs into KIE_API_KEY or the key file alone");
    }
}

fn check_base_url(url: &Url, allow_plain_http: bool, r: &mut Reader) {
    let key = "upstream.base_url";
    if !url.username().is_empty() || url.password().is_some() {
        r.problem(key, "it must not carry a user name or password");
        // Nor may the effective settings show the password.
        r.effective.retain(|(name, _)| name != key);
    }
    if url.query().is_some() || url.fragment().is_some() {
        r.problem(key, "it must not carry a query or fragment");
    }
    let is_kie_s = url.host_str().is_some_and(|host| host == "kie.ai" || host.ends_with(".kie.ai"));
    if is_kie_s && url.path() != "/" {
        r.problem(key, "kie.ai has nothing there: leave the path out, e.g. https://api.kie.ai; kielink adds it itself");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(url) || allow_plain_http => {}
        "http" => r.problem(
            key,
            "plain http would send the API key unencrypted; use https, or set upstream.allow_plain_http = true",
        ),
        _ => r.problem(key, "expected an https URL"),
    }
}

/// Root certificates that somebody names must be there: with others, kie.ai would be whoever they vouch for.
fn check_roots(raw: &Raw, environment: &HashMap<String, String>, r: &mut Reader) {
    if raw.base_url.as_ref().is_none_or(|url| url.scheme() != "https") {
        return;
    }
    if let Some(path) = environment.get("SSL_CERT_FILE") {
        let found = std::fs::metadata(path).and_then(|found| match found.is_dir() {
            true => Err(std::io::ErrorKind::IsADirectory.into()),
            false => Ok(()),
        });
        match found {
            _ if path.is_empty() => r.problems.push(empty("SSL_CERT_FILE")),
            Ok(()) => {}
            Err(why) => r.problem(
                "SSL_CERT_FILE",
                format!(
                    "cannot read {}: {why}. Name a file of root certificates that is there, or unset it",
                    misplaced::shown_path(Path::new(path))
                ),
            ),
        }
    }
    let folders = environment.get("SSL_CERT_DIR").map(|paths| std::env::split_paths(paths).collect::<Vec<_>>());
    if let Some(folders) = folders.filter(|folders| !folders.iter().any(|folder| folder.is_dir())) {
        let first = folders.first().map(|folder| misplaced::shown_path(folder)).unwrap_or_default();
        let what = format!("no folder is there: {first}. Name one of root certificates, or unset it");
        r.problem("SSL_CERT_DIR", what);
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Exactly one of three sources, so that nobody wonders which key is in use.
fn find_key(sources: &Sources, file_setting: Option<&str>, problems: &mut Vec<String>) -> Option<(ApiKey, KeySource)> {
    let variable = |name: &str| sources.environment.get(name).map(String::as_str);
    let given: Vec<&str> = [
        ("KIE_API_KEY", variable("KIE_API_KEY").is_some()),
        ("KIE_API_KEY_FILE", variable("KIE_API_KEY_FILE").is_some()),
        ("upstream.api_key_file", file_setting.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    match given.as_slice() {
        [] => {
            problems.push(
                "no API key: set KIE_API_KEY_FILE (or upstream.api_key_file) to a file that holds it, or KIE_API_KEY; \
                 to try kielink without a key, run `kielink sandbox`"
                    .to_owned(),
            );
            return None;
        }
        [_] => {}
        several => {
            problems.push(format!("more than one API key: {} are set; keep exactly one", several.join(" and ")));
            return None;
        }
    }
    let name = given[0];
    let is_empty = |path: &str| path.is_empty();
    if variable("KIE_API_KEY_FILE").or(file_setting).is_some_and(is_empty) && variable("KIE_API_KEY").is_none() {
        problems.push(empty(name));
        return None;
    }
    let read = match (variable("KIE_API_KEY"), variable("KIE_API_KEY_FILE").or(file_setting)) {
        (Some(text), _) => ApiKey::new(text).map(|key| (key, KeySource::Environment)).map_err(|why| why.to_string()),
        (None, Some(path)) => key::file::read_in_time(Path::new(path), key::file::START_PATIENCE)
            .map(|key| (key, KeySource::File(PathBuf::from(path))))
            .map_err(|why| why.to_string()),
        (None, None) => return None,
    };
    match read {
        Ok(found) => Some(found),
        Err(why) => {
            problems.push(format!("{name}: {why}"));
            None
        }
    }
}

/// A variable, or a setting, that should name a file and is empty.
fn empty(name: &str) -> String {
    format!("{name} is empty: let it name a file, or unset it")
}

/// Variables that spell a setting with one underscore for two. Others that begin alike are not ours: Kubernetes sets
/// `KIELINK_PORT` and more for a service of that name.
fn misspelled(environment: &HashMap<String, String>, known: &[&'static str]) -> Vec<String> {
    let spelled = |key: &str, between: &str| format!("{PREFIX}{between}{}", key.replace('.', between)).to_uppercase();
    let is_there = |key: &&&str| environment.contains_key(&spelled(key, "_"));
    let warn = |key: &&str| {
        let (wrong, right) = (spelled(key, "_"), spelled(key, "__"));
        format!("{wrong} sets nothing: a setting has two underscores, {right}")
    };
    known.iter().filter(is_there).map(warn).collect()
}

/// Pairs of settings that work but bite later.
fn warnings(raw: &Raw, in_container: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, addresses) in [("server.listen", &raw.listen), ("admin.listen", &raw.admin_listen)] {
        if let Some(open) = addresses.iter().find(|address| !in_container && address.is_wildcard()) {
            warnings.push(format!(
                "{key} is {open}: whoever reaches this machine is served, as callers need no key; {} is for this machine \
                 alone",
                open.local()
            ));
        }
    }
    if raw.connect_timeout > raw.attempt_timeout {
        warnings.push("upstream.connect_timeout is longer than upstream.attempt_timeout and never takes effect".into());
    }
    if raw.attempt_timeout > raw.request_timeout {
        warnings.push("upstream.attempt_timeout is longer than server.request_timeout: callers give up first".into());
    }
    if raw.margin < Duration::from_secs(10) {
        warnings.push("cache.margin is under 10s: a link may die while its download is being prepared".into());
    }
    if raw.ttl.saturating_sub(raw.refresh_after) < Duration::from_secs(60) {
        warnings
            .push("cache.ttl - cache.refresh_after is under a minute: a short outage of kie.ai will be noticed".into());
    }
    if raw.allow.is_empty() {
        warnings.push("sources.allow is empty: every source URL is refused".into());
    }
    if raw.allow.iter().any(|pattern| pattern == "*") {
        warnings.push("sources.allow is \"*\": any URL a caller sends goes to kie.ai with your key".into());
    }
    if raw.shared_timeout > MOST_WAIT_FOR_THE_TIER {
        warnings
            .push("shared.timeout is over a second: while the shared tier is silent, callers wait that long".into());
    }
    let repeats =
        |url: &Url| url.path().trim_end_matches('/').ends_with("/api/v1") || url.path().contains(DOWNLOAD_URL);
    if raw.base_url.as_ref().is_some_and(repeats) {
        warnings.push(format!("upstream.base_url ends in what kielink itself adds to it: {DOWNLOAD_URL}"));
    }
    let plain_and_far = |url: &Url| url.scheme() == "http" && !is_loopback(url);
    if raw.base_url.as_ref().is_some_and(plain_and_far) {
        warnings.push("upstream.base_url is plain http: the API key travels unencrypted".into());
    }
    warnings
}
