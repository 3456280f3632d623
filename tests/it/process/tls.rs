//! TLS to kie.ai: the key goes to nobody whose certificate is not vouched for.

use std::{path::Path, sync::Arc};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use kielink::kie_sim::{Ending, Host, converse};

use super::child::{Child, Run};
use crate::support::{FakeKie, SOURCE};

/// TLS in front of the fake, under a certificate of its own for `name`.
struct Front {
    port: u16,
    /// The certificate, as `SSL_CERT_FILE` wants it.
    pem: String,
    _tasks: JoinSet<()>,
}

impl Front {
    async fn start(kie: &FakeKie, name: &str) -> Front {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = kie.world();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, world) = (acceptor.clone(), Arc::clone(&world));
                connections.spawn(async move {
                    // A client that does not trust it hangs up here.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    if converse(&world, Host::Kie, &mut stream).await == Ending::Reset {
                        let _ = stream.get_ref().0.set_zero_linger();
                    }
                });
            }
        });
        Front { port, pem: made.cert.pem(), _tasks: tasks }
    }

    /// kielink in front of it, trusting what is in `roots` alone.
    async fn kielink(&self, roots: &Path) -> Child {
        let base_url = format!("upstream.base_url=https://localhost:{}", self.port);
        Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .arguments(&["--set", &base_url, "--set", "upstream.attempts=1"])
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
