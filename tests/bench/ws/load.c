/* Ten thousand people at a WebSocket chat, in one process that is not the bottleneck: one epoll loop, no allocation per
 * message. C, because whatever else is at hand (Python, Node, an asynchronous runtime) takes more time for a message than
 * the servers that are measured.
 *
 *   cc -O2 -o load load.c && ./load PORT
 *
 * takes commands on standard input, one a line, and answers each with one line of JSON:
 *   open COUNT      so many connections in all; each is in a room of ten, the first thousand also in one room together
 *   talk SECONDS    the first thousand each say something once a second in their room of ten; how long until they have it
 *                   back themselves
 *   broadcast TIMES one says something in the room of the first thousand; how long until the last of them has it
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 20000, ACTIVE = 1000, SMALL = 10, AT_ONCE = 200, HEAD = 1024, PATIENCE = 30 };
#define LOBBY "lobby"
#define TEXT "what somebody says to the others: about as long as people write"

enum state { CONNECTING, HANDSHAKE, JOINING, JOINED };

struct person {
    int fd;
    enum state state;
    int rooms;                     /* joined so far */
    unsigned char head[HEAD];      /* the beginning of the frame that is coming */
    size_t have, size;             /* how much of the frame has come; how long it is, 0 while that is not known */
};

static struct person people[MOST];
static int count, epoll, port, joined;
static uint64_t samples[1 << 21];
static size_t sampled, delivered;
static uint64_t broadcast_begun, broadcast_last;
static int broadcast_missing;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void send_all(struct person *person, const void *bytes, size_t size) {
    if (send(person->fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size) fail("a message could not be sent: %m");
}

/* One frame of a client, which is masked (RFC 6455, section 5.3). */
static void send_frame(struct person *person, int opcode, const char *text, size_t size) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    unsigned char frame[1024];
    size_t at = 0;
    frame[at++] = (unsigned char)(0x80 | opcode);
    if (size < 126) {
        frame[at++] = (unsigned char)(0x80 | size);
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = (unsigned char)(size >> 8);
        frame[at++] = (unsigned char)size;
    }
    memcpy(frame + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < size; i++) frame[at + i] = (unsigned char)text[i] ^ mask[i % 4];
    send_all(person, frame, at + size);
}

static void say(struct person *person, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    send_frame(person, 1, text, (size_t)size);
}

static void came(struct person *person, int opcode, char *text, size_t size) {
    if (opcode == 9) {
        send_frame(person, 10, text, size);
        return;
    }
    if (opcode == 8) fail("a connection was closed: %d %s", (unsigned char)text[0] << 8 | (unsigned char)text[1], text + 2);
    /* A history has messages in it. */
    if (strstr(text, "\"type\":\"joined\"")) {
        long number = person - people;
        if (++person->rooms == 1 && number < ACTIVE) {
            say(person, "{\"type\":\"join\",\"room\":\"" LOBBY "\"}");
        } else {
            person->state = JOINED;
            joined++;
        }
    } else if (strstr(text, "\"type\":\"message\"")) {
        delivered++;
        char *ref = strstr(text, "\"ref\":\"");
        if (broadcast_missing && strstr(text, "\"room\":\"" LOBBY "\"")) {
            broadcast_last = now();
            broadcast_missing--;
        } else if (ref && sampled < sizeof samples / sizeof *samples) {
            samples[sampled++] = now() - strtoull(ref + 7, NULL, 10);
        }
    } else if (strstr(text, "\"type\":\"error\"")) {
        fail("refused: %s", text);
    }
}

/* Takes bytes of frames; of a long one only the beginning is kept. */
static void take(struct person *person, unsigned char *bytes, size_t size) {
    while (size) {
        if (!person->size) {
            person->head[person->have++] = *bytes++;
            size--;
            size_t length = person->have < 2 ? 0 : person->head[1] & 127, header = length < 126 ? 2 : length == 126 ? 4 : 10;
            if (person->have < 2 || person->have < header) continue;
            if (header > 2) {
                length = 0;
                for (size_t i = 2; i < header; i++) length = length << 8 | person->head[i];
            }
            person->size = header + length;
        }
        size_t header = (person->head[1] & 127) < 126 ? 2 : (person->head[1] & 127) == 126 ? 4 : 10;
        size_t part = person->size - person->have < size ? person->size - person->have : size;
        size_t room = person->have < HEAD - 1 ? HEAD - 1 - person->have : 0;
        memcpy(person->head + person->have, bytes, part < room ? part : room);
        person->have += part;
        bytes += part;
        size -= part;
        if (person->have < person->size) continue;
        size_t end = person->size < HEAD - 1 ? person->size : HEAD - 1;
        person->head[end] = 0;
        int opcode = person->head[0] & 15;
        person->have = person->size = 0;
        came(person, opcode, (char *)person->head + header, end - header);
    }
}

static void readable(struct person *person) {
    static unsigned char buffer[1 << 17];
    ssize_t size = recv(person->fd, buffer, sizeof buffer, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) fail("connection %ld of %d ended: %s", (long)(person - people), count, size ? strerror(errno) : "closed");
    if (person->state != HANDSHAKE) {
        take(person, buffer, (size_t)size);
        return;
    }
    if (person->have + (size_t)size >= HEAD) fail("a long answer to the handshake");
    memcpy(person->head + person->have, buffer, (size_t)size);
    person->have += (size_t)size;
    person->head[person->have] = 0;
    char *end = strstr((char *)person->head, "\r\n\r\n");
    if (!end) return;
    if (strncmp((char *)person->head, "HTTP/1.1 101", 12)) fail("no handshake: %s", (char *)person->head);
    size_t rest = person->have - (size_t)(end + 4 - (char *)person->head);
    memcpy(buffer, end + 4, rest);
    person->have = person->size = 0;
    person->state = JOINING;
    say(person, "{\"type\":\"join\",\"room\":\"room %ld\"}", (long)(person - people) / SMALL);
    take(person, buffer, rest);
}

static void writable(struct person *person) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(person->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail("connecting: %s", strerror(error));
    char request[256];
    int length = snprintf(request, sizeof request,
        "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = person};
    epoll_ctl(epoll, EPOLL_CTL_MOD, person->fd, &event);
    person->state = HANDSHAKE;
    send_all(person, request, (size_t)length);
}

/* Handles what comes until `until`, or returns at once after that. */
static void turn(uint64_t until) {
    struct epoll_event events[512];
    uint64_t time = now();
    int wait = until > time ? (int)((until - time) / 1000000) : 0;
    int ready = epoll_wait(epoll, events, 512, wait);
    if (ready < 0 && errno != EINTR) fail("epoll: %m");
    for (int i = 0; i < ready; i++) {
        struct person *person = events[i].data.ptr;
        if (person->state == CONNECTING) writable(person);
        else readable(person);
    }
}

static void start(struct person *person) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    person->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (person->fd < 0) fail("a socket: %m");
    int on = 1;
    setsockopt(person->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = person};
    if (connect(person->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) fail("connecting: %m");
    epoll_ctl(epoll, EPOLL_CTL_ADD, person->fd, &event);
}

static int order(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static double microseconds(double part) {
    return sampled ? (double)samples[(size_t)(part * (double)(sampled - 1))] / 1000 : 0;
}

static void open_to(int target) {
    uint64_t begun = now(), deadline = begun + PATIENCE * 1000000000ull;
    while (joined < target) {
        while (count < target && count - joined < AT_ONCE) start(&people[count++]);
        turn(now() + 100000000);
        if (now() > deadline) fail("only %d of %d joined within %d s", joined, target, PATIENCE);
    }
    printf("{\"open\": %d, \"seconds\": %.3f}\n", joined, (double)(now() - begun) / 1e9);
}

static void talk(int seconds) {
    int active = joined < ACTIVE ? joined : ACTIVE;
    uint64_t second = 1000000000, begun = now(), pause = second / (uint64_t)active;
    uint64_t said = 0, total = (uint64_t)active * (uint64_t)seconds;
    sampled = delivered = 0;
    /* By the clock, whatever has come back: who waits for an answer before they go on hides a slow server. */
    while (now() < begun + ((uint64_t)seconds + 5) * second && delivered < total * SMALL) {
        for (; said < total && now() >= begun + said * pause; said++) {
            /* Neighbours are in one room: not one after the other. */
            struct person *person = &people[said * 389 % (uint64_t)active];
            say(person, "{\"type\":\"say\",\"room\":\"room %ld\",\"text\":\"" TEXT "\",\"ref\":\"%llu\"}",
                (long)(person - people) / SMALL, (unsigned long long)now());
        }
        turn(0);
    }
    qsort(samples, sampled, sizeof *samples, order);
    printf("{\"said\": %llu, \"back\": %zu, \"delivered\": %zu, \"p50\": %.1f, \"p99\": %.1f, \"most\": %.1f}\n",
        (unsigned long long)said, sampled, delivered, microseconds(.5), microseconds(.99), microseconds(1));
}

static void broadcast(int times) {
    sampled = 0;
    for (int i = 0; i < times; i++) {
        /* Nobody else has anything to do meanwhile. */
        for (uint64_t until = now() + 200000000; now() < until;) turn(until);
        size_t kept = sampled;
        broadcast_missing = joined < ACTIVE ? joined : ACTIVE;
        broadcast_begun = now();
        say(&people[i * 37 % broadcast_missing], "{\"type\":\"say\",\"room\":\"" LOBBY "\",\"text\":\"" TEXT "\",\"ref\":\"0\"}");
        while (broadcast_missing && now() < broadcast_begun + 5000000000ull) turn(0);
        if (broadcast_missing) fail("%d did not get a broadcast", broadcast_missing);
        sampled = kept;
        samples[sampled++] = broadcast_last - broadcast_begun;
    }
    qsort(samples, sampled, sizeof *samples, order);
    printf("{\"times\": %d, \"p50\": %.1f, \"most\": %.1f}\n", times, microseconds(.5), microseconds(1));
}

int main(int words, char **arguments) {
    if (words != 2) fail("load PORT");
    port = atoi(arguments[1]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    setvbuf(stdout, NULL, _IOLBF, 0);
    char line[64], verb[16];
    int number;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %d", verb, &number) != 2) fail("no command: %s", line);
        if (!strcmp(verb, "open") && number <= MOST) open_to(number);
        else if (!strcmp(verb, "talk")) talk(number);
        else if (!strcmp(verb, "broadcast")) broadcast(number);
        else fail("no command: %s", line);
    }
    return 0;
}
