//! TLS with a certificate that nobody trusts, on the port that also speaks plain HTTP.

use std::sync::Arc;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Signed by itself, for a name that does not exist. The key is no secret.
const CERTIFICATE: &[u8] = include_bytes!("../../data/tls/self-signed.pem");
const KEY: &[u8] = include_bytes!("../../data/tls/self-signed.key");

/// What a TLS connection begins with; no HTTP request does.
const HANDSHAKE: u8 = 0x16;

/// Takes connections from `public` and hands them, unwrapped where they are TLS, to the listener
/// that is returned.
pub(crate) async fn in_front_of_plain(public: TcpListener) -> anyhow::Result<TcpListener> {
    let acceptor = TlsAcceptor::from(Arc::new(config()?));
    let plain = TcpListener::bind("127.0.0.1:0").await.context("listen for plain HTTP")?;
    let address = plain.local_addr().context("the plain address")?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = public.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let served = async {
                    let mut plain = TcpStream::connect(address).await?;
                    let mut first = [0];
                    connection.peek(&mut first).await?;
                    if first[0] == HANDSHAKE {
                        let mut connection = acceptor.accept(connection).await?;
                        copy_bidirectional(&mut connection, &mut plain).await
                    } else {
                        let mut connection = connection;
                        copy_bidirectional(&mut connection, &mut plain).await
                    }
                };
                if let Err(error) = served.await {
                    println!("a connection ended: {error}");
                }
            });
        }
    });
    Ok(plain)
}

fn config() -> anyhow::Result<ServerConfig> {
    let certificates =
        CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<Vec<_>, _>>()?;
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(KEY)?)
        .context("the certificate")
}
