/* Runs a program with a wrong clock:
 *
 *     wrong_clock OFFSET-FILE PROGRAM [ARGUMENT...]
 *
 * The clock on the wall is as many seconds ahead as OFFSET-FILE says at the moment (behind, if it is negative), for
 * every thread of the program; the clocks that nobody can set stay right. The program may be linked statically, and it
 * keeps the process id of this one, its signals and its exit status.
 *
 * A process at the side traces it. The vDSO, which tells the time without a system call, is hidden from the program
 * when it begins (getauxval(3), AT_SYSINFO_EHDR); a seccomp filter (seccomp(2), SECCOMP_RET_TRACE) stops it at nothing
 * but the system calls that tell the time of day, and their results are changed as they return (ptrace(2)).
 *
 * What the kernel itself does by that clock stays as it is: time stamps of files above all.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program with more threads than this is not what it is for. */
#define THREADS 1024

/* Where each thread that is inside one of the system calls wants its result. */
static struct {
    pid_t thread;
    unsigned long result;
} asked[THREADS];

static void fail(const char *what) {
    fprintf(stderr, "wrong_clock: %s: %s\n", what, strerror(errno));
    _exit(127);
}

static long offset(const char *path) {
    char text[32] = "";
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(path);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? strtol(text, NULL, 10) : 0;
}

static int peek(pid_t thread, unsigned long at, void *value, size_t size) {
    struct iovec here = {value, size}, there = {(void *)at, size};
    return process_vm_readv(thread, &here, 1, &there, 1, 0) == (ssize_t)size;
}

static int poke(pid_t thread, unsigned long at, void *value, size_t size) {
    struct iovec here = {value, size}, there = {(void *)at, size};
    return process_vm_writev(thread, &here, 1, &there, 1, 0) == (ssize_t)size;
}

/* A program that was just executed has on its stack, from where proc_pid_stat(5) says in field 28: the number of
 * arguments, the arguments, NULL, the environment, NULL, and the auxiliary vector. */
static void hide_vdso(pid_t process) {
    char path[64], text[2048];
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(path);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    char *field = strrchr(text, ')');
    for (int number = 2; field && number < 28; number++) field = strchr(field + 1, ' ');
    if (!field) fail("finding the stack");
    unsigned long at = strtoul(field + 1, NULL, 10), word;
    if (!peek(process, at, &word, sizeof word)) fail("reading the stack");
    at += (word + 2) * sizeof word;
    do {
        if (!peek(process, at, &word, sizeof word)) fail("reading the environment");
        at += sizeof word;
    } while (word);
    for (;; at += 2 * sizeof word) {
        if (!peek(process, at, &word, sizeof word)) fail("reading the auxiliary vector");
        if (word == AT_NULL) return;
        if (word == AT_SYSINFO_EHDR) break;
    }
    word = AT_IGNORE;
    if (!poke(process, at, &word, sizeof word)) fail("hiding the vDSO");
}

static void remember(pid_t thread, unsigned long result) {
    for (int slot = 0; slot < THREADS; slot++) {
        if (asked[slot].thread == 0 || asked[slot].thread == thread) {
            asked[slot].thread = thread;
            asked[slot].result = result;
            return;
        }
    }
    fail("too many threads");
}

/* The time is in memory; its seconds come first in struct timespec and in struct timeval. */
static void change(pid_t thread, const char *path) {
    for (int slot = 0; slot < THREADS; slot++) {
        if (asked[slot].thread != thread) continue;
        time_t seconds;
        asked[slot].thread = 0;
        if (asked[slot].result && peek(thread, asked[slot].result, &seconds, sizeof seconds)) {
            seconds += offset(path);
            poke(thread, asked[slot].result, &seconds, sizeof seconds);
        }
        return;
    }
}

static void trace(pid_t process, const char *path, int ready) {
    long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
                   PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, process, 0, options)) fail("tracing");
    if (write(ready, "", 1) != 1) fail("saying so");
    close(ready);
    /* Whoever waits for the end of the program's output must not wait for this process. */
    for (int file = 0; file < 3; file++) close(file);
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0 && errno == EINTR) continue;
        if (thread < 0) _exit(0);
        if (!WIFSTOPPED(status)) continue;
        int signal = WSTOPSIG(status), event = status >> 16;
        int how = PTRACE_CONT, deliver = 0;
        if (signal == (SIGTRAP | 0x80)) {
            change(thread, path);
        } else if (event == PTRACE_EVENT_SECCOMP) {
            struct __ptrace_syscall_info info;
            ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info);
            int first = info.seccomp.nr != SYS_clock_gettime;
            remember(thread, info.seccomp.args[first ? 0 : 1]);
            how = PTRACE_SYSCALL;
        } else if (event == PTRACE_EVENT_EXEC) {
            hide_vdso(thread);
        } else if (event == PTRACE_EVENT_STOP) {
            if (signal != SIGTRAP) how = PTRACE_LISTEN;
        } else if (event == 0) {
            deliver = signal;
        }
        ptrace(how, thread, 0, deliver);
    }
}

/* Stops at clock_gettime(2) of the two clocks on the wall, and at gettimeofday(2). Nothing that perch is made of calls
 * time(2), whose result is no memory. */
static void filter(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettimeofday, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME_COARSE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) fail("seccomp");
}

int main(int count, char **words) {
    int ready[2];
    char byte;
    if (count < 3) {
        fprintf(stderr, "usage: wrong_clock OFFSET-FILE PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    if (pipe2(ready, O_CLOEXEC)) fail("pipe");
    /* Where Yama keeps processes from tracing each other it wants leave; elsewhere nobody knows of it. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    pid_t process = getpid(), middle = fork();
    if (middle < 0) fail("fork");
    if (middle == 0) {
        /* The tracer is nobody's child but init's: the program must not be surprised by one. */
        pid_t tracer = fork();
        if (tracer < 0) fail("fork");
        if (tracer > 0) _exit(0);
        close(ready[0]);
        /* Signals for the program's process group are not for the tracer, whose end would be the program's. */
        setsid();
        trace(process, words[1], ready[1]);
    }
    close(ready[1]);
    waitpid(middle, NULL, 0);
    if (read(ready[0], &byte, 1) != 1) {
        fprintf(stderr, "wrong_clock: this process can't be traced\n");
        return 126;
    }
    filter();
    execvp(words[2], words + 2);
    fail(words[2]);
}
