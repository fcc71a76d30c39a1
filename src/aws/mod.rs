//! The AWS SDK, made once and only when something needs it.
//!
//! Region, credentials and endpoints are found as every AWS SDK finds them; what AWS answers leaves this module as a
//! [`Failure`], and nobody else looks at the SDK's errors.

use std::sync::Arc;
use std::time::Duration;

use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::service_config::ServiceConfigKey;
use tokio::sync::Mutex;

mod departure;
mod failure;
mod http;
mod identity;

pub(crate) use departure::Announcements;
pub(crate) use failure::{Failure, Refusal, root};

/// AWS is near, or not reachable at all.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one call may take, both of its attempts together.
const OPERATION: Duration = Duration::from_secs(20);
/// A second attempt for what a lost connection breaks; beyond that the next poll is the retry.
const ATTEMPTS: u32 = 2;
/// The longest wait between the two.
const BACKOFF: Duration = Duration::from_millis(200);
/// The metadata service is on the host's own link: it answers in milliseconds, or this is no EC2 instance.
const METADATA: Duration = Duration::from_secs(1);

/// A handle on AWS; clones share one.
#[derive(Clone, Default)]
pub struct Aws {
    shared: Arc<Shared>,
}

/// What is not to be read from the environment or the profile.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub region: Option<String>,
    /// One address for every service, in place of AWS's own.
    pub endpoint_url: Option<String>,
    /// Where the instance metadata service is.
    pub metadata_url: Option<String>,
    /// How long one call may take, instead of 20 s.
    pub patience: Option<Duration>,
}

#[derive(Default)]
struct Shared {
    settings: Settings,
    clients: Mutex<Option<Clients>>,
}

#[derive(Clone)]
struct Clients {
    s3: aws_sdk_s3::Client,
    secrets_manager: aws_sdk_secretsmanager::Client,
}

impl Aws {
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        Aws { shared: Arc::new(Shared { settings, clients: Mutex::default() }) }
    }

    pub(crate) async fn s3(&self) -> Result<aws_sdk_s3::Client, Failure> {
        self.clients().await.map(|clients| clients.s3)
    }

    pub(crate) async fn secrets_manager(&self) -> Result<aws_sdk_secretsmanager::Client, Failure> {
        self.clients().await.map(|clients| clients.secrets_manager)
    }

    /// What `error` says; credentials that AWS turned down are not used again, so that a role which was changed is
    /// noticed at the next call and not when the old credentials would have expired.
    pub(crate) async fn failure<E>(&self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = Failure::of(error);
        if matches!(failure, Failure::CredentialsRefused { .. }) {
            *self.shared.clients.lock().await = None;
        }
        failure
    }

    /// Announcements that this instance is to go; `None` where the metadata service is switched off.
    pub(crate) fn announcements(&self) -> Option<Announcements> {
        if identity::Metadata::switched_off() {
            return None;
        }
        let provider = provider(http::client());
        metadata_client(&self.shared.settings, &provider).ok().map(Announcements::new)
    }

    async fn clients(&self) -> Result<Clients, Failure> {
        // Held while they are made: whoever comes meanwhile waits for the same ones.
        let mut clients = self.shared.clients.lock().await;
        match &*clients {
            Some(made) => Ok(made.clone()),
            None => Ok(clients.insert(make(&self.shared.settings).await?).clone()),
        }
    }
}

async fn make(settings: &Settings) -> Result<Clients, Failure> {
    let client = http::client();
    let provider = provider(client.clone());
    let metadata = identity::Metadata::new(settings, metadata_client(settings, &provider)?);
    let region = identity::region(settings, &provider, &metadata).await?;
    let provider = provider.with_region(Some(region.clone()));
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .region(region)
        .credentials_provider(identity::Chain::new(&provider, metadata))
        .timeout_config(time_outs(settings))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(BACKOFF))
        // Every body is read under a time-out of its own.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    let config = loader.load().await;
    let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(has_own_s3_endpoint(&config));
    Ok(Clients {
        s3: aws_sdk_s3::Client::from_conf(s3.build()),
        secrets_manager: aws_sdk_secretsmanager::Client::new(&config),
    })
}

fn provider(client: SharedHttpClient) -> ProviderConfig {
    ProviderConfig::without_region().with_http_client(client).with_behavior_version(Some(BehaviorVersion::latest()))
}

fn metadata_client(settings: &Settings, provider: &ProviderConfig) -> Result<imds::Client, Failure> {
    let mut builder = imds::Client::builder()
        .configure(provider)
        .connect_timeout(METADATA)
        .read_timeout(METADATA)
        .max_attempts(ATTEMPTS);
    if let Some(url) = &settings.metadata_url {
        builder = builder
            .endpoint(url)
            .map_err(|error| Failure::Setup(format!("`{url}` is no address of a metadata service: {error}")))?;
    }
    Ok(builder.build())
}

fn time_outs(settings: &Settings) -> TimeoutConfig {
    let operation = settings.patience.unwrap_or(OPERATION);
    let attempt = operation / ATTEMPTS;
    TimeoutConfig::builder()
        .connect_timeout(CONNECT.min(attempt))
        // Shorter than the attempt, as this one's error knows the host.
        .read_timeout(attempt * 4 / 5)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}

/// A stand-in or a private endpoint seldom has a host name for each bucket.
fn has_own_s3_endpoint(config: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    config.endpoint_url().is_some()
        || config.service_config().zip(key.ok()).is_some_and(|(service, key)| service.load_config(key).is_some())
}
