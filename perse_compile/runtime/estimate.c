/* estimate.c - what a fit will take, from a short probe: one image's way through the backbone, one training batch and one
 * answer of every head, timed here and now; the rest is counting what fit.c does with them. */
#define _POSIX_C_SOURCE 200809L
#include "inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double MORE_COMPARISONS = 1.5; /* kinds.c: 0.9^2 + 0.9^4 at most */
enum { IMAGES = 5, BATCHES = 9, SEARCH = 27 }; /* timed; losses of one search for a temperature */

typedef struct {
    perse *p;
    uint8_t *image;  /* [pixels] */
    float *features;  /* [features] of an image */
    uint16_t *halves; /* the same, as a fit reads them */
    float *row, *logits; /* [classes] */
    double *mean, *scale; /* [features of the compared exit] */
    float *block;         /* [the same][PERSE_BLOCK] */
    void *training;
    size_t training_size;
} probe;

static void carve_probe(perse_carver *c, const perse *p, probe *q) {
    const perse_plan *plan = p->plan;
    for (uint32_t e = 0; e < plan->exits; e++)
        if (perse_training_size(p, (int)e) > q->training_size) q->training_size = perse_training_size(p, (int)e);
    q->image = perse_carve(c, (uint64_t)plan->height * plan->width, plan->channels);
    q->features = perse_carve(c, p->features, sizeof(float));
    q->halves = perse_carve(c, p->features, sizeof *q->halves);
    q->row = perse_carve(c, plan->classes, sizeof(float));
    q->logits = perse_carve(c, plan->classes, sizeof(float));
    uint32_t width = plan->exit[perse_compared_exit(plan)].features;
    q->mean = perse_carve(c, width, sizeof *q->mean);
    q->scale = perse_carve(c, width, sizeof *q->scale);
    q->block = perse_carve(c, (uint64_t)width * PERSE_BLOCK, sizeof *q->block);
    q->training = perse_carve(c, q->training_size, 1);
}

size_t perse_estimate_size(const perse *p) {
    if (p == NULL) return 0;
    probe q = {0};
    perse_carver c = {NULL, 0, 0};
    carve_probe(&c, p, &q);
    return perse_carved_size(&c);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *times, int count) {
    qsort(times, (size_t)count, sizeof *times, ascending);
    return times[count / 2];
}

/* Every time the first is for warming up. */
static perse_status time_image(probe *q, double *seconds) {
    double times[IMAGES];
    for (int n = -1; n < IMAGES; n++) {
        double start = now();
        PERSE_TRY(perse_features_u8(q->p, q->image, q->features));
        if (n >= 0) times[n] = now() - start;
    }
    *seconds = median(times, IMAGES);
    perse_to_halves(q->features, q->halves, q->p->features);
    return PERSE_OK;
}

/* One batch as fit.c makes it: rows filled, then the compiled step. The head is the factory's, in spare memory. */
static perse_status time_batch(probe *q, uint32_t e, double *seconds) {
    const perse_plan *plan = q->p->plan;
    uint32_t rows = plan->train_batch, width = plan->exit[e].features;
    perse_carver c = perse_carve_in(q->training, q->training_size);
    perse_training *t = perse_training_carve(&c, plan, e);
    double times[BATCHES];
    perse_training_begin(t, q->p, e, &q->p->spare.exit[e].head);
    for (int n = -1; n < BATCHES; n++) {
        double start = now();
        for (uint32_t j = 0; j < rows; j++) {
            perse_from_halves(q->halves + perse_feature_offset(plan, e), t->features + (size_t)j * width, width);
            perse_probabilities(q->logits, plan->classes, 2, q->row);
            for (uint32_t k = 0; k < plan->classes; k++) {
                t->hard[(size_t)j * plan->classes + k] = k == 0 ? 1.0f / (float)rows : 0;
                t->soft[(size_t)j * plan->classes + k] = q->row[k] / (float)rows;
            }
        }
        PERSE_TRY(perse_training_step(t, 0.5f, 0, 0.9f, 0));
        if (n >= 0) times[n] = now() - start;
    }
    *seconds = median(times, BATCHES);
    return PERSE_OK;
}

static perse_status time_head(probe *q, uint32_t e, double *seconds) {
    const uint16_t *halves = q->halves + perse_feature_offset(q->p->plan, e);
    double times[BATCHES];
    for (int n = -1; n < BATCHES; n++) {
        double start = now();
        perse_from_halves(halves, q->p->feature, q->p->plan->exit[e].features);
        PERSE_TRY(perse_apply_head(q->p, e, &q->p->spare.exit[e].head, q->p->feature, q->logits));
        if (n >= 0) times[n] = now() - start;
    }
    *seconds = median(times, BATCHES);
    return PERSE_OK;
}

static double time_row(const probe *q) {
    double times[BATCHES];
    for (int n = -1; n < BATCHES; n++) {
        double start = now();
        perse_probabilities(q->logits, q->p->plan->classes, 2, q->row);
        if (n >= 0) times[n] = now() - start;
    }
    return median(times, BATCHES);
}

/* One sample beside PERSE_BLOCK others. */
static double time_comparison(probe *q) {
    uint32_t e = perse_compared_exit(q->p->plan), width = q->p->plan->exit[e].features;
    perse_samples one = {.count = 1, .halves = q->halves};
    float likeness[PERSE_BLOCK];
    double times[BATCHES];
    for (uint32_t i = 0; i < width; i++) q->mean[i] = 0, q->scale[i] = 1;
    for (size_t i = 0; i < (size_t)width * PERSE_BLOCK; i++) q->block[i] = 1;
    for (int n = -1; n < BATCHES; n++) {
        double start = now();
        perse_unit_features(q->p, &one, e, 0, q->mean, q->scale, q->p->feature);
        perse_compare(q->p->feature, q->block, width, likeness);
        if (n >= 0) times[n] = now() - start;
    }
    return median(times, BATCHES);
}

/* Steps of one epoch, over all turns: one without each fold, one with everything (learn.c). */
static double steps_of(const perse_plan *plan, const perse_fit_options *o, double n) {
    double steps = 0;
    for (uint32_t turn = 0; turn <= o->folds; turn++) {
        uint32_t count = (uint32_t)ceil(turn < o->folds ? n * (o->folds - 1) / o->folds : n);
        steps += ceil((double)count / plan->train_batch) * perse_passes(count, plan->train_batch);
    }
    return steps;
}

/* Whether the camera is corrected takes some images twice more. Without labels all are compared with each other, those that are
 * kept again where some are left out, and heads may learn twice. */
static perse_status count_up(probe *q, const perse_fit_options *o, bool labelled, perse_estimate *out) {
    const perse_plan *plan = q->p->plan;
    double n = out->samples, image, training = 0;
    PERSE_TRY(perse_factory(q->p, &q->p->spare));
    PERSE_TRY(time_image(q, &image));
    for (uint32_t e = 0; e < plan->exits; e++) {
        double batch, head;
        PERSE_TRY(time_head(q, e, &head));
        PERSE_TRY(time_batch(q, e, &batch));
        training += o->epochs * steps_of(plan, o, n) * batch + 3 * n * head + (4 + SEARCH / 2.0) * n * time_row(q);
    }
    double compared = labelled ? 0 : n * ceil(n / PERSE_BLOCK) * time_comparison(q);
    out->epochs_at_most = o->epochs;
    out->seconds = out->images * image + training + compared;
    out->seconds_at_most = out->seconds + 2 * image * (out->images < PERSE_ENOUGH_FOR_LEVELS ? out->images : PERSE_ENOUGH_FOR_LEVELS);
    out->seconds_at_most += MORE_COMPARISONS * compared;
    if (!labelled && o->neighbours > 0) out->seconds_at_most += training;
    out->core_seconds = out->seconds * q->p->threads;
    out->core_seconds_at_most = out->seconds_at_most * q->p->threads;
    return PERSE_OK;
}

static uint64_t memory_of(const perse *p, uint32_t images, uint32_t samples) {
    const perse_plan *plan = p->plan;
    uint64_t features = (uint64_t)samples * p->features * sizeof(uint16_t), pixels = (uint64_t)plan->height * plan->width * plan->channels;
    return perse_memory_size(p->threads) + plan->backbone_size + perse_fit_size(p, samples) + features + images * pixels;
}

perse_status perse_estimate_fit(perse *p, uint32_t images, uint32_t samples, bool labelled, const perse_fit_options *options, void *memory,
                                size_t size, perse_estimate *out) {
    if (p == NULL || options == NULL || memory == NULL || out == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    probe q = {.p = p};
    perse_carver c = perse_carve_in(memory, size);
    carve_probe(&c, p, &q);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_estimate_size");
    memset(q.image, 128, (size_t)p->plan->height * p->plan->width * p->plan->channels);
    *out = (perse_estimate){.images = images, .samples = samples, .memory = memory_of(p, images, samples)};
    return count_up(&q, options, labelled, out);
}
