//! What people type, and how it ends: exit codes and the words that go with them.

use std::{ffi::OsStr, net::TcpListener, os::unix::ffi::OsStrExt};

use futures_util::future::join_all;

use super::child::Run;
use crate::support::{FakeKie, KEY, SOURCE};

#[tokio::test]
async fn sigterm_and_sigint_end_it_with_exit_code_0() {
    let kie = FakeKie::start();
    for interrupt in [false, true] {
        let child = Run::serving(&kie, &[]).ready().await;
        assert_eq!(child.link(SOURCE).await.status, 200);
        if interrupt {
            child.interrupt();
        } else {
            child.terminate();
        }
        assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
        let name = if interrupt { "SIGINT" } else { "SIGTERM" };
        assert_eq!(child.log_lines("stopping")[0]["signal"], name);
    }
}

#[tokio::test]
async fn what_is_no_command_line_is_a_usage_error() {
    for arguments in [
        ["frobnicate"].as_slice(),
        &["--no-such-flag"],
        &["--set", "nonsense"],
        &["wait", "--max", "soon"],
        &["sandbox", "--latency", "slow"],
        &["sandbox", "--quota", "-1"],
        &["check-config", "more"],
    ] {
        let run = Run::new(arguments).key().finished().await;
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{run:?}");
    }
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_is_refused_and_says_why() {
    for (flag, value, why) in [
        ("--failure-rate", "1.5", "failure_rate is a share from 0 to 1"),
        ("--link-life", "10ms", "link_life is 1s to 7d"),
        ("--latency", "2h", "latency is at most 1h"),
        // It might be a real one: `Child` searches everything that is printed for it.
        ("--kie-key", &format!("{KEY} {KEY}"), "--kie-key: the API key has a character"),
    ] {
        let run = Run::new(&["sandbox", flag, value]).finished().await;
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(why) && run.stdout.is_empty(), "{run:?}");
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_the_configuration_is_said_at_once_and_the_exit_code_is_78() {
    let arguments = ["--listen", "8080", "--set", "cache.ttl=soon", "--set", "cache.tttl=19m"];
    for command in ["serve", "check-config", "sandbox"] {
        let run = Run::new(&arguments)
            .arguments(&[command])
            .env("KIELINK__LOG__FORMAT", "text")
            .env("KIELINK__CACHE__MARGIN", "30m")
            .env("KIELINK__UPSTREAM__BASE_URL", "ftp://kie.example/?a=b")
            .env("KIELINK__LIMITS__CONNECTIONS", "0")
            .finished()
            .await;
        assert_eq!(run.code, Some(78), "{run:?}");
        assert!(run.stdout.is_empty(), "{run:?}");
        for problem in [
            "server.listen: expected host:port",
            "cache.ttl: expected a duration like \"19m\"",
            "cache.tttl: unknown setting",
            "did you mean cache.ttl?",
            "cache.ttl + cache.margin must be at most 20m",
            "limits.connections: it must be at least 1",
        ] {
            assert!(run.stderr.contains(problem), "{command}, {problem}: {}", run.stderr);
        }
        // A sandbox brings a key and a kie.ai of its own.
        let own = command != "sandbox";
        for problem in ["no API key: set KIE_API_KEY_FILE", "upstream.base_url: expected an https"] {
            assert_eq!(run.stderr.contains(problem), own, "{command}: {}", run.stderr);
        }
    }
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_is_refused_and_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kielink.toml");
    for text in [
        format!("[upstream]\napi_key = \"{KEY}\"\n"),
        format!("[upstream]\napi_key = {KEY}\n"),
        format!("[upstream]\nbase_url = \"https://user:{KEY}@kie.example\"\n"),
        format!("[upstream]\napi_key_file = [\"{KEY}\"]\n"),
        format!("{KEY}\n"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let run = Run::new(&["check-config"]).env("KIELINK_CONFIG", &file).finished().await;
        // `Child` searches everything that is printed for the key.
        assert_eq!(run.code, Some(78), "{text}");
    }
    for (name, value) in [
        ("KIELINK__LIMITS__BODY", KEY.to_owned()),
        ("KIELINK__CACHE__TTL", KEY.to_owned()),
        ("KIELINK__SERVER__LISTEN", KEY.to_owned()),
        ("KIELINK__LOG__LEVEL", KEY.to_owned()),
        ("KIELINK__UPSTREAM__API_KEY", KEY.to_owned()),
        ("KIELINK__SOURCES__ALLOW", KEY.to_owned()),
        ("KIE_API_KEY", format!("{KEY} {KEY}")),
    ] {
        let run = Run::new(&["check-config"]).key().env(name, &value).finished().await;
        assert_eq!(run.code, Some(78), "{name}: {run:?}");
    }
}

/// As base64 has it, with slashes; as hex has it.
const KEYS: [&str; 2] = [KEY, "0123456789abcdef0123456789abcdef"];

#[tokio::test]
async fn what_was_typed_in_the_wrong_place_is_not_repeated() {
    for key in KEYS {
        for arguments in [
            [key].as_slice(),
            &["serve", key],
            &["healthcheck", key],
            &["help", key],
            &["--set", key],
            &["--set", &format!("upstream.api_key_file={key}"), "check-config"],
            &["--set", &format!("{key}=1"), "check-config"],
            &["--set", &format!("server.{key}=1"), "check-config"],
            &["--set", &format!("server={key}"), "check-config"],
            &["--config", key],
            &["--config", key, "--config", key],
            &["--config", &format!("/{key}")],
            &["--config", &format!("/tmp/{key}")],
            &["wait", "--max", key],
            &["wait", "--max", "1ms", "--admin-listen", key],
            &["wait", "--max", "1ms", "--admin-listen", &format!("{key}:80")],
            &["wait", "--max", "1ms", "--admin-listen", &format!("unix:/{key}")],
            &["--listen", &format!("{key}:80")],
            &["--log-level", key],
            &[&format!("--{key}")],
            &[&format!("--key={key}")],
            &[&format!("--version={key}")],
            &["sandbox", "--kie-listen", key],
            &["sandbox", "--files-url", key],
        ] {
            let mut run = Run::new(arguments);
            if arguments.contains(&"--listen") {
                run = run.key();
            }
            let run = run.finished().await;
            assert!(matches!(run.code, Some(1 | 2 | 78)), "{arguments:?}: {run:?}");
            let printed = format!("{}{}", run.stdout, run.stderr);
            assert!(!printed.is_empty() && !printed.contains("0123456789abcdef"), "{arguments:?}: {run:?}");
        }
        for (name, value) in [
            ("KIE_API_KEY_FILE", key.to_owned()),
            ("KIE_API_KEY_FILE", format!("/{key}")),
            ("KIELINK_CONFIG", key.to_owned()),
            ("KIELINK__SERVER", key.to_owned()),
            (&format!("KIELINK__{key}"), "1".to_owned()),
            (&format!("KIELINK__SERVER__{key}"), "1".to_owned()),
        ] {
            let run = Run::new(&["check-config"]).env(name, &value).finished().await;
            assert_eq!(run.code, Some(78), "{name}: {run:?}");
            assert!(!run.stderr.contains("0123456789abcdef"), "{name}: {run:?}");
        }
    }
}

#[tokio::test]
async fn a_setting_that_has_the_key_in_it_is_refused_though_it_is_a_good_one() {
    let [_, key] = KEYS;
    for setting in [
        format!("server.allowed_hosts={key}"),
        format!("sources.allow={key}.example"),
        format!("server.listen={key}:80"),
        format!("server.listen=unix:/tmp/{key}"),
        format!("upstream.base_url=https://api.kie.ai/{}", key.to_uppercase()),
    ] {
        for command in ["serve", "check-config"] {
            let run = Run::new(&[command, "--set", &setting]).env("KIE_API_KEY", key).finished().await;
            assert_eq!(run.code, Some(78), "{setting}: {run:?}");
            let name = setting.split('=').next().unwrap();
            assert!(run.stderr.contains(&format!("{name}: it has the API key in it")), "{setting}: {run:?}");
            let printed = format!("{}{}", run.stdout, run.stderr).to_lowercase();
            assert!(!printed.contains("0123456789abcdef"), "{setting}: {run:?}");
        }
    }
}

#[tokio::test]
async fn what_is_no_key_is_refused_with_what_to_leave_out() {
    for (text, why) in [
        ("KIE_API_KEY=0123456789abcdef", "KIE_API_KEY: the API key begins with `KIE_API_KEY=`: leave that out"),
        ("\"0123456789abcdef\"", "KIE_API_KEY: the API key begins with a quote: leave that out"),
        ("bearer 0123456789abcdef", "KIE_API_KEY: the API key begins with `Bearer `: leave that out"),
        ("host", "KIE_API_KEY: the API key has fewer than 8 letters and digits"),
    ] {
        let run = Run::new(&["check-config"]).env("KIE_API_KEY", text).finished().await;
        assert_eq!(run.code, Some(78), "{run:?}");
        assert!(run.stderr.contains(why) && !run.stderr.contains("0123456789abcdef"), "{run:?}");
    }
}

#[tokio::test]
async fn a_variable_of_opentelemetry_s_is_named_and_its_value_is_not_repeated() {
    let kie = FakeKie::start();
    let rows = [
        ("OTEL_TRACES_SAMPLER", None),
        ("OTEL_TRACES_SAMPLER_ARG", Some(("OTEL_TRACES_SAMPLER", "traceidratio"))),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", None),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", None),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", None),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", None),
        ("OTEL_BSP_SCHEDULE_DELAY", None),
        ("OTEL_EXPORTER_OTLP_HEADERS", None),
        ("OTEL_RESOURCE_ATTRIBUTES", None),
    ]
    .map(async |(name, others)| {
        let mut run = Run::serving(&kie, &[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env(name, KEY);
        if let Some((name, value)) = others {
            run = run.env(name, value);
        }
        let child = run.ready().await;
        assert_eq!(child.link(SOURCE).await.status, 200, "{name}");
        child.terminate();
        assert_eq!(child.ended().await, Some(0));
        let log = child.stderr();
        assert!(!log.contains("0123456789abcdef"), "{name}: {log}");
        if name.contains("SAMPLER") {
            assert!(log.contains(&format!("\"{name}\"")), "{log}");
        }
    });
    join_all(rows).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_or_no_toml_is_bad_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let run = Run::new(&["check-config", "--config", missing.to_str().unwrap()]).key().finished().await;
    assert_eq!(run.code, Some(78));
    assert!(run.stderr.contains(missing.to_str().unwrap()), "{run:?}");

    let broken = directory.path().join("broken.toml");
    std::fs::write(&broken, "[cache]\nttl = \"19m\"\nmargin = = 60s\n").unwrap();
    let run = Run::new(&["serve"]).key().env("KIELINK_CONFIG", &broken).finished().await;
    assert_eq!(run.code, Some(78));
    assert!(run.stderr.contains("is not valid TOML (at line 3"), "{run:?}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_failure_that_names_it() {
    let kie = FakeKie::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let _still_taken = TcpListener::bind(&taken);
    let holder = Run::serving(&kie, &[]).ready().await;
    for (flag, address) in [("--listen", holder.data()), ("--admin-listen", holder.admin())] {
        let base_url = format!("upstream.base_url={}", kie.base_url());
        let other = if flag == "--listen" { "--admin-listen" } else { "--listen" };
        let run = Run::new(&["--set", &base_url, flag, &address, other, "127.0.0.1:0"]).key().finished().await;
        assert_eq!(run.code, Some(1), "{run:?}");
        let message = format!("cannot listen on {address}: Address already in use");
        assert!(run.stderr.contains(&message), "{run:?}");
        assert!(run.stderr.contains(&format!("or listen elsewhere: {flag} 127.0.0.1:")), "{run:?}");
    }
    assert_eq!(holder.link(SOURCE).await.status, 200);
}

#[tokio::test]
async fn a_sandbox_whose_address_is_taken_says_how_to_give_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        ["--listen", &address, "--admin-listen", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--admin-listen", &address],
    ] {
        let run = Run::new(&["sandbox"]).arguments(&arguments).finished().await;
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(&format!("cannot listen on {address}")), "{run:?}");
        let flag = if arguments[1] == address { "--listen" } else { "--admin-listen" };
        assert!(run.stderr.contains(&format!("or listen elsewhere: {flag} 127.0.0.1:")), "{run:?}");
        assert!(run.stdout.is_empty(), "{run:?}");
    }
    for flag in ["--kie-listen", "--files-listen"] {
        let run = Run::new(&["sandbox", flag, &address]).finished().await;
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(&format!("cannot listen on {address}")), "{run:?}");
        assert!(run.stderr.contains(&format!("or listen elsewhere: {flag} 127.0.0.1:")), "{run:?}");
    }
}

#[tokio::test]
async fn version_and_help_need_no_configuration() {
    for flag in ["--version", "-V"] {
        let run = Run::new(&[flag]).env("KIELINK_CONFIG", "/nowhere").finished().await;
        assert_eq!(run.code, Some(0));
        // A release build tells its commit, where it was made of a repository.
        let rest = run.stdout.trim_end().strip_prefix(concat!("kielink ", env!("CARGO_PKG_VERSION"))).unwrap();
        let commit = rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
        assert!(rest.is_empty() || commit.is_some_and(|commit| commit.len() >= 7), "{run:?}");
    }
    let help = Run::new(&["--help"]).finished().await;
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for word in [
        "serve",
        "sandbox",
        "healthcheck",
        "wait",
        "check-config",
        "default-config",
        "KIE_API_KEY_FILE names a file",
        "or KIE_API_KEY is the key",
        "[default: 127.0.0.1:8080]",
        "[default: 127.0.0.1:9090]",
        "[default: info]",
        "[default: auto]",
        "--config",
        "--listen",
        "--admin-listen",
        "--set",
        "Exit codes: 0 done; 1 failure; 2 usage; 78 bad configuration",
    ] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    for command in ["serve", "sandbox", "healthcheck", "wait", "check-config"] {
        let run = Run::new(&[command, "--help"]).finished().await;
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.contains("Usage: kielink"), "{run:?}");
    }
}

#[tokio::test]
async fn the_built_in_settings_can_be_printed_and_loaded() {
    let printed = Run::new(&["default-config"]).finished().await;
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    assert!(printed.stdout.contains("\n[cache]\n#") && printed.stdout.contains("\nttl = \"19m\"\n"), "{printed:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed.stdout).unwrap();
    let run = Run::new(&["check-config", "--config", file.path().to_str().unwrap()]).key().finished().await;
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[tokio::test]
async fn the_last_words_are_a_line_of_the_log_where_that_is_json() {
    let missing = tempfile::tempdir().unwrap().path().join("missing.pem");
    for (arguments, code, why) in [
        (["serve", "--set", "cache.ttl=soon"].as_slice(), 78, "expected a duration like \"19m\""),
        (&["sandbox", "--set", "cache.ttl=soon"], 78, "expected a duration like \"19m\""),
        (&["serve"], 78, "SSL_CERT_FILE: cannot read "),
        (&["--admin-listen", "unix:/tmp"], 1, "cannot listen on unix:/tmp"),
    ] {
        let mut run = Run::new(arguments).arguments(&["--listen", "127.0.0.1:0"]).key();
        if why.starts_with("SSL_CERT_FILE") {
            run = run.env("SSL_CERT_FILE", &missing);
        }
        let run = run.finished().await;
        assert_eq!(run.code, Some(code), "{run:?}");
        let last: serde_json::Value = serde_json::from_str(run.stderr.lines().last().unwrap()).unwrap();
        assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"kielink cannot go on".into()), "{run:?}");
        assert!(last["error"].as_str().unwrap().contains(why), "{run:?}");
        assert!(last["timestamp"].as_str().unwrap().ends_with('Z'), "{run:?}");
        assert!(!run.stderr.contains("\nkielink: "), "{run:?}");
    }
    // On the other hand:
    for arguments in [["serve", "--log-format", "text"].as_slice(), &["check-config", "--log-format", "json"]] {
        let run = Run::new(arguments).arguments(&["--set", "cache.ttl=soon"]).key().finished().await;
        assert!(run.stderr.starts_with("kielink: 1 problem in the configuration:\n  - cache.ttl: "), "{run:?}");
    }
}

#[tokio::test]
async fn an_environment_that_is_no_utf8_neither_stops_it_nor_becomes_a_key() {
    let strange = OsStr::from_bytes(b"\xff\xfe");
    let run = Run::new(&["check-config"]).key().env("LS_COLORS", strange).finished().await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let run = Run::new(&["check-config"]).env("KIE_API_KEY", strange).finished().await;
    assert_eq!(run.code, Some(78), "{run:?}");
    assert!(run.stderr.contains("KIE_API_KEY: "), "{run:?}");
}

#[tokio::test]
async fn output_that_nobody_takes_is_a_failure_and_no_panic() {
    for command in ["check-config", "sandbox"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let run = Run::new(&[command, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .key()
            .stdout(full)
            .finished()
            .await;
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("cannot write to standard output"), "{run:?}");
    }
}

#[tokio::test]
async fn durations_beyond_all_measure_are_refused() {
    let years = "584542046090years";
    for (key, other) in [("cache.ttl", "cache.margin"), ("cache.margin", "cache.ttl")] {
        let run = Run::new(&["check-config"])
            .arguments(&["--set", &format!("{key}={years}"), "--set", &format!("{other}={years}")])
            .key()
            .finished()
            .await;
        assert_eq!(run.code, Some(78), "{run:?}");
        assert!(run.stderr.contains("must be at most 24h"), "{run:?}");
    }
}

#[tokio::test]
async fn a_problem_names_the_place_where_the_setting_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kielink.toml");
    std::fs::write(
        &file,
        "[cache]\nttl = \"a\"\nmargin = \"b\"\nnegative_ttl = \"c\"\nunknown = 1\n[server]\nlisten = [\"d\"]\n",
    )
    .unwrap();
    let run = Run::new(&["check-config", "--set", "cache.ttl=soon"])
        .key()
        .env("KIELINK_CONFIG", &file)
        .env("KIELINK__CACHE__MARGIN", "soon")
        .finished()
        .await;
    assert_eq!(run.code, Some(78), "{run:?}");
    let file = file.to_str().unwrap();
    for (key, place) in [
        ("cache.ttl", "the command line"),
        ("cache.margin", "the environment"),
        ("cache.negative_ttl", file),
        ("cache.unknown", file),
        ("server.listen", file),
    ] {
        let line = run.stderr.lines().find(|line| line.starts_with(&format!("  - {key}: ")));
        assert!(line.is_some_and(|line| line.contains(&format!("(from {place})"))), "{key}: {run:?}");
    }
}
