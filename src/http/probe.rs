//! Asking a listener as somebody outside would: does it take a connection, and does `/health` answer?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::certificate::Certificate;

const QUESTION: &[u8] = b"GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks what listens at `address`.
///
/// # Errors
/// What came instead of a good answer.
pub async fn probe(address: SocketAddr) -> Result<(), String> {
    judge(address, async { ask(TcpStream::connect(reachable(address)).await?).await }.await)
}

/// The same where TLS is spoken, with the certificate `served`.
///
/// # Errors
/// What came instead of a good answer.
pub async fn probe_encrypted(address: SocketAddr, served: &Certificate) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Served { provider: Arc::clone(&provider), certificate: served.key.cert[0].clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let exchange = async {
        let ip = reachable(address);
        let stream = TcpStream::connect(ip).await?;
        ask(TlsConnector::from(Arc::new(config)).connect(ServerName::from(ip.ip()), stream).await?).await
    };
    judge(address, exchange.await)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<[u8; ANSWER.len()]> {
    let mut answer = [0; ANSWER.len()];
    stream.write_all(QUESTION).await?;
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn judge(address: SocketAddr, answer: std::io::Result<[u8; ANSWER.len()]>) -> Result<(), String> {
    match answer {
        Ok(answer) if answer == ANSWER => Ok(()),
        Ok(_) => Err(format!("{address} answers perch's own probe with something else than 200")),
        Err(error) => Err(format!("{address} does not answer perch's own probe: {error}")),
    }
}

/// Takes the one certificate that perch serves itself, whatever names are in it, and no other.
#[derive(Debug)]
struct Served {
    provider: Arc<CryptoProvider>,
    certificate: CertificateDer<'static>,
}

impl ServerCertVerifier for Served {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown != self.certificate {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// One of the addresses that `address` stands for.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
