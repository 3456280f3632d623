//! The memory limit that a container engine or systemd has set for this process, by the files that Linux shows it in.

use std::{fs, path::Path};

/// Bytes; the least of the limits of all groups that this process is in, `None` where there is none (or no Linux).
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    files(&groups).iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The files that may hold a limit, by the lines of `/proc/self/cgroup` (cgroups(7)), `hierarchy:controllers:path`:
/// version 2 has one hierarchy without controllers, version 1 has one for `memory`. A group's limit holds for the
/// groups below it, too. In a container whose file shows the host's path, that path leads nowhere and the root is the
/// container's own.
fn files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path).ancestors() {
            files.push(format!("{root}{}/{name}", group.display().to_string().trim_end_matches('/')));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_looked_for_in_the_group_and_in_those_above_it() {
        assert_eq!(
            files("0::/system.slice/kielink.service\n"),
            [
                "/sys/fs/cgroup/system.slice/kielink.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            files("5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\nnonsense\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }
}
