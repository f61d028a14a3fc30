/* fit_classes.c - what a fit does about classes that the network never had: where their training starts, what it leaves alone,
 * and whether they may go live. Everything else about them is as for other classes. */
#include "fit.h"

#include <math.h>
#include <string.h>

enum { FEWEST_OF_CLASS = 5 };
static const double RECOGNISED = 0.5; /* share of a new class's samples that must be, for it to go live */
static const float STEADY = 10;       /* times the decay, for the classes that are known already */

/* Named, and no head knows it yet. */
static bool is_new(const fit *f, uint32_t k) {
    return k < perse_named_classes(f->p->plan, &f->p->live) && !perse_pack_knows(f->p->plan, &f->p->live, k);
}

perse_status fit_check_classes(fit *f) {
    const perse_plan *plan = f->p->plan;
    memcpy(f->fresh.names, f->p->live.names, (size_t)plan->spare * PERSE_CLASS_ROOM);
    f->own_classes = plan->spare > 0 && *f->fresh.names != 0;
    for (uint32_t k = 0; k < plan->classes; k++) {
        uint32_t shown = 0;
        for (uint32_t i = 0; i < f->samples->count; i++) shown += fit_label(f, i) == (int32_t)k;
        f->change[k] = is_new(f, k) ? FIT_FREE : f->own_classes && f->lab.labelled && shown == 0 ? FIT_HELD : FIT_KNOWN;
        if (f->change[k] != FIT_FREE || shown >= FEWEST_OF_CLASS) continue;
        return perse_fail(PERSE_TOO_FEW_OF_CLASS, perse_class_name(f->p, k));
    }
    if (f->own_classes) f->o.decay *= STEADY;
    return PERSE_OK;
}

/* Weights towards the centre of the class's samples in the slice, as long as those of other classes; and the bias at which
 * these samples are, in the mean, as likely of the class as of the best other one. (Qi, Brown and Lowe 2018 imprint alike.) */
static perse_status start_class(fit *f, uint32_t e, const perse_head *head, uint32_t k, perse_slice slice) {
    uint32_t width = f->p->plan->exit[e].features, classes = f->p->plan->classes;
    double squares = 0, lengths = 0, others = 0, count = 0;
    memset(f->mean, 0, width * sizeof *f->mean);
    for (uint32_t j = 0; j < slice.count; j++) {
        size_t row = (size_t)slice.index[j] * f->p->features + perse_feature_offset(f->p->plan, e);
        if (fit_label(f, slice.index[j]) != (int32_t)k) continue;
        perse_sample_features(f->samples, row, width, f->p->feature);
        PERSE_TRY(perse_apply_head(f->p, e, head, f->p->feature, NULL));
        others += (double)f->p->logits[perse_argmax(f->p->logits, classes)];
        for (uint32_t i = 0; i < width; i++) f->mean[i] += (double)((f->p->feature[i] - head->shift[i]) * head->scale[i]);
        count++;
    }
    if (count == 0) return PERSE_OK;
    for (uint32_t i = 0; i < width * classes; i++) lengths += (double)head->weight[i] * head->weight[i] / perse_factory_classes(f->p->plan);
    for (uint32_t i = 0; i < width; i++) squares += f->mean[i] * f->mean[i];
    double each = squares > 0 ? sqrt(lengths / squares) : 0;
    for (uint32_t i = 0; i < width; i++) head->weight[(size_t)i * classes + k] = (float)(each * f->mean[i]);
    head->bias[k] = (float)((others - each * squares) / count);
    return PERSE_OK;
}

perse_status fit_start_classes(fit *f, uint32_t e, perse_slice slice) {
    const perse_head *head = &f->fresh.exit[e].head;
    for (uint32_t k = 0; k < perse_named_classes(f->p->plan, &f->p->live); k++)
        if (!perse_head_knows(head, k)) PERSE_TRY(start_class(f, e, head, k, slice));
    return PERSE_OK;
}

/* [rows][classes]: a class that stays is put back where it was, and of a new one decay keeps nothing. */
static void settle(const fit *f, float *head, float *anchor, float *velocity, uint32_t rows) {
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t k = 0; k < f->p->plan->classes; k++, head++, anchor++, velocity++) {
            if (f->change[k] == FIT_HELD) *head = *anchor, *velocity = 0;
            if (f->change[k] == FIT_FREE) *anchor = *head;
        }
}

void fit_settle_classes(const fit *f, const perse_training *t) {
    if (!f->own_classes) return;
    settle(f, t->head->weight, t->anchor.weight, t->velocity_weight, t->plan->features);
    settle(f, t->head->bias, t->anchor.bias, t->velocity_bias, 1);
}

/* ---- whether they may go live ---- */

/* New classes are recognised, and the others lose no more than early answers may, give or take a standard error. */
perse_verdict fit_judge_classes(const fit *f, perse_verdict verdict) {
    double lost = 0, known = 0, differ = 0;
    bool recognised = true;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) {
        double count = 0, right = 0, before = 0;
        for (uint32_t j = 0; j < f->judges.count; j++) {
            uint32_t i = f->judges.index[j];
            if (f->lab.truth[i] != (int32_t)k) continue;
            size_t old = (size_t)fit_who_answers(f, &f->p->live, f->before, i) * f->samples->count + i;
            bool now = f->after[(size_t)f->who[i] * f->samples->count + i].label == (int)k, then = f->before[old].label == (int)k;
            count++;
            right += now;
            before += then;
            differ += f->change[k] != FIT_FREE && now != then;
        }
        if (f->report->recognised != NULL) f->report->recognised[k] = (float)(right / count); /* NAN of none */
        if (f->change[k] == FIT_FREE) {
            recognised = recognised && right >= RECOGNISED * count;
            continue;
        }
        lost += before - right;
        known += count;
    }
    if (!f->own_classes || verdict != PERSE_BETTER) return verdict;
    return !recognised ? PERSE_NOT_RECOGNISED : lost > (double)f->o.max_drop * known + sqrt(differ) + 1e-9 ? PERSE_KNOWN_SUFFER : verdict;
}
