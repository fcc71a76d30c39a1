//! What perch knows of a request that the request does not say: over which connection it came, from whom, and who that is.

use axum::http::Extensions;

use super::afterwards::Afterwards;
use super::arrival::Arrival;
use super::client::Client;
use super::problem::Problem;
use super::request_id::RequestId;
use crate::auth::Signed;
use crate::chat::PersonId;
use crate::chat::history::Asker;

/// Every request comes to its handler with one, as an extension.
#[derive(Clone)]
pub struct Visit {
    pub arrival: Arrival,
    pub afterwards: Afterwards,
    pub id: RequestId,
    pub client: Client,
    /// Nobody, where it does not matter who it is.
    pub person: Option<PersonId>,
    /// They sent no cookie that tells of them.
    pub newcomer: bool,
    /// As whom they were let in, where that was asked.
    pub signed: Option<Signed>,
}

impl Visit {
    /// The one that a request came with.
    pub fn of(extensions: &Extensions) -> Result<&Visit, Problem> {
        extensions.get().ok_or_else(|| Problem::internal(&anyhow::anyhow!("a request that came from nowhere")))
    }

    /// Who asks.
    pub fn asker(&self) -> Result<Asker, Problem> {
        let person = self.person.clone();
        let person = person.ok_or_else(|| Problem::internal(&anyhow::anyhow!("a request from nobody")))?;
        Ok(Asker { person, newcomer: self.newcomer, client: None })
    }
}
