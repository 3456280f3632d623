//! Which build this is: `--version` and `kielink_build_info` tell its commit. Where there is no git there is none, unless
//! `KIELINK_REVISION` says it, as the image's builder does.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=KIELINK_REVISION");
    println!("cargo::rerun-if-changed=build.rs");
    let given = variable("KIELINK_REVISION").filter(|given| !given.is_empty() && given != "unknown");
    // Not for debug builds, which would be made anew after each commit.
    let found = || (variable("PROFILE")? == "release").then(of_git).flatten();
    let version = env!("CARGO_PKG_VERSION");
    match given.or_else(found) {
        Some(revision) => {
            println!("cargo::rustc-env=KIELINK_REVISION={revision}");
            println!("cargo::rustc-env=KIELINK_VERSION={version} ({revision})");
        }
        None => println!("cargo::rustc-env=KIELINK_VERSION={version}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "how Cargo talks to build scripts")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The commit that is checked out, if this is the root of a repository: sources that were unpacked below one have a
/// history of their own.
fn of_git() -> Option<String> {
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // The latter changes with each commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if std::fs::exists(&path).is_ok_and(|is_there| is_there) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
