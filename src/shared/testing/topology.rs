//! Servers that take each other's place: a master that sentinels watch, and a cluster. The tests of whole kielinks
//! (`tests/it/fleet`) have this file, too.

use super::{eventually, server::Server};

/// Waits until a server says this word: its peers must find it before it is of use.
pub(crate) async fn says(server: &Server, command: &[&str], word: &str) {
    eventually(word, || async { format!("{:?}", server.try_run(command)).contains(word) }).await;
}

/// A master, its heir, and three sentinels that watch them.
pub(crate) struct Watched {
    pub(crate) master: Server,
    pub(crate) heir: Server,
    pub(crate) sentinels: Vec<Server>,
}

impl Watched {
    /// `None`, with a message, where there are no servers. A master that is silent for half a second is replaced.
    pub(crate) async fn start() -> Option<Watched> {
        let master = Server::start(&[])?;
        let heir = Server::start(&["--replicaof", &format!("127.0.0.1 {}", master.port)])?;
        says(&heir, &["INFO", "replication"], "master_link_status:up").await;
        let monitor = format!("sentinel monitor mymaster 127.0.0.1 {} 2", master.port);
        let settings = [
            monitor.as_str(),
            "sentinel down-after-milliseconds mymaster 500",
            "sentinel failover-timeout mymaster 3000",
        ];
        let sentinels = (0..3).map(|_| Server::sentinel(&settings)).collect::<Option<Vec<_>>>()?;
        for sentinel in &sentinels {
            says(sentinel, &["SENTINEL", "CKQUORUM", "mymaster"], "3 usable").await;
            says(sentinel, &["SENTINEL", "REPLICAS", "mymaster"], &heir.port.to_string()).await;
        }
        Some(Watched { master, heir, sentinels })
    }

    /// Without the name of what they watch.
    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://{}", hosts(&self.sentinels))
    }
}

/// The first three nodes share the slots, and the last three are their heirs in the same order.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

/// The last slot of the first two nodes.
pub(crate) const LAST_SLOTS: [u16; 2] = [5000, 10_000];

impl Cluster {
    /// `None`, with a message, where there are no servers. A node that is silent for a second is replaced.
    pub(crate) async fn start() -> Option<Cluster> {
        let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let nodes = (0..6).map(|_| Server::start(&settings)).collect::<Option<Vec<_>>>()?;
        for (place, node) in nodes.iter().enumerate() {
            node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        }
        // Each meets each: by hearsay it takes them seconds.
        for (place, node) in nodes.iter().enumerate() {
            for other in &nodes[..place] {
                node.run(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]);
            }
        }
        let [first, second] = LAST_SLOTS;
        for (node, slots) in nodes.iter().zip([0..=first, first + 1..=second, second + 1..=16_383]) {
            node.run(&["CLUSTER", "ADDSLOTSRANGE", &slots.start().to_string(), &slots.end().to_string()]);
        }
        for node in &nodes {
            says(node, &["CLUSTER", "INFO"], "cluster_known_nodes:6").await;
        }
        for (node, heir) in nodes.iter().zip(&nodes[3..]) {
            let id: String = redis::from_redis_value(node.run(&["CLUSTER", "MYID"])).unwrap();
            eventually("it is known", || async { heir.try_run(&["CLUSTER", "REPLICATE", &id]).is_ok() }).await;
        }
        for (node, heir) in nodes.iter().zip(&nodes[3..]) {
            says(heir, &["INFO", "replication"], "master_link_status:up").await;
            says(node, &["INFO", "replication"], "state=online").await;
        }
        for node in &nodes {
            says(node, &["CLUSTER", "INFO"], "cluster_state:ok").await;
        }
        Some(Cluster { nodes })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+cluster://{}", hosts(&self.nodes))
    }
}

fn hosts(servers: &[Server]) -> String {
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    hosts.join(",")
}
