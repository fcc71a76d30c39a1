"""Tries, as perch.service, what perch.service must not be able to do, and prints what came of each as one line of JSON.

It runs inside of the unit, before perch, with everything that the unit takes away from perch taken away from it.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import shutil
import socket
import time

libc = ctypes.CDLL(None, use_errno=True)
state, runtime = os.environ["STATE_DIRECTORY"], os.environ["RUNTIME_DIRECTORY"]


def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "allowed"


def call(function, *arguments):
    def attempt():
        if getattr(libc, function)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), function)

    return outcome(attempt)


def opens(family, kind, protocol=0):
    return outcome(lambda: socket.socket(family, kind, protocol).close())


def runs(*command):
    """What execve says in a process of its own; the program's own exit code is its own affair."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.set_inheritable(writer, False)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os.execv(command[0], command)
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 64).decode()
    os.waitpid(child, 0)
    return said or "allowed"


def writes(path):
    def attempt():
        with open(path, "x", encoding="utf-8"):
            pass
        os.unlink(path)

    return outcome(attempt)


def writable_directories():
    """Every directory of the file system in which a file can be made, without what is in its own."""
    found = []
    for directory, names, _ in os.walk("/"):
        if directory == "/":
            names.remove("proc")
        if os.access(directory, os.W_OK) and writes(os.path.join(directory, "perch-probe")) == "allowed":
            found.append(directory)
        if directory in (state, runtime):
            names.clear()
    return sorted(found)


def own_program():
    """A program that perch wrote itself."""
    path = os.path.join(state, "probe")
    shutil.copy("/usr/bin/perch", path)
    os.chmod(path, 0o700)
    try:
        return runs(path, "--version")
    finally:
        os.unlink(path)


def set_user_id_file():
    path = os.path.join(state, "probe")
    with open(path, "w", encoding="utf-8"):
        pass
    try:
        return outcome(lambda: os.chmod(path, 0o4755))
    finally:
        os.unlink(path)


def others():
    """Processes of others that it sees."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [number for number in numbers if number not in (os.getpid(), os.getppid())]


def status(*names):
    with open("/proc/self/status", encoding="utf-8") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {name: lines[name].strip() for name in names}


CLONE_NEWUSER, PER_LINUX32, KEYCTL_GET_KEYRING_ID = 0x10000000, 8, 0
print(
    "PROBE "
    + json.dumps(
        {
            "writable": writable_directories(),
            "sockets": {
                "inet": opens(socket.AF_INET, socket.SOCK_STREAM),
                "inet6": opens(socket.AF_INET6, socket.SOCK_STREAM),
                "unix": opens(socket.AF_UNIX, socket.SOCK_STREAM),
                "netlink": opens(socket.AF_NETLINK, socket.SOCK_RAW),
                "packet": opens(socket.AF_PACKET, socket.SOCK_RAW),
                "vsock": opens(socket.AF_VSOCK, socket.SOCK_STREAM),
                "raw": opens(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            },
            "programs": {
                "perch": runs("/usr/bin/perch", "--version"),
                "shell": runs("/bin/sh", "-c", "true"),
                "own": own_program(),
            },
            "calls": {
                "become root": outcome(lambda: os.setuid(0)),
                "make a set-user-id file": set_user_id_file(),
                "make memory executable": outcome(lambda: mmap.mmap(-1, 4096, prot=7).close()),
                "make a namespace": call("unshare", CLONE_NEWUSER),
                "mount": call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
                "trace a process": call("ptrace", 16, os.getppid(), 0, 0),
                "set the clock": outcome(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
                "name the host": outcome(lambda: socket.sethostname("other")),
                "real-time scheduling": outcome(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
                "another personality": call("personality", PER_LINUX32),
                "keyrings": call("syscall", 250, KEYCTL_GET_KEYRING_ID, -3, 0),
                "make a device": outcome(lambda: os.mknod(os.path.join(state, "device"), 0o20600, os.makedev(1, 3))),
                "read the kernel's log": outcome(lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY))),
                "change the kernel": outcome(lambda: os.close(os.open("/proc/sys/kernel/printk", os.O_WRONLY))),
                "signal systemd": outcome(lambda: os.kill(1, 0)),
                "look into root's home": outcome(lambda: os.listdir("/root")),
                "keep memory from being swapped": call("mlockall", 1),
            },
            "others": others(),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "status": status("NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
            "boot id": outcome(lambda: open("/proc/sys/kernel/random/boot_id", encoding="utf-8").close()),
        }
    ),
    flush=True,
)
