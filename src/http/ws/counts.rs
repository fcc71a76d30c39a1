//! How many WebSockets there are, and what went over them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::metrics::{Kind, Page, Source};

/// Counts WebSockets and their messages.
#[derive(Default)]
pub struct Sockets {
    pub(super) open: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) slow: AtomicU64,
    pub(super) silent: AtomicU64,
}

impl Source for Sockets {
    fn write(&self, page: &mut Page) {
        for (name, kind, help, value) in [
            ("perch_websocket_open", Kind::Gauge, "WebSockets that are open.", &self.open),
            ("perch_websocket_opened_total", Kind::Counter, "WebSockets that were opened.", &self.opened),
            ("perch_websocket_messages_received_total", Kind::Counter, "Messages that came over them.", &self.received),
            ("perch_websocket_messages_sent_total", Kind::Counter, "Messages that went out over them.", &self.sent),
            (
                "perch_websocket_refused_total",
                Kind::Counter,
                "Messages that were answered with an error.",
                &self.refused,
            ),
            ("perch_websocket_slow_total", Kind::Counter, "Closed because their reader was too slow.", &self.slow),
            ("perch_websocket_silent_total", Kind::Counter, "Closed because the other side was gone.", &self.silent),
        ] {
            page.family(name, kind, help).value(&[], value.load(Ordering::Relaxed));
        }
    }
}
