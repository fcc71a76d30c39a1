//! perch tried from outside, against stand-ins that are servers of their own.

mod aws_boundary;
mod daemon;
mod pages;
mod support;
