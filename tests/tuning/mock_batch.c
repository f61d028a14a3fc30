/* mock_batch.c - a batch whose candidates fail as kernels can, and a clock that jumps as clocks should not. */
#define _GNU_SOURCE
#include "batch.h"
#include "plan.h"

#include <string.h>
#include <time.h>

static int jumps; /* every call of the clock goes back; 2: every fourth does */

/* time.h declares it: test_program.py makes it stand for clock_gettime. */
int mock_clock(clockid_t clock, struct timespec *now) {
    static long calls;
    (void)clock;
    calls++;
    now->tv_sec = jumps == 1 ? 1000 - calls : 1000;
    now->tv_nsec = 1000 * calls;
    if (jumps == 2 && calls % 4 == 0) now->tv_sec += calls % 8 == 0 ? 100000 : -1;
    return 0;
}

static int good(uint8_t *arena, const uint8_t *data) {
    memcpy(arena + 64, data, 64);
    return 0;
}

static int refuses(uint8_t *arena, const uint8_t *data) {
    const char *parts[] = {"\"no\"\n", NULL, "\\workspace"};
    (void)arena, (void)data;
    TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 3);
    return -1;
}

static int refuses_the_second_time(uint8_t *arena, const uint8_t *data) {
    static int runs;
    return runs++ > 0 ? refuses(arena, data) : good(arena, data);
}

static int clock_goes_back(uint8_t *arena, const uint8_t *data) {
    jumps = 1;
    return good(arena, data);
}

static int clock_jumps_now_and_then(uint8_t *arena, const uint8_t *data) {
    jumps = 2;
    return good(arena, data);
}

typedef int (*launcher)(int (*task)(int, void *, void *), void *closure, int tasks);

static int task(int number, void *env, void *closure) {
    (void)number, (void)env, (void)closure;
    return 0;
}

static int launches(uint8_t *arena, const uint8_t *data) {
    launcher launch;
    memcpy(&launch, &__TVMBackendParallelLaunch, sizeof launch);
    return launch(task, NULL, 0) + good(arena, data);
}

static const perse_piece input[] = {{0, 0, 64}};
static const uint32_t none[] = {0};

const perse_candidate perse_candidates[] = {
    {0, good, 128, input, 1, 64, 16, none},
    {1, refuses, 128, input, 1, 64, 16, none},
    {2, refuses_the_second_time, 128, input, 1, 64, 16, none},
    {3, clock_goes_back, 128, input, 1, 64, 16, none},
    {4, clock_jumps_now_and_then, 128, input, 1, 64, 16, none},
    {5, good, UINT64_MAX / 4, input, 1, 64, 16, none},
    {6, launches, 128, input, 1, 64, 16, none}, /* and its table knows of no launch */
};
const uint32_t perse_candidate_count = 7;
