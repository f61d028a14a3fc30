/* program.h - what the files of the artifact's executable share. They parse, call the library and print; nothing else. */
#ifndef PROGRAM_H
#define PROGRAM_H
#define _POSIX_C_SOURCE 200809L
#include "npy.h"
#include "perse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- main.c: what is asked for ---- */

enum { MOST_NEW_CLASSES = 64 };

typedef struct {
    const char *new_class[MOST_NEW_CLASSES];
    uint32_t new_classes;
    const char *command, *file, *artifact, *labels, *cache_file, *pack, *enable, *disable;
    bool json, progress, help, quick, no_levels, cache, probabilities;
    int threads, runs, exit, probes;
    uint32_t images;
    uint64_t budget;
    perse_fit_options fit;
    perse_watch_options watch; /* every = 0: none */
} options;

/* ---- say.c: errors are one line and exit status 1, wrong usage 2 ---- */

_Noreturn void fail(const char *what, const char *where, const char *advice);
_Noreturn void usage_error(const char *what, const char *word);
void *take_memory(size_t size);

void say(const options *o, const char *format, ...) __attribute__((format(printf, 2, 3))); /* unless --json */

/* One object on stdout. A key of NULL is for what stands in a list. */
void json_open(const char *key, char bracket);
void json_close(char bracket);
void json_string(const char *key, const char *text);
void json_bool(const char *key, bool value);
void json_whole(const char *key, uint64_t value);
void json_number(const char *key, double value);
void json_levels(const char *key, const float *levels, uint32_t channels); /* [[low, high], ...] */

/* ---- artifact.c ---- */

extern const options *given; /* for the messages of check() */
void check(perse_status status);

typedef perse_status (*opener)(perse **, const char *, int, void *, size_t);
perse *open_artifact(const options *o, opener open);
perse_place *open_place(perse *p, const char *name, int flags);
perse *open_heads(const options *o, int flags); /* the artifact with the heads that --pack names */
perse_exit_info exit_info(const perse *p, uint32_t e);
void find_artifact(options *o, const char *argv0); /* the folder of the executable */

/* ---- images.c ---- */

typedef struct {
    npy file;
    uint32_t count;
    size_t size; /* of one image in bytes */
    int32_t *labels;
} images;

const char *need_file(const options *o);
void open_npy(npy *out, const char *path);
void check_shape(const npy *file, const perse_info *i, int batch, const char *path);
images open_images(const options *o, const perse *p);
const uint8_t *image_at(const images *all, uint32_t i);
uint16_t *extract_features(const options *o, perse *p, const images *all); /* [images][features], in half precision */
int show_progress(void *user, const char *phase, uint32_t done, uint32_t total); /* user: options */
void end_progress(const options *o);

/* ---- camera.c ---- */

typedef struct {
    float *factory, *before, *measured; /* levels */
    bool tried, taken;
    char why[100]; /* it was not tried */
    perse_final plain, corrected;
} camera;

uint16_t *choose_features(const options *o, perse *p, const images *all, camera *c);
void undo_camera(perse *p, const camera *c);
void print_camera(const options *o, const perse *p, const camera *c, bool live);
perse_cache_info look_in_cache(const options *o, perse *p);

/* ---- time.c ---- */

double now(void); /* ms */
double median(double *values, int count); /* sorts them */

/* ---- commands: exit status ---- */

int info(const options *o);     /* look.c */
int selftest(const options *o);
int run(const options *o);      /* run.c */
int evaluate(const options *o);
int personalise(const options *o); /* personalise.c */
int estimate(const options *o);
int calibrate(const options *o);
int bench(const options *o); /* time.c */
int exits(const options *o);
int packs(const options *o); /* packs.c */
int rollback(const options *o);
int reset(const options *o);
#endif
