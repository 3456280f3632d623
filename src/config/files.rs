//! What fits into the files that the process may have open, each connection being one. Pure.

/// Connections to the admin interface at once: probes, a few people, and those who collect metrics.
pub(super) const ADMIN_CONNECTIONS: usize = 128;

/// What every process has open, and connections to kie.ai.
const OTHERS: u64 = 272;

/// Files that callers' connections leave to everything else, where there are plenty.
pub(super) const OTHER_THAN_CALLERS: u64 = OTHERS + ADMIN_CONNECTIONS as u64;

/// How many connections of callers, and how many to the admin interface, fit into `files`. Where there are few files,
/// five of eight are for everything else: with less, kie.ai could not be asked.
pub(super) fn connections(files: u64) -> (usize, usize) {
    let others = OTHERS.min(files / 8 * 5);
    let admin = (files / 8).clamp(4, ADMIN_CONNECTIONS as u64);
    let callers = files.saturating_sub(others + admin).max(1);
    (usize::try_from(callers).unwrap_or(usize::MAX), usize::try_from(admin).unwrap_or(ADMIN_CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_probes_and_kie_ai_do_not_need() {
        for (files, expected) in [
            (16, (2, 4)),
            (64, (16, 8)),
            (256, (64, 32)),
            (1024, (624, 128)),
            (8592, (8192, 128)),
            (1 << 20, ((1 << 20) - 400, 128)),
        ] {
            assert_eq!(connections(files), expected, "{files} files");
        }
        assert_eq!(connections(8192 + OTHER_THAN_CALLERS).0, 8192);
    }
}
