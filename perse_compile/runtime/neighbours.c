/* neighbours.c - images that look alike to the backbone are mostly of one class: what a teacher says of an image is drawn towards
 * what it says of its neighbours (label propagation: Zhou, Bousquet, Lal, Weston and Schoelkopf 2004). */
#include <math.h>
#include <string.h>

#include "fit.h"

enum { ROUNDS = 10 }; /* at a share of 0.8 what is left to move is 0.8^10, a tenth */
static const double FLOOR = 0.1; /* of the typical deviation, added to a feature's own */

/* mean, and in deviation what standardises. */
static void measure(fit *f, uint32_t e) {
    uint32_t width = f->p->plan->exit[e].features, offset = perse_feature_offset(f->p->plan, e), n = f->all.count;
    double typical = 0;
    for (uint32_t i = 0; i < width; i++) f->mean[i] = f->deviation[i] = 0;
    for (uint32_t j = 0; j < n; j++) {
        perse_sample_features(f->samples, (size_t)f->all.index[j] * f->p->features + offset, width, f->p->feature);
        for (uint32_t i = 0; i < width; i++) {
            f->mean[i] += (double)f->p->feature[i] / n;
            f->deviation[i] += (double)f->p->feature[i] * (double)f->p->feature[i] / n;
        }
    }
    for (uint32_t i = 0; i < width; i++) {
        f->deviation[i] = sqrt(fmax(f->deviation[i] - f->mean[i] * f->mean[i], 0));
        typical += f->deviation[i] * f->deviation[i] / width;
    }
    for (uint32_t i = 0; i < width; i++) f->deviation[i] = 1 / (f->deviation[i] + FLOOR * sqrt(typical) + 1e-12);
}

/* The nearest FIT_NEAR and the next one, nearest first. */
static void remember(fit_near *near, uint32_t sample, float likeness) {
    int at = FIT_NEAR;
    if (!(likeness > near->likeness[at])) return;
    for (; at > 0 && likeness > near->likeness[at - 1]; at--) {
        near->likeness[at] = near->likeness[at - 1];
        near->sample[at] = near->sample[at - 1];
    }
    near->likeness[at] = likeness;
    near->sample[at] = sample;
}

/* What a neighbour counts: how much nearer it is than the first that counts nothing, so that nothing jumps where two change
 * places. They add up to 1. */
static void weigh_neighbours(fit_near *near) {
    float last = near->likeness[FIT_NEAR], sum = 0;
    for (uint32_t k = 0; k < FIT_NEAR; k++) sum += near->likeness[k] -= last - 1e-6f;
    for (uint32_t k = 0; k < FIT_NEAR; k++) near->likeness[k] /= sum;
}

perse_status fit_find_neighbours(fit *f) {
    uint32_t e = perse_compared_exit(f->p->plan), width = f->p->plan->exit[e].features, n = f->all.count;
    const uint32_t *index = f->all.index;
    float *x = f->p->feature, likeness[PERSE_BLOCK];
    measure(f, e);
    for (uint32_t start = 0; start < n; start += PERSE_BLOCK) {
        uint32_t rows = n - start < PERSE_BLOCK ? n - start : PERSE_BLOCK;
        PERSE_TRY(fit_tell(f, "neighbours", start, n));
        memset(f->block, 0, (size_t)width * PERSE_BLOCK * sizeof(float));
        for (uint32_t b = 0; b < rows; b++) {
            uint32_t own = index[start + b];
            perse_unit_features(f->p, f->samples, e, own, f->mean, f->deviation, x);
            for (uint32_t i = 0; i < width; i++) f->block[(size_t)i * PERSE_BLOCK + b] = x[i];
            for (uint32_t k = 0; k <= FIT_NEAR; k++) f->near[own].sample[k] = own, f->near[own].likeness[k] = -INFINITY;
        }
        for (uint32_t j = 0; j < n; j++) {
            perse_unit_features(f->p, f->samples, e, index[j], f->mean, f->deviation, x);
            perse_compare(x, f->block, width, likeness);
            for (uint32_t b = 0; b < rows; b++)
                if (start + b != j) remember(&f->near[index[start + b]], index[j], likeness[b]);
        }
    }
    for (uint32_t j = 0; j < n; j++) weigh_neighbours(&f->near[index[j]]);
    return fit_tell(f, "neighbours", n, n);
}

/* One step: a share of what the neighbours say now, and for the rest what was said at first (own). */
static void step(const fit *f, float share, const float *own, const float *now, float *next) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t j = 0; j < f->all.count; j++) {
        uint32_t i = f->all.index[j];
        const fit_near *near = &f->near[i];
        float *row = next + (size_t)i * classes;
        for (uint32_t k = 0; k < classes; k++) row[k] = (1 - share) * own[(size_t)i * classes + k];
        for (uint32_t m = 0; m < FIT_NEAR; m++)
            for (uint32_t k = 0; k < classes; k++) row[k] += share * near->likeness[m] * now[(size_t)near->sample[m] * classes + k];
    }
}

void fit_even_out(fit *f, float share) {
    uint32_t classes = f->p->plan->classes;
    size_t table = (size_t)f->samples->count * classes;
    float *own = f->candidate, *now = f->lab.teacher, *next = f->lab.logits;
    for (uint32_t j = 0; j < f->all.count; j++) {
        size_t row = (size_t)f->all.index[j] * classes;
        perse_probabilities(now + row, classes, 1, own + row);
    }
    memcpy(now, own, table * sizeof(float));
    for (int round = 0; round < ROUNDS; round++) {
        step(f, share, own, now, next);
        memcpy(now, next, table * sizeof(float));
    }
    for (size_t i = 0; i < table; i++) now[i] = now[i] > 0 ? logf(now[i] + 1e-12f) : PERSE_SPARE_LOGIT;
}
