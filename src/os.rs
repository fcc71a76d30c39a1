//! The few calls into the C library and the kernel that have no safe wrapper, each with its reason.
#![expect(unsafe_code, reason = "file descriptors handed over by number, and glibc's resolver set-up")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Pins host look-ups to what a static binary has built in: `/etc/hosts`, then DNS. Otherwise glibc would load the
/// host's name-service modules, which an empty root does not have and another glibc may not fit.
pub fn pin_name_service() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            /// <nss.h>; not in the libc crate.
            fn __nss_configure_lookup(
                database: *const std::ffi::c_char,
                services: *const std::ffi::c_char,
            ) -> std::ffi::c_int;
        }
        // SAFETY: both arguments are constant C strings, glibc copies what it keeps, and this runs before the first
        // look-up and before there is a second thread.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}

/// Turns core dumps off: the memory holds tokens. The limit covers files; being undumpable covers a core pattern that
/// pipes into a program, which ignores the limit (core(5)).
pub fn forbid_core_dumps() {
    if let Err(error) = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(service = "supervisor", "core dumps can't be limited: {error}");
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(service = "supervisor", "core dumps can't be turned off: {error}");
    }
}

/// Raises the limit of open files to what the process may have, and returns it. Every connection is one.
#[must_use]
pub fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}

/// Takes over a descriptor that systemd passed.
#[must_use]
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: sd_listen_fds(3) gives the descriptors from 3 on to this process alone, and each is adopted once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
