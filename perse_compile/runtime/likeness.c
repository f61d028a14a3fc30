/* likeness.c - how alike samples look to the backbone. */
#include "inside.h"

#include <math.h>
#include <string.h>

uint32_t perse_compared_exit(const perse_plan *plan) { return plan->exits > 1 ? plan->exits - 2 : 0; }

void perse_unit_features(const perse *p, const perse_samples *samples, uint32_t e, uint32_t sample, const double *mean,
                         const double *scale, float *x) {
    uint32_t width = p->plan->exit[e].features;
    double length = 1e-24;
    perse_sample_features(samples, (size_t)sample * p->features + perse_feature_offset(p->plan, e), width, x);
    for (uint32_t i = 0; i < width; i++) {
        x[i] = (float)((x[i] - mean[i]) * scale[i]);
        length += (double)x[i] * (double)x[i];
    }
    float unit = (float)(1 / sqrt(length));
    for (uint32_t i = 0; i < width; i++) x[i] *= unit;
}

void perse_compare(const float *x, const float *block, uint32_t width, float *likeness) {
    float sum[PERSE_BLOCK] = {0};
    for (uint32_t i = 0; i < width; i++)
        for (uint32_t b = 0; b < PERSE_BLOCK; b++) sum[b] += x[i] * block[(size_t)i * PERSE_BLOCK + b];
    memcpy(likeness, sum, sizeof sum);
}
