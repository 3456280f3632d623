//! `process_*`: what every Prometheus client says of its process. The names are the usual ones, and so without our
//! prefix.

use std::{fmt, sync::OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// The name of this machine, or of its container.
pub(super) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "an unnamed host".to_owned() } else { name.to_owned() }
}

/// Read from `/proc` whenever somebody looks.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// The start as it was found first. It is worked out from the boot's time, which moves with every correction of the
    /// clock, and a start that moves looks like a restart.
    start_seconds: OnceLock<f64>,
}

/// Each figure is read for itself: without a free file descriptor some cannot be read, and the others matter most just
/// then.
#[derive(Debug, Default)]
struct Figures {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    start_seconds: Option<f64>,
    open_fds: Option<f64>,
    /// `None` also where there is no limit.
    max_fds: Option<f64>,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without `/proc`, or with one of another kind, nothing is said.
        let figures = figures();
        if let Some(start) = figures.start_seconds {
            let _ = self.start_seconds.set(start);
        }
        if let Some(seconds) = figures.cpu_seconds {
            let help = "Processor time, of user and system";
            let cpu = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(cpu)?;
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", figures.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", figures.virtual_bytes),
            ("process_start_time_seconds", "Start, in seconds since the Unix epoch", self.start_seconds.get().copied()),
            ("process_open_fds", "Open files, connections among them", figures.open_fds),
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
fn figures() -> Figures {
    use procfs::process::{LimitValue, Process};
    let Ok(process) = Process::myself() else { return Figures::default() };
    let ticks = procfs::ticks_per_second() as f64;
    let stat = process.stat().ok();
    let stat = stat.as_ref();
    let max_fds = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit as f64),
        LimitValue::Unlimited => None,
    });
    Figures {
        cpu_seconds: stat.map(|stat| (stat.utime + stat.stime) as f64 / ticks),
        resident_bytes: stat.map(|stat| (stat.rss * procfs::page_size()) as f64),
        virtual_bytes: stat.map(|stat| stat.vsize as f64),
        start_seconds: stat
            .and_then(|stat| Some(procfs::boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks)),
        open_fds: process.fd_count().ok().map(|count| count as f64),
        max_fds,
    }
}

#[cfg(not(target_os = "linux"))]
fn figures() -> Figures {
    Figures::default()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_this_process_s() {
        let figures = figures();
        let (resident, open) = (figures.resident_bytes.unwrap(), figures.open_fds.unwrap());
        assert!(resident > 1e6 && figures.virtual_bytes.unwrap() >= resident);
        assert!(open >= 3.0 && figures.max_fds.is_none_or(|max| max >= open));
        assert!(figures.start_seconds.unwrap() > 1.6e9);
        assert!(figures.cpu_seconds.unwrap() >= 0.0);
    }
}
