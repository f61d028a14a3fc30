/* watch.c - what an artifact answers on each image of a file, at every exit, and how long it takes.
 *
 *     watch FOLDER IMAGES.npy THREADS
 *
 * FOLDER has backbone.bin and perhaps heads.pack; IMAGES.npy is uint8 [N][H][W][C]. One line per image:
 * the exit that answered, its milliseconds, milliseconds of the full network, then of every exit its label, its
 * confidence, and the milliseconds until its answer when all exits before it are asked. All runs of one image follow
 * each other, so that whatever else the machine does strikes all alike. */
#define _POSIX_C_SOURCE 200809L
#include "npy.h"
#include "perse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 5 };

static _Noreturn void fail(const char *what, const char *where) {
    fprintf(stderr, "watch: %s: %s\n", what, where);
    exit(1);
}

static void check(perse_status status, const char *where) {
    if (status != PERSE_OK) fail(perse_status_text(status), *perse_detail() ? perse_detail() : where);
}

static void *take_memory(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) fail("not enough memory", "this device");
    return memory;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

typedef struct {
    perse_result *results; /* these three: [exits] */
    double *stage, *head;
} answers;

static void watch(perse *p, const uint8_t *image, uint32_t exits, const answers *all) {
    perse_result cascade, full;
    double until;
    double start = now();
    check(perse_run_u8(p, image, PERSE_CASCADE, &cascade, NULL), "cascade");
    double between = now();
    check(perse_run_u8(p, image, (int)exits - 1, &full, NULL), "full network");
    double end = now();
    check(perse_observe_u8(p, image, all->results, NULL, NULL), "every exit");
    check(perse_profile_u8(p, image, &until, all->stage, all->head), "every stage");
    printf("%d %.6f %.6f", cascade.exit, between - start, end - between);
    for (uint32_t e = 0; e < exits; e++) {
        until += all->stage[e] + all->head[e];
        printf(" %d %.9g %.6f", all->results[e].label, (double)all->results[e].confidence, until);
    }
    puts("");
}

int main(int argc, char **argv) {
    if (argc != 4) fail("usage", "watch FOLDER IMAGES.npy THREADS");
    int threads = atoi(argv[3]);
    perse *p;
    npy file;
    size_t size = perse_memory_size(threads);
    check(perse_open(&p, argv[1], threads, take_memory(size), size), argv[1]);
    perse_info i = perse_get_info(p);
    const char *wrong = npy_open(&file, argv[2]);
    if (wrong != NULL) fail(wrong, argv[2]);
    if (strcmp(file.dtype, "|u1") != 0 || file.dimensions != 4 || file.shape[1] != i.height || file.shape[2] != i.width ||
        file.shape[3] != i.channels)
        fail("not images of the network's size", argv[2]);
    size_t each = (size_t)i.height * i.width * i.channels;
    size_t times = i.exits * sizeof(double);
    answers all = {take_memory(i.exits * sizeof(perse_result)), take_memory(times), take_memory(times)};
    for (int n = 0; n < WARM_UP && file.shape[0] > 0; n++) check(perse_observe_u8(p, file.data, all.results, NULL, NULL), "warm-up");
    for (uint64_t n = 0; n < file.shape[0]; n++) watch(p, file.data + n * each, i.exits, &all);
    npy_close(&file);
    perse_close(p);
    return fflush(stdout) != 0;
}
