//! `kielink sandbox`: what a newcomer types first. The commands that it prints are performed here, as printed.

use std::collections::HashMap;

use url::Url;

use super::child::{Child, Run, assert_has_no_secret};
use crate::support::{KEY, Reply, encode, eventually};

const SUNRISE: &str = "https://tempfile.aiquickdraw.com/s/sunrise.png";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A sandbox, what it told to type, and a client to do so.
struct Sandbox {
    child: Child,
    client: reqwest::Client,
    /// As printed.
    commands: Vec<Curl>,
}

/// One printed command.
#[derive(Debug)]
struct Curl {
    url: String,
    method: Option<String>,
    body: Option<String>,
    follow: bool,
    output: Option<String>,
    unix_socket: Option<String>,
}

impl Sandbox {
    /// Without a key, on ports that the system chooses.
    async fn start(arguments: &[&str]) -> Sandbox {
        let run = Run::new(&["sandbox", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        Sandbox::of(run.arguments(arguments)).await
    }

    /// One more kielink in front of its simulated kie.ai, which takes the key.
    async fn beside(&self, arguments: &[&str]) -> Sandbox {
        let kie = Url::parse(&self.command("/sandbox?outage=").url).unwrap().origin().ascii_serialization();
        let link = Url::parse(self.child.link(SUNRISE).await.json()["url"].as_str().unwrap()).unwrap();
        let files = link.origin().ascii_serialization();
        Sandbox::start(&[&["--kie-url", &kie, "--files-url", &files], arguments].concat()).await
    }

    async fn of(run: Run) -> Sandbox {
        let child = run.ready().await;
        eventually("it has printed its commands", async || child.stdout().contains("Ctrl-C ends it.")).await;
        let text = child.stdout();
        let commands = text.lines().filter_map(|line| line.trim().strip_prefix("curl "));
        let _ = rustls::crypto::ring::default_provider().install_default();
        Sandbox {
            commands: commands.map(Curl::parse).collect(),
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .tls_certs_only([])
                .build()
                .unwrap(),
            child,
        }
    }

    async fn perform(&self, curl: &Curl) -> (Reply, Vec<u8>) {
        let mut url = curl.url.clone();
        for _ in 0..5 {
            let method = match (&curl.method, &curl.body) {
                (Some(method), _) => method.parse().unwrap(),
                (None, Some(_)) => reqwest::Method::POST,
                (None, None) => reqwest::Method::GET,
            };
            let mut client = self.client.clone();
            if let Some(path) = &curl.unix_socket {
                client = reqwest::Client::builder().unix_socket(path.as_str()).tls_certs_only([]).build().unwrap();
            }
            let mut request = client.request(method, &url);
            if let Some(body) = &curl.body {
                request = request.body(body.clone());
            }
            let response = request.send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let bytes = response.bytes().await.unwrap().to_vec();
            let body = String::from_utf8_lossy(&bytes).into_owned();
            let reply = Reply { status, headers, body };
            assert_has_no_secret(&format!("{reply:?}"));
            if !curl.follow || !reply.headers.contains_key("location") {
                return (reply, bytes);
            }
            url = reply.header("location").to_owned();
        }
        panic!("redirected in circles: {curl:?}");
    }

    /// A printed command whose URL has this in it.
    fn command(&self, part: &str) -> &Curl {
        let found = self.commands.iter().find(|curl| curl.url.contains(part));
        found.unwrap_or_else(|| panic!("no command with {part} in {}", self.child.stdout()))
    }

    /// Asks the simulated kie.ai's control: `GET` without a query, `POST` with one.
    async fn control(&self, query: Option<&str>) -> serde_json::Value {
        let url = self.command("/sandbox?outage=").url.split('?').next().unwrap();
        let request = match query {
            None => self.client.get(url),
            Some(query) => self.client.post(format!("{url}?{query}")),
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    async fn mints(&self) -> u64 {
        self.control(None).await["counts"]["mints"].as_u64().unwrap()
    }

    async fn fetch(&self, url: &str) -> (u16, Vec<u8>) {
        let response = self.client.get(url).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap().to_vec())
    }
}

impl Curl {
    fn parse(command: &str) -> Curl {
        let mut curl =
            Curl { url: String::new(), method: None, body: None, follow: false, output: None, unix_socket: None };
        let mut words = words(command).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-X" => curl.method = words.next(),
                "-d" => curl.body = words.next(),
                "-o" => curl.output = words.next(),
                "--unix-socket" => curl.unix_socket = words.next(),
                "-i" => {}
                "-sSfL" => curl.follow = true,
                _ => {
                    assert!(curl.url.is_empty() && word.starts_with("http://"), "{command}");
                    curl.url = word;
                }
            }
        }
        Url::parse(&curl.url).unwrap_or_else(|why| panic!("{why}: {command}"));
        curl
    }
}

/// As a shell splits a line, as far as single quotes go.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quoted = false;
    let mut word = None;
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            '&' | '?' | '*' | '"' if !quoted => panic!("a shell would not take {character} as it is: {line}"),
            _ => word.get_or_insert_with(String::new).push(character),
        }
    }
    assert!(!quoted, "a quote is left open: {line}");
    words.extend(word);
    words
}

#[tokio::test]
async fn the_printed_commands_do_what_is_said_of_them() {
    let sandbox = Sandbox::start(&["--latency", "0s"]).await;
    assert_eq!(sandbox.commands.len(), 7, "{}", sandbox.child.stdout());
    let mut seen = HashMap::new();
    for curl in &sandbox.commands {
        let (reply, bytes) = sandbox.perform(curl).await;
        assert_eq!(reply.status, 200, "{curl:?}: {reply:?}");
        let url = Url::parse(&curl.url).unwrap();
        match (url.path(), url.query().unwrap_or_default()) {
            ("/v1/redirect", _) => {
                assert!(bytes.starts_with(PNG), "{reply:?}");
                assert_eq!(curl.output.as_deref(), Some("sunrise.png"));
                assert_eq!(reply.header("content-type"), "image/png");
            }
            ("/v1/link", _) => assert_eq!(reply.json()["source_url"], SUNRISE),
            ("/api/v1/common/download-url", _) => {
                assert_eq!((reply.json()["code"].as_u64(), reply.json()["msg"].as_str()), (Some(200), Some("success")));
                let (status, bytes) = sandbox.fetch(reply.json()["data"].as_str().unwrap()).await;
                assert!(status == 200 && bytes.starts_with(PNG));
            }
            ("/readyz", _) => assert!(reply.body.contains("[+]key ok"), "{reply:?}"),
            ("/sandbox", "outage=30s") => assert!(reply.json()["settings"]["outage_left"].is_string(), "{reply:?}"),
            ("/sandbox", "") => assert_eq!(reply.json()["counts"]["mints"], 1),
            ("/sandbox", _) => {
                assert_eq!(reply.json()["settings"]["latency"], "2s");
                assert_eq!(reply.json()["settings"]["failure_rate"], 0.5);
                assert_eq!(reply.json()["settings"]["quota"], 2);
            }
            (path, query) => panic!("an unknown command: {path}?{query}"),
        }
        *seen.entry(url.path().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen["/sandbox"], 3);
}

#[tokio::test]
async fn every_file_that_it_lists_can_be_downloaded_through_a_redirect() {
    let sandbox = Sandbox::start(&["--latency", "0s"]).await;
    let text = sandbox.child.stdout();
    let listed = text.lines().filter_map(|line| line.trim().strip_prefix("https://"));
    let sources: Vec<_> = listed.map(|line| format!("https://{}", line.split(' ').next().unwrap())).collect();
    assert_eq!(sources.len(), 4, "{text}");
    for source in sources {
        let curl = Curl {
            url: format!("http://{}/v1/redirect?url={}", sandbox.child.data(), encode(&source)),
            follow: true,
            ..Curl::parse("http://placeholder")
        };
        let (reply, bytes) = sandbox.perform(&curl).await;
        assert!(reply.status == 200 && !bytes.is_empty(), "{source}: {reply:?}");
    }
}

#[tokio::test]
async fn no_key_is_needed_and_one_that_is_there_is_not_used() {
    let run = Run::new(&["sandbox", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arguments(&["--latency", "0s"])
        .env("KIE_API_KEY", KEY)
        .env("KIE_API_KEY_FILE", "/nowhere")
        .env("KIELINK__UPSTREAM__BASE_URL", "https://api.kie.ai");
    let sandbox = Sandbox::of(run).await;
    assert_eq!(sandbox.child.link(SUNRISE).await.status, 200);
    assert_eq!(sandbox.mints().await, 1);
    assert_eq!(sandbox.child.log_lines("kielink starts")[0]["key_source"], "sandbox");
    sandbox.child.interrupt();
    assert_eq!(sandbox.child.ended().await, Some(0), "{}", sandbox.child.stderr());
}

#[tokio::test]
async fn another_kielink_can_ask_the_simulated_kie_with_the_key_that_it_was_given() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--kie-key", KEY, "--files-url", "https://files.example"]).await;
    let kie = Url::parse(&sandbox.command("/sandbox?outage=").url).unwrap().origin().ascii_serialization();
    let other = Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).key();
    let other = other.arguments(&["--set", &format!("upstream.base_url={kie}")]).ready().await;
    for child in [&other, &sandbox.child] {
        let reply = child.link(SUNRISE).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.json()["url"].as_str().unwrap().starts_with("https://files.example/"), "{reply:?}");
    }
    assert_eq!(sandbox.mints().await, 2);
}

#[tokio::test]
async fn two_kielinks_stand_before_one_simulated_kie() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--kie-key", KEY]).await;
    let other = sandbox.beside(&["--kie-key", KEY]).await;
    assert!(other.child.stdout().contains("one more kielink"), "{}", other.child.stdout());
    let (_, picture) = other.perform(other.command("/v1/redirect")).await;
    assert!(picture.starts_with(PNG), "{} bytes", picture.len());
    // Its own, of the same kie.ai: there is no shared tier between the two.
    assert_eq!((sandbox.mints().await, other.mints().await), (2, 2));
    let stranger = sandbox.beside(&["--kie-key", "another-key-4321"]).await;
    assert_eq!(stranger.child.link(SUNRISE).await.slug(), "key-refused");
    // The real kie.ai's key is not for a simulation, and kielink here wants one that is.
    for arguments in [["--kie-url", "http://127.0.0.1:1"], ["--kie-key-file", "/nowhere"]] {
        let run = Run::new(&["sandbox"]).arguments(&arguments).key().finished().await;
        assert_eq!(run.code, Some(2), "{run:?}");
    }
    let run = Run::new(&["sandbox", "--kie-url", "http://127.0.0.1:1", "--files-url", "data:x", "--kie-key", KEY]);
    assert_eq!(run.finished().await.code, Some(2));
}

#[tokio::test]
async fn a_key_is_rotated_in_front_of_the_simulated_kie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, KEY).unwrap();
    let sandbox = Sandbox::start(&["--latency", "0s", "--kie-key", KEY, "--kie-key", "the-next-key-4321"]).await;
    let other = sandbox.beside(&["--kie-key-file", path.to_str().unwrap()]).await;
    let get = async |name: &str| other.child.link(&format!("https://file.kie.ai/{name}")).await.status;
    assert_eq!(get("1").await, 200);

    std::fs::write(&path, "no-key-of-that-kie-4321").unwrap();
    other.child.hang_up();
    other.child.wait_for_log("a new API key was read; the next mint tries it").await;
    assert_eq!(get("2").await, 200);
    other.child.wait_for_log("kie.ai refuses the new API key; the old one goes on").await;

    std::fs::write(&path, "the-next-key-4321").unwrap();
    other.child.hang_up();
    eventually("the next key serves", async || {
        assert_eq!(get(&fastrand::u64(..).to_string()).await, 200);
        !other.child.log_lines("the new API key has minted; the old one is let go").is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_link_that_has_expired_is_refused_by_the_file_host_and_kielink_hands_out_a_new_one() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--link-life", "4s"]).await;
    let link = sandbox.child.link(SUNRISE).await.json()["url"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.fetch(&link).await.0, 200);
    eventually("the link is dead", async || {
        // Whatever happens to that one: what kielink hands out at any moment works.
        let fresh = sandbox.child.link(SUNRISE).await;
        assert_eq!(fresh.status, 200, "{fresh:?}");
        assert_eq!(sandbox.fetch(fresh.json()["url"].as_str().unwrap()).await.0, 200);
        let (status, body) = sandbox.fetch(&link).await;
        assert!(status == 200 || String::from_utf8_lossy(&body).contains("Request has expired"));
        status == 403
    })
    .await;
    assert_ne!(sandbox.child.link(SUNRISE).await.json()["url"], link.as_str());
}

#[tokio::test]
async fn over_the_quota_of_kie_callers_get_429_and_later_links_again() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--quota", "0"]).await;
    let refused = sandbox.child.link(SUNRISE).await;
    assert_eq!((refused.status, refused.slug().as_str()), (429, "rate-limited"));
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{refused:?}");
    let counts = sandbox.control(None).await["counts"].clone();
    assert!(counts["by_code"]["429"].as_u64() >= Some(1), "{counts}");
    sandbox.control(Some("quota=30")).await;
    eventually("there are links again", async || sandbox.child.link(SUNRISE).await.status == 200).await;
}

#[tokio::test]
async fn an_outage_is_not_noticed_while_a_link_is_in_use() {
    // A second is the refresh point, nineteen minutes the deadline.
    let sandbox = Sandbox::start(&["--latency", "0s", "--set", "cache.refresh_after=1s"]).await;
    let link = sandbox.child.link(SUNRISE).await.json()["url"].clone();
    let report = sandbox.control(Some("outage=1h")).await;
    assert!(report["settings"]["outage_left"].is_string(), "{report}");
    eventually("a refresh has failed", async || {
        let reply = sandbox.child.link(SUNRISE).await;
        assert_eq!((reply.status, &reply.json()["url"]), (200, &link));
        sandbox.control(None).await["counts"]["by_code"]["502"].as_u64() >= Some(1)
    })
    .await;
    let reply = sandbox.child.link(SUNRISE).await;
    assert!(reply.header("cache-status").contains("; hit; "), "{reply:?}");
    // A file that was not in use is what the outage hits.
    let cold = sandbox.child.link("https://file.kie.ai/s/notes.txt").await;
    assert!((500..=504).contains(&cold.status), "{cold:?}");
    sandbox.control(Some("outage=0s")).await;
    eventually("the link is renewed", async || sandbox.child.link(SUNRISE).await.json()["url"] != link).await;
}

#[tokio::test]
async fn failures_come_as_often_as_asked_for() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--failure-rate", "1", "--set", "upstream.attempts=2"]).await;
    let reply = sandbox.child.link(SUNRISE).await;
    assert_eq!((reply.status, reply.slug().as_str()), (502, "upstream-error"), "{reply:?}");
    assert_eq!(sandbox.control(None).await["counts"]["refused"], 2);
    sandbox.control(Some("failure_rate=0")).await;
    eventually("there are links again", async || sandbox.child.link(SUNRISE).await.status == 200).await;
}

#[tokio::test]
async fn any_answer_of_kie_can_be_ordered_for_one_file_and_for_all() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--set", "upstream.attempts=1"]).await;
    let notes = "https://file.kie.ai/s/notes.txt";
    sandbox.control(Some(&format!("answer={}&file={notes}", encode("422")))).await;
    assert_eq!(sandbox.child.link(notes).await.slug(), "source-refused");
    assert_eq!(sandbox.child.link(SUNRISE).await.status, 200);
    sandbox.control(Some(&format!("answer={}", encode("402; retry-after: 7")))).await;
    let report = sandbox.control(None).await;
    assert_eq!(report["settings"]["answer"], "402; retry-after: 7");
    assert_eq!(sandbox.child.link("https://file.kie.ai/s/new.txt").await.slug(), "credits-exhausted");
}

#[tokio::test]
async fn a_link_of_any_form_leads_to_its_file_and_to_a_part_of_it() {
    let sandbox = Sandbox::start(&["--latency", "0s"]).await;
    sandbox.control(Some(&format!("answer={}", encode("like:{file}?x-expires={end}&id={id}")))).await;
    let link = sandbox.child.link(SUNRISE).await.json()["url"].as_str().unwrap().to_owned();
    assert!(link.contains("?x-expires=1"), "{link}");
    let (status, whole) = sandbox.fetch(&link).await;
    assert!(status == 200 && whole.starts_with(PNG));
    let part = sandbox.client.get(&link).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap().as_ref()), (206, &b"PNG"[..]));
    assert_eq!(sandbox.fetch(&link.replace("id=", "id=0")).await.0, 403);
}

#[tokio::test]
async fn kie_can_be_made_unreachable_or_silent_and_comes_back() {
    let sandbox = Sandbox::start(&["--latency", "0s", "--set", "upstream.attempts=1"]).await;
    let settings = sandbox.control(Some("silent=1h")).await["settings"].clone();
    assert!(settings["silent_left"].is_string(), "{settings}");
    sandbox.control(Some("silent=0s&refuse=1s")).await;
    eventually("it is reachable again", async || {
        let url = sandbox.command("/sandbox?outage=").url.split('?').next().unwrap();
        sandbox.client.get(url).send().await.is_ok()
    })
    .await;
    eventually("there are links again", async || sandbox.child.link(SUNRISE).await.status == 200).await;
}

#[tokio::test]
async fn changes_that_make_no_sense_are_refused_in_words() {
    let sandbox = Sandbox::start(&[]).await;
    let url = sandbox.command("/sandbox?outage=").url.split('?').next().unwrap();
    for query in ["outrage=30s", "outage=soon", "failure_rate=2", "quota=-1", "", "quota=1&quota=2"] {
        let response = sandbox.client.post(format!("{url}?{query}")).send().await.unwrap();
        assert_eq!(response.status(), 400, "{query}");
        assert!(response.text().await.unwrap().len() > 20, "{query}");
    }
    let response = sandbox.client.get(format!("{url}?outage=30s")).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(sandbox.control(None).await["settings"]["outage_left"].is_null());
}

#[tokio::test]
async fn behind_unix_sockets_the_printed_commands_work_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let socket = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let run = Run::new(&["sandbox", "--latency", "0s"]).arguments(&[
        "--listen",
        &socket("data.sock"),
        "--admin-listen",
        &socket("admin.sock"),
    ]);
    let sandbox = Sandbox::of(run).await;
    for part in ["/v1/link", "/readyz", "/api/v1/"] {
        let (reply, _) = sandbox.perform(sandbox.command(part)).await;
        assert_eq!(reply.status, 200, "{part}: {reply:?}");
    }
}

#[tokio::test]
async fn settings_that_the_user_gives_win_over_those_that_the_link_life_implies() {
    for (run, most) in
        [(Run::new(&["--set", "cache.margin=4s"]), 6), (Run::new(&[]).env("KIELINK__CACHE__TTL", "7s"), 7)]
    {
        let run = run.arguments(&["sandbox", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        let sandbox = Sandbox::of(run.arguments(&["--latency", "0s", "--link-life", "10s"])).await;
        let reply = sandbox.child.link(SUNRISE).await;
        let (_, max_age) = reply.header("cache-control").rsplit_once('=').unwrap();
        // The link's own end, and with it the deadline, comes up to a second early: it is written in whole seconds.
        assert!((most - 2..=most).contains(&max_age.parse().unwrap()), "{most}: {reply:?}");
    }
}

#[tokio::test]
async fn it_runs_where_nothing_but_loopback_is_there_and_ends_on_ctrl_c() {
    let sandbox = Sandbox::start(&[]).await;
    for line in sandbox.child.stdout().lines().filter(|line| line.contains("curl ")) {
        assert!(line.contains("http://127.0.0.1:"), "{line}");
    }
    sandbox.child.interrupt();
    assert_eq!(sandbox.child.ended().await, Some(0));
}

#[tokio::test]
async fn what_is_risky_about_its_own_settings_is_no_failure_and_what_the_user_s_are_is() {
    let risky = async |arguments: &[&str]| {
        let sandbox = Sandbox::start(arguments).await;
        sandbox.child.log_lines("risky configuration")
    };
    // Links that live a minute are renewed within the last half of it.
    let none: [serde_json::Value; 0] = [];
    assert_eq!(risky(&["--link-life", "60s"]).await, none);
    let warned = risky(&["--link-life", "60s", "--set", "sources.allow=*"]).await;
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0]["warning"].as_str().unwrap().starts_with("sources.allow is"), "{warned:?}");
}

#[tokio::test]
async fn the_simulation_listens_at_a_name_too_and_tells_how_one_more_kielink_asks_it() {
    let places = ["--kie-listen", "localhost:0", "--files-listen", "localhost:0"];
    let first = Sandbox::start(&[places.as_slice(), &["--latency", "0s", "--kie-key", "a-first-key"]].concat()).await;
    let text = first.child.stdout();
    let command = text.lines().find_map(|line| line.trim().strip_prefix("kielink sandbox --kie-url ")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    let &[kie, "--files-url", files, "--kie-key", "KEY", "--listen", _, "--admin-listen", _] = words.as_slice() else {
        panic!("{command}");
    };
    let flags = ["--kie-url", kie, "--files-url", files, "--kie-key", "a-first-key"];
    let other = Sandbox::start(&flags).await;
    assert_eq!(other.child.link(SUNRISE).await.status, 200);
    assert_eq!(first.mints().await, 1);
    assert!(!Sandbox::start(&[]).await.child.stdout().contains("--kie-url"), "nobody has its key");
}
