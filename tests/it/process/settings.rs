//! Where settings and the key come from, as `check-config` shows them.

use super::child::{Finished, Run};
use crate::support::{FakeKie, KEY, SOURCE};

async fn check(run: Run) -> Finished {
    run.arguments(&["check-config"]).finished().await
}

/// The value of `section.key` in what `check-config` printed.
fn value(run: &Finished, key: &str) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    let (section, name) = key.split_once('.').unwrap();
    let (_, after) = run.stdout.split_once(&format!("\n[{section}]\n")).unwrap();
    let lines = after.lines().take_while(|line| !line.starts_with('['));
    let found = lines.filter_map(|line| line.split_once(" = ")).find(|(n, _)| *n == name);
    found.unwrap_or_else(|| panic!("no {key} in {run:?}")).1.to_owned()
}

fn fingerprint(run: &Finished) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    let rest = run.stdout.strip_prefix("# API key: fingerprint ").unwrap();
    let fingerprint = rest.split(',').next().unwrap().to_owned();
    assert!(fingerprint.len() == 12 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()), "{fingerprint}");
    fingerprint
}

#[tokio::test]
async fn check_config_prints_the_defaults_and_a_fingerprint_of_the_key() {
    let run = check(Run::new(&[]).key()).await;
    fingerprint(&run);
    assert!(run.stdout.starts_with("# API key: fingerprint ") && run.stdout.contains(", from KIE_API_KEY\n"));
    for (key, expected) in [
        ("server.listen", "[\"127.0.0.1:8080\"]"),
        ("server.request_timeout", "\"20s\""),
        ("server.drain_delay", "\"0s\""),
        ("server.shutdown_grace", "\"20s\""),
        ("admin.listen", "[\"127.0.0.1:9090\"]"),
        ("upstream.base_url", "\"https://api.kie.ai/\""),
        ("upstream.attempts", "3"),
        ("upstream.rate", "10"),
        ("cache.ttl", "\"19m\""),
        ("cache.margin", "\"1m\""),
        ("cache.max_bytes", "\"64MiB\""),
        ("sources.allow", "[\"*.aiquickdraw.com\", \"*.redpandaai.co\", \"*.kie.ai\"]"),
        ("limits.in_flight", "4096"),
        ("limits.body", "\"16KiB\""),
        ("log.format", "\"auto\""),
        ("log.level", "\"info\""),
    ] {
        assert_eq!(value(&run, key), expected, "{key}");
    }
    assert_eq!(run.stderr, "");
}

#[tokio::test]
async fn what_check_config_prints_loads_again_and_means_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("effective.toml");
    let first = check(
        Run::new(&["--listen", "127.0.0.1:1,unix:/run/kielink.sock"])
            .key()
            .env("KIELINK__CACHE__TTL", "15m 30s 250ms")
            .env("KIELINK__LIMITS__BODY", "20001B")
            .env("KIELINK__CACHE__MAX_BYTES", "100MB")
            .env("KIELINK__SERVER__ALLOWED_HOSTS", "Links.Example.com,b.example"),
    )
    .await;
    assert_eq!(first.code, Some(0), "{first:?}");
    std::fs::write(&file, &first.stdout).unwrap();
    let again = check(Run::new(&["--config", file.to_str().unwrap()]).key()).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(again.stdout, first.stdout);
    // Rounded, it would load again, but as another setting.
    assert!(value(&first, "limits.body").contains("20001"), "{}", first.stdout);
}

#[tokio::test]
async fn later_layers_win_default_file_environment_flags() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kielink.toml");
    std::fs::write(
        &file,
        "[cache]\nttl = \"11m\"\nrefresh_after = \"5m\"\nnegative_ttl = \"11s\"\n[upstream]\nrate = 11\n",
    )
    .unwrap();
    let layered = |run: Run| {
        run.key().env("KIELINK__CACHE__TTL", "12m").env("KIELINK__CACHE__NEGATIVE_TTL", "12s").arguments(&[
            "--set",
            "cache.ttl=13m",
            "--log-level",
            "warn",
        ])
    };
    let by_flag = check(layered(Run::new(&["--config", file.to_str().unwrap()]))).await;
    let by_variable = check(layered(Run::new(&[]).env("KIELINK_CONFIG", &file))).await;
    assert_eq!(by_flag.stdout, by_variable.stdout);
    for (key, expected) in [
        ("cache.margin", "\"1m\""),
        ("upstream.rate", "11"),
        ("cache.refresh_after", "\"5m\""),
        ("cache.negative_ttl", "\"12s\""),
        ("cache.ttl", "\"13m\""),
        ("log.level", "\"warn\""),
    ] {
        assert_eq!(value(&by_flag, key), expected, "{key}");
    }
    // --config wins over KIELINK_CONFIG, which is then not even read.
    let run = check(Run::new(&["--config", file.to_str().unwrap()]).key().env("KIELINK_CONFIG", "/nowhere")).await;
    assert_eq!(value(&run, "upstream.rate"), "11");
}

#[tokio::test]
async fn the_key_may_come_from_each_of_three_places() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("key");
    let settings = directory.path().join("kielink.toml");
    let secret_path = secret.to_str().unwrap();
    let from_variable = check(Run::new(&[]).key()).await;
    let expected = fingerprint(&from_variable);
    // One trailing newline is what editors and `echo` add.
    for newline in ["", "\n", "\r\n"] {
        std::fs::write(&secret, format!("{KEY}{newline}")).unwrap();
        std::fs::write(&settings, format!("[upstream]\napi_key_file = \"{secret_path}\"\n")).unwrap();
        for run in [
            Run::new(&[]).env("KIE_API_KEY_FILE", &secret),
            Run::new(&["--config", settings.to_str().unwrap()]),
            Run::new(&[]).env("KIELINK__UPSTREAM__API_KEY_FILE", &secret),
        ] {
            let run = check(run).await;
            assert_eq!(fingerprint(&run), expected, "{newline:?}: {run:?}");
            assert!(run.stdout.contains(&format!(", from {secret_path}\n")), "{run:?}");
        }
    }
    assert_ne!(fingerprint(&check(Run::new(&[]).env("KIE_API_KEY", "another-key")).await), expected);
}

#[tokio::test]
async fn a_key_from_a_file_reaches_kie_without_its_newline() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("key");
    std::fs::write(&secret, format!("{KEY}\n")).unwrap();
    let kie = FakeKie::start();
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let child = Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arguments(&["--set", &base_url])
        .env("KIE_API_KEY_FILE", &secret)
        .ready()
        .await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    let sent = kie.requests()[0].header("authorization").unwrap().to_owned();
    assert_eq!(sent, format!("Bearer {KEY}"));
}

#[tokio::test]
async fn two_keys_or_none_or_an_unusable_one_are_bad_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("key"), KEY).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("newline"), "\n").unwrap();
    std::fs::write(path("lines"), format!("{KEY}\n{KEY}\n")).unwrap();
    std::fs::write(path("binary"), b"\xff\xfe").unwrap();
    let variable = |value: &str| Run::new(&[]).env("KIE_API_KEY", value);
    let file = |name: &str| Run::new(&[]).env("KIE_API_KEY_FILE", path(name));
    for (run, why) in [
        (Run::new(&[]), "no API key"),
        (file("key").key(), "more than one API key: KIE_API_KEY and KIE_API_KEY_FILE are set"),
        // As Compose writes a variable that is not set.
        (file("key").env("KIE_API_KEY", ""), "more than one API key: KIE_API_KEY and KIE_API_KEY_FILE are set"),
        (file("key").arguments(&["--set", "upstream.api_key_file=/x"]), "KIE_API_KEY_FILE and upstream.api_key_file"),
        (variable(""), "KIE_API_KEY: the API key is empty"),
        (variable("\n"), "KIE_API_KEY: the API key is empty"),
        (variable("a b"), "KIE_API_KEY: the API key has a character"),
        (file("empty"), "KIE_API_KEY_FILE: the API key is empty"),
        (file("newline"), "KIE_API_KEY_FILE: the API key is empty"),
        (file("lines"), "KIE_API_KEY_FILE: the API key has a character"),
        (file("binary"), "KIE_API_KEY_FILE: cannot read"),
        (file("missing"), "KIE_API_KEY_FILE: cannot read"),
        (Run::new(&[]).env("KIE_API_KEY_FILE", directory.path()), "is a directory"),
        (Run::new(&[]).env("KIE_API_KEY_FILE", "/dev/zero"), "KIE_API_KEY_FILE: "),
    ] {
        let run = check(run).await;
        assert_eq!(run.code, Some(78), "{why}: {run:?}");
        assert!(run.stderr.contains(why), "{why}: {run:?}");
    }
}

#[tokio::test]
async fn legal_but_risky_settings_are_warned_of() {
    let run = check(Run::new(&["--set", "sources.allow=*", "--set", "cache.margin=5s"]).key()).await;
    assert_eq!(run.code, Some(0));
    for warning in ["warning: sources.allow is \"*\"", "warning: cache.margin is under 10s"] {
        assert!(run.stderr.contains(warning), "{run:?}");
    }
}
