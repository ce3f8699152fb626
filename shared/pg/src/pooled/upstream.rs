//! The pooler: where it is, and whether the way there is encrypted.

use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What asks whether the other side speaks TLS.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How the way to the pooler is encrypted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Encryption {
    /// Not at all.
    None,
    /// Where the other side can do it, whoever it is.
    Preferred,
    /// In any case, whoever the other side is.
    Required,
    /// In any case, with a certificate for the host's name that one of this file's has signed.
    Verified(PathBuf),
}

/// Where a pooler is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) encryption: Encryption,
}

impl Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Upstream {
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        crate::socket::tune(self.port);
        let config = match &self.encryption {
            Encryption::None => return Ok(Box::new(stream)),
            Encryption::Preferred | Encryption::Required => anybody()?,
            Encryption::Verified(roots) => signed_by(roots)?,
        };
        stream.write_all(&TLS_REQUEST).await?;
        match stream.read_u8().await? {
            b'S' => {}
            b'N' if self.encryption == Encryption::Preferred => return Ok(Box::new(stream)),
            _ => {
                return Err(io::Error::other(
                    "the pooler does not speak TLS, which sslmode asks for",
                ));
            }
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn signed_by(roots: &Path) -> io::Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots).map_err(io::Error::other)? {
        store.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
    let verifier = verifier.build().map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(provider());
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(config.with_webpki_verifier(verifier).with_no_client_auth())
}

fn anybody() -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider());
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let verifier = Arc::new(Anybody(provider()));
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What `sslmode=require` means: encrypted, to whoever answers.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
