//! TLS of a node: mutual certificates, TLS 1.3 only, no resumption, no early data.
//!
//! Resumption is off because a resumed session skips the check of the certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockd_protocol::limits::{CLIENT_ALPN, PEER_ALPN};
use lockd_protocol::roles::Role;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};

use super::config::NodeConfig;

/// Why a node's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not go together, or are not fit for TLS.
    #[error("the node's certificate cannot be used: {0}")]
    Unusable(String),
    /// The certificate speaks for somebody else.
    #[error(
        "{path}: the certificate is {found}, but the configuration says node {wanted}: use the \
         files that `lockd init` made for that node"
    )]
    WrongRole {
        /// The certificate's file.
        path: PathBuf,
        /// Whom it speaks for.
        found: String,
        /// Whom it should speak for.
        wanted: u64,
    },
}

/// TLS settings of a node.
pub(super) struct NodeTls {
    /// For whoever connects: peers and clients.
    pub(super) server: Arc<QuicServerConfig>,
    /// For connecting to peers.
    pub(super) peer: Arc<QuicClientConfig>,
}

impl NodeTls {
    pub(super) fn load(config: &NodeConfig) -> Result<NodeTls, TlsError> {
        let chain = certificates(&config.certificate)?;
        check_role(config, &chain)?;
        let roots = Arc::new(roots(&config.ca)?);
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::Unusable(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), private_key(&config.key)?)
            .map_err(unusable)?;
        server.alpn_protocols = vec![CLIENT_ALPN.to_vec(), PEER_ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        let mut peer = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private_key(&config.key)?)
            .map_err(unusable)?;
        peer.alpn_protocols = vec![PEER_ALPN.to_vec()];
        peer.resumption = rustls::client::Resumption::disabled();

        let no_cipher = |_| TlsError::Unusable("no QUIC cipher suite".to_owned());
        Ok(NodeTls {
            server: Arc::new(QuicServerConfig::try_from(server).map_err(no_cipher)?),
            peer: Arc::new(QuicClientConfig::try_from(peer).map_err(no_cipher)?),
        })
    }
}

/// Whom a verified certificate speaks for.
pub(super) fn role_of(certificate: &CertificateDer<'_>) -> Option<Role> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    Role::from_dns_names(
        names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            }),
    )
}

fn check_role(config: &NodeConfig, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
    let role = chain.first().and_then(role_of);
    let found = match role {
        Some(Role::Node(id)) if id.0 == config.node => return Ok(()),
        Some(Role::Node(id)) => format!("node {id}'s"),
        Some(Role::Client(name)) => format!("that of the client {name:?}"),
        Some(Role::Operator(name)) => format!("that of the operator {name:?}"),
        None => "neither a node's nor a client's".to_owned(),
    };
    Err(TlsError::WrongRole {
        path: config.certificate.clone(),
        found,
        wanted: config.node,
    })
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, error))?;
    if chain.is_empty() {
        return Err(file_error(path, "there is no certificate in this file"));
    }
    Ok(chain)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| file_error(path, error))?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| file_error(path, error))
}
