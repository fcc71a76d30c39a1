/* Makes a running process try to become another program, in each way that there is:
 *
 *     exec_inside PID PROGRAM
 *
 * prints what came of each, an error's name or "allowed"; with the first that is allowed the process is no more what it
 * was, and this ends. Else the process goes on as if nothing had happened. PROGRAM is given --version; it should be
 * linked statically. On x86-64 alone.
 *
 * The process is stopped where it waits in a system call, and its first thread makes others from there (ptrace(2)): what
 * is tried is tried with all that is taken away from that process, filters of its own among it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Below the stack, past the 128 bytes that belong to the function that runs (System V ABI for x86-64, 3.2.2). */
#define ROOM 8192

static pid_t process;
static struct user_regs_struct before;

static void fail(const char *what) {
    fprintf(stderr, "exec_inside: %s: %s\n", what, strerror(errno));
    exit(127);
}

static void poke(unsigned long at, const void *value, size_t size) {
    struct iovec here = {(void *)value, size}, there = {(void *)at, size};
    if (process_vm_writev(process, &here, 1, &there, 1, 0) != (ssize_t)size) fail("writing its memory");
}

/* Waits for its next stop; tells whether it is another program now. */
static int stopped(void) {
    int status;
    if (waitpid(process, &status, __WALL) < 0) fail("waiting for it");
    if (!WIFSTOPPED(status)) {
        fprintf(stderr, "exec_inside: it ended\n");
        exit(127);
    }
    return status >> 16 == PTRACE_EVENT_EXEC;
}

/* Has it make one system call, and returns what that does; 1 when it is another program now. */
static long call(long number, unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e) {
    struct user_regs_struct now = before;
    /* What it waits in is the two bytes `syscall`; -1 keeps the kernel from beginning that anew. */
    now.rip -= 2;
    now.orig_rax = -1;
    now.rax = number;
    now.rdi = a, now.rsi = b, now.rdx = c, now.r10 = d, now.r8 = e;
    if (ptrace(PTRACE_SETREGS, process, 0, &now)) fail("setting its registers");
    if (ptrace(PTRACE_SINGLESTEP, process, 0, 0)) fail("going on");
    if (stopped()) return 1;
    if (ptrace(PTRACE_GETREGS, process, 0, &now)) fail("reading its registers");
    return (long)now.rax;
}

static void say(const char *what, long result) {
    printf("%s: %s\n", what, result == 1 ? "allowed" : strerrorname_np((int)-result));
    if (result == 1) {
        ptrace(PTRACE_DETACH, process, 0, 0);
        exit(0);
    }
}

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: exec_inside PID PROGRAM\n");
        return 2;
    }
    process = atoi(words[1]);
    if (ptrace(PTRACE_SEIZE, process, 0, PTRACE_O_TRACEEXEC) || ptrace(PTRACE_INTERRUPT, process, 0, 0)) {
        fprintf(stderr, "exec_inside: process %d can't be traced: %s\n", process, strerror(errno));
        return 126;
    }
    stopped();
    if (ptrace(PTRACE_GETREGS, process, 0, &before)) fail("reading its registers");
    unsigned char instruction[2];
    struct iovec here = {instruction, 2}, there = {(void *)(before.rip - 2), 2};
    if (process_vm_readv(process, &here, 1, &there, 1, 0) != 2 || memcmp(instruction, "\x0f\x05", 2)) {
        fprintf(stderr, "exec_inside: process %d does not wait in a system call\n", process);
        return 127;
    }

    unsigned long at = (before.rsp - ROOM) & ~15ul, empty = at, name = at + 16, path = at + 32, list = at + 4096 + 64;
    unsigned long arguments[] = {name, name + 6, 0, 0};
    poke(empty, "", 1);
    poke(name, "perch\0--version", 16);
    poke(path, words[2], strlen(words[2]) + 1);
    poke(list, arguments, sizeof arguments);
    unsigned long environment = list + 3 * sizeof *arguments;
    say("its own file", call(SYS_execve, path, list, environment, 0, 0));

    long memory = call(SYS_memfd_create, name, 0, 0, 0, 0);
    if (memory < 0) {
        say("memory", memory);
        return 1;
    }
    char file[64];
    snprintf(file, sizeof file, "/proc/%d/fd/%ld", process, memory);
    int from = open(words[2], O_RDONLY | O_CLOEXEC), to = open(file, O_WRONLY | O_CLOEXEC);
    if (from < 0 || to < 0) fail("opening the program");
    ssize_t sent;
    while ((sent = sendfile(to, from, NULL, 1 << 30)) > 0) {}
    if (sent < 0) fail("copying the program");
    close(to);
    snprintf(file, sizeof file, "/proc/self/fd/%ld", memory);
    poke(path, file, strlen(file) + 1);
    say("memory by its path", call(SYS_execve, path, list, environment, 0, 0));
    say("memory by its descriptor", call(SYS_execveat, memory, empty, list, environment, AT_EMPTY_PATH));

    call(SYS_close, memory, 0, 0, 0, 0);
    if (ptrace(PTRACE_SETREGS, process, 0, &before)) fail("setting its registers");
    ptrace(PTRACE_DETACH, process, 0, 0);
    return 0;
}
