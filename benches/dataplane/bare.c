/* The least a transparent relay can cost: one thread, edge-triggered epoll, no judgement, no record.
 *
 *   bare copy|splice PORT
 *
 * Takes what TPROXY hands over on PORT, dials where the client was going, and passes bytes both
 * ways: through a buffer of 64 KiB, or through a pipe of up to 1 MiB. A yardstick for the bench
 * beside it, written in C so that nothing of a runtime is in the figure.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, PIPE = 1024 * 1024, EVENTS = 256 };

struct way {
    int from, to, pipe[2];
    char *buffer;
    size_t held, offset;
    int ended, closed;
};

struct pair {
    int client, server, dead;
    struct way up, down;
    struct pair *next_dead;
};

static int splices;

static int make_room(struct way *way)
{
    if (!splices) {
        if (!way->buffer)
            way->buffer = malloc(BUFFER);
        return way->buffer ? 0 : -1;
    }
    if (way->pipe[0] < 0) {
        if (pipe2(way->pipe, O_NONBLOCK))
            return -1;
        fcntl(way->pipe[1], F_SETPIPE_SZ, PIPE);
    }
    return 0;
}

/* -1: broken; 0: nothing more to do for now, or for ever. */
static int pump(struct way *way)
{
    while (!way->closed) {
        ssize_t n;
        if (way->held == 0) {
            if (way->ended) {
                shutdown(way->to, SHUT_WR);
                way->closed = 1;
                return 0;
            }
            if (make_room(way))
                return -1;
            n = splices ? splice(way->from, NULL, way->pipe[1], NULL, PIPE,
                                 SPLICE_F_NONBLOCK | SPLICE_F_MOVE)
                        : read(way->from, way->buffer, BUFFER);
            if (n < 0)
                return errno == EAGAIN ? 0 : -1;
            if (n == 0) {
                way->ended = 1;
                continue;
            }
            way->held = (size_t)n;
            way->offset = 0;
        }
        n = splices ? splice(way->pipe[0], NULL, way->to, NULL, way->held,
                             SPLICE_F_NONBLOCK | SPLICE_F_MOVE)
                    : send(way->to, way->buffer + way->offset, way->held, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        way->held -= (size_t)n;
        way->offset += (size_t)n;
    }
    return 0;
}

static void forget(struct way *way)
{
    if (way->pipe[0] >= 0) {
        close(way->pipe[0]);
        close(way->pipe[1]);
    }
    free(way->buffer);
}

static void watch(int epoll, int fd, struct pair *pair)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    event.data.ptr = pair;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        perror("epoll_ctl");
}

static void take(int epoll, int listener)
{
    for (;;) {
        struct sockaddr_in to;
        socklen_t length = sizeof to;
        int one = 1, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (client < 0)
            return;
        struct pair *pair = calloc(1, sizeof *pair);
        int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (!pair || server < 0 || getsockname(client, (struct sockaddr *)&to, &length)) {
            perror("take");
            exit(1);
        }
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(server, (struct sockaddr *)&to, length) && errno != EINPROGRESS) {
            perror("connect");
            close(client), close(server), free(pair);
            continue;
        }
        pair->client = client, pair->server = server;
        pair->up = (struct way){.from = client, .to = server, .pipe = {-1, -1}};
        pair->down = (struct way){.from = server, .to = client, .pipe = {-1, -1}};
        watch(epoll, client, pair);
        watch(epoll, server, pair);
    }
}

int main(int count, char **words)
{
    if (count != 3)
        return fprintf(stderr, "usage: bare copy|splice PORT\n"), 2;
    splices = strcmp(words[1], "splice") == 0;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[2]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (setsockopt(listener, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof one)
        || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 65535))
        return perror("listen"), 1;
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN}};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events))
        return perror("epoll_ctl"), 1;
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        struct pair *dead = NULL;
        for (int i = 0; i < n; i++) {
            struct pair *pair = events[i].data.ptr;
            if (!pair) {
                take(epoll, listener);
                continue;
            }
            if (pair->dead)
                continue;
            int broken = pump(&pair->up) || pump(&pair->down);
            if (broken || (pair->up.closed && pair->down.closed)) {
                pair->dead = 1;
                pair->next_dead = dead;
                dead = pair;
            }
        }
        /* Freed after the batch, in which a second event may still name it. */
        while (dead) {
            struct pair *pair = dead;
            dead = pair->next_dead;
            close(pair->client), close(pair->server);
            forget(&pair->up), forget(&pair->down);
            free(pair);
        }
    }
}
