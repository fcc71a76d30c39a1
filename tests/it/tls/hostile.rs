//! Who means ill.
