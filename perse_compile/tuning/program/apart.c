/* apart.c - a candidate in a child of its own, with a limit. */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void child(const perse_candidate *c, const uint8_t *data, const perse_effort *effort, int answer) {
    static char line[PERSE_LINE];
    alarm((unsigned)effort->limit + 2); /* should the parent be killed */
    perse_measure(c, data, effort, line);
    size_t size = strlen(line);
    _exit(write(answer, line, size) == (ssize_t)size ? 0 : 1); /* less than a pipe holds: it goes in one piece */
}

/* What the child wrote, until it closes the pipe. False: silent for longer than the limit, by no clock that could jump. */
static bool listen_to(int answer, double limit, char line[PERSE_LINE]) {
    size_t used = 0;
    for (;;) {
        struct pollfd waiting = {answer, POLLIN, 0};
        int ready = poll(&waiting, 1, (int)(limit * 1e3) + 1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return false;
        ssize_t got = read(answer, line + used, PERSE_LINE - 1 - used);
        if (got <= 0) break;
        used += (size_t)got;
    }
    line[used] = 0;
    return true;
}

void perse_measure_apart(const perse_candidate *c, const uint8_t *data, const perse_effort *effort, char line[PERSE_LINE]) {
    int answer[2], status = 0;
    const char *none = "{\"candidate\": %u, \"error\": \"the device cannot start a process for it\"}";
    line[0] = 0;
    if (pipe(answer) != 0) {
        snprintf(line, PERSE_LINE, none, c->number);
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(answer[0]);
        child(c, data, effort, answer[1]);
    }
    close(answer[1]);
    bool in_time = pid > 0 && listen_to(answer[0], effort->limit, line);
    close(answer[0]);
    if (pid < 0) {
        snprintf(line, PERSE_LINE, none, c->number);
        return;
    }
    kill(pid, SIGKILL); /* ended already, or late */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    size_t size = strlen(line);
    if (!in_time)
        snprintf(line, PERSE_LINE, "{\"candidate\": %u, \"error\": \"took longer than %g s\"}", c->number, effort->limit);
    else if (size == 0 || line[size - 1] != '}')
        snprintf(line, PERSE_LINE, "{\"candidate\": %u, \"error\": \"crashed (%s %d)\"}", c->number,
                 WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}
