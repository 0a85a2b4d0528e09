/* Both ends of what the benchmark of the network measures; the same program for everybody.
 *
 *     wire serve PORT                          takes connections until it is ended, by IPv4
 *     wire send ADDRESS PORT MILLISECONDS      sends as much as goes over one connection; says how many bytes a second arrived
 *     wire connect ADDRESS PORT MILLISECONDS   connects, has a byte answered and closes, again and again, one after the other;
 *                                              says how many times a second
 *
 * A connection begins with a byte: `s`, everything that follows is read, and at its end its number of bytes is answered;
 * `c`, a byte is answered. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 << 10];

static void fail(const char *what) {
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static int open_socket(void) {
    int one = 1, found = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (found < 0) fail("socket");
    setsockopt(found, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(found, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* Nobody waits for ever for an answer that a rule has dropped. */
    struct timeval limit = {.tv_sec = 5};
    setsockopt(found, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return found;
}

static struct sockaddr_in at(const char *address, const char *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1) fail("address");
    return at;
}

static int serve(const char *port) {
    struct sockaddr_in any = at("0.0.0.0", port);
    int listener = open_socket();
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 1024)) fail("listen");
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        char kind;
        if (peer < 0) fail("accept");
        if (read(peer, &kind, 1) == 1) {
            uint64_t count = 0;
            ssize_t got = 0;
            while (kind == 's' && (got = read(peer, buffer, sizeof buffer)) > 0) count += got;
            if (kind == 'c') got = write(peer, "k", 1);
            if (kind == 's') got = write(peer, &count, sizeof count);
            if (got < 0) perror("wire: serve");
        }
        close(peer);
    }
}

static int connected(struct sockaddr_in to, const char *kind) {
    int peer = open_socket();
    struct timeval limit = {.tv_sec = 5};
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(peer, (struct sockaddr *)&to, sizeof to)) fail("connect");
    if (write(peer, kind, 1) != 1) fail("write");
    return peer;
}

static int send_all(struct sockaddr_in to, double seconds) {
    int peer = connected(to, "s");
    double began = now();
    uint64_t count;
    while (now() - began < seconds)
        if (write(peer, buffer, sizeof buffer) < 0) fail("write");
    shutdown(peer, SHUT_WR);
    if (read(peer, &count, sizeof count) != sizeof count) fail("read");
    printf("%.0f\n", count / (now() - began));
    return 0;
}

static int connect_often(struct sockaddr_in to, double seconds) {
    /* A closed connection keeps its port for a minute; with a reset it does not, and nothing runs out of ports. */
    struct linger reset = {1, 0};
    double began = now();
    long count = 0;
    while (now() - began < seconds) {
        char answer;
        int peer = connected(to, "c");
        if (read(peer, &answer, 1) != 1) fail("read");
        setsockopt(peer, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(peer);
        count++;
    }
    printf("%.0f\n", count / (now() - began));
    return 0;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 3 && !strcmp(words[1], "serve")) return serve(words[2]);
    if (count == 5 && !strcmp(words[1], "send")) return send_all(at(words[2], words[3]), atoi(words[4]) / 1e3);
    if (count == 5 && !strcmp(words[1], "connect")) return connect_often(at(words[2], words[3]), atoi(words[4]) / 1e3);
    fprintf(stderr, "usage: wire serve PORT | send ADDRESS PORT MILLISECONDS | connect ADDRESS PORT MILLISECONDS\n");
    return 2;
}
