//! What is wrong with a command line, said without repeating it: what was typed may be a key in the wrong place. Pure.
//!
//! clap's own messages quote what they reject. Of its errors only three things are taken: the kind, the name of a flag,
//! and the known words that are near.

use std::{error::Error as _, ffi::OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::key::misplaced;

/// A typed word is taken for a known one with at most this many slips of the pen.
const MOST_SLIPS: usize = 3;

/// What `--set` wants.
pub(super) const KEY_VALUE: &str = "expected KEY=VALUE, e.g. cache.ttl=15m";

/// What people type for what has another name here, and what helps.
const OTHERS: &[(&[&str], &str)] = &[
    (&["--port", "-p", "--host", "--bind", "--address", "--addr", "-l"], "did you mean '--listen 127.0.0.1:8080'?"),
    (&["-c", "--config-file", "--conf", "-f", "--file"], "did you mean '--config FILE'?"),
    (
        &["--key", "-k", "--api-key", "--apikey", "--token", "--kie-api-key"],
        "the key is in no flag, where others could see it: 'KIE_API_KEY_FILE=FILE kielink', or KIE_API_KEY",
    ),
    (&["-v", "--verbose", "--debug", "-d"], "did you mean '--log-level debug'?"),
    (&["-q", "--quiet"], "did you mean '--log-level warn'?"),
    (&["--json"], "did you mean '--log-format json'?"),
    (&["check", "config", "test", "-t", "validate", "configtest"], "did you mean 'kielink check-config'?"),
    (&["defaults", "print-config", "init", "config-default"], "did you mean 'kielink default-config'?"),
    (&["start", "run"], "did you mean 'kielink serve'?"),
    (
        &["--outage", "--silent", "--refuse", "--answer"],
        "the sandbox changes while it runs: curl -X POST 'http://127.0.0.1:8082/sandbox?outage=30s', where it has \
         '--kie-listen 127.0.0.1:8082'",
    ),
    (&["--kie-api", "--base-url", "--url"], "did you mean '--set upstream.base_url=URL'?"),
];

/// The whole message for standard error. `arguments` is the command line, the program's name first; `settings` are the names
/// of all settings, which `--set` takes.
pub fn complaint(error: &clap::Error, arguments: &[OsString], settings: &[String]) -> String {
    let what = match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => match place(typed(error), arguments) {
            // `--set cache.ttl 15m`
            Some(at) if is_value_of_set(at, arguments) => {
                format!("--set <KEY=VALUE>: {KEY_VALUE}, in one word")
            }
            Some(at) => format!("argument {at} is no command and no flag of kielink's"),
            None => "an argument is no command and no flag of kielink's".to_owned(),
        },
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::NoEquals => {
            format!("{}: {}", flag(error), expected(error))
        }
        ErrorKind::ArgumentConflict => match prior(error) {
            Some(prior) if prior != flag(error) => format!("{}: it does not go with {prior}", flag(error)),
            Some(_) | None => format!("{}: it can be given once", flag(error)),
        },
        // Names of flags, which are our own words.
        ErrorKind::MissingRequiredArgument => format!("missing: {}", missing(error)),
        ErrorKind::TooManyValues => format!("{}: it takes no value", flag(error)),
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => format!("{}: a value is missing", flag(error)),
        ErrorKind::InvalidUtf8 => "an argument is no UTF-8".to_owned(),
        _ => "the command line cannot be understood".to_owned(),
    };
    let mut message = format!("error: {what}\n");
    let tip = other(error).map(str::to_owned);
    let tip = tip.or_else(|| setting(error, settings));
    let tip = tip.or_else(|| near(error).map(|word| format!("did you mean '{word}'?")));
    if let Some(tip) = tip {
        message.push_str(&format!("\n  tip: {tip}\n"));
    }
    if let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) {
        message.push_str(&format!("\n{usage}\n"));
    }
    message.push_str("\nFor more information, try '--help'.\n");
    message
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    }
}

/// The word that is unknown, as it was typed.
fn typed(error: &clap::Error) -> &str {
    let kind = if error.kind() == ErrorKind::InvalidSubcommand {
        ContextKind::InvalidSubcommand
    } else {
        ContextKind::InvalidArg
    };
    text(error, kind).unwrap_or_default()
}

/// Where the word stands. Of `--flag=value` only the flag is unknown.
fn place(typed: &str, arguments: &[OsString]) -> Option<usize> {
    let is_it = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        argument.strip_prefix(typed).is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || typed.len() == 2)
    };
    let found = arguments.iter().enumerate().skip(1).find(|(_, argument)| !typed.is_empty() && is_it(argument));
    found.map(|(at, _)| at)
}

/// Whether the argument at `at` stands behind `--set` and a name without a value.
fn is_value_of_set(at: usize, arguments: &[OsString]) -> bool {
    let argument = |back: usize| at.checked_sub(back).and_then(|at| arguments.get(at)).map(|it| it.to_string_lossy());
    argument(2).is_some_and(|flag| flag == "--set") && argument(1).is_some_and(|name| !name.contains('='))
}

/// Which setting a flag was meant to set that is none.
fn setting(error: &clap::Error, settings: &[String]) -> Option<String> {
    let name = typed(error).strip_prefix("--")?.replace('-', "_");
    let is_it = |setting: &&String| setting.rsplit('.').next() == Some(&name) || setting.replace('.', "_") == name;
    let meant: Vec<_> = settings.iter().filter(is_it).map(|setting| format!("'--set {setting}=VALUE'")).collect();
    (!meant.is_empty()).then(|| format!("did you mean {}?", meant.join(" or ")))
}

/// What helps whoever has typed another program's word. Known words alone are compared: nothing is repeated.
fn other(error: &clap::Error) -> Option<&'static str> {
    let is_unknown = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    let typed = typed(error);
    OTHERS.iter().find(|(words, _)| is_unknown && words.contains(&typed)).map(|(_, tip)| *tip)
}

/// The flag whose value is wrong, as the help shows it.
fn flag(error: &clap::Error) -> &str {
    text(error, ContextKind::InvalidArg).unwrap_or("an argument")
}

/// The flag that stands before, and with which the other one does not go.
fn prior(error: &clap::Error) -> Option<&str> {
    text(error, ContextKind::PriorArg)
}

/// The flags that must be there, too.
fn missing(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(flags)) => flags.join(", "),
        _ => "an argument".to_owned(),
    }
}

/// What the flag's own parser wants. Each parser says so without the value.
fn expected(error: &clap::Error) -> String {
    let is_missing = text(error, ContextKind::InvalidValue).is_none_or(str::is_empty);
    match error.source() {
        Some(why) => why.to_string(),
        None if is_missing => "a value is missing".to_owned(),
        None => "its value cannot be used".to_owned(),
    }
}

/// The known word that was most likely meant.
fn near(error: &clap::Error) -> Option<&str> {
    let typed = typed(error);
    let known = text(error, ContextKind::SuggestedSubcommand).or(text(error, ContextKind::SuggestedArg))?;
    let bare = |word: &str| word.split([' ', '=']).next().unwrap_or_default().to_owned();
    let is_near = !misplaced::may_be_a_key(typed) && strsim::levenshtein(&bare(known), &bare(typed)) <= MOST_SLIPS;
    is_near.then_some(known)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    const KEY: &str = "0123456789abcdef/0123456789+ABCDEF==";

    fn settings() -> Vec<String> {
        ["cache.ttl", "upstream.in_flight", "limits.in_flight", "sources.allow"].map(str::to_owned).into()
    }

    /// What is said of a command line, its first line and the tip.
    fn said(arguments: &[&str]) -> (String, Option<String>) {
        let arguments: Vec<OsString> = ["kielink"].iter().chain(arguments).map(Into::into).collect();
        let error = Cli::try_parse_from(&arguments).map(|_| ()).expect_err("it is wrong");
        let said = complaint(&error, &arguments, &settings());
        assert!(said.ends_with("try '--help'.\n"), "{said}");
        let tip = said.lines().find_map(|line| line.strip_prefix("  tip: ").map(str::to_owned));
        (said.lines().next().unwrap_or_default().to_owned(), tip)
    }

    #[test]
    fn what_is_wrong_is_said_by_its_place_and_what_is_wanted_there() {
        let unknown = |at: usize| format!("error: argument {at} is no command and no flag of kielink's");
        let tip = |word: &str| Some(format!("did you mean '{word}'?"));
        for (arguments, expected) in [
            (["frobnicate"].as_slice(), (unknown(1), None)),
            (&["wiat"], (unknown(1), tip("wait"))),
            (&["--listen", "127.0.0.1:0", "chek-config"], (unknown(3), tip("check-config"))),
            (&["--confg", "x"], (unknown(1), tip("--config"))),
            (&["serve", "--sett=x"], (unknown(2), tip("--set"))),
            (&["healthcheck", "now"], (unknown(2), None)),
            (&["wait", "--max", "soon"], ("error: --max <MAX>: expected a duration like \"30s\"".to_owned(), None)),
            (&["wait", "--max"], ("error: --max <MAX>: a value is missing".to_owned(), None)),
            (&["--set", "x"], ("error: --set <KEY=VALUE>: expected KEY=VALUE, e.g. cache.ttl=15m".to_owned(), None)),
            (&["--config", "a", "--config", "b"], ("error: --config <FILE>: it can be given once".to_owned(), None)),
            (
                &["sandbox", "--kie-url", "http://kie:1", "--kie-key", "k"],
                ("error: missing: --files-url <URL>".to_owned(), None),
            ),
            (
                &["sandbox", "--kie-url", "http://kie:1", "--files-url", "http://kie:2"],
                ("error: missing: <--kie-key <KEY>|--kie-key-file <FILE>>".to_owned(), None),
            ),
            (
                &["sandbox", "--quota", "1", "--kie-url", "http://kie:1"],
                ("error: --quota <QUOTA>: it does not go with --kie-url <URL>".to_owned(), None),
            ),
            (
                &["--set", "cache.ttl", "15m"],
                ("error: --set <KEY=VALUE>: expected KEY=VALUE, e.g. cache.ttl=15m, in one word".to_owned(), None),
            ),
            (
                &["sandbox", "--failure-rate", "30%"],
                (
                    "error: --failure-rate <FAILURE_RATE>: expected a share from 0 to 1, e.g. 0.3 for 30 %".to_owned(),
                    None,
                ),
            ),
            (
                &["wait", "--max", "5M"],
                ("error: --max <MAX>: M means months: minutes are m, e.g. 19m".to_owned(), None),
            ),
            (
                &["sandbox", "--quota", "many"],
                ("error: --quota <QUOTA>: expected a whole number of requests a second".to_owned(), None),
            ),
            (
                &["sandbox", "--kie-listen", "here"],
                (
                    "error: --kie-listen <ADDRESS>: expected host:port or [IPv6]:port, e.g. 127.0.0.1:8081".to_owned(),
                    None,
                ),
            ),
        ] {
            assert_eq!(said(arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn whoever_types_another_program_s_words_is_told_ours() {
        for (arguments, tip) in [
            (["--port", "8080"].as_slice(), "did you mean '--listen 127.0.0.1:8080'?"),
            (&["-p", "8080"], "did you mean '--listen 127.0.0.1:8080'?"),
            (&["-c", "kielink.toml"], "did you mean '--config FILE'?"),
            (&["-c"], "did you mean '--config FILE'?"),
            (&["serve", "--verbose"], "did you mean '--log-level debug'?"),
            (&["check"], "did you mean 'kielink check-config'?"),
            (&["--ttl", "15m"], "did you mean '--set cache.ttl=VALUE'?"),
            (&["--cache-ttl=15m"], "did you mean '--set cache.ttl=VALUE'?"),
            (
                &["serve", "--in-flight", "9"],
                "did you mean '--set upstream.in_flight=VALUE' or '--set limits.in_flight=VALUE'?",
            ),
            (&["sandbox", "--outage=30s"], "the sandbox changes while it runs: curl -X POST"),
        ] {
            let found = said(arguments).1.unwrap_or_default();
            assert!(found.starts_with(tip), "{arguments:?}: {found}");
        }
        for key in
            [["--key", KEY].as_slice(), &["--api-key=0123456789abcdef"], &["-k", KEY], &["serve", "--token", KEY]]
        {
            let tip = said(key).1.unwrap();
            assert!(tip.contains("KIE_API_KEY_FILE=FILE kielink") && !tip.contains("0123456789"), "{tip}");
        }
        // Each of our own tips is one that works.
        let known: Vec<_> = OTHERS.iter().flat_map(|(words, _)| words.iter()).collect();
        for word in known {
            assert!(said(&[word]).1.is_some(), "{word} is a word of ours");
        }
    }

    #[test]
    fn nothing_that_was_typed_is_repeated() {
        for arguments in [
            [KEY].as_slice(),
            &["help", KEY],
            &["serve", KEY],
            &["healthcheck", KEY],
            &["wait", "--max", KEY],
            &["wait", KEY],
            &["--set", KEY],
            &["--version", "--", KEY],
            &["--version=0123456789abcdef/0123456789+ABCDEF=="],
            &["--0123456789abcdef"],
            &["-k0123456789abcdef/0123456789+ABCDEF=="],
            &["--key", KEY],
            &["--key=0123456789abcdef/0123456789+ABCDEF=="],
            &["--config0123456789abcdef"],
            &["--config", KEY, "--config", KEY],
            &["sandbox", "--latency", KEY],
            &["sandbox", "--link-life", KEY],
            &["sandbox", "--failure-rate", KEY],
            &["sandbox", "--quota", "1234567890123456"],
            &["sandbox", "--quota", KEY],
            &["sandbox", "--kie-listen", KEY],
            &["sandbox", "--files-listen", KEY],
            &["sandbox", "--files-url", KEY],
            &["sandbox", "--kie-url", KEY],
            &["sandbox", "--kie-url", "http://kie:1", "--kie-key", KEY],
            &["sandbox", "--kie-key", KEY, "--kie-key-file", KEY],
        ] {
            let arguments: Vec<OsString> = ["kielink"].iter().chain(arguments).map(Into::into).collect();
            // `--set` takes this key for a setting and its value: it is refused later.
            let Err(error) = Cli::try_parse_from(&arguments) else { continue };
            let said = complaint(&error, &arguments, &settings());
            assert!(!said.contains("0123456789") && !said.contains("123456789012"), "{said}");
        }
    }
}
