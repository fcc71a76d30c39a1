//! A panic is logged where it happens, with its place; the supervisor then deals with the service that had it.

use std::panic::PanicHookInfo;

tokio::task_local! {
    /// The service whose task is running.
    pub static SERVICE: &'static str;
}

/// Sends panics to the log instead of standard error.
pub(super) fn install() {
    std::panic::set_hook(Box::new(log));
}

fn log(info: &PanicHookInfo<'_>) {
    let service = SERVICE.try_with(|service| *service).unwrap_or("supervisor");
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    tracing::error!(service, place = %place, "panicked at {place}: {}", text(info.payload()));
}

/// What a panic said, if it said it in words.
#[must_use]
pub fn text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
