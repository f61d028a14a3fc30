/* kinds.c - whether samples without labels are of two kinds, as from two cameras. What personalising takes to be right of the one can
 * hide what becomes of the other: they are judged one by one, and a kind that the network cannot read is left out. */
#include "fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double SMALLER = 0.1; /* share of the samples that a kind has at least */
static const double ACROSS = 0.1;  /* of a kind's neighbours, that are at most of the other one */
static const double FAR_STRANGER = 2;            /* times the other kind's */
static const double READABLE = 0.25, LEAST = 0.1; /* of what the final exit tells of the other kind; nats that it tells of that */
enum { MOST_LEFT_OUT = 2 };                      /* kinds */

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

/* Whether the stranger kind is as from a camera that the network cannot read: far stranger than the other, and no exit that could teach
 * tells more than next to nothing of it. (A class that looks strange is a kind as well, but not by so much.) */
static perse_status cannot_be_read(fit *f, bool *unreadable) {
    const perse_pack_entry *exit = f->p->spare.exit;
    uint32_t final = f->p->plan->exits - 1;
    double strange[2] = {0, 0}, told[2], early;
    perse_slice kind[2] = {fit_of_kind(f, 0, f->picked), fit_of_kind(f, 1, f->picked + f->samples->count)};
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t j = 0; j < kind[k].count; j++) strange[k] += strangeness(f, kind[k].index[j]) / kind[k].count;
        PERSE_TRY(fit_information(f, final, &exit[final], kind[k], &told[k]));
    }
    *unreadable = strange[1] >= FAR_STRANGER * strange[0] && told[0] >= LEAST && told[1] < READABLE * told[0];
    for (uint32_t e = 0; *unreadable && e < final; e++) {
        PERSE_TRY(fit_information(f, e, &exit[e], kind[1], &early));
        *unreadable = early <= told[1] + FIT_EARLY_TELLS_MORE;
    }
    return PERSE_OK;
}

perse_status fit_find_kinds(fit *f) {
    bool unreadable = true;
    for (int round = 0; unreadable; round++) { /* what is kept may be of two kinds again */
        PERSE_TRY(fit_find_neighbours(f));
        cut_in_two(f);
        unreadable = false;
        if (!f->two_kinds || round == MOST_LEFT_OUT || fit_final_has_learnt(f)) break;
        PERSE_TRY(cannot_be_read(f, &unreadable));
        perse_slice kept = fit_of_kind(f, 0, f->picked);
        unreadable = unreadable && kept.count >= PERSE_FEWEST_SAMPLES;
        if (!unreadable) break;
        memcpy(f->index, kept.index, kept.count * sizeof *f->index); /* another kind teaches nothing, and what it is taken for would hide what becomes of this one */
        f->all.count = kept.count;
    }
    return PERSE_OK;
}
