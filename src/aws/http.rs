//! HTTP for the SDK, with perch's trust in place of the host's.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::failure;
use crate::tls::{self, TrustError};

/// perch asks one thing at a time of S3 and of Secrets Manager.
const IDLE_CONNECTIONS: usize = 2;

/// The connections, by what they need. TLS is set up when the first address asks for it, which a stand-in on plain
/// HTTP and the metadata service never do.
#[derive(Debug)]
struct Connections {
    plain: SharedHttpClient,
    /// A proxy can't reach what is on this host's own link.
    link_local: SharedHttpClient,
    secure: OnceLock<SharedHttpClient>,
}

pub(super) fn client() -> SharedHttpClient {
    SharedHttpClient::new(Client(Arc::new(Connections {
        plain: plain(ProxyConfig::from_env()),
        link_local: plain(ProxyConfig::disabled()),
        secure: OnceLock::new(),
    })))
}

fn plain(proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        connector(settings, components).proxy_config(proxy.clone()).build_http()
    })
}

fn secure() -> Result<SharedHttpClient, TrustError> {
    let trust = TrustStore::empty().with_pem_certificate(tls::pem()?);
    let context = TlsContext::builder().with_trust_store(trust).build().expect("a builder that has no way to fail");
    Ok(Builder::new().build_with_connector_fn(move |settings, components| -> Connector {
        connector(settings, components)
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .build()
    }))
}

fn connector(settings: Option<&HttpConnectorSettings>, components: Option<&RuntimeComponents>) -> ConnectorBuilder {
    let mut builder = Connector::builder().pool_max_idle_per_host(IDLE_CONNECTIONS);
    builder.set_connector_settings(settings.cloned());
    builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    builder
}

impl Connections {
    fn for_address(&self, scheme: &str, host: &str) -> Result<&SharedHttpClient, TrustError> {
        if scheme != "https" {
            let near = host.starts_with("169.254.") || host.starts_with("[fd00:ec2:");
            return Ok(if near { &self.link_local } else { &self.plain });
        }
        if let Some(secure) = self.secure.get() {
            return Ok(secure);
        }
        let made = secure()?;
        Ok(self.secure.get_or_init(|| made))
    }
}

#[derive(Debug)]
struct Client(Arc<Connections>);

impl HttpClient for Client {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Call {
            connections: Arc::clone(&self.0),
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

#[derive(Debug)]
struct Call {
    connections: Arc<Connections>,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Call {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (scheme, rest) = request.uri().split_once("://").unwrap_or_default();
        let host = rest.split(['/', '?']).next().unwrap_or_default().to_owned();
        let client = match self.connections.for_address(scheme, &host) {
            Ok(client) => client,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        let answer = client.http_connector(&self.settings, &self.components).call(request);
        HttpConnectorFuture::new(async move { answer.await.map_err(|error| name_host(&error, host)) })
    }
}

/// Puts the host's name to an error that has none; whether the SDK tries again depends on the kind, which stays.
fn name_host(error: &ConnectorError, host: String) -> ConnectorError {
    let timed_out = error.is_timeout();
    let reason = if timed_out { "no answer in time".to_owned() } else { failure::root(error) };
    let named = Box::new(Unreachable { host, reason });
    match error {
        _ if timed_out => ConnectorError::timeout(named),
        _ if error.is_io() => ConnectorError::io(named),
        _ if error.is_user() => ConnectorError::user(named),
        _ => ConnectorError::other(named, error.as_other()),
    }
}

/// No answer came from `host`.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub host: String,
    pub reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.reason)
    }
}

impl std::error::Error for Unreachable {}
