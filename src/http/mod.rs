//! The HTTP chat endpoint and its page.
