//! TLS to kie.ai: the key goes to nobody whose certificate is not vouched for.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use kielink::kie_sim::{Ending, Host, converse};

use super::child::{Child, Run};
use crate::support::{Answer, FakeKie, SOURCE, eventually};

/// TLS in front of the fake, under a certificate of its own for `name`.
struct Front {
    port: u16,
    /// The certificate, as `SSL_CERT_FILE` wants it.
    pem: String,
    /// What was agreed on, a connection each (ALPN).
    protocols: Arc<Mutex<Vec<Option<Vec<u8>>>>>,
    _tasks: JoinSet<()>,
}

impl Front {
    async fn start(kie: &FakeKie, name: &str) -> Front {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        // As Cloudflare does.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let protocols = Arc::<Mutex<Vec<_>>>::default();
        let agreed = Arc::clone(&protocols);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = kie.world();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, world, agreed) = (acceptor.clone(), Arc::clone(&world), Arc::clone(&agreed));
                connections.spawn(async move {
                    // A client that does not trust it hangs up here.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    agreed.lock().unwrap().push(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
                    if converse(&world, Host::Kie, &mut stream).await == Ending::Reset {
                        let _ = stream.get_ref().0.set_zero_linger();
                    }
                });
            }
        });
        Front { port, pem: made.cert.pem(), protocols, _tasks: tasks }
    }

    /// kielink in front of it, trusting what is in `roots` alone.
    async fn kielink(&self, roots: &Path) -> Child {
        self.kielink_with(roots, &["upstream.attempts=1"]).await
    }

    async fn kielink_with(&self, roots: &Path, settings: &[&str]) -> Child {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let base_url = format!("upstream.base_url=https://localhost:{}", self.port);
        Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .arguments(&["--set", &base_url])
            .arguments(&settings)
            .env("SSL_CERT_FILE", roots)
            .key()
            .ready()
            .await
    }
}

#[tokio::test]
async fn the_key_goes_only_to_whom_the_roots_vouch_for() {
    let kie = FakeKie::start();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let trusted = Front::start(&kie, "localhost").await;
    std::fs::write(&roots, &trusted.pem).unwrap();
    assert_eq!(trusted.kielink(&roots).await.link(SOURCE).await.status, 200);
    let asked = kie.requests().len();

    // One that nobody vouches for, and one that is vouched for under another name.
    let unknown = Front::start(&kie, "localhost").await;
    let misnamed = Front::start(&kie, "api.example").await;
    std::fs::write(&roots, format!("{}{}", trusted.pem, misnamed.pem)).unwrap();
    for front in [unknown, misnamed] {
        let child = front.kielink(&roots).await;
        let reply = child.link(SOURCE).await;
        assert_eq!((reply.status, reply.slug().as_str()), (502, "upstream-unreachable"));
        child.wait_for_log("request").await;
        assert!(child.stderr().contains("certificate"), "the operator is told why: {}", child.stderr());
    }
    assert_eq!(kie.requests().len(), asked, "the key went nowhere else");
}

/// On a plain connection it would see the key.
#[tokio::test]
async fn a_proxy_of_the_environment_sees_nothing() {
    let (kie, proxy) = (FakeKie::start(), FakeKie::start());
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let run = names.into_iter().fold(Run::serving(&kie, &[]), |run, name| run.env(name, proxy.base_url()));
    assert_eq!(run.ready().await.link(SOURCE).await.status, 200);
    assert_eq!((kie.mints(), proxy.requests().len()), (1, 0));
}

#[tokio::test]
async fn check_config_tells_where_nobody_would_vouch_for_kie_ai() {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (content, code) in [("", 78), ("no certificate", 78), (made.cert.pem().as_str(), 0)] {
        std::fs::write(&roots, content).unwrap();
        let run = Run::new(&["check-config"]).env("SSL_CERT_FILE", &roots).key().finished().await;
        assert_eq!(run.code, Some(code), "{content:?}: {}", run.stderr);
        assert_eq!(run.stderr.contains("SSL_CERT_FILE"), code != 0, "{}", run.stderr);
    }
}

/// A link for each of the next `count` files, all asked for at once.
async fn links(child: &Child, first: usize, count: usize) -> Vec<u16> {
    let asked = (first..first + count).map(|n| async move { child.link(&format!("{SOURCE}?{n}")).await.status });
    futures_util::future::join_all(asked).await
}

#[tokio::test]
async fn faults_of_kept_connections_cost_no_caller_a_link() {
    let kie = FakeKie::start();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let front = Front::start(&kie, "localhost").await;
    std::fs::write(&roots, &front.pem).unwrap();
    let child = front.kielink_with(&roots, &["upstream.attempts=1", "upstream.attempt_timeout=2s"]).await;
    kie.answer(Answer::link().after(Duration::from_millis(200)));
    let faults: [(&str, &dyn Fn()); 3] = [
        ("closed while idle", &|| kie.close_connections()),
        ("reset while idle", &|| kie.reset_connections()),
        ("fallen silent", &|| kie.mute_connections()),
    ];
    for (n, (what, fault)) in faults.into_iter().enumerate() {
        assert_eq!(links(&child, n * 100, 6).await, [200; 6], "{what}: before");
        fault();
        assert_eq!(links(&child, n * 100 + 50, 14).await, [200; 14], "{what}");
    }
    let protocols = front.protocols.lock().unwrap().clone();
    assert!(protocols.iter().all(|agreed| agreed.as_deref() == Some(b"http/1.1")), "{protocols:?}");
}

#[tokio::test]
async fn a_private_authority_s_new_certificate_is_trusted_without_a_restart() {
    let kie = FakeKie::start();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let (old, new) = (Front::start(&kie, "localhost").await, Front::start(&kie, "localhost").await);
    std::fs::write(&roots, &old.pem).unwrap();
    let child = new.kielink(&roots).await;
    assert_eq!(child.link(SOURCE).await.status, 502, "nobody vouches for it yet");
    std::fs::write(&roots, &new.pem).unwrap();
    eventually("the new roots are read", async || child.link(SOURCE).await.status == 200).await;
}
