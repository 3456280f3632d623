//! What fits into the memory that the machine grants: some defaults follow from it where it is little. Pure.
//!
//! A container's limit is a bound whether or not somebody wrote settings that obey it: beyond it the kernel ends the
//! process, and every caller with it. Settings that a user wrote are never changed; those that do not fit are warned
//! of.

/// From this much memory on the defaults of `cache.max_bytes`, `limits.connections` (a quarter each) and
/// `limits.in_flight` fit.
const AMPLE: u64 = 4 * 8192 * CONNECTION_BYTES;

/// A connection takes some 4 KiB when it is idle, 20 once it has had an answer that was not in memory, 45 with a head that is all
/// but complete over HTTP/1, and up to this much over HTTP/2 (measured in floods of connections with the largest heads, headers
/// of a byte each among them). A head that never ends and has as many different names as fit takes 100 KiB: 250 such
/// connections, beside a full cache, were 47 MiB of 64.
const CONNECTION_BYTES: u64 = 64 << 10;

/// HTTP/2 streams on a connection: enough for a client that asks for many files at once.
pub(super) const FEW_STREAMS: u32 = 32;

/// HTTP/2 streams on a connection to the admin interface. On each stream a page of some 20 KiB may wait to be read, and
/// no watcher needs more streams.
pub(super) const ADMIN_STREAMS: u32 = 8;

/// A request under way, its head read and its task, beside its body. 4 KiB were measured; 13 KiB for the first few
/// hundred requests of a process that has just started, each with a call to kie.ai. The size of the heads does not
/// matter: they are gone before the requests wait.
const REQUEST_BYTES: u64 = 8 << 10;

/// Bytes of answers that may wait to be read over HTTP/2 where memory is ample: on the data interface, and on the admin
/// interface.
const UNREAD: u64 = 64 << 20;
const ADMIN_UNREAD: u64 = 16 << 20;

/// With less memory than this, nothing is divided any more: each share would be a fraction of what the process itself
/// takes.
const LEAST: u64 = 16 << 20;

/// How much of `limit` (bytes) each large consumer may take: a quarter for links, a quarter for connections, a
/// sixteenth for requests and another for answers that are not read (HTTP/2 has many on a connection), an eighth for
/// large bodies. The rest is for the process itself, the admin interface's connections, remembered refusals (an eighth
/// of the links' share), and the allocator, which was seen to need half as much again as the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) limit: u64,
    /// Bytes of links.
    pub(super) cache: u64,
    pub(super) connections: u64,
    /// Connections to the admin interface.
    pub(super) admin_connections: u64,
    /// Requests under way: HTTP/2 has many on a connection.
    pub(super) requests: u64,
    /// Bytes of answers that wait to be read: callers', and the admin interface's.
    pub(super) unread: u64,
    pub(super) admin_unread: u64,
    /// Bytes of large bodies, batches' above all.
    pub(super) bodies: u64,
}

/// Bytes of answers that may wait to be read over HTTP/2: callers', and the admin interface's.
pub(super) fn unread(share: Option<&Share>) -> (u64, u64) {
    share.map_or((UNREAD, ADMIN_UNREAD), |share| (share.unread.min(UNREAD), share.admin_unread.min(ADMIN_UNREAD)))
}

impl Share {
    /// `None` where the defaults fit.
    pub(super) fn of(limit: Option<u64>) -> Option<Share> {
        let limit = limit.filter(|limit| *limit < AMPLE)?;
        let counted = limit.max(LEAST);
        Some(Share {
            limit,
            // Whole MiB, as it is shown to people.
            cache: (counted / 4) >> 20 << 20,
            connections: counted / 4 / CONNECTION_BYTES,
            admin_connections: counted / 32 / CONNECTION_BYTES,
            requests: counted / 16 / REQUEST_BYTES,
            unread: counted / 16,
            admin_unread: counted / 64,
            bodies: counted / 8,
        })
    }

    /// Callers that may wait for a link. A fifth of the places for callers and batches together is for batches that are
    /// being read; a quarter of all requests is for bodies that are coming.
    fn in_flight(&self) -> u64 {
        self.requests * 3 / 5
    }

    /// `section.key` = value, in the place of built-in defaults that would not fit.
    pub(super) fn defaults(&self) -> Vec<(String, String)> {
        let default_cache = 64 << 20;
        let default_connections = 8192;
        let default_in_flight = 4096;
        [
            ("cache.max_bytes", format!("{}MiB", self.cache >> 20), self.cache < default_cache),
            ("limits.connections", self.connections.to_string(), self.connections < default_connections),
            ("limits.in_flight", self.in_flight().to_string(), self.in_flight() < default_in_flight),
        ]
        .into_iter()
        .filter(|(_, _, smaller)| *smaller)
        .map(|(key, value, _)| (key.to_owned(), value))
        .collect()
    }

    /// What will not fit, should all of it be used: the least that kielink must have, or what a user wrote.
    pub(super) fn warnings(&self, cache: u64, connections: u64, in_flight: u64) -> Vec<String> {
        if self.limit < LEAST {
            return vec![format!(
                "the memory limit of {} MiB is less than the {} MiB that kielink has to have: beyond it the system ends the process",
                self.limit >> 20,
                LEAST >> 20,
            )];
        }
        let wanted = cache.saturating_add(connections.saturating_mul(CONNECTION_BYTES));
        let room = self.cache + self.connections * CONNECTION_BYTES;
        let bytes = (wanted > room).then(|| {
            format!(
                "cache.max_bytes and limits.connections ({} KiB each) may take {} MiB; of the memory limit of {} MiB, {} \
                 are theirs: beyond it the system ends the process. Without these settings they fit by themselves",
                CONNECTION_BYTES >> 10,
                wanted >> 20,
                self.limit >> 20,
                room >> 20,
            )
        });
        let waiting = (in_flight > self.in_flight()).then(|| {
            format!(
                "limits.in_flight is {in_flight}, and about {} fit into the memory limit of {} MiB: no more are let in",
                self.in_flight(),
                self.limit >> 20,
            )
        });
        bytes.into_iter().chain(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_limit_or_with_an_ample_one_nothing_changes() {
        assert_eq!(Share::of(None), None);
        assert_eq!(Share::of(Some(AMPLE)), None);
        assert_eq!(Share::of(Some(u64::MAX)), None);
    }

    #[test]
    fn what_is_given_away_leaves_room_for_the_process() {
        for mib in [16, 24, 32, 64, 100, 128, 256, 512, 2047] {
            let share = Share::of(Some(mib * MIB)).unwrap();
            let links = share.cache + share.cache / 2 + share.cache / 8;
            let connections = (share.connections + share.admin_connections) * CONNECTION_BYTES;
            let sum = links + connections + share.requests * REQUEST_BYTES + share.unread + share.admin_unread;
            assert!(sum <= mib * MIB * 5 / 6, "{mib} MiB: {share:?}");
            assert!(links + connections + share.bodies <= mib * MIB * 5 / 6, "{mib} MiB: {share:?}");
        }
    }

    #[test]
    fn a_small_machine_gets_small_defaults() {
        let share = Share::of(Some(64 * MIB)).unwrap();
        let expected = [("cache.max_bytes", "16MiB"), ("limits.connections", "256"), ("limits.in_flight", "307")];
        assert_eq!(share.defaults(), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        // Enough for one default, not for the other.
        let share = Share::of(Some(512 * MIB)).unwrap();
        let expected = [("limits.connections", "2048"), ("limits.in_flight", "2457")];
        assert_eq!(share.defaults(), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let share = Share::of(Some(1024 * MIB)).unwrap();
        assert_eq!(share.defaults(), [("limits.connections".to_owned(), "4096".to_owned())]);
    }

    #[test]
    fn settings_that_do_not_fit_are_warned_of() {
        let share = Share::of(Some(64 * MIB)).unwrap();
        assert!(share.warnings(share.cache, share.connections, 307).is_empty());
        assert!(share.warnings(10 * MIB, 350, 307).is_empty(), "what one leaves, the other may take");
        assert_eq!(share.warnings(64 * MIB, 8192, 307).len(), 1);
        assert!(share.warnings(10 * MIB, 8, 308)[0].contains("limits.in_flight is 308, and about 307 fit"));
    }

    #[test]
    fn less_than_the_least_is_warned_of() {
        let warnings = |limit| {
            let share = Share::of(Some(limit)).unwrap();
            share.warnings(share.cache, share.connections, 76)
        };
        assert!(warnings(16 * MIB).is_empty());
        assert!(warnings(16 * MIB - 1)[0].contains("limit of 15 MiB is less than the 16 MiB"));
    }
}
