//! The REST API, as far as a bot that reads and answers messages calls it.

mod channels;
mod create_message;
mod errors;
mod gate;
mod messages;
mod multipart;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::state::Shared;

/// "The maximum request size when sending a message is 25 MiB." Source: Message resource, "Create Message".
const REQUEST_LIMIT: usize = 25 * 1024 * 1024;

/// The routes of version 10, behind what every request passes: faults, authorization, rate limits.
pub fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let api = Router::new()
        .route("/gateway", get(users::gateway))
        .route("/gateway/bot", get(users::gateway_bot))
        .route("/users/@me", get(users::me))
        .route("/users/@me/guilds", get(users::my_guilds))
        .route("/users/@me/channels", post(users::open_direct_channel))
        .route("/users/{user}", get(users::user))
        .route("/applications/@me", get(users::application))
        .route("/oauth2/applications/@me", get(users::application))
        .route("/guilds/{guild}", get(channels::guild))
        .route("/guilds/{guild}/channels", get(channels::guild_channels))
        .route("/guilds/{guild}/threads/active", get(channels::active_threads))
        .route("/guilds/{guild}/members/{user}", get(channels::member))
        .route("/channels/{channel}", get(channels::channel))
        .route("/channels/{channel}/typing", post(channels::type_in))
        .route("/channels/{channel}/messages", get(messages::list).post(create_message::create))
        .route(
            "/channels/{channel}/messages/{message}",
            get(messages::one).patch(messages::edit).delete(messages::delete),
        )
        .fallback(errors::not_found)
        .method_not_allowed_fallback(errors::method_not_allowed)
        .layer(DefaultBodyLimit::max(REQUEST_LIMIT))
        .layer(from_fn_with_state(Arc::clone(shared), gate::pass));
    Router::new()
        .nest("/api/v10", api)
        .route("/api/{version}", axum::routing::any(errors::unsupported_version))
        .route("/api/{version}/{*rest}", axum::routing::any(errors::unsupported_version))
}
