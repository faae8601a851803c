//! TLS of both legs: certificates and keys from PEM files into rustls. The provider is passed
//! explicitly, so that no process-wide default matters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::config::{TlsFiles, UpstreamTls};

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub struct TlsError {
    file: PathBuf,
    reason: String,
}

fn unusable(file: &Path, reason: impl ToString) -> TlsError {
    TlsError {
        file: file.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How the gateway presents itself to clients. `protocols` are offered by ALPN.
///
/// # Errors
/// [`TlsError`] names the file that cannot be read or does not fit.
pub fn acceptor(files: &TlsFiles, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unusable(&files.key, e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&files.certificate, e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| unusable(&files.certificate, e))?;
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// How the gateway connects to a server: one of the given authorities has to vouch for it, or,
/// without authorities, anybody may be there (encryption only, like `sslmode=require`).
///
/// # Errors
/// [`TlsError`] names the file that cannot be used.
pub fn connector(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(ca.unwrap_or(Path::new("TLS")), e))?;
    let Some(ca) = ca else {
        let anybody = Arc::new(AnyServer(provider()));
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(anybody);
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| unusable(ca, e))?;
    }
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// How connections to one server are encrypted, if they are.
///
/// # Errors
/// [`TlsError`] names the file or the host that cannot be used.
pub(crate) fn outgoing(
    mode: UpstreamTls,
    host: &str,
    ca: Option<&Path>,
) -> Result<Option<(TlsConnector, ServerName<'static>)>, TlsError> {
    let authorities = match mode {
        UpstreamTls::Disable => return Ok(None),
        UpstreamTls::Require => None,
        UpstreamTls::VerifyFull => ca,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        unusable(
            Path::new(host),
            "not a host name that TLS can be spoken with",
        )
    })?;
    Ok(Some((TlsConnector::from(connector(authorities)?), name)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unusable(file, e))?;
    if certificates.is_empty() {
        return Err(unusable(file, "no certificate in this PEM file"));
    }
    Ok(certificates)
}

/// Takes any certificate; still checks that the server has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
