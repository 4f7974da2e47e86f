//! TLS on the listener: a certificate that is read again when its files change, and, where
//! that is wanted, certificates of clients.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// The files of a listener's TLS, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of clients, where clients show certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused, where there are authorities.
    pub client_required: bool,
}

/// A file of the listener's TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {why}", .path.display())]
pub struct TlsFault {
    /// What the file should hold.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// The TLS of a listener, shared by all cores.
pub struct ServerTls {
    files: TlsFiles,
    current: Mutex<(Stamps, Arc<ServerConfig>)>,
}

/// When each file was last written, as far as that is known.
type Stamps = Vec<Option<SystemTime>>;

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsFault> {
        let current = Mutex::new((stamps(&files), config(&files)?));
        Ok(Arc::new(Self { files, current }))
    }

    /// What new connections get.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().1)
    }

    /// Reads the files again where one was written since, or always with `force`; whether it
    /// did. Connections that are open keep what they have.
    ///
    /// # Errors
    /// What is wrong with which file; what was read before stays in force.
    pub fn refresh(&self, force: bool) -> Result<bool, TlsFault> {
        let stamps = stamps(&self.files);
        if !force && self.current.lock().0 == stamps {
            return Ok(false);
        }
        let config = config(&self.files)?;
        *self.current.lock() = (stamps, config);
        Ok(true)
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    let written = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    paths.into_iter().flatten().map(written).collect()
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsFault> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fault("the private key", &files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let setup = |error: rustls::Error| fault("the certificate", &files.certificate, &error);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let name = "the authorities of clients";
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| fault(name, path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if files.client_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| fault(name, path, &error))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(setup)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let what = "the certificate";
    let pem = std::fs::read(path).map_err(|error: io::Error| fault(what, path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| fault(what, path, &error))?;
    if found.is_empty() {
        return Err(fault(what, path, &"the file holds none"));
    }
    Ok(found)
}

fn fault(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> TlsFault {
    TlsFault { what, path: path.to_owned(), why: why.to_string() }
}
