/* frequencies.c - how often a person without labels meets each class, and whether to believe it. */
#include <math.h>

#include "fit.h"

enum { ROUNDS = 200 };
static const double TRUST = 0.8; /* share of the correction that is used: nearly all of the gain, less of the harm */
static const double HALVES_APART = 0.2, EXITS_APART = 0.06; /* total variation of frequencies */
static const double MOST_CHANGED = 0.18, MOST_EVENED_CHANGED = 0.1; /* share of answers that the correction may change, surely no more */
static const double SURE = 1.645; /* standard errors: one-sided, 95 % */
static const float SHARE = 0.8f; /* of neighbours */

/* Saerens, Latinne and Decaestecker 2002: the class frequencies under which posteriors (softmax of logits [count][classes]),
 * corrected for them, average to them; of every `step`-th sample from `first`. Drawn towards uniform when samples are few.
 * Overwrites candidate. */
static void estimate_prior(fit *f, const float *logits, float temperature, uint32_t first, uint32_t step, double *prior) {
    uint32_t classes = perse_factory_classes(f->p->plan), stride = f->p->plan->classes, used = (f->all.count - first + step - 1) / step;
    double uniform = 1.0 / classes, drawn = (double)classes / (classes + used);
    for (uint32_t k = 0; k < stride; k++) prior[k] = k < classes ? uniform : 0;
    for (uint32_t j = first; j < f->all.count; j += step)
        perse_probabilities(logits + (size_t)f->all.index[j] * stride, stride, temperature, f->candidate + (size_t)j * stride);
    for (int round = 0; round < ROUNDS; round++) {
        double *next = f->prior + 2 * (size_t)stride, moved = 0;
        for (uint32_t k = 0; k < classes; k++) next[k] = 0;
        for (uint32_t j = first; j < f->all.count; j += step) {
            const float *likely = f->candidate + (size_t)j * stride;
            double sum = 0;
            for (uint32_t k = 0; k < classes; k++) sum += likely[k] * prior[k];
            for (uint32_t k = 0; k < classes; k++) next[k] += likely[k] * prior[k] / sum / used;
        }
        for (uint32_t k = 0; k < classes; k++) {
            double value = (1 - drawn) * next[k] + drawn * uniform;
            moved += fabs(value - prior[k]);
            prior[k] = value;
        }
        if (moved < 1e-6) break;
    }
}

static double apart(const fit *f) {
    double sum = 0;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) sum += fabs(f->prior[k] - f->prior[f->p->plan->classes + k]) / 2;
    return sum;
}

/* The estimate takes it that only class frequencies differ from the factory's. When the images look different too, it
 * explains that away with frequencies: then two halves of the samples disagree, or not most early exits agree, each asked for
 * its own estimate. */
static perse_status prior_is_steady(fit *f, bool *steady) {
    uint32_t classes = f->p->plan->classes, early = f->p->plan->exits - 1, agree = 0;
    double *other = f->prior + classes;
    estimate_prior(f, f->lab.teacher, 1, 0, 2, f->prior);
    estimate_prior(f, f->lab.teacher, 1, 1, 2, other);
    *steady = apart(f) <= HALVES_APART;
    estimate_prior(f, f->lab.teacher, 1, 0, 1, f->prior);
    for (uint32_t e = 0; *steady && e < early; e++) {
        const perse_pack_entry *entry = &f->p->spare.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
        estimate_prior(f, f->lab.logits, entry->temperature, 0, 1, other);
        agree += apart(f) <= EXITS_APART;
    }
    *steady = *steady && (2 * agree > early || early == 0);
    return PERSE_OK;
}

float fit_frequency_bias(const fit *f, uint32_t k) {
    uint32_t known = perse_factory_classes(f->p->plan);
    return k < known ? (float)(TRUST * log(f->prior[k] * known)) : 0;
}

void fit_correct(fit *f) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t k = 0; k < classes; k++) {
        float bias = fit_frequency_bias(f, k);
        for (uint32_t j = 0; j < f->all.count; j++) f->lab.teacher[(size_t)f->all.index[j] * classes + k] += bias;
    }
    fit_believe(f);
}

static void note(const fit *f, uint32_t *labels) {
    for (uint32_t j = 0; j < f->all.count; j++) labels[j] = (uint32_t)f->lab.truth[f->all.index[j]];
}

/* Surely no more than this share of the labels noted: few samples say little of that. */
static bool few_changed(const fit *f, const uint32_t *noted, double most) {
    uint32_t n = f->all.count, count = 0;
    for (uint32_t j = 0; j < n; j++) count += noted[j] != (uint32_t)f->lab.truth[f->all.index[j]];
    double share = (double)count / n;
    return share + SURE * sqrt(share * (1 - share) / n) <= most;
}

/* Similar samples are mostly of one class, however often it is met. Where only frequencies differ, answers that are evened out
 * become nearly the same with the correction and without, unless they are all one. In lab.teacher is what the final exit says;
 * it is overwritten. */
static perse_status neighbours_confirm(fit *f, bool *confirmed) {
    uint32_t final = f->p->plan->exits - 1, *noted = f->picked;
    note(f, noted);
    fit_correct(f);
    bool few = few_changed(f, noted, MOST_CHANGED);
    fit_even_out(f, SHARE);
    fit_believe(f);
    note(f, noted);
    PERSE_TRY(fit_ask(f, final, &f->p->spare.exit[final]));
    fit_even_out(f, SHARE);
    fit_believe(f);
    *confirmed = few && fit_sees_several(f) && few_changed(f, noted, MOST_EVENED_CHANGED);
    return PERSE_OK;
}

perse_status fit_estimate_frequencies(fit *f, bool *believed) {
    bool steady;
    *believed = false;
    PERSE_TRY(prior_is_steady(f, &steady));
    return steady ? neighbours_confirm(f, believed) : PERSE_OK;
}
