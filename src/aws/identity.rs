//! Which region is asked, and as whom; and when nobody says, what was looked at.

use std::error::Error;

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::imds;
use aws_config::imds::client::error::ImdsError;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use thiserror::Error;

use super::failure::{causes, root};
use super::http::Unreachable;
use super::{Failure, Settings};

const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const DEFAULT_ENDPOINT: &str = "http://169.254.169.254";
const REGION: &str = "/latest/meta-data/placement/region";

/// The instance metadata service, and where it is.
pub(super) struct Metadata {
    client: imds::Client,
    url: String,
}

impl Metadata {
    pub(super) fn new(settings: &Settings, client: imds::Client) -> Self {
        let url = settings.metadata_url.clone().or_else(|| std::env::var(ENDPOINT).ok());
        Metadata { client, url: url.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()) }
    }

    pub(super) fn switched_off() -> bool {
        std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
    }

    async fn region(&self) -> Result<Region, String> {
        if Self::switched_off() {
            return Err("switched off by AWS_EC2_METADATA_DISABLED".to_owned());
        }
        let region = self.client.get(REGION).await.map_err(|error| reason(&error))?;
        Ok(Region::new(String::from(region).trim().to_owned()))
    }
}

/// The region that is set, else the environment's, the profile's, the instance's.
pub(super) async fn region(
    settings: &Settings,
    provider: &ProviderConfig,
    metadata: &Metadata,
) -> Result<Region, Failure> {
    if let Some(region) = &settings.region {
        return Ok(Region::new(region.clone()));
    }
    let environment = EnvironmentVariableRegionProvider::new().region().await;
    if let Some(region) = environment.filter(|region| !region.as_ref().is_empty()) {
        return Ok(region);
    }
    if let Some(region) = ProfileFileRegionProvider::builder().configure(provider).build().region().await {
        return Ok(region);
    }
    metadata.region().await.map_err(|reason| {
        Failure::Setup(format!(
            "no AWS region: AWS_REGION is not set, no profile names one, and the instance metadata service at {} \
             does not either ({reason}); set AWS_REGION",
            metadata.url
        ))
    })
}

/// Nobody had credentials; the text says who was asked and what each answered.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub(super) struct NoCredentials(String);

/// The SDK's own order of places for credentials. The SDK's chain keeps to itself what each of them answered.
#[derive(Debug)]
pub(super) struct Chain {
    steps: [Step; 5],
}

#[derive(Debug)]
struct Step {
    name: String,
    provider: SharedCredentialsProvider,
    /// What "not there" means for this place, where the SDK's text does not say it.
    absent: Option<&'static str>,
}

impl Chain {
    pub(super) fn new(config: &ProviderConfig, metadata: Metadata) -> Self {
        let step = |name: &str, provider, absent| Step { name: name.to_owned(), provider, absent };
        let Metadata { client, url } = metadata;
        Chain {
            steps: [
                step(
                    "environment",
                    SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()),
                    Some("AWS_ACCESS_KEY_ID is not set"),
                ),
                step(
                    "profile",
                    SharedCredentialsProvider::new(ProfileFileCredentialsProvider::builder().configure(config).build()),
                    None,
                ),
                step(
                    "web identity",
                    SharedCredentialsProvider::new(
                        WebIdentityTokenCredentialsProvider::builder().configure(config).build(),
                    ),
                    Some("AWS_WEB_IDENTITY_TOKEN_FILE is not set"),
                ),
                step(
                    "container",
                    SharedCredentialsProvider::new(EcsCredentialsProvider::builder().configure(config).build()),
                    Some("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set"),
                ),
                step(
                    &format!("instance metadata at {url}"),
                    SharedCredentialsProvider::new(
                        ImdsCredentialsProvider::builder().configure(config).imds_client(client).build(),
                    ),
                    None,
                ),
            ],
        }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let mut tried = Vec::new();
        for Step { name, provider, absent } in &self.steps {
            let error = match provider.provide_credentials().await {
                Ok(credentials) => return Ok(credentials),
                Err(error) => error,
            };
            let absence = matches!(error, CredentialsError::CredentialsNotLoaded(_));
            match absent.filter(|_| absence) {
                Some(text) => tried.push(format!("{name}: {text}")),
                None => tried.push(format!("{name}: {}", reason(&error))),
            }
            if !absence {
                // It is meant to be used, and broken: going on would act as somebody else.
                break;
            }
        }
        let text = format!("no AWS credentials: {}", tried.join("; "));
        Err(CredentialsError::provider_error(NoCredentials(text)))
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.steps.iter().find_map(|step| step.provider.fallback_on_interrupt())
    }
}

/// What came back from a place, in a few words.
fn reason(error: &(dyn Error + 'static)) -> String {
    for cause in causes(error) {
        if let Some(unreachable) = cause.downcast_ref::<Unreachable>() {
            return unreachable.reason.clone();
        }
        if let Some(ImdsError::ErrorResponse(answer)) = cause.downcast_ref() {
            return format!("the answer was {}", answer.response().status().as_u16());
        }
    }
    match root(error).as_str() {
        "received 404 from IMDS" => "the instance has no role".to_owned(),
        // The SDK's way to say so, when it says nothing more.
        "the credential provider was not enabled" | "No profiles were defined" => "none is defined".to_owned(),
        text => text.to_owned(),
    }
}
