//! What a link out of memory costs, beside other servers: CPU time of the server's process for each request, where a
//! client asks over 64 kept connections. A server has one worker thread and one core, the client the other core.
//!
//! All contenders take turns, round by round, and what counts is the ratio to bare hyper of the same round: a machine that
//! is busy with other things makes all of them slower alike. Not quite, as it is the caches that it takes away: of a hit
//! there is a second ratio, of the turns in which the machine did least besides.
//!
//! `cargo bench --bench side_by_side -- --help`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops where it cannot go on, and reports")]

mod client;
mod crowd;
mod hits;
mod hyper;
mod load;
mod process;
mod servers;

use std::path::PathBuf;

use clap::Parser;

use self::servers::{Kie, Machine};

/// Measures kielink beside bare hyper and nginx. Without a mode: CPU time of a hit, by endpoint.
#[derive(Debug, Parser)]
#[command(name = "side_by_side")]
struct Options {
    /// Mode: CPU time of a hit with two worker threads, divided by that with one.
    #[arg(long)]
    threads: bool,
    /// Mode: how far apart the answers to a crowd are that waits for one file.
    #[arg(long)]
    crowd: bool,
    /// Mode: time to ready, idle CPU time and memory, CPU time of a scrape of /metrics.
    #[arg(long)]
    process: bool,
    /// How often each contender is measured. By default 100 times for 40 ms; with --threads 5 times for a second, and with --crowd
    /// 5 times.
    #[arg(long)]
    rounds: Option<usize>,
    /// Kept connections that ask.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many wait for one file with --crowd.
    #[arg(long, default_value_t = 10_000)]
    callers: usize,
    /// Only contenders with this in their name; bare hyper is always there.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The kielink to measure; also KIELINK_BINARY. By default the one that cargo has built for this benchmark: as for a release, but
    /// with what tests need of tokio, which takes a lock at each look at its clock.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this program does as a child of itself.
    #[arg(long, hide = true)]
    serve: Option<hyper::Manner>,
}

impl Options {
    /// Of a mode.
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(5)
    }
}

fn main() {
    let options = Options::parse();
    if let Some(manner) = options.serve {
        hyper::serve(manner);
        return;
    }
    let machine = Machine::look(options.binary.clone());
    let kie = Kie::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // First, as its kielink may use all cores, and the others bind this process, which its children inherit.
        if options.process {
            process::measure(&machine, &kie).await;
        }
        if options.threads {
            hits::compare_threads(&options, &machine, &kie).await;
        }
        if options.crowd {
            crowd::compare(&options, &machine, &kie).await;
        }
        if !(options.threads || options.crowd || options.process) {
            hits::compare(&options, &machine, &kie).await;
        }
    });
}

/// Median, least and most of what was measured in all rounds.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
    (median, values[0], *values.last().unwrap())
}

/// What a quarter of the rounds stayed below: those in which the machine did least besides.
fn lower_quarter(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}
