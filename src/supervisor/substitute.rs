//! When a service refuses a secret: what may be used in its place.

use super::machine::Cause as Why;
use super::prepare::Preparation;
use super::refusals::{Findings, Refusal, Used};
use crate::config::secret::SecretRef;
use crate::secrets::{self, Secret, SecretValues};
use crate::service::{Cause, Part, Problem, Service};

impl Preparation {
    /// Makes a service's part with the secrets that were fetched. Where it refuses one: with the one in use, when this is
    /// but a look at the secrets; else with the one of before the last rotation. What is used stands in `values` then.
    pub(super) async fn accepted(
        &self,
        service: &dyn Service,
        values: &mut SecretValues,
        findings: &mut Findings,
    ) -> Result<Part, Vec<Problem>> {
        let look = self.is_look();
        let dead = self.blamed.get(service.name()).filter(|_| look);
        let problems = match dead.and_then(|reason| self.still_dead(service, values, reason)) {
            Some(problem) => vec![problem],
            None => match self.made(service, values).await {
                Ok(part) => return Ok(part),
                Err(problems) => problems,
            },
        };
        let [Problem { place, text, cause: Cause::Refused }] = problems.as_slice() else { return Err(problems) };
        let named = self.config.secrets().into_iter().find(|wanted| wanted.place.key == place.key);
        let newest = values.0.get(&place.key).cloned();
        let Some((wanted, newest)) = named.zip(newest) else { return Err(problems) };
        let old = self.in_use(wanted);
        let refusal =
            |used| Refusal { secret: wanted.clone(), version: newest.version.clone(), why: text.clone(), used };
        let new = old.as_ref() != Some(&newest);
        // A bad new value shall not keep a new configuration out; who asks by hand is told of it instead.
        let quiet = look || self.why == Why::Version;
        if let Some(old) = old.clone().filter(|_| quiet && dead.is_none() && new)
            && let Ok(part) = self.made_with(service, values, wanted, old).await
        {
            findings.refused.push(refusal(Used::Old));
            return Ok(part);
        }
        let known_bad = old.as_ref().filter(|_| dead.is_some());
        if let Some(previous) = self.previous(wanted, &newest).await.filter(|previous| Some(previous) != known_bad)
            && let Ok(part) = self.made_with(service, values, wanted, previous).await
        {
            findings.refused.push(refusal(Used::Previous));
            return Ok(part);
        }
        // Nothing is better than what is in use, which is known to be dead: all stays as it is.
        if let Some(old) = old.filter(|_| dead.is_some())
            && let Ok(part) = self.made_with(service, values, wanted, old).await
        {
            if new {
                findings.refused.push(refusal(Used::Neither));
            } else {
                findings.unknown.insert(wanted.place.key.clone());
            }
            return Ok(part);
        }
        values.0.insert(wanted.place.key.clone(), newest);
        Err(problems)
    }

    /// Whether this is about the secrets of the version that runs, and nothing else.
    fn is_look(&self) -> bool {
        let running = self.running.as_deref().is_some_and(|running| running.version == self.version);
        running && self.why == Why::Secrets
    }

    /// The problem with a service's secret that was refused while in use, if no newer one was fetched.
    fn still_dead(&self, service: &dyn Service, values: &SecretValues, reason: &str) -> Option<Problem> {
        let own = |wanted: &&SecretRef| wanted.place.key.split('.').next() == Some(service.name());
        let wanted = self.config.secrets().into_iter().find(own)?;
        let same = values.0.get(&wanted.place.key) == self.in_use(wanted).as_ref();
        same.then(|| Problem { place: wanted.place.clone(), text: reason.to_owned(), cause: Cause::Refused })
    }

    /// What `wanted` was before its last rotation, if it is kept where there are such, and is another value.
    async fn previous(&self, wanted: &SecretRef, newest: &Secret) -> Option<Secret> {
        // Only Secrets Manager names versions.
        newest.version.as_ref().filter(|_| self.why != Why::Revert)?;
        let fetched = tokio::time::timeout(self.patience().secrets, secrets::fetch_previous(wanted, &self.aws)).await;
        fetched.ok()?.ok().filter(|previous| previous != newest)
    }

    async fn made_with(
        &self,
        service: &dyn Service,
        values: &mut SecretValues,
        wanted: &SecretRef,
        secret: Secret,
    ) -> Result<Part, Vec<Problem>> {
        values.0.insert(wanted.place.key.clone(), secret);
        self.made(service, values).await
    }
}
