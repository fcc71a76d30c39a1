//! What the tests run against.

pub mod authority;
pub mod aws;
pub mod exchange;
pub mod perch;
