//! The certificates that vouch for a server: kie.ai's, and the shared tier's.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

pub(crate) use rustls_native_certs::Error as ReadError;

/// Root certificates, as read.
#[derive(Clone)]
pub(crate) struct Roots {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// How TLS is spoken with whom they vouch for; without ALPN.
    pub(crate) tls: Arc<ClientConfig>,
}

impl Roots {
    /// Reads the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Blocks.
    ///
    /// # Errors
    /// Where there is none, with what came in the way, if anything did.
    pub(crate) fn read() -> Result<Roots, Option<ReadError>> {
        let mut found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Single certificates that make no sense are passed over, as everywhere.
        store.add_parsable_certificates(found.certs.iter().cloned());
        if store.is_empty() {
            return Err(found.errors.pop());
        }
        Ok(Roots { certificates: found.certs, tls: tls(store) })
    }
}

/// The one way in which TLS is spoken: ring, and rustls's own choice of versions.
pub(crate) fn tls(store: RootCertStore) -> Arc<ClientConfig> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version that is built in");
    Arc::new(tls.with_root_certificates(store).with_no_client_auth())
}
