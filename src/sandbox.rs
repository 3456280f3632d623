//! `kielink sandbox` puts the simulated kie.ai behind a real kielink: listeners, settings, and the commands to try. With
//! `--kie-url` it is one more kielink in front of another sandbox's simulated kie.ai, as in a fleet.

use std::{fmt::Write as _, io, net::TcpListener, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use crate::{
    app::{self, Listeners},
    cli,
    clock::Clock,
    config::{self, Problems, Sources},
    key::{self, ApiKey},
    kie_sim::{self, DOWNLOAD_URL, Host, Sample, World},
    link,
    server::{Address, Bound as Socket},
    web::query::encoded,
};

/// A sandbox with its addresses taken, not yet serving.
pub struct Sandbox {
    /// kielink's own settings, turned towards the simulation.
    pub config: app::Config,
    /// Where the simulated kie.ai is.
    kie: Url,
    /// `None` where the simulation is another sandbox's.
    inside: Option<Inside>,
}

/// The simulation of this sandbox.
struct Inside {
    world: Arc<World>,
    kie: Bound,
    files: Bound,
    /// What one more kielink needs besides a key, where this one's keys are known.
    for_others: Option<String>,
}

/// An address that is taken, and the URL under which callers reach it.
struct Bound {
    listener: TcpListener,
    url: Url,
}

/// The simulation under way; it ends when this is dropped.
pub struct Simulation {
    drain: CancellationToken,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] io::Error),
    #[error(transparent)]
    Behaviour(#[from] kie_sim::Error),
    #[error("--kie-key: {0}")]
    Key(#[from] key::Invalid),
    #[error(transparent)]
    Problems(#[from] Problems),
}

impl Sandbox {
    /// Takes the simulation's addresses and works out kielink's settings for it. Settings that the user gave win.
    ///
    /// # Errors
    /// When an address is taken, a flag makes no sense, or the user's settings are wrong.
    pub fn bind(flags: &cli::Sandbox, sources: Sources, clock: &Clock) -> Result<Sandbox, Error> {
        let secrets = match flags.kie_key.as_slice() {
            // This run has a key of its own, so that the simulation can tell it from all others.
            [] if flags.kie_key_file.is_none() => {
                vec![SecretString::from(format!("sandbox-{:032x}", fastrand::u128(..)))]
            }
            given => given.to_vec(),
        };
        let keys = secrets.iter().map(|secret| ApiKey::new(secret.expose_secret())).collect::<Result<Vec<_>, _>>()?;
        let (kie, files, inside) = match (&flags.kie_url, &flags.files_url) {
            // SECURITY: another scheme's origin is "null", and so is that of any link which is no address.
            (Some(_), Some(files)) if !matches!(files.scheme(), "http" | "https") => {
                return Err(kie_sim::Error::Files.into());
            }
            (Some(kie), Some(files)) => (kie.clone(), files.clone(), None),
            (_, files) => {
                let inside = Inside::bind(flags, secrets, clock)?;
                (inside.kie.url.clone(), files.as_ref().unwrap_or(&inside.files.url).clone(), Some(inside))
            }
        };
        let sandbox = config::Sandbox {
            key: keys.into_iter().next(),
            files: files.origin().ascii_serialization(),
            defaults: short_lives(flags.link_life),
        };
        // These win over the file and the environment, which may be meant for a kielink that uses the real kie.ai.
        let mut flags_first = vec![
            ("upstream.base_url".to_owned(), kie.to_string()),
            ("upstream.allow_plain_http".to_owned(), "true".to_owned()),
        ];
        flags_first.extend(flags.kie_key_file.clone().map(|path| ("upstream.api_key_file".to_owned(), path)));
        // SECURITY: a key that is there for the real kie.ai goes to no simulation.
        let mut environment = sources.environment;
        environment.retain(|name, _| !matches!(name.as_str(), "KIE_API_KEY" | "KIE_API_KEY_FILE"));
        let own = Sources { flags: flags_first.clone(), sandbox: Some(sandbox.clone()), ..Sources::default() };
        flags_first.extend(sources.flags);
        let mut config = config::load(&Sources { flags: flags_first, sandbox: Some(sandbox), environment, ..sources })?;
        // What is risky about settings that nobody wrote is nobody's to mend. (Where only the user's settings make a
        // whole of them, all warnings stay.)
        let own = config::load(&own).map(|config| config.warnings).unwrap_or_default();
        config.warnings.retain(|warning| !own.contains(warning));
        Ok(Sandbox { config, kie, inside })
    }

    /// Must be called on a runtime. The simulation serves until the returned value is dropped.
    ///
    /// # Errors
    /// When a listener cannot be used.
    pub fn start(self) -> io::Result<Simulation> {
        let drain = CancellationToken::new();
        let tasks = TaskTracker::new();
        if let Some(Inside { world, kie, files, for_others: _ }) = self.inside {
            for (bound, host) in [(kie, Host::Kie), (files, Host::Files)] {
                let listener = tokio::net::TcpListener::from_std(bound.listener)?;
                tasks.spawn(kie_sim::serve(listener, Arc::clone(&world), host, drain.clone()));
            }
        }
        Ok(Simulation { drain })
    }

    /// What to type next.
    pub fn welcome(&self, listeners: &Listeners) -> String {
        let (to_data, data) = way(&listeners.addresses().data);
        let (to_admin, admin) = way(&listeners.addresses().admin);
        let kie = bare(&self.kie);
        let samples = World::sources();
        let first = samples[0].source_url;
        let mut text = String::new();
        let mut say = |line: &str| writeln!(text, "{line}").expect("a String takes everything");
        match self.inside {
            Some(_) => {
                say("kielink sandbox: a simulated kie.ai and its file host, kielink in front. No key, no network.\n");
            }
            None => say(&format!("kielink sandbox: one more kielink in front of the simulated kie.ai at {kie}\n")),
        }
        say("Files that the simulated kie.ai generated:");
        for Sample { source_url, about, .. } in &samples {
            say(&format!("  {source_url}  ({about})"));
        }
        say("\nDownload one through a redirect to its signed link:");
        say(&format!("  curl{to_data} -sSfL '{data}/v1/redirect?url={}' -o {}", encoded(first), file_name(first)));
        say("\nA link, as JSON, with the headers that tell where it came from:");
        say(&format!("  curl{to_data} -i '{data}/v1/link?url={}'", encoded(first)));
        say("\nkie.ai's own contract: an existing client changes its base URL and drops its key:");
        say(&format!("  curl{to_data} -i {data}{} -d '{{\"url\":\"{first}\"}}'", DOWNLOAD_URL));
        if to_data.is_empty() {
            say(&format!("\nThe whole interface, as a page for a browser: {data}/docs"));
        }
        say("\nIs it ready?");
        say(&format!("  curl{to_admin} '{admin}/readyz?verbose'"));
        say("\nTake the simulated kie.ai down for 30 s, make it slow, let it fail, limit it; see what it has seen:");
        say(&format!("  curl -X POST '{kie}/sandbox?outage=30s'"));
        say(&format!("  curl -X POST '{kie}/sandbox?latency=2s&failure_rate=0.5&quota=2'"));
        say(&format!("  curl {kie}/sandbox"));
        if let Some(flags) = self.inside.as_ref().and_then(|inside| inside.for_others.as_ref()) {
            say("\nOne more kielink before the same kie.ai (KEY is one of this one's):");
            say(&format!(
                "  kielink sandbox {flags} --kie-key KEY --listen 127.0.0.1:8180 --admin-listen 127.0.0.1:9190"
            ));
        }
        say("\nCtrl-C ends it.");
        text
    }
}

impl Inside {
    fn bind(flags: &cli::Sandbox, keys: Vec<SecretString>, clock: &Clock) -> Result<Inside, Error> {
        let (kie, files) = (bind(&flags.kie_listen, "--kie-listen")?, bind(&flags.files_listen, "--files-listen")?);
        let behaviour = kie_sim::Config {
            latency: flags.latency,
            failure_rate: flags.failure_rate,
            link_life: flags.link_life,
            quota: flags.quota,
            ..kie_sim::Config::GOOD_DAY
        };
        let files_url = flags.files_url.as_ref().unwrap_or(&files.url).clone();
        let for_others = format!("--kie-url {} --files-url {}", bare(&kie.url), bare(&files_url));
        let for_others = (!flags.kie_key.is_empty()).then_some(for_others);
        let world = World::new(behaviour, None, files_url, clock.clone(), fastrand::u64(..))?;
        world.script(|script| script.keys = Some(keys));
        Ok(Inside { world, kie, files, for_others })
    }
}

/// Without a slash at the end.
fn bare(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

/// Cache settings for links that live shorter than kie.ai's, in the proportions of the defaults.
fn short_lives(link_life: Duration) -> Vec<(String, String)> {
    if link_life >= link::LIFE {
        return Vec::new();
    }
    let part = |key: &str, twentieths: u32| {
        let duration =
            Duration::from_millis(u64::try_from((link_life * twentieths / 20).as_millis()).unwrap_or(u64::MAX));
        (key.to_owned(), humantime::format_duration(duration).to_string())
    };
    vec![part("cache.ttl", 19), part("cache.refresh_after", 12), part("cache.margin", 1)]
}

fn bind(address: &Address, flag: &str) -> io::Result<Bound> {
    let socket = Socket::bind(address, flag)?;
    let url = Url::parse(&format!("http://{}", socket.address().local())).expect("a bound TCP address makes a URL");
    match socket {
        Socket::Tcp(listener) => Ok(Bound { listener, url }),
        Socket::Unix(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "the simulation is asked over TCP alone")),
    }
}

/// How curl reaches kielink: an option, if it needs one, and the base URL.
fn way(addresses: &[Address]) -> (String, String) {
    let tcp = addresses.iter().find(|address| matches!(address, Address::Tcp { .. }));
    match tcp.or(addresses.first()) {
        Some(Address::Unix(path)) => (format!(" --unix-socket '{}'", path.display()), "http://localhost".to_owned()),
        Some(address @ Address::Tcp { .. }) => (String::new(), format!("http://{}", address.local())),
        None => (String::new(), String::new()),
    }
}

fn file_name(source: &str) -> &str {
    source.rsplit('/').next().unwrap_or("file")
}
