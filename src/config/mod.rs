//! Settings: read in layers, checked once, handed out in parts.
//!
//! What comes out is valid by construction. All problems are found in one go, and none shows a secret.

mod files;
mod memory;
mod raw;
mod reader;

use std::{collections::HashMap, fmt, path::PathBuf, time::Duration};

pub use self::raw::DEFAULTS;
use crate::{app, key::ApiKey, server::Address, telemetry::Format};

/// What the command line and the process bring. No `Debug`: the environment may hold the key.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config` or `KIELINK_CONFIG`.
    pub file: Option<PathBuf>,
    /// The environment, handed in so that tests need not change the process's own.
    pub environment: HashMap<String, String>,
    /// `section.key` = value, from flags.
    pub flags: Vec<(String, String)>,
    /// A links policy, and mostly a key, that replace the configured ones; for the sandbox.
    pub sandbox: Option<Sandbox>,
    /// Whether this is a container, whose ports are reached only where somebody has published them.
    pub in_container: bool,
    /// Bytes of memory that the process may take, where that is limited: with little memory some defaults are smaller.
    pub memory_limit: Option<u64>,
}

/// What the sandbox puts in the place of kie.ai's key and file host.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// `None` where the key is configured as usual, so that it can be changed.
    pub key: Option<ApiKey>,
    /// `http://host:port` of the sandbox's file host.
    pub files: String,
    /// `section.key` = value, in the place of some defaults: whatever the user sets wins.
    pub defaults: Vec<(String, String)>,
}

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = if self.0.len() == 1 { "problem" } else { "problems" };
        write!(f, "{} {problems} in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

/// Only the addresses of the admin listener, at least one: what `healthcheck` and `wait` need, key or no key.
///
/// # Errors
/// All problems with reading the settings at all; a wrong setting elsewhere does not matter here.
pub fn admin_addresses(sources: &Sources) -> Result<Vec<Address>, Problems> {
    let (raw, reader) = raw::read(sources, raw::file(sources)?.as_deref())?;
    if !raw.admin_listen.is_empty() {
        return Ok(raw.admin_listen);
    }
    let mut problems = reader.problems;
    // Where `admin` is no section, that is why it has no `listen`.
    problems.retain(|problem| problem.starts_with("admin.listen") || problem.starts_with("admin:"));
    Err(Problems(problems))
}

/// The names of all settings, `section.key`, in the order of the built-in file. Those that are off by default stand there
/// behind a `#`.
pub fn setting_names() -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((name, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            names.push(format!("{section}.{name}"));
        }
    }
    names
}

/// How the log would be written, as far as the settings can be read at all: for words that come before there is a log,
/// or after.
pub fn log_format(sources: &Sources) -> Format {
    let read = |sources: &Sources| raw::read(sources, raw::file(sources).ok()?.as_deref()).ok()?.0.log_format;
    let without_file = || read(&Sources { file: None, ..sources.clone() });
    read(sources).or_else(without_file).unwrap_or(Format::Auto)
}

/// # Errors
/// All problems at once.
pub fn load(sources: &Sources) -> Result<app::Config, Problems> {
    load_text(sources, raw::file(sources)?.as_deref())
}

/// Does the same with the text of `sources.file` at hand, so that nothing need lie on a disk.
///
/// # Errors
/// All problems at once.
pub(crate) fn load_text(sources: &Sources, file: Option<&str>) -> Result<app::Config, Problems> {
    raw::load(sources, file)
}

/// Makes connections fit into the files that the process may have open. `Err` says how many files there should be,
/// where there are fewer than the settings want.
///
/// # Errors
/// Where `limits.connections` does not take full effect.
pub fn fit_into_files(config: &mut app::Config, files: u64) -> Result<(), u64> {
    let (callers, admin) = files::connections(files);
    let wanted = config.data.connections;
    config.admin.connections = config.admin.connections.min(admin);
    config.data.connections = wanted.min(callers);
    // Where the callers' connections fit, so do those of the admin interface.
    if callers >= wanted { Ok(()) } else { Err(wanted as u64 + files::OTHER_THAN_CALLERS) }
}

/// The effective settings as TOML with one comment line about the key.
pub fn render(config: &app::Config) -> String {
    let mut text = format!("# API key: fingerprint {}, from {}\n", config.key.fingerprint(), config.key_source);
    let mut section = "";
    for (key, value) in &config.effective {
        let (this, name) = key.split_once('.').unwrap_or(("", key));
        if this != section {
            text.push_str(&format!("\n[{this}]\n"));
            section = this;
        }
        text.push_str(&format!("{name} = {value}\n"));
    }
    text
}

/// kie.ai's links live 20 minutes; nothing here may add up to more.
const LINK_LIFE: Duration = crate::link::LIFE;

#[cfg(test)]
mod tests;
