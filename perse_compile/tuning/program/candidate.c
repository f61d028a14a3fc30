/* candidate.c - one candidate: memory, repeats, times, and sums that tell a wrong result. */
#define _GNU_SOURCE
#include "batch.h"
#include "inside.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    void *sync;
    int32_t num_task;
} parallel_env;
typedef int (*parallel_task)(int task, parallel_env *env, void *closure);
typedef int (*launcher)(parallel_task task, void *closure, int num_task);

typedef struct {
    const perse_candidate *c;
    const uint8_t *data;
    uint8_t *arena, *sweep;
    perse_pool *pool;
} bench;

typedef struct {
    uint8_t *memory;
    uint64_t bytes;
} region;

const uint8_t *perse_map(const char *path) {
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &info) != 0 || info.st_size == 0) return NULL;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    return data == MAP_FAILED ? NULL : data;
}

static void *anonymous(uint64_t bytes) {
    void *memory = mmap(NULL, bytes == 0 ? 1 : (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int launch(parallel_task task, void *closure, int tasks) {
    launcher run;
    memcpy(&run, &__TVMBackendParallelLaunch, sizeof run);
    return run(task, closure, tasks);
}

/* A thread's part of a region: every cache line read and written. */
static int touch_part(int task, parallel_env *env, void *closure) {
    region *r = closure;
    uint64_t lines = (r->bytes + 63) / 64, tasks = (uint64_t)env->num_task, number = (uint64_t)task;
    for (uint64_t i = lines * number / tasks; i < lines * (number + 1) / tasks; i++) {
        volatile uint8_t *byte = r->memory + i * 64;
        *byte = *byte;
    }
    return 0;
}

/* As a network leaves things: weights out of every L2, since it has streamed others since; inputs just written. */
static void prepare(const bench *b, const perse_effort *effort) {
    region sweep = {b->sweep, effort->sweep * (uint64_t)effort->threads};
    launch(touch_part, &sweep, effort->threads);
    for (uint32_t i = 0; i < b->c->inputs; i++) {
        region input = {b->arena + b->c->input[i].to, b->c->input[i].bytes};
        if (b->c->input[i].from != PERSE_ANY) launch(touch_part, &input, effort->threads);
    }
}

static bool open_bench(bench *b, const perse_candidate *c, const uint8_t *data, int threads, uint64_t sweep) {
    *b = (bench){c, data, anonymous(c->arena), anonymous(sweep * (uint64_t)threads), NULL};
    perse_carver counting = {0};
    perse_pool_carve(&counting, threads);
    size_t size = perse_carved_size(&counting);
    perse_carver carver = perse_carve_in(anonymous(size), size);
    b->pool = perse_pool_carve(&carver, threads);
    if (b->arena == NULL || b->sweep == NULL || b->pool == NULL || perse_pool_start(b->pool) != PERSE_OK) return false;
    for (uint32_t i = 0; i < c->inputs; i++) {
        const perse_piece *p = &c->input[i];
        if (p->from != PERSE_ANY) memcpy(b->arena + p->to, data + p->from, p->bytes);
    }
    perse_pool_enter(b->pool);
    return true;
}

/* 0x3c3c3c3c is 0.0115: every element the same, so any packing of such weights holds the same. */
static void fill_any(const bench *b) {
    for (uint32_t i = 0; i < b->c->inputs; i++) {
        const perse_piece *p = &b->c->input[i];
        if (p->from == PERSE_ANY) memset(b->arena + p->to, 0x3c, p->bytes);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of the repeats into `seconds`; their number, or -1 when a kernel fails. Times that no clock gives which only
 * goes on (not above 0, beyond the limit) do not count; when most are such, the number falls short of `repeats`. */
static int repeat(const bench *b, const perse_effort *effort, double seconds[PERSE_MOST_REPEATS]) {
    int kept = 0, tries = 0, most = effort->repeats > PERSE_MOST_REPEATS / 4 ? effort->repeats : PERSE_MOST_REPEATS / 4;
    double total = 0, began = now();
    while (kept < most && tries++ < 2 * most) {
        prepare(b, effort);
        double start = now();
        if (b->c->run(b->arena, b->data) != 0) return -1;
        double end = now(), took = end - start, all = end - began;
        if (took > 0 && took < effort->limit) {
            seconds[kept++] = took;
            total += took;
        }
        if (kept >= effort->repeats && (total >= effort->seconds || all >= 4 * effort->seconds)) break;
    }
    return kept;
}

typedef struct {
    char *text; /* [PERSE_LINE] */
    size_t used;
} writer;

static void say(writer *w, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(w->text + w->used, PERSE_LINE - w->used, format, arguments);
    va_end(arguments);
    if (more > 0) w->used += (size_t)more;
    if (w->used >= PERSE_LINE) w->used = PERSE_LINE - 1;
}

static void fail(char line[PERSE_LINE], const perse_candidate *c, const char *why, const char *detail) {
    char clean[160];
    size_t n = 0;
    for (; detail[n] != 0 && n + 1 < sizeof clean; n++) {
        bool plain = detail[n] >= ' ' && detail[n] < 127 && detail[n] != '"' && detail[n] != '\\';
        clean[n] = plain ? detail[n] : ' ';
    }
    clean[n] = 0;
    snprintf(line, PERSE_LINE, "{\"candidate\": %u, \"error\": \"%s%s%s\"}", c->number, why, n > 0 ? ": " : "", clean);
}

/* The result as PERSE_SLICES numbers: of each slice the sum with signs by chance, which any wrong element changes, and
 * its norm, against which a difference is judged. False when some element is not finite. */
static bool sum_up(const bench *b, double sum[PERSE_SLICES], double norm[PERSE_SLICES]) {
    const float *result = (const float *)(const void *)(b->arena + b->c->result);
    for (uint64_t s = 0; s < PERSE_SLICES; s++) {
        sum[s] = norm[s] = 0;
        for (uint64_t i = b->c->floats * s / PERSE_SLICES; i < b->c->floats * (s + 1) / PERSE_SLICES; i++) {
            double x = (double)result[i];
            if (!isfinite(x)) return false;
            uint32_t mixed = (uint32_t)i * 2654435761u;
            sum[s] += (mixed ^ mixed >> 15) & 0x4000 ? x : -x;
            norm[s] += x * x;
        }
        norm[s] = sqrt(norm[s]);
    }
    return true;
}

static void say_list(writer *w, const char *name, const double *values, int count) {
    say(w, ", \"%s\": [", name);
    for (int i = 0; i < count; i++) say(w, "%s%.9g", i > 0 ? ", " : "", values[i]);
    say(w, "]");
}

void perse_measure(const perse_candidate *c, const uint8_t *data, const perse_effort *effort, char line[PERSE_LINE]) {
    static double seconds[PERSE_MOST_REPEATS];
    double sum[PERSE_SLICES], norm[PERSE_SLICES];
    bench b;
    if (!open_bench(&b, c, data, effort->threads, effort->sweep)) {
        fail(line, c, "no memory or threads for it on the device", "");
        return;
    }
    fill_any(&b);
    if (c->run(b.arena, data) != 0) {
        fail(line, c, "a kernel failed", perse_detail());
        return;
    }
    if (!sum_up(&b, sum, norm)) {
        fail(line, c, "wrong result: not finite", "");
        return;
    }
    int kept = effort->repeats > 0 ? repeat(&b, effort, seconds) : 0;
    if (kept < effort->repeats) {
        fail(line, c, kept < 0 ? "a kernel failed" : "the device's clock jumps", kept < 0 ? perse_detail() : "");
        return;
    }
    writer w = {line, 0};
    say(&w, "{\"candidate\": %u", c->number);
    say_list(&w, "seconds", seconds, kept);
    say_list(&w, "sums", sum, PERSE_SLICES);
    say_list(&w, "norms", norm, PERSE_SLICES);
    say(&w, "}");
}

/* ---- counting ---- */

enum { PIECES = 64, RUN = 3, MOST_LAUNCHES = 256 };
static const uint32_t *iterations; /* of the next loop, and those after it */
static struct {
    int pieces, ran;
} loops[MOST_LAUNCHES];
static int launched;

/* A block of instructions of its own, that nothing else runs: the emulator's log shows when it is passed. */
static __attribute__((noinline)) void mark(void) { __asm__ volatile("" ::: "memory"); }

/* A loop in at most PIECES pieces of equal length, the last perhaps shorter; the first, the middle and the last run. */
static int launch_marked(parallel_task task, void *closure, int num_task) {
    uint32_t all = *iterations, length = (all + PIECES - 1) / PIECES;
    if (all == 0 || num_task != 0 || launched == MOST_LAUNCHES) return -1;
    iterations++;
    int pieces = (int)((all + length - 1) / length), ran = pieces < RUN ? pieces : RUN;
    parallel_env env = {NULL, pieces};
    for (int i = 0; i < ran; i++) {
        mark();
        int status = task(ran == 1 ? 0 : (pieces - 1) * i / (ran - 1), &env, closure);
        mark();
        if (status != 0) return status;
    }
    loops[launched].pieces = pieces;
    loops[launched++].ran = ran;
    return 0;
}

uintptr_t perse_mark_address(void) {
    void (*at)(void) = mark;
    uintptr_t address;
    memcpy(&address, &at, sizeof address);
    return address & ~(uintptr_t)1; /* 1: Thumb */
}

int perse_run_marked(const perse_candidate *c, const uint8_t *data) {
    bench b;
    if (!open_bench(&b, c, data, 1, 0)) return -1;
    launcher marked = launch_marked;
    memcpy(&__TVMBackendParallelLaunch, &marked, sizeof marked);
    iterations = c->launches;
    mark();
    int status = c->run(b.arena, data);
    mark();
    for (int i = 0; i < launched; i++)
        printf("%s[%d, %d]%s", i == 0 ? "[" : ", ", loops[i].pieces, loops[i].ran, i + 1 == launched ? "]" : "");
    if (launched == 0) printf("[]");
    return fflush(stdout) == 0 ? status : -1;
}
