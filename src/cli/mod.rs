//! The command line: what people type, as data. `main` carries it out.

pub mod probe;
pub mod usage;

use std::{convert::Infallible, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use crate::server::Address;

/// A sidecar that holds one kie.ai API key and serves signed download links from a cache.
///
/// The API key comes from the environment: KIE_API_KEY_FILE names a file that holds it, or KIE_API_KEY is the key.
///
/// Exit codes: 0 done; 1 failure; 2 usage; 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "kielink", version = env!("KIELINK_VERSION"), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that set settings; they win over the environment and the file.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Settings file (TOML; `kielink default-config` prints one) [env: KIELINK_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where callers ask: host:port or unix:/path.sock, comma-separated (server.listen) [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where probes and people ask (admin.listen) [default: 127.0.0.1:9090]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// error, warn, info, debug or trace (log.level) [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text, json or auto: text on a terminal, else json (log.format) [default: auto]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting, e.g. --set cache.ttl=15m; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve links (the default)
    Serve,
    /// Try it without a key and without a network: a simulated kie.ai inside, kielink in front
    Sandbox(Box<Sandbox>),
    /// Ask the running kielink whether it is ready: exit 0 or 1 within a second
    Healthcheck,
    /// Wait until the running kielink is ready; a signal ends it with exit code 1
    Wait {
        /// Give up after this long
        #[arg(long, default_value = "30s", value_parser = duration)]
        max: Duration,
    },
    /// Check the settings and print them as they take effect; all problems at once
    CheckConfig,
    /// Ask kie.ai once for the credits left: whether it can be reached, takes the key, and has credits; exit 0 or 1
    CheckKey,
    /// Print every setting with its default and what it means, as a file for --config
    DefaultConfig,
}

/// How the simulated kie.ai behaves. It can be changed while it runs; the sandbox prints how.
#[derive(Debug, Clone, Args)]
pub struct Sandbox {
    /// How long the simulated kie.ai takes for a link
    #[arg(long, default_value = "325ms", value_parser = duration)]
    pub latency: Duration,
    /// Share of requests that fail, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub failure_rate: f64,
    /// How long links live; below 20m, the cache settings shrink in proportion
    #[arg(long, default_value = "20m", value_parser = duration)]
    pub link_life: Duration,
    /// Requests a second that the simulated kie.ai takes before it answers 429
    #[arg(long, default_value_t = 30, value_parser = quota)]
    pub quota: u32,
    /// Where the simulated kie.ai listens
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS", value_parser = address)]
    pub kie_listen: Address,
    /// An API key that the simulated kie.ai takes, so that one more kielink can ask it (`sandbox --kie-url`); may be
    /// repeated, and kielink here has the first [default: made up anew]
    #[arg(long, value_name = "KEY", value_parser = secret, group = "key")]
    pub kie_key: Vec<SecretString>,
    /// Where the simulated file host listens
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS", value_parser = address)]
    pub files_listen: Address,
    /// The file host's address as callers reach it, e.g. http://sidecar:8081 [default: where it listens]
    #[arg(long, value_name = "URL", value_parser = url)]
    pub files_url: Option<url::Url>,
    /// No simulated kie.ai here, but one more kielink in front of another sandbox's: its address, with that sandbox's
    /// --files-url and a key that it takes
    #[arg(
        long,
        value_name = "URL",
        value_parser = url,
        requires_all = ["files_url", "key"],
        conflicts_with_all = ["latency", "failure_rate", "quota", "kie_listen", "files_listen"]
    )]
    pub kie_url: Option<url::Url>,
    /// With --kie-url: a file that holds the key, looked at as KIE_API_KEY_FILE is, so that the key can be changed
    #[arg(long, value_name = "FILE", requires = "kie_url", group = "key")]
    pub kie_key_file: Option<String>,
}

impl Settings {
    /// The flags as settings.
    pub fn flags(&self) -> Vec<(String, String)> {
        let named = [
            ("server.listen", &self.listen),
            ("admin.listen", &self.admin_listen),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        named.chain(self.set.iter().cloned()).collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(usage::KEY_VALUE.to_owned()),
    }
}

// Parsers of our own: the libraries' parsers quote what they reject.

fn duration(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        // To the library it is a month, which nobody means here.
        Ok(_) if text.contains('M') => Err("M means months: minutes are m, e.g. 19m"),
        parsed => parsed.map_err(|_| "expected a duration like \"30s\""),
    }
}

fn share(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a share from 0 to 1, e.g. 0.3 for 30 %")
}

fn quota(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number of requests a second")
}

/// As `--listen` takes it, but for Unix sockets: kielink asks the simulation over TCP.
fn address(text: &str) -> Result<Address, &'static str> {
    match text.parse() {
        Ok(address @ Address::Tcp { .. }) => Ok(address),
        Ok(Address::Unix(_)) | Err(_) => Err("expected host:port or [IPv6]:port, e.g. 127.0.0.1:8081"),
    }
}

fn url(text: &str) -> Result<url::Url, &'static str> {
    text.parse().map_err(|_| "expected a URL, e.g. http://sidecar:8081")
}

/// Takes everything: clap would repeat a value that is refused here. Whether it is a key is checked where nothing
/// repeats it.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
fn secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_coherent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_wherever_they_stand() {
        let cli = Cli::parse_from(["kielink", "--listen", "127.0.0.1:1", "serve", "--set", "cache.ttl=15m"]);
        assert_eq!(
            cli.settings.flags(),
            [("server.listen".into(), "127.0.0.1:1".into()), ("cache.ttl".into(), "15m".into())]
        );
        assert!(Cli::try_parse_from(["kielink", "--set", "nonsense"]).is_err());
    }

    #[test]
    fn the_sandbox_listens_where_kielink_does() {
        for text in ["127.0.0.1:8081", "localhost:0", "[::1]:8081", "0.0.0.0:0"] {
            assert_eq!(address(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["8081", "here", "unix:/tmp/k.sock", "127.0.0.1"] {
            assert!(address(text).unwrap_err().ends_with("e.g. 127.0.0.1:8081"), "{text}");
        }
    }

    #[test]
    fn m_is_a_minute_and_a_month_is_refused() {
        assert_eq!(duration("19m"), Ok(Duration::from_secs(19 * 60)));
        for text in ["19M", "1M 2s", "1month"] {
            assert_eq!(duration(text).is_err(), text.contains('M'), "{text}");
        }
    }
}
