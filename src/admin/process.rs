//! `process_*`: what every Prometheus client says of its process, by their usual names and thus without our prefix.

use std::{fmt, sync::OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Read from `/proc` whenever somebody looks.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// As it was found first: it is worked out from the boot's time, which moves with every correction of the clock, and a
    /// start that moves looks like a restart.
    start_seconds: OnceLock<f64>,
}

struct Figures {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_seconds: f64,
    open_fds: f64,
    /// `None` where there is no limit.
    max_fds: Option<f64>,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Where there is no `/proc`, or another one, nothing is said.
        let Some(figures) = figures() else { return Ok(()) };
        let start_seconds = *self.start_seconds.get_or_init(|| figures.start_seconds);
        let cpu = encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time, of user and system",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(figures.cpu_seconds).encode(cpu)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", Some(figures.resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory", Some(figures.virtual_bytes)),
            ("process_start_time_seconds", "Start, in seconds since the Unix epoch", Some(start_seconds)),
            ("process_open_fds", "Open files, connections among them", Some(figures.open_fds)),
            ("process_max_fds", "The limit on open files", figures.max_fds),
        ] {
            if let Some(value) = value {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn figures() -> Option<Figures> {
    use procfs::process::{LimitValue, Process};
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second() as f64;
    let max_fds = match process.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit as f64),
        LimitValue::Unlimited => None,
    };
    Some(Figures {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: (stat.rss * procfs::page_size()) as f64,
        virtual_bytes: stat.vsize as f64,
        start_seconds: procfs::boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks,
        open_fds: process.fd_count().ok()? as f64,
        max_fds,
    })
}

#[cfg(not(target_os = "linux"))]
fn figures() -> Option<Figures> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_this_process_s() {
        let figures = figures().expect("there is a /proc");
        assert!(figures.resident_bytes > 1e6 && figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.open_fds >= 3.0 && figures.max_fds.is_none_or(|max| max >= figures.open_fds));
        assert!(figures.start_seconds > 1.6e9, "{}", figures.start_seconds);
        assert!(figures.cpu_seconds >= 0.0);
    }
}
