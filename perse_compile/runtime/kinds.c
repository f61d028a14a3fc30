/* kinds.c - whether samples without labels are of two kinds, as from two cameras. What personalising takes to be right of the one can
 * hide what becomes of the other: they are judged one by one, and a kind that the network cannot read is left out. */
#include "fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double SMALLER = 0.1; /* share of the samples that a kind has at least */
static const double ACROSS = 0.1;  /* of a kind's neighbours, that are at most of the other one */
static const double READABLE = 0.25; /* of what the final exit tells of the other kind */

/* How unlike the training images a sample is: the mean square of the first exit's features, standardised as they were there. */
static double strangeness(const fit *f, uint32_t sample) {
    const perse_head *head = &f->p->spare.exit[0].head;
    uint32_t width = f->p->plan->exit[0].features;
    double sum = 0;
    perse_sample_features(f->samples, (size_t)sample * f->p->features + perse_feature_offset(f->p->plan, 0), width, f->p->feature);
    for (uint32_t i = 0; i < width; i++) {
        double z = (double)((f->p->feature[i] - head->shift[i]) * head->scale[i]);
        sum += z * z / width;
    }
    return sum;
}

static int stranger(const void *left, const void *right) {
    const perse_ranked *a = left, *b = right;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

perse_slice fit_of_kind(const fit *f, uint8_t kind, uint32_t *into) {
    uint32_t count = 0;
    for (uint32_t j = 0; j < f->all.count; j++)
        if (f->kind[f->all.index[j]] == kind) into[count++] = f->all.index[j];
    return (perse_slice){into, count};
}

/* Samples in order of strangeness are cut in two where the fewest neighbours are on the other side. */
static void cut_in_two(fit *f) {
    uint32_t n = f->all.count, *rank = f->picked, cut = 0;
    int32_t *below = f->crossing, *above = f->crossing + n, from_below = 0, from_above = 0; /* neighbours across a cut, from either side */
    double fewest = ACROSS;
    for (uint32_t j = 0; j < n; j++) f->lab.ranked[j] = (perse_ranked){(float)strangeness(f, f->all.index[j]), f->all.index[j]};
    qsort(f->lab.ranked, n, sizeof *f->lab.ranked, stranger);
    for (uint32_t at = 0; at < n; at++) rank[f->lab.ranked[at].index] = at;
    memset(f->crossing, 0, 2 * (size_t)n * sizeof *f->crossing);
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t k = 0; k < FIT_NEAR; k++) { /* a cut at c is crossed if one rank is less and the other is not */
            uint32_t mine = rank[f->all.index[j]], other = rank[f->near[f->all.index[j]].sample[k]];
            int32_t *side = mine < other ? below : above;
            side[mine < other ? mine : other]++;
            side[mine < other ? other : mine]--;
        }
    for (uint32_t c = 1; c < n; c++) {
        from_below += below[c - 1], from_above += above[c - 1];
        double share = fmax((double)from_below / c, (double)from_above / (n - c)) / FIT_NEAR;
        if (c < SMALLER * n || n - c < SMALLER * n || share >= fewest) continue;
        fewest = share;
        cut = c;
    }
    f->two_kinds = cut > 0;
    for (uint32_t j = 0; j < n; j++) f->kind[f->all.index[j]] = rank[f->all.index[j]] >= cut;
}

/* A kind of which the final exit tells next to nothing teaches nothing, and what it is taken for would hide what becomes of the other. */
static perse_status leave_out(fit *f, bool *left) {
    double told[2];
    for (uint8_t kind = 0; kind < 2; kind++)
        PERSE_TRY(fit_information(f, f->p->plan->exits - 1, fit_of_kind(f, kind, f->picked), &told[kind]));
    uint8_t kept = told[1] > told[0];
    perse_slice these = fit_of_kind(f, kept, f->picked);
    *left = told[!kept] < READABLE * told[kept] && these.count >= PERSE_FEWEST_SAMPLES;
    if (!*left) return PERSE_OK;
    memcpy(f->index, these.index, these.count * sizeof *f->index);
    f->all.count = these.count;
    return PERSE_OK;
}

perse_status fit_find_kinds(fit *f) {
    bool left = true;
    while (left) { /* what is kept may be of two kinds again */
        PERSE_TRY(fit_find_neighbours(f));
        cut_in_two(f);
        left = false;
        if (f->two_kinds) PERSE_TRY(leave_out(f, &left));
    }
    return PERSE_OK;
}
