//! The programs that are measured, as children of this one, and what they took of the processor.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kielink::{
    clock::Clock,
    kie_sim::{self, Answer, Host, World},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{client::Connection, hyper::Manner};

const LONGEST_START: Duration = Duration::from_secs(10);

/// Between two looks at what is waited for.
pub(crate) const PAUSE: Duration = Duration::from_micros(200);

/// What this machine has.
pub(crate) struct Machine {
    /// Numbers of the processors that may be used. Empty where nothing can be bound to one.
    cores: Vec<String>,
    pub(crate) has_nginx: bool,
    binary: PathBuf,
}

impl Machine {
    #[expect(clippy::disallowed_methods, reason = "a benchmark is a process of its own")]
    pub(crate) fn look(binary: Option<PathBuf>) -> Machine {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        let mut cores = numbers(list);
        if !is_there("taskset", "--version") {
            println!("taskset is missing (Debian: util-linux): server and client may share a core");
            cores.clear();
        } else if cores.len() == 1 {
            println!("there is one core: server and client share it");
            cores.clear();
        }
        let has_nginx = is_there("nginx", "-v");
        if !has_nginx {
            println!("nginx is missing (Debian: nginx-light): its row is left out");
        }
        let binary = binary.or_else(|| std::env::var_os("KIELINK_BINARY").map(PathBuf::from)).unwrap_or_else(build);
        println!("kielink: {}", binary.display());
        Machine { cores, has_nginx, binary }
    }

    /// Binds the rest of this process to the core that servers leave to it.
    pub(crate) fn bind_client(&self, servers: Place) {
        // What is bound already keeps its threads where they are, so each of them is bound.
        if let Some(cores) = self.cores_of_client(servers) {
            let done = Command::new("taskset")
                .args(["-a", "-c", "-p", &cores, &std::process::id().to_string()])
                .stdout(Stdio::null())
                .status();
            assert!(done.unwrap().success(), "taskset fails");
        }
    }

    fn cores_of_servers(&self, place: Place) -> Option<String> {
        match place {
            Place::OneCore => self.cores.first().cloned(),
            Place::TwoCores => (self.cores.len() > 1).then(|| self.cores[..2].join(",")),
            Place::Anywhere => None,
        }
    }

    fn cores_of_client(&self, servers: Place) -> Option<String> {
        match servers {
            Place::OneCore => self.cores.get(1).cloned(),
            Place::TwoCores if self.shares_two_cores() => (!self.cores.is_empty()).then(|| self.cores.join(",")),
            Place::TwoCores => self.cores.get(2).cloned(),
            Place::Anywhere => None,
        }
    }

    pub(crate) fn shares_two_cores(&self) -> bool {
        self.cores.len() < 3
    }

    fn command(&self, program: impl AsRef<OsStr>, place: Place, workers: Option<usize>) -> Command {
        let mut command = match self.cores_of_servers(place) {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cores]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // Settings of whoever runs this are not measured.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(workers) = workers {
            command.env("TOKIO_WORKER_THREADS", workers.to_string());
        }
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(crate) fn hyper(&self, manner: Manner, place: Place, workers: usize) -> Server {
        let this = std::env::current_exe().unwrap();
        let mut command = self.command(this, place, Some(workers));
        let mut child = command.args(["--serve", manner.as_str()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().parse().unwrap();
        Server { child, address, admin: address, _folder: None }
    }

    /// nginx that keeps the answers to `POST`, as somebody might set it up who has no kielink.
    pub(crate) async fn nginx(&self, kie: &Kie, place: Place) -> Server {
        let folder = TempDir::new().unwrap();
        let address = free_address();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, nginx_conf(folder.path(), address, kie.address)).unwrap();
        let mut command = self.command("nginx", place, None);
        command.arg("-e").arg(folder.path().join("error.log")).arg("-c").arg(path).stdout(Stdio::null());
        let server = Server { child: command.spawn().unwrap(), address, admin: address, _folder: Some(folder) };
        wait_for(address).await;
        server
    }

    /// kielink as it is by default but for its addresses and `settings`; ready.
    pub(crate) async fn kielink(&self, place: Place, workers: Option<usize>, settings: &[(&str, &str)]) -> Server {
        let server = self.kielink_about_to_start(place, workers, settings);
        server.ready().await;
        server
    }

    pub(crate) fn kielink_about_to_start(
        &self,
        place: Place,
        workers: Option<usize>,
        settings: &[(&str, &str)],
    ) -> Server {
        let (address, admin) = (free_address(), free_address());
        let mut command = self.command(&self.binary, place, workers);
        command.env("KIE_API_KEY", "benchmark").stdout(Stdio::null());
        command.args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()]);
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        Server { child: command.spawn().unwrap(), address, admin, _folder: None }
    }
}

/// Where a server runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    OneCore,
    TwoCores,
    Anywhere,
}

/// A server; it ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// kielink's second one.
    pub(crate) admin: SocketAddr,
    _folder: Option<TempDir>,
}

impl Server {
    pub(crate) async fn ready(&self) {
        wait_for(self.address).await;
        // Its listeners answer a moment before it calls itself ready.
        while !self.is_healthy().await {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks over a new connection, so that it has taken all that were opened before.
    pub(crate) async fn is_healthy(&self) -> bool {
        let mut connection = Connection::to(self.address).await;
        let answer = connection.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        answer.head.starts_with(b"HTTP/1.1 200 ")
    }

    pub(crate) fn cpu(&self) -> Cpu {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let threads = threads.filter_map(|thread| {
            let thread = thread.ok()?;
            let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let nanos = times.split(' ').next()?.parse().ok()?;
            Some((thread.file_name().into_string().ok()?, nanos))
        });
        Cpu(threads.collect())
    }

    /// Megabytes of memory.
    pub(crate) fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds that each thread of a process has run. `/proc/PID/stat` would tell them of all together, in steps of ten
/// milliseconds.
pub(crate) struct Cpu(HashMap<String, u64>);

impl Cpu {
    /// A thread that has ended meanwhile counts as if it had done nothing.
    pub(crate) fn since(&self, earlier: &Cpu) -> Duration {
        let nanos = self.0.iter().map(|(thread, nanos)| nanos - earlier.0.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(nanos.sum())
    }
}

/// The simulated kie.ai, in this process, so that its CPU time is not the server's.
pub(crate) struct Kie {
    pub(crate) world: Arc<World>,
    pub(crate) address: SocketAddr,
}

impl Kie {
    pub(crate) fn start() -> Kie {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let files = "https://x.r2.cloudflarestorage.com".parse().unwrap();
        // Whoever asks for hours would fill the memory with what was asked.
        let config = kie_sim::Config { remembers: 0, ..kie_sim::Config::SCRIPTED };
        let world = World::new(config, None, files, Clock::system(), 0).unwrap();
        let served = Arc::clone(&world);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                kie_sim::serve(listener, served, Host::Kie, CancellationToken::new()).await.unwrap();
            });
        });
        Kie { world, address }
    }

    /// From now on every call fails, or none.
    pub(crate) fn fails(&self, fails: bool) {
        self.world.script(|script| script.usual = if fails { Answer::html(502) } else { Answer::link() });
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The program that is shipped. To run this benchmark, cargo has built a kielink, too, but with those features of its
/// libraries that only tests and benchmarks want; it stands where the other one is to be.
fn build() -> PathBuf {
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(cargo.unwrap().success(), "kielink cannot be built");
    env!("CARGO_BIN_EXE_kielink").into()
}

fn is_there(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// "0-2,5" is 0, 1, 2 and 5.
fn numbers(list: &str) -> Vec<String> {
    let ranges = list.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    ranges
        .flat_map(|(first, last)| first.parse::<u32>().unwrap()..=last.parse().unwrap())
        .map(|n| n.to_string())
        .collect()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn wait_for(address: SocketAddr) {
    let clock = Clock::system();
    let began = clock.now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(clock.now().since(began) < LONGEST_START, "it does not start");
        tokio::time::sleep(PAUSE).await;
    }
}

fn nginx_conf(folder: &Path, address: SocketAddr, kie: SocketAddr) -> String {
    let folder = folder.display();
    // One process: there is nobody to watch over a cache that is gone in minutes.
    format!(
        "
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    open_file_cache_valid 60s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=links:10m inactive=19m max_size=64m;
    upstream kie {{ server {kie}; keepalive 16; }}
    server {{
        listen {address};
        location / {{
            client_body_buffer_size 16k;
            client_max_body_size 16k;
            proxy_pass http://kie;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Authorization 'Bearer benchmark';
            proxy_set_header User-Agent nginx;
            proxy_cache links;
            proxy_cache_methods POST;
            proxy_cache_key '$uri $request_body';
            proxy_cache_valid 200 19m;
            proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
            proxy_cache_lock on;
            add_header X-Cache-Status $upstream_cache_status;
        }}
    }}
}}
"
    )
}
