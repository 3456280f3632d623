//! Holds the code to what lib.rs says about which part knows which: reads the sources, and compares their `use` of each
//! other with the floors.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A part knows only the parts in the lines above its own. `main.rs` and its files know all parts; `fuzzing` and
/// `simulation` are tests.
const FLOORS: &[&[&str]] = &[
    // What is true of links, addresses, time and the key, whoever asks.
    &["host", "kind", "readiness", "roots"],
    &["link", "source"],
    &["clock"],
    &["key", "telemetry"],
    // The ways out of this process, the links between them, and what both interfaces share.
    &["server", "shared", "upstream"],
    &["fleet"],
    &["credits", "links"],
    &["web"],
    // What is served.
    &["http", "admin"],
    // What puts it together, and what people type.
    &["drain"],
    &["app"],
    &["cli", "config", "kie_sim"],
    &["sandbox"],
];

/// Crates that few parts may know, and the parts that do.
const CRATES: &[(&str, &[&str])] = &[
    ("config", &["config"]),
    ("moka", &["links"]),
    ("redis", &["shared"]),
    ("reqwest", &["telemetry", "upstream"]),
    ("axum", &["admin", "cli", "http", "server", "web"]),
    ("hyper", &["cli", "http", "server", "upstream"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    (
        "prometheus_client",
        &[
            "admin",
            "app",
            "credits",
            "fleet",
            "http",
            "key",
            "links",
            "server",
            "shared",
            "telemetry",
            "upstream",
            "web",
        ],
    ),
    ("clap", &["cli"]),
    ("anyhow", &[]),
];

/// Files that may tell time by tokio's clock, which stands still while the machine sleeps: they measure how long a
/// connection may stay as it is. (`main`'s files, which are not read here, ask tokio's clock whether a signal came
/// twice.) The time that counts for links is `clock`'s.
const TOKIO_S_CLOCK: [&str; 2] = ["server/activity.rs", "server/watch.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The part a file belongs to, and its code: without comments, and without its tests, which may know more.
fn part(root: &Path, path: &Path) -> Option<(String, String)> {
    let below = path.strip_prefix(root).unwrap();
    let first = below.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first).to_owned();
    let is_test = below.file_stem().is_some_and(|stem| stem == "tests");
    if is_test || !FLOORS.iter().any(|floor| floor.contains(&name.as_str())) {
        return None;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let text = text.split("\n#[cfg(test)]\npub(crate) mod testing {").next().unwrap_or_default();
    let code: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    Some((name, code.join("\n")))
}

/// The first name behind each `crate::`, or the first name of each item of its list.
fn known(code: &str) -> BTreeSet<String> {
    let name =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut known = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            known.insert(name(rest));
            continue;
        };
        let (mut depth, mut item) = (1, 0);
        for (at, letter) in list.char_indices() {
            depth += match letter {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if (letter == ',' && depth == 1) || depth == 0 {
                known.insert(name(&list[item..at]));
                item = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    known.remove("");
    known
}

/// Whether a path begins with this crate's name.
fn has_path(code: &str, library: &str) -> bool {
    let path = format!("{library}::");
    code.match_indices(&path)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn the_parts_of_a_list_are_found() {
    let of = |code: &str| known(code).into_iter().collect::<Vec<_>>();
    assert_eq!(of("use crate::links::Entry;"), ["links"]);
    assert_eq!(of("fn f(x: &crate::links::Entry) -> crate::web::Problem"), ["links", "web"]);
    let list = "use crate::{\n    clock::{self, Clock},\n    http,\n    key::LogHash,\n    web::{\n        edge::{self, Edge},\n        x,\n    },\n};\nuse other::{a, b};";
    assert_eq!(of(list), ["clock", "http", "key", "web"]);
}

#[test]
fn dependencies_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rank = |part: &str| FLOORS.iter().position(|floor| floor.contains(&part));
    let (mut files, mut wrong, mut arrows) = (Vec::new(), Vec::new(), 0);
    sources(&root, &mut files);
    for path in &files {
        let Some((name, code)) = part(&root, path) else { continue };
        let file = path.strip_prefix(&root).unwrap().display();
        for other in known(&code).iter().filter(|other| **other != name) {
            match (rank(other), rank(&name)) {
                (Some(theirs), Some(ours)) if theirs < ours => arrows += 1,
                _ => wrong.push(format!("{file} knows {other}")),
            }
        }
        let others = FLOORS.iter().copied().flatten().filter(|other| **other != name);
        wrong.extend(
            others
                .filter(|other| code.contains(&format!("super::{other}::")))
                .map(|other| format!("{file} knows {other} by way of super")),
        );
        let reads_tokio_s = code.lines().any(|line| line.contains("tokio::time::") && line.contains("Instant"));
        if reads_tokio_s && !TOKIO_S_CLOCK.iter().any(|known| path.ends_with(known)) {
            wrong.push(format!("{file} reads tokio's clock"));
        }
        for (library, may_know) in CRATES {
            // A path that begins with `config` is our own part's.
            let is_path = rank(library).is_none() && has_path(&code, library);
            let is_known = is_path || code.contains(&format!("\nuse {library}::"));
            if is_known && !may_know.contains(&name.as_str()) && *library != name {
                wrong.push(format!("{file} knows the crate {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 100, "the sources were not found: {arrows} arrows in {} files", files.len());
}
