//! The few calls into the C library and the kernel that have no safe wrapper, each with its reason.
#![expect(
    unsafe_code,
    reason = "file descriptors handed over by number, settings of glibc's, and a filter of system calls"
)]

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

/// Has memory of this size and above given back to the system when it is let go. By itself glibc keeps ever larger blocks
/// for later once it has seen some come and go, and after a flood of uploads would keep most of what they took.
///
/// Source: mallopt(3), `M_MMAP_THRESHOLD`: setting it ends its being adjusted.
pub fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    {
        const M_MMAP_THRESHOLD: std::ffi::c_int = -3;
        const LARGE: std::ffi::c_int = 128 << 10;
        unsafe extern "C" {
            /// <malloc.h>
            fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // SAFETY: it takes two numbers, and glibc locks what it changes.
        unsafe { mallopt(M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Gives back to the system what was let go of memory, wherever it lies: by itself glibc gives back no more than what lies at
/// the end of each arena.
///
/// Source: malloc_trim(3).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and glibc locks what it changes.
    unsafe {
        libc::malloc_trim(0);
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

/// What the kernel calls the machine that this is built for (<linux/audit.h>, `AUDIT_ARCH_*`).
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xC000_00B7;
/// From here on x86-64 has its system calls once more, for programs with shorter pointers (<asm/unistd.h>,
/// `__X32_SYSCALL_BIT`).
const OTHER_CALLS: u32 = 0x4000_0000;

/// Takes from every thread, and from whatever comes of them, the way to become another program: execve(2) and execveat(2)
/// fail with EPERM from here on. perch starts no program, and systemd's `NoExecPaths=` is about files: one that is made
/// in memory (memfd_create(2)) it does not reach. The service manager can't forbid it either, as it starts perch by it.
pub fn forbid_programs() {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if let Err(error) = filter_programs() {
        tracing::warn!(service = "supervisor", "what perch has in memory can be run as a program: {error}");
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[expect(
    clippy::cast_possible_truncation,
    reason = "system calls, errors, instructions and their places are small numbers that C has in wider types"
)]
fn filter_programs() -> std::io::Result<()> {
    use std::mem::offset_of;

    use libc::{seccomp_data, sock_filter, sock_fprog};

    const fn load(offset: usize) -> sock_filter {
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32, 0, 0)
    }
    /// Goes on after so many instructions.
    const fn equal(to: u32, yes: u8, no: u8) -> sock_filter {
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to, yes, no)
    }
    const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
        sock_filter { code: code as u16, jt, jf, k }
    }
    let mut code = [
        load(offset_of!(seccomp_data, arch)),
        equal(MACHINE, 0, 5),
        load(offset_of!(seccomp_data, nr)),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, OTHER_CALLS, 3, 0),
        equal(libc::SYS_execve as u32, 2, 0),
        equal(libc::SYS_execveat as u32, 1, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
    ];
    let program = sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // Without it the kernel takes no filter from who is not root.
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: `program` and the instructions that it points to outlive the call, and the kernel copies them.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            std::ptr::from_ref(&program),
        )
    };
    match outcome {
        0 => Ok(()),
        // What a thread has that it can't take this one's filters (seccomp(2)).
        1.. => Err(std::io::Error::other(format!("thread {outcome} has filters of its own"))),
        _ => Err(std::io::Error::last_os_error()),
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
