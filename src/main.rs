//! The process: command line, logs, settings, listeners, signals, exit code.

mod cgroup;
mod signals;
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
    app::{self, App, Ended, Listeners},
    cli::{self, Cli, Command, Settings, probe, usage},
    clock::Clock,
    config::{self, Sources},
    sandbox,
    server::Inherited,
    telemetry::{self, Log, Telemetry, trace::Tracer},
    upstream,
};
use tokio::{runtime::Runtime, sync::oneshot, time::Instant};

use self::signals::Signals;

/// What shells and clap use.
const BAD_USAGE: u8 = 2;

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    // Before anything else: a user who has just started kielink may have second thoughts.
    let signals = Signals::listen().context("cannot listen to signals");
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = write!(io::stderr(), "{}", usage::complaint(&error, &arguments, &config::setting_names()));
            return ExitCode::from(BAD_USAGE);
        }
        // Help and version.
        Err(asked) => return asked.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
    };
    let settings = cli.settings.clone();
    // The other commands speak to whoever has typed them.
    let is_service = matches!(cli.command, None | Some(Command::Serve | Command::Sandbox(_)));
    match signals.and_then(|signals| run(cli, signals)) {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            say_last(move || if is_service { log_last(&settings, &text) } else { write_last(&text) });
            let is_configuration = error.is::<config::Problems>() || error.is::<upstream::SetupError>();
            if is_configuration { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli, mut signals: Signals) -> anyhow::Result<ExitCode> {
    let sources = sources(&cli.settings);
    let command = cli.command.unwrap_or(Command::Serve);
    let names = sources.environment.get("LISTEN_FDNAMES").map(String::as_str);
    let inherited = match command {
        // Only while the process has one thread.
        Command::Serve => Inherited::take_all(names),
        Command::Sandbox(_)
        | Command::Healthcheck
        | Command::Wait { .. }
        | Command::CheckConfig
        | Command::CheckKey
        | Command::DefaultConfig => Ok(Vec::new()),
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let done = match command {
            Command::Serve => return serve(sources, inherited, signals).await,
            Command::Sandbox(flags) => return sandbox(*flags, sources, signals).await,
            Command::Healthcheck => signals.unless_stopped(healthcheck(sources)).await,
            Command::Wait { max } => signals.unless_stopped(wait(sources, max)).await,
            Command::CheckConfig => signals.unless_stopped(check_config(sources)).await,
            Command::CheckKey => signals.unless_stopped(check_key(sources)).await,
            Command::DefaultConfig => Ok(say(config::DEFAULTS)),
        };
        done.unwrap_or_else(|signal| Err(anyhow::anyhow!("ended by {signal}"))).map(|()| ExitCode::SUCCESS)
    });
    // Tasks are dropped, and with them socket files; a thread that reads a file on a dead mount is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn serve(sources: Sources, inherited: io::Result<Vec<Inherited>>, signals: Signals) -> anyhow::Result<ExitCode> {
    let is_supervised = sources.environment.contains_key("NOTIFY_SOCKET");
    let environment = sources.environment.clone();
    let start = move || {
        let mut config = config::load(&sources)?;
        let (telemetry, log) = start_logs(&config, &sources.environment)?;
        raise_file_limit(&mut config);
        let inherited = inherited.context("cannot use the sockets that were handed over")?;
        let listeners = Listeners::bind(&config, inherited)?;
        Ok((config, telemetry, log, listeners))
    };
    let mut signals = signals;
    let (config, telemetry, _log, listeners) = match signals.unless_stopped(aside(start)).await {
        Ok(started) => started?,
        Err(signal) => return Ok(stopped_early(signal)),
    };
    let telemetry = Telemetry { tracer: tracer(&environment), ..telemetry };
    let app = app::build(config, listeners, telemetry, Clock::system())?;
    until_ended(app, is_supervised, signals).await
}

async fn sandbox(flags: cli::Sandbox, sources: Sources, signals: Signals) -> anyhow::Result<ExitCode> {
    let environment = sources.environment.clone();
    let known = environment.clone();
    let start = move || {
        let mut sandbox = match sandbox::Sandbox::bind(&flags, sources, &Clock::system()) {
            Ok(sandbox) => sandbox,
            Err(error @ (sandbox::Error::Behaviour(_) | sandbox::Error::Key(_))) => {
                Cli::command().error(ErrorKind::ValueValidation, error).exit()
            }
            // Returned as itself, so that `main` finds it and the exit code is the configuration's.
            Err(sandbox::Error::Problems(problems)) => return Err(problems.into()),
            Err(error @ sandbox::Error::Listen(_)) => return Err(error.into()),
        };
        let (telemetry, log) = start_logs(&sandbox.config, &known)?;
        raise_file_limit(&mut sandbox.config);
        let listeners = Listeners::bind(&sandbox.config, Vec::new())?;
        // The commands to try are what the sandbox is for: they go to standard output.
        say(&format!("{}\n", sandbox.welcome(&listeners)))?;
        Ok((sandbox, telemetry, log, listeners))
    };
    let mut signals = signals;
    let (sandbox, telemetry, _log, listeners) = match signals.unless_stopped(aside(start)).await {
        Ok(started) => started?,
        Err(signal) => return Ok(stopped_early(signal)),
    };
    let config = sandbox.config.clone();
    let telemetry = Telemetry { tracer: tracer(&environment), ..telemetry };
    let _simulation = sandbox.start()?;
    let app = app::build(config, listeners, telemetry, Clock::system())?;
    until_ended(app, false, signals).await
}

async fn healthcheck(sources: Sources) -> anyhow::Result<()> {
    let addresses = aside(move || Ok(config::admin_addresses(&sources)?)).await?;
    Ok(probe::ready(&addresses[0], Duration::from_millis(900)).await?)
}

async fn wait(sources: Sources, max: Duration) -> anyhow::Result<()> {
    let addresses = aside(move || Ok(config::admin_addresses(&sources)?)).await?;
    let waited = probe::wait(&addresses[0], max).await;
    waited.with_context(|| format!("not ready within {}", humantime::format_duration(max)))
}

async fn check_config(sources: Sources) -> anyhow::Result<()> {
    let config = aside(move || Ok(config::load(&sources)?)).await?;
    say(&config::render(&config))?;
    for warning in &config.warnings {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    if config.upstream.wire.base_url.scheme() != "http" {
        aside(|| Ok(upstream::check_roots()?)).await?;
    }
    Ok(())
}

async fn check_key(sources: Sources) -> anyhow::Result<()> {
    let config = aside(move || Ok(config::load(&sources)?)).await?;
    say(&format!("{}\n", app::check_key(config, Clock::system()).await?))
}

/// Does what may block (files, names) where it holds up no signal.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a part of the start panicked")?
}

/// Nothing was accepted yet, so that nothing is left to do.
fn stopped_early(signal: &'static str) -> ExitCode {
    tracing::info!(signal, "stopped before it was ready");
    ExitCode::SUCCESS
}

/// Prints what was asked for. Unlike `print!` it does not panic at a full disk or a closed pipe.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    let said = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    said.context("cannot write to standard output")
}

/// Says on standard error why the process ends. Where nobody takes that, the process ends all the same, with its exit
/// code: `eprintln!` would panic at a closed pipe, and wait for ever at a full one.
fn say_last(words: impl FnOnce() + Send + 'static) {
    let (said, heard) = std::sync::mpsc::channel();
    let speaker = std::thread::Builder::new().spawn(move || {
        words();
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = heard.recv_timeout(LAST_WORD);
    }
}

fn write_last(text: &str) {
    let said = format!("kielink: {text}\n");
    let said = if systemd::logs_to_journal(&environment()) { systemd::as_errors(&said) } else { said };
    let _ = io::stderr().write_all(said.as_bytes());
}

/// As a line of the log, where that is JSON: what collects the log reads nothing else.
fn log_last(settings: &Settings, text: &str) {
    let priorities = systemd::logs_to_journal(&environment());
    let format = config::log_format(&sources(settings));
    let config = telemetry::Config { format, level: telemetry::Level::ERROR, priorities };
    if config.is_text() {
        return write_last(text);
    }
    let dispatch = config.dispatch(io::stderr, &Telemetry::default());
    tracing::dispatcher::with_default(&dispatch, || tracing::error!(error = text, "kielink cannot go on"));
}

/// Long enough for any reader that reads at all.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves until the first SIGTERM or SIGINT has been carried out; a second one ends it at once.
async fn until_ended(app: App, is_supervised: bool, mut signals: Signals) -> anyhow::Result<ExitCode> {
    let (stop, stopped) = oneshot::channel();
    let reload = signals.reload();
    let second = async move {
        let signal = signals.stop().await;
        tracing::info!(signal, "stopping");
        systemd::stopping();
        let _ = stop.send(());
        signals.second_stop(Instant::now()).await
    };
    let stopped = async move {
        // An error means that the sender is gone, and with it everything that could ask us to go on.
        let _ = stopped.await;
    };
    let admin = app.addresses.admin[0].clone();
    let headline = app.headline();
    tokio::select! {
        never = systemd::report(admin, is_supervised, headline) => match never {},
        ended = app.run(reload, stopped) => match ended? {
            Ended::Drained => Ok(ExitCode::SUCCESS),
            // It did what it was told to do, within the time it was given.
            Ended::CutShort => Ok(ExitCode::SUCCESS),
        },
        signal = second => {
            tracing::warn!(signal, "a second signal: ending at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment() -> HashMap<String, String> {
    // `vars()` panics at any variable that is not UTF-8, even at one that is not ours. A setting or key that is not
    // UTF-8 is still refused: a replacement character is valid in none of them.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

fn sources(settings: &Settings) -> Sources {
    let environment = environment();
    let file = settings.config.clone().or_else(|| environment.get("KIELINK_CONFIG").map(Into::into));
    // `container` is what systemd and podman set, and our image (systemd's "Container Interface").
    let in_container = std::process::id() == 1 || environment.contains_key("container");
    let memory_limit = cgroup::memory_limit();
    Sources { file, environment, flags: settings.flags(), sandbox: None, in_container, memory_limit }
}

/// Starts the logs of every thread of this process, which end with the returned `Log`; what fails is counted in
/// `Telemetry`.
fn start_logs(config: &app::Config, environment: &HashMap<String, String>) -> anyhow::Result<(Telemetry, Log)> {
    let telemetry = Telemetry::default();
    let log = telemetry::Config { priorities: systemd::logs_to_journal(environment), ..config.log };
    let (dispatch, log) = log.queued(io::stderr, &telemetry).context("cannot start logging")?;
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
    Ok((Telemetry { dropped_lines: log.dropped_lines(), ..telemetry }, log))
}

/// Every connection is an open file: takes as many files as the system grants. Where those are too few, fewer
/// connections are allowed.
fn raise_file_limit(config: &mut app::Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Some(files) = getrlimit(Resource::Nofile).current
        && let Err(wanted) = config::fit_into_files(config, files)
    {
        tracing::warn!(
            files,
            wanted,
            connections = config.data.connections,
            "limits.connections is beyond the limit on open files: raise it (ulimit -n), or fewer connections are taken"
        );
    }
}

/// Traces go where the environment says. Its variables are often set for a whole cluster: where they ask for something
/// that cannot be had, there are no traces, and links all the same. To be called on the runtime.
fn tracer(environment: &HashMap<String, String>) -> Tracer {
    Tracer::from_environment(environment).unwrap_or_else(|error| {
        tracing::error!(%error, "there will be no traces");
        Tracer::default()
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}
