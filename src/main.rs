//! The process: command line, logs, settings, listeners, signals, exit code.

mod cgroup;
mod systemd;

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, Parser, error::ErrorKind};
use kielink::{
    app::{self, Ended, Listeners},
    cli::{Cli, Command, Settings, probe, usage},
    clock::Clock,
    config::{self, Config, Sources},
    key::Reload,
    sandbox,
    server::Inherited,
    telemetry::{Failures, Log, Telemetry, trace::Tracer},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// What shells and clap use.
const BAD_USAGE: u8 = 2;

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = write!(io::stderr(), "{}", usage::complaint(&error, &arguments));
            return ExitCode::from(BAD_USAGE);
        }
        // Help and version.
        Err(asked) => return asked.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            say_last(format!("kielink: {error:#}\n"));
            match error.downcast_ref::<config::Problems>() {
                Some(_) => ExitCode::from(BAD_CONFIGURATION),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let sources = sources(&cli.settings);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => {
            let config = Config::load(&sources)?;
            let (failures, log) = start_logs(&config)?;
            raise_file_limit(&config);
            let names = sources.environment.get("LISTEN_FDNAMES").map(String::as_str);
            let inherited = Inherited::take_all(names).context("cannot use the sockets that were handed over")?;
            let listeners = Listeners::bind(&config.app, inherited)?;
            let runtime = runtime()?;
            let tracer = tracer(&runtime, &sources.environment);
            let telemetry = Telemetry { failures, tracer, dropped_lines: log.dropped_lines() };
            let is_supervised = sources.environment.contains_key("NOTIFY_SOCKET");
            let ended = runtime.block_on(until_ended(app::serve, listeners, config, telemetry, is_supervised));
            // Tasks are dropped, and with them socket files; a thread that reads a key file on a dead mount is not waited for.
            runtime.shutdown_timeout(Duration::from_millis(500));
            ended
        }
        Command::Sandbox(flags) => {
            let runtime = runtime()?;
            let environment = sources.environment.clone();
            let sandbox = match sandbox::Sandbox::bind(&flags, sources, &Clock::system()) {
                Ok(sandbox) => sandbox,
                Err(error @ (sandbox::Error::Behaviour(_) | sandbox::Error::Key(_))) => {
                    Cli::command().error(ErrorKind::ValueValidation, error).exit()
                }
                // As itself, so that `main` finds it and the exit code is the configuration's.
                Err(sandbox::Error::Problems(problems)) => return Err(problems.into()),
                Err(error @ sandbox::Error::Listen(_)) => {
                    let hint = "other addresses can be given with --kie-listen and --files-listen";
                    return Err(error).context(hint);
                }
            };
            let (failures, log) = start_logs(&sandbox.config)?;
            let listeners = Listeners::bind(&sandbox.config.app, Vec::new())
                .context("another address can be given with --listen and --admin-listen")?;
            // The commands to try are what the sandbox is for: they go to standard output.
            say(&format!("{}\n", sandbox.welcome(&listeners)))?;
            let config = sandbox.config.clone();
            let tracer = tracer(&runtime, &environment);
            let telemetry = Telemetry { failures, tracer, dropped_lines: log.dropped_lines() };
            runtime.block_on(async {
                let _simulation = sandbox.start()?;
                until_ended(app::serve, listeners, config, telemetry, false).await
            })
        }
        Command::Healthcheck => {
            let addresses = config::admin_addresses(&sources)?;
            runtime()?.block_on(probe::ready(&addresses[0], Duration::from_millis(900)))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Wait { max } => {
            let addresses = config::admin_addresses(&sources)?;
            let waited = runtime()?.block_on(probe::wait(&addresses[0], max));
            waited.with_context(|| format!("not ready within {}", humantime::format_duration(max)))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::CheckConfig => {
            let config = Config::load(&sources)?;
            say(&config.render())?;
            for warning in &config.warnings {
                let _ = writeln!(io::stderr(), "warning: {warning}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints what was asked for. Unlike `print!` it does not panic at a full disk or a closed pipe.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    said.context("cannot write to standard output")
}

/// Why it ends, on standard error; where nobody takes that, it ends all the same, with its exit code: `eprintln!` would panic at a
/// closed pipe, and wait for ever at one that is full.
fn say_last(text: String) {
    let (said, heard) = std::sync::mpsc::channel();
    let speaker = std::thread::Builder::new().spawn(move || {
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = heard.recv_timeout(LAST_WORD);
    }
}

/// Long enough for whoever reads at all.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves until the first SIGTERM or SIGINT has been carried out; a second one ends it at once.
async fn until_ended<F, S>(
    serve: F,
    listeners: Listeners,
    config: Config,
    telemetry: Telemetry,
    is_supervised: bool,
) -> anyhow::Result<ExitCode>
where
    F: FnOnce(Listeners, Config, Telemetry, Clock, Reload, Stop) -> S,
    S: Future<Output = Result<Ended, app::Error>>,
{
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Its default would end the process, and operators send it to have files read again.
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = Reload::default();
    let on_hangup = reload.clone();
    let signals = async move {
        let mut stop = Some(stop);
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    on_hangup.request();
                    continue;
                }
            };
            match stop.take() {
                Some(stop) => {
                    tracing::info!(signal = name, "stopping");
                    systemd::stopping();
                    let _ = stop.send(());
                }
                None => return name,
            }
        }
    };
    let stopped: Stop = Box::pin(async move {
        // An error means that the sender is gone, and with it everything that could ask us to go on.
        let _ = stopped.await;
    });
    let admin = listeners.admin_addresses().remove(0);
    tokio::select! {
        never = systemd::report(admin, is_supervised) => match never {},
        ended = serve(listeners, config, telemetry, Clock::system(), reload, stopped) => match ended? {
            Ended::Drained => Ok(ExitCode::SUCCESS),
            // What it was told to do, and within the time it was given.
            Ended::CutShort => Ok(ExitCode::SUCCESS),
        },
        name = signals => {
            tracing::warn!(signal = name, "a second signal: ending at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn sources(settings: &Settings) -> Sources {
    // `vars()` panics at a variable that is not UTF-8, whoever's it is. A setting or key that is none stays one that
    // is refused: no replacement character is valid in any.
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            let text = |text: OsString| text.to_string_lossy().into_owned();
            (text(name), text(value))
        })
        .collect::<HashMap<_, _>>();
    let file = settings.config.clone().or_else(|| environment.get("KIELINK_CONFIG").map(Into::into));
    Sources { file, environment, flags: settings.flags(), sandbox: None, memory_limit: cgroup::memory_limit() }
}

/// Logs of every thread of this process, until the end of what it returns; what fails is counted there.
fn start_logs(config: &Config) -> anyhow::Result<(Failures, Log)> {
    let failures = Failures::default();
    let (dispatch, log) = config.log.queued(io::stderr, &failures).context("cannot start logging")?;
    tracing::dispatcher::set_global_default(dispatch).context("cannot start logging")?;
    // SECURITY: the usual hook prints a panic's payload, which may hold anything.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(at = panic.location().map(tracing::field::display), "a part of kielink panicked");
    }));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        key_fingerprint = config.key.fingerprint(),
        key_source = %config.key_source,
        base_url = %config.upstream.wire.base_url,
        "kielink starts",
    );
    for (setting, value) in &config.fitted {
        tracing::info!(setting, value, "the default is smaller than usual, as memory is limited");
    }
    for warning in &config.warnings {
        tracing::warn!(warning, "risky configuration");
    }
    Ok((failures, log))
}

/// Every connection is an open file: takes what the system grants, and says so where that is too little.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let wanted = config.app.connections as u64 + OTHER_FILES;
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < wanted
    {
        tracing::warn!(
            files,
            wanted,
            "limits.connections is beyond the limit on open files: raise it (ulimit -n), or a flood of connections will \
             keep probes out, too",
        );
    }
}

/// The admin interface, connections to kie.ai, and what every process has open.
const OTHER_FILES: u64 = 400;

/// Traces go where the environment says. Its variables are often set for a whole cluster: where they ask for something that
/// cannot be had there are none, and links all the same.
fn tracer(runtime: &Runtime, environment: &HashMap<String, String>) -> Tracer {
    let _inside = runtime.enter();
    Tracer::from_environment(environment).unwrap_or_else(|error| {
        tracing::error!(%error, "there will be no traces");
        Tracer::default()
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}
