//! `[chat]`: what makes the answers.

use super::document::Table;

/// The responder's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    pub backend: Backend,
}

/// Which responder answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Echo,
}

impl Chat {
    pub(super) fn read(mut table: Table<'_>) -> Chat {
        let backend = table.choice("backend", &[("echo", Backend::Echo)]).unwrap_or_default();
        table.finish();
        Chat { backend }
    }
}
