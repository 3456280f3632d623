use std::time::Duration;

use super::*;
use crate::key::KeySource;

const KEY: &str = "canary-key-0123456789";

fn load(environment: &[(&str, &str)]) -> Result<app::Config, Problems> {
    let mut sources = Sources::default();
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    sources.environment.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    super::load(&sources)
}

fn problems(environment: &[(&str, &str)]) -> String {
    load(environment).map(|_| ()).expect_err("the configuration is wrong").to_string()
}

#[test]
fn the_defaults_are_what_is_promised() {
    let config = load(&[]).unwrap();
    assert_eq!(config.data.listen[0].to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen[0].to_string(), "127.0.0.1:9090");
    assert_eq!(config.http.request_timeout, Duration::from_secs(20));
    assert_eq!(config.upstream.wire.base_url.as_str(), "https://api.kie.ai/");
    assert_eq!(config.links.ttl, Duration::from_secs(19 * 60));
    assert_eq!(config.links.margin, Duration::from_secs(60));
    assert_eq!(config.links.refresh_after, Duration::from_secs(12 * 60));
    assert_eq!(config.links.max_bytes, 64 << 20);
    assert_eq!(config.http.body, 16 << 10);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_environment_overrides_and_splits_lists_at_commas() {
    let config = load(&[
        ("KIELINK__CACHE__TTL", "10m"),
        ("KIELINK__CACHE__REFRESH_AFTER", "90s"),
        ("KIELINK__SERVER__LISTEN", "127.0.0.1:0, unix:/tmp/k.sock"),
        ("KIELINK__SOURCES__ALLOW", "*"),
        ("KIELINK__UPSTREAM__RATE", "3"),
    ])
    .unwrap();
    assert_eq!(config.links.ttl, Duration::from_secs(600));
    assert_eq!(config.data.listen.len(), 2);
    assert!(config.warnings.iter().any(|warning| warning.contains("sources.allow")));
}

#[test]
fn hosts_of_ones_own_are_names_and_all_names_below_one() {
    let load = |hosts| load(&[("KIELINK__SERVER__ALLOWED_HOSTS", hosts)]);
    let config = load("Links.example.com., *.Apps.example.com").unwrap();
    assert_eq!(config.http.allowed_hosts, ["links.example.com", "*.apps.example.com"]);
    for hosts in ["*", "https://a.example", "a.example:80", "a.*.example"] {
        assert!(load(hosts).is_err(), "{hosts}");
    }
}

#[test]
fn every_problem_is_named_in_one_go() {
    let all = problems(&[
        ("KIELINK__CACHE__TTL", "forever"),
        ("KIELINK__CACHE__MARGINE", "60s"),
        ("KIELINK__SERVER__LISTEN", "nowhere"),
        ("KIELINK__UPSTREAM__BASE_URL", "http://kie.example"),
        ("KIELINK__UPSTREAM__ATTEMPTS", "0"),
        ("KIELINK__NONSENSE", "1"),
        ("KIE_API_KEY", ""),
    ]);
    for part in [
        "7 problems",
        "cache.ttl: expected a duration",
        "cache.margine: unknown setting (from the environment); did you mean cache.margin?",
        "server.listen: expected host:port",
        "upstream.base_url: plain http",
        "upstream.attempts: it must be at least 1",
        "nonsense: unknown setting",
        "KIE_API_KEY: the API key is empty",
    ] {
        assert!(all.contains(part), "{part:?} is missing in: {all}");
    }
}

#[test]
fn a_name_that_counts_items_is_refused_before_there_is_room_for_them() {
    let all = problems(&[("KIELINK__SERVER__LISTEN[99999999999999]", "127.0.0.1:0")]);
    assert!(all.contains("no brackets (from the environment)"), "{all}");
    let mut sources = Sources { file: Some("kielink.toml".into()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    let all = load_text(&sources, Some("\"a[99999999999999]\" = 1")).map(|_| ()).unwrap_err().to_string();
    assert!(all.contains("no brackets (from kielink.toml)"), "{all}");
}

#[test]
fn incoherent_pairs_refuse_to_start() {
    for (environment, part) in [
        (vec![("KIELINK__CACHE__REFRESH_AFTER", "19m")], "cache.refresh_after"),
        (vec![("KIELINK__CACHE__TTL", "20m")], "cache.ttl + cache.margin"),
        (vec![("KIELINK__CACHE__MARGIN", "61s")], "cache.ttl + cache.margin"),
        (vec![("KIELINK__CACHE__TTL", "0s")], "cache.ttl: it must be more than zero"),
        (vec![("KIELINK__SERVER__LISTEN", "")], "server.listen: it needs at least one address"),
        (vec![("KIELINK__LIMITS__BODY", "10")], "limits.body"),
        (vec![("KIELINK__LIMITS__IN_FLIGHT", "-1")], "limits.in_flight: expected a whole number"),
        (vec![("KIELINK__UPSTREAM__BASE_URL", "ftp://h")], "upstream.base_url: expected an https URL"),
        (vec![("KIELINK__SOURCES__ALLOW", "https://h/")], "sources.allow"),
    ] {
        let all = problems(&environment);
        assert!(all.contains(part) && all.starts_with("1 problem "), "{part:?}: {all}");
    }
    assert!(load(&[("KIELINK__CACHE__TTL", "19m"), ("KIELINK__CACHE__MARGIN", "60s")]).is_ok());
}

#[test]
fn plain_http_is_for_loopback_or_on_request() {
    for url in ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"] {
        let url = ("KIELINK__UPSTREAM__BASE_URL", url);
        assert!(load(&[url]).is_ok(), "{url:?}");
        let allowed = load(&[url, ("KIELINK__UPSTREAM__ALLOW_PLAIN_HTTP", "true")]).unwrap();
        assert!(allowed.warnings.is_empty(), "{url:?}");
    }
    let url = ("KIELINK__UPSTREAM__BASE_URL", "http://kie.internal");
    assert!(load(&[url]).is_err());
    let config = load(&[url, ("KIELINK__UPSTREAM__ALLOW_PLAIN_HTTP", "true")]).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.contains("plain http")));
}

#[test]
fn exactly_one_key_is_taken() {
    let none = super::load(&Sources::default()).map(|_| ()).unwrap_err().to_string();
    assert!(none.contains("no API key") && none.contains("kielink sandbox"), "{none}");
    let two = problems(&[("KIE_API_KEY_FILE", "/nowhere")]);
    assert!(two.contains("KIE_API_KEY and KIE_API_KEY_FILE are set"), "{two}");
}

#[test]
fn a_key_file_is_read_and_trimmed_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let from = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let mut sources = Sources::default();
        sources.environment.insert("KIE_API_KEY_FILE".into(), path.display().to_string());
        super::load(&sources).map_err(|problems| problems.to_string())
    };
    let config = from(format!("{KEY}\n").as_bytes()).unwrap();
    assert_eq!(config.key.fingerprint(), load(&[]).unwrap().key.fingerprint());
    assert_eq!(config.key_source, KeySource::File(path.clone()));
    assert!(from(b"").unwrap_err().contains("empty"));
    assert!(from(format!("{KEY}\n\n").as_bytes()).is_err());
    assert!(from(&vec![b'k'; 10 << 20]).unwrap_err().contains("larger than"));
    assert!(from(b"\xff\xfe").unwrap_err().contains("cannot read"));
}

#[test]
fn a_file_lies_between_defaults_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kielink.toml");
    std::fs::write(&path, "[cache]\nttl = \"15m\"\nmargin = \"90s\"\n[sources]\nallow = [\"a.example\"]\n").unwrap();
    let mut sources = Sources { file: Some(path.clone()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    sources.environment.insert("KIELINK__CACHE__TTL".into(), "14m".into());
    let config = super::load(&sources).unwrap();
    assert_eq!(config.links.ttl, Duration::from_secs(14 * 60));
    assert_eq!(config.links.margin, Duration::from_secs(90));
    sources.flags.push(("cache.ttl".into(), "13m".into()));
    assert_eq!(super::load(&sources).unwrap().links.ttl, Duration::from_secs(13 * 60));

    std::fs::write(&path, "key = \"very-secret\n").unwrap();
    let broken = super::load(&sources).map(|_| ()).unwrap_err().to_string();
    assert!(broken.contains("is not valid TOML (at line 1") && !broken.contains("secret"), "{broken}");
    std::fs::remove_file(&path).unwrap();
    assert!(super::load(&sources).map(|_| ()).unwrap_err().to_string().contains("cannot read the configuration file"));
}

#[test]
fn a_rejected_value_is_not_repeated() {
    let all = problems(&[
        ("KIELINK__CACHE__TTL", "sk-secret"),
        ("KIELINK__UPSTREAM__BASE_URL", "https://user:sk-secret@h/"),
        ("KIELINK__UPSTREAM__RATE", "sk-secret"),
        ("KIE_API_KEY", "sk-secret with a space"),
    ]);
    assert!(!all.contains("sk-secret"), "{all}");
}

#[test]
fn a_text_is_printed_as_toml_has_it() {
    let environment = ("KIELINK__SERVER__LISTEN", "unix:/tmp/\u{1}\u{7f}'\"\\ü, localhost:0");
    let printed = load(&[environment]).unwrap();
    let mut sources = Sources { file: Some("printed.toml".into()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    let again = load_text(&sources, Some(&render(&printed))).unwrap();
    assert_eq!(again.data.listen, printed.data.listen);
}

#[test]
fn what_check_config_prints_can_be_loaded_again() {
    let text = render(&load(&[("KIELINK__CACHE__TTL", "17m"), ("KIELINK__UPSTREAM__RATE", "3")]).unwrap());
    assert!(!text.contains(KEY) && text.contains("# API key: fingerprint "), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.toml");
    std::fs::write(&path, &text).unwrap();
    let mut sources = Sources { file: Some(path), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    assert_eq!(render(&super::load(&sources).unwrap()), text);
}

#[test]
fn whoever_wants_only_the_admin_addresses_hears_why_there_are_none() {
    for (value, why) in [("admin=1", "admin: it is a section"), ("admin.listen=nonsense", "admin.listen: ")] {
        let (key, value) = value.split_once('=').unwrap();
        let sources = Sources { flags: vec![(key.to_owned(), value.to_owned())], ..Sources::default() };
        let problems = super::admin_addresses(&sources).unwrap_err().to_string();
        assert!(problems.contains(why), "{problems}");
    }
}

#[test]
fn a_flag_s_name_is_plain_and_is_not_repeated_where_it_is_not() {
    for name in ["server.listen[200000000000]", "sk-secret/1", "a\nb", "é"] {
        let sources = Sources { flags: vec![(name.to_owned(), "x".to_owned())], ..Sources::default() };
        let problems = super::load(&sources).unwrap_err().to_string();
        assert!(problems.contains("--set: a name of a setting") && !problems.contains(name), "{problems}");
    }
}

#[test]
fn little_memory_makes_defaults_smaller_and_leaves_settings_alone() {
    let mut sources = Sources { memory_limit: Some(64 << 20), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    let config = super::load(&sources).unwrap();
    assert_eq!((config.links.max_bytes, config.data.connections, config.data.streams), (16 << 20, 256, 32));
    assert_eq!((config.fitted.len(), config.links.waiting), (3, 307));
    assert_eq!((config.http.places, config.http.arrivals, config.http.batch_at_once), (384, 77, 16));
    assert_eq!((config.admin.connections, config.data.unread, config.admin.unread), (32, 4 << 20, 1 << 20));
    assert_eq!((config.http.batch_budget, config.http.body_budget), (6 << 20, 2 << 20));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(render(&config).contains("max_bytes = \"16MiB\"\n"), "the effective value is shown");

    sources.flags.push(("cache.max_bytes".into(), "60MiB".into()));
    let config = super::load(&sources).unwrap();
    assert_eq!((config.links.max_bytes, config.data.connections), (60 << 20, 256));
    assert_eq!(config.fitted.len(), 2, "{:?}", config.fitted);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);

    sources.flags.push(("limits.in_flight".into(), "4096".into()));
    let config = super::load(&sources).unwrap();
    assert_eq!((config.links.waiting, config.http.places, config.http.arrivals), (4096, 384, 128));
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);

    sources.memory_limit = None;
    let config = super::load(&sources).unwrap();
    assert_eq!((config.data.connections, config.data.streams, config.http.places), (8192, 256, 5120));
    assert_eq!((config.http.batch_budget, config.http.body_budget, config.http.batch_at_once), (12 << 20, 4 << 20, 32));
    assert!(config.fitted.is_empty() && config.warnings.is_empty());
}

#[test]
fn the_shared_tier_is_one_address_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, "rediss://user:very-secret@tier.internal\n").unwrap();
    let file = path.display().to_string();
    assert!(load(&[]).unwrap().fleet.is_none());
    let address = ("KIELINK__SHARED__URL", "redis+sentinel://:very-secret@one.internal,two.internal/main");
    for (setting, shown) in [
        (address, "url = \"redis+sentinel, 2 hosts\"\n"),
        (("KIELINK__SHARED__URL_FILE", file.as_str()), "url_file = "),
    ] {
        let config = load(&[setting]).unwrap();
        let fleet = config.fleet.as_ref().unwrap();
        assert_eq!((fleet.presumed.get(), fleet.tier.timeout), (4, Duration::from_millis(20)));
        let text = render(&config);
        assert!(text.contains(shown) && !text.contains("secret") && !text.contains("internal"), "{text}");
        assert!(!format!("{config:?}").contains("secret"));
    }
    let pipe = folder.path().join("pipe").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let both = load(&[address, ("KIELINK__SHARED__URL_FILE", &file)]).unwrap_err().to_string();
    assert!(both.contains("shared.url_file: shared.url is set, too"), "{both}");
    for (name, value, why) in [
        ("KIELINK__SHARED__URL", "http://very-secret", "shared.url: it begins with none of redis://"),
        ("KIELINK__SHARED__URL", "redis://:very-secret@", "shared.url: it has no host"),
        ("KIELINK__SHARED__URL_FILE", "/nowhere/very-secret", "shared.url_file: the file cannot be read"),
        ("KIELINK__SHARED__URL_FILE", "/", "shared.url_file: what it names is a folder"),
        ("KIELINK__SHARED__URL_FILE", &pipe, "shared.url_file: the file cannot be read in time"),
        ("KIELINK__SHARED__TIMEOUT", "0s", "shared.timeout: it must be more than zero"),
        ("KIELINK__SHARED__REPLICAS", "0", "shared.replicas: it must be at least 1"),
    ] {
        let problems = load(&[(name, value)]).unwrap_err().to_string();
        assert!(problems.contains(why) && !problems.contains("very-secret"), "{problems}");
    }
}

fn problems_of_file(text: &str) -> String {
    let mut sources = Sources { file: Some("kielink.toml".into()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    load_text(&sources, Some(text)).map(|_| ()).expect_err("the file is wrong").to_string()
}

#[test]
fn what_is_no_toml_is_named_with_what_the_reader_says_of_it() {
    for (text, why) in [
        ("[cache]\nttl = 15m\n", "(at line 2, column 7): string values must be quoted"),
        ("[cache]\nttl = \"15m\"\nttl = \"16m\"\n", "(at line 3, column 1): duplicate key"),
        ("[upstream]\nallow_plain_http = yes\n", "(at line 2, column 20): string values must be quoted"),
        ("[cache\nttl = \"15m\"\n", "(at line 1, column 7): unclosed table, expected `]`"),
        ("server:\n  listen: 1\n", "(at line 1, column 8): key with no value"),
    ] {
        let all = problems_of_file(text);
        assert!(all.contains(&format!("kielink.toml is not valid TOML {why}")), "{text}: {all}");
    }
    for secret in [
        "sk-secret",
        "sk-secret = =",
        "a = sk-secret",
        "a = \"sk-secret",
        "\"sk-secret\" 1",
        "[sk-secret",
        "a = {sk-secret}",
    ] {
        let all = problems_of_file(&format!("{secret}\n"));
        assert!(all.contains("is not valid TOML (at line 1") && !all.contains("secret"), "{secret}: {all}");
    }
}

#[test]
fn a_value_in_the_place_of_a_section_is_one_problem() {
    let all = problems(&[("KIELINK__CACHE", "1")]);
    let said = "cache: it is a section and has no value of its own (from the environment): set cache.ttl";
    assert_eq!(all, format!("1 problem in the configuration:\n  - {said}"));
    let all = problems_of_file("cache = 1\n[upstream]\nrate = 0\n");
    assert!(all.starts_with("2 problems") && all.contains("upstream.rate: it must be at least 1"), "{all}");
}

#[test]
fn an_unknown_setting_is_told_which_one_is_meant() {
    for (name, meant) in [
        ("cache.tll", "; did you mean cache.ttl?"),
        ("ttl", "; did you mean cache.ttl?"),
        ("rate", "; did you mean upstream.rate?"),
        ("server.rate", "; did you mean upstream.rate?"),
        ("listen", "; did you mean server.listen or admin.listen?"),
        ("server.port", "; there are listen, request_timeout, allowed_hosts, drain_delay, shutdown_grace"),
        ("nonsense.port", ""),
    ] {
        let sources = Sources { flags: vec![(name.to_owned(), "1".to_owned())], ..Sources::default() };
        let all = super::load(&sources).unwrap_err().to_string();
        assert!(all.contains(&format!("{name}: unknown setting (from the command line){meant}\n")), "{all}");
    }
}

#[test]
fn a_key_among_the_settings_is_told_where_it_belongs() {
    for name in ["KIELINK__UPSTREAM__API_KEY", "KIELINK__API_KEY", "KIELINK__UPSTREAM__KIE_API_KEY"] {
        let all = problems(&[(name, "very-secret")]);
        assert!(all.contains("api_key: a key is no setting (from the environment)"), "{all}");
        assert!(all.contains("which KIE_API_KEY_FILE or upstream.api_key_file names, or set KIE_API_KEY"), "{all}");
        assert!(!all.contains("very-secret") && !all.contains("unknown"), "{all}");
    }
}

#[test]
fn items_that_are_wrong_alike_are_one_problem_that_tells_their_places() {
    let all = problems(&[("KIELINK__SOURCES__ALLOW", "a/b, good.example, c/d, https://x")]);
    let said = "expected a host name, \"*.\" and a host name, or \"*\" (items 1, 3, 4, from the environment)";
    assert_eq!(all, format!("1 problem in the configuration:\n  - sources.allow: {said}"));
    let all = problems(&[("KIELINK__SERVER__LISTEN", "127.0.0.1:0, 8080, unix:k.sock")]);
    assert!(all.starts_with("2 problems") && all.contains("(item 2, from ") && all.contains("(item 3, from "), "{all}");
    let alone = problems(&[("KIELINK__SERVER__LISTEN", "8080")]);
    assert!(alone.contains("e.g. 127.0.0.1:8080 (from the environment)"), "{alone}");
}

#[test]
fn a_duration_without_its_unit_or_in_months_is_told_so() {
    for (value, why) in [
        ("19M", "M means months: minutes are m, like \"19m\""),
        ("900", "expected a duration like \"19m\", with its unit: s, m or h"),
        ("25h", "it must be at most 24h"),
        ("soon", "expected a duration like \"19m\""),
    ] {
        let all = problems(&[("KIELINK__CACHE__TTL", value)]);
        assert!(all.contains(&format!("cache.ttl: {why} (from the environment)")), "{value}: {all}");
    }
}

#[test]
fn a_variable_that_names_no_file_since_it_is_empty_is_named() {
    let mut sources = Sources::default();
    sources.environment.insert("KIE_API_KEY_FILE".into(), String::new());
    let all = super::load(&sources).unwrap_err().to_string();
    assert!(all.contains("KIE_API_KEY_FILE is empty: let it name a file, or unset it"), "{all}");
    sources.file = Some("".into());
    let all = super::load(&sources).unwrap_err().to_string();
    assert!(all.contains("KIELINK_CONFIG is empty: let it name a file, or unset it"), "{all}");
    assert!(problems(&[("SSL_CERT_FILE", "")]).contains("SSL_CERT_FILE is empty"));
}

#[test]
fn root_certificates_that_somebody_names_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let (there, missing) = (folder.path().display().to_string(), folder.path().join("missing").display().to_string());
    let all = problems(&[("SSL_CERT_FILE", &missing), ("SSL_CERT_DIR", &missing)]);
    for name in ["SSL_CERT_FILE: cannot read ", "SSL_CERT_DIR: no folder is there: "] {
        assert!(all.contains(&format!("{name}{missing}")), "{all}");
    }
    assert!(problems(&[("SSL_CERT_FILE", &there)]).contains("is a directory"));
    // What is not there may be a key in the wrong place.
    assert!(!problems(&[("SSL_CERT_FILE", "/very-secret")]).contains("very-secret"));
    assert!(load(&[("SSL_CERT_DIR", &format!("{missing}:{there}"))]).is_ok());
    assert!(
        load(&[("SSL_CERT_FILE", &missing), ("KIELINK__UPSTREAM__BASE_URL", "http://127.0.0.1:9")]).is_ok(),
        "no TLS"
    );
}

#[test]
fn kie_ai_s_address_has_no_path() {
    for url in ["https://api.kie.ai/api/v1", "https://kie.ai/x", "https://api.kie.ai/api/v1/common/download-url"] {
        let all = problems(&[("KIELINK__UPSTREAM__BASE_URL", url)]);
        assert!(
            all.contains("upstream.base_url: kie.ai has nothing there: leave the path out, e.g. https://api.kie.ai"),
            "{all}"
        );
    }
    let warnings = |url| load(&[("KIELINK__UPSTREAM__BASE_URL", url)]).unwrap().warnings;
    assert_eq!(warnings("https://proxy.example/kie"), [""; 0], "another's may have one");
    assert!(warnings("https://proxy.example/kie/api/v1")[0].contains("ends in what kielink itself adds to it"));
}

#[test]
fn a_variable_with_one_underscore_for_two_is_warned_of_where_it_spells_a_setting() {
    let warnings = |name: &str| load(&[(name, "tcp://10.0.0.1:8080")]).unwrap().warnings;
    assert_eq!(
        warnings("KIELINK_CACHE_REFRESH_AFTER"),
        ["KIELINK_CACHE_REFRESH_AFTER sets nothing: a setting has two underscores, KIELINK__CACHE__REFRESH_AFTER"]
    );
    assert_eq!(warnings("KIELINK_LOG_LEVEL").len(), 1);
    // What Kubernetes sets for a service that is called kielink.
    for name in ["KIELINK_PORT", "KIELINK_SERVICE_HOST", "KIELINK_PORT_8080_TCP_ADDR", "KIELINK_SERVER_LISTEN_TCP"] {
        assert_eq!(warnings(name), [""; 0], "{name}");
    }
}

#[test]
fn a_host_that_serves_every_address_is_warned_of_and_a_container_is_not() {
    let listen = ("KIELINK__SERVER__LISTEN", "127.0.0.1:0, 0.0.0.0:8080");
    let warnings = load(&[listen, ("KIELINK__ADMIN__LISTEN", "[::]:9090")]).unwrap().warnings;
    assert!(warnings[0].starts_with("server.listen is 0.0.0.0:8080: whoever reaches this machine"), "{warnings:?}");
    assert!(warnings[0].ends_with("127.0.0.1:8080 is for this machine alone"), "{warnings:?}");
    assert!(warnings[1].starts_with("admin.listen is [::]:9090"), "{warnings:?}");
    let mut sources = Sources { in_container: true, ..Sources::default() };
    sources.environment.extend([("KIE_API_KEY".into(), KEY.into()), (listen.0.into(), listen.1.into())]);
    assert_eq!(super::load(&sources).unwrap().warnings, [""; 0]);
}

#[test]
fn how_the_log_is_written_is_known_though_other_settings_are_wrong() {
    let format = |sources: &Sources| log_format(sources).to_string();
    let mut sources = Sources::default();
    assert_eq!(format(&sources), "auto");
    sources.environment.insert("KIELINK__LOG__FORMAT".into(), "json".into());
    sources.environment.insert("KIELINK__CACHE__TTL".into(), "soon".into());
    sources.file = Some("/nowhere/at/all".into());
    assert_eq!(format(&sources), "json");
    sources.flags = vec![("log.format".into(), "text".into())];
    assert_eq!(format(&sources), "text");
    sources.flags = vec![("log.format".into(), "pretty".into())];
    assert_eq!(format(&sources), "auto", "it is wrong itself");
}

#[test]
fn the_names_of_all_settings_are_those_that_are_read() {
    let (_, reader) = raw::read(&Sources::default(), None).unwrap();
    let (mut read, mut named) = (reader.known().to_vec(), setting_names());
    read.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, read);
}

#[test]
fn the_built_in_file_can_be_loaded() {
    let mut sources = Sources { file: Some("default.toml".into()), ..Sources::default() };
    sources.environment.insert("KIE_API_KEY".into(), KEY.into());
    assert_eq!(render(&load_text(&sources, Some(DEFAULTS)).unwrap()), render(&load(&[]).unwrap()));
}
