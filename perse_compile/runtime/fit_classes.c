/* fit_classes.c - what a fit does about classes that the network never had: where their training starts, and whether they may
 * go live. Everything else about them is as for other classes. */
#include "fit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FEWEST_OF_CLASS = 5 };
static const double RECOGNISED = 0.5; /* share of a new class's samples that must be, for it to go live */

/* Named, and no head knows it yet. */
static bool is_new(const fit *f, uint32_t k) {
    const perse_plan *plan = f->p->plan;
    return k >= perse_factory_classes(plan) && !perse_pack_knows(plan, &f->p->live, k);
}

bool fit_has_own_classes(const fit *f) {
    return perse_named_classes(f->p->plan, &f->p->live) > perse_factory_classes(f->p->plan);
}

static uint32_t labelled_with(const fit *f, uint32_t k) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->samples->count; i++) count += fit_label(f, i) == (int32_t)k;
    return count;
}

perse_status fit_check_classes(fit *f) {
    const perse_plan *plan = f->p->plan;
    char what[PERSE_CLASS_ROOM + 8];
    memcpy(f->fresh.names, f->p->live.names, (size_t)plan->spare * PERSE_CLASS_ROOM);
    for (uint32_t k = 0; k < plan->classes; k++) f->held[k] = f->lab.labelled && fit_has_own_classes(f) && labelled_with(f, k) == 0;
    for (uint32_t k = perse_factory_classes(plan); k < perse_named_classes(plan, &f->p->live); k++) {
        if (!is_new(f, k) || labelled_with(f, k) >= FEWEST_OF_CLASS) continue;
        snprintf(what, sizeof what, "class %s", perse_class_name(f->p, k));
        return perse_fail(PERSE_TOO_FEW_OF_CLASS, what);
    }
    return PERSE_OK;
}

/* ---- where training starts ---- */

/* The centre of the class's samples in the slice, standardised, in f->mean; how many there are. */
static uint32_t find_centre(fit *f, uint32_t e, const perse_head *head, uint32_t k, perse_slice slice) {
    uint32_t width = f->p->plan->exit[e].features, offset = perse_feature_offset(f->p->plan, e), count = 0;
    for (uint32_t i = 0; i < width; i++) f->mean[i] = 0;
    for (uint32_t j = 0; j < slice.count; j++) {
        if (fit_label(f, slice.index[j]) != (int32_t)k) continue;
        count++;
        for (uint32_t i = 0; i < width; i++)
            f->mean[i] += ((double)perse_feature(f->samples, (size_t)slice.index[j] * f->p->features + offset + i) - head->shift[i]) * head->scale[i];
    }
    for (uint32_t i = 0; i < width && count > 0; i++) f->mean[i] /= count;
    return count;
}

/* The root mean square length of the weights of the classes that the head knows. */
static double length_of_others(const fit *f, uint32_t e, const perse_head *head) {
    uint32_t width = f->p->plan->exit[e].features, classes = f->p->plan->classes, known = 0;
    double squares = 0;
    for (uint32_t k = 0; k < classes; k++) {
        if (!perse_head_knows(head, k)) continue;
        known++;
        for (uint32_t i = 0; i < width; i++) squares += (double)head->weight[(size_t)i * classes + k] * head->weight[(size_t)i * classes + k];
    }
    return sqrt(squares / (known > 0 ? known : 1));
}

/* Weights towards the centre of the class, as long as those of the others; and the bias at which its samples are, in the
 * mean, as likely of the class as of the best other one. (Qi, Brown and Lowe 2018 imprint weights alike.) */
static perse_status start_class(fit *f, uint32_t e, const perse_head *head, uint32_t k, perse_slice slice) {
    uint32_t width = f->p->plan->exit[e].features, classes = f->p->plan->classes, offset = perse_feature_offset(f->p->plan, e);
    uint32_t count = find_centre(f, e, head, k, slice);
    double squares = 0, others = 0, length = length_of_others(f, e, head);
    if (count == 0) return PERSE_OK;
    for (uint32_t i = 0; i < width; i++) squares += f->mean[i] * f->mean[i];
    for (uint32_t j = 0; j < slice.count; j++) {
        if (fit_label(f, slice.index[j]) != (int32_t)k) continue;
        perse_sample_features(f->samples, (size_t)slice.index[j] * f->p->features + offset, width, f->p->feature);
        PERSE_TRY(perse_apply_head(f->p, e, head, f->p->feature, NULL));
        others += (double)f->p->logits[perse_argmax(f->p->logits, classes)] / count;
    }
    double each = squares > 0 ? length / sqrt(squares) : 0;
    for (uint32_t i = 0; i < width; i++) head->weight[(size_t)i * classes + k] = (float)(each * f->mean[i]);
    head->bias[k] = (float)(others - each * squares);
    return PERSE_OK;
}

perse_status fit_start_classes(fit *f, uint32_t e, perse_slice slice) {
    const perse_head *head = &f->fresh.exit[e].head;
    for (uint32_t k = perse_factory_classes(f->p->plan); k < perse_named_classes(f->p->plan, &f->p->live); k++)
        if (!perse_head_knows(head, k)) PERSE_TRY(start_class(f, e, head, k, slice));
    return PERSE_OK;
}

/* Where a person adds classes, those that no label shows are not to sink: labels say nothing against them. */
void fit_hold_classes(const fit *f, const perse_training *t) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t k = 0; k < classes; k++) {
        bool new = fit_has_own_classes(f) && is_new(f, k);
        if (!f->held[k] && !new) continue;
        for (uint32_t i = 0; i < t->plan->features; i++) {
            size_t at = (size_t)i * classes + k;
            if (new) t->anchor.weight[at] = t->head->weight[at];
            else t->head->weight[at] = t->anchor.weight[at], t->velocity_weight[at] = 0;
        }
        if (new) t->anchor.bias[k] = t->head->bias[k];
        else t->head->bias[k] = t->anchor.bias[k], t->velocity_bias[k] = 0;
    }
}

/* ---- whether they may go live ---- */

perse_verdict fit_judge_classes(const fit *f, perse_verdict verdict) {
    const perse_plan *plan = f->p->plan;
    double lost = 0, known = 0;
    bool any = false, all = true;
    for (uint32_t k = 0; k < plan->classes; k++) {
        double count = 0, right = 0, before = 0;
        for (uint32_t j = 0; j < f->judges.count; j++) {
            uint32_t i = f->judges.index[j];
            if (f->lab.truth[i] != (int32_t)k) continue;
            count++;
            right += fit_answer(f, &f->fresh, f->after, i) == (int)k;
            before += fit_answer(f, &f->p->live, f->before, i) == (int)k;
        }
        if (f->report->recognised != NULL) f->report->recognised[k] = (float)(count > 0 ? right / count : NAN);
        if (!is_new(f, k)) {
            lost += before - right;
            known += count;
        } else if (count > 0) {
            any = true;
            all = all && right >= RECOGNISED * count;
        }
    }
    if (!any || verdict != PERSE_BETTER) return verdict;
    return !all ? PERSE_NOT_RECOGNISED : lost > f->o.max_drop * known + 1e-9 ? PERSE_KNOWN_SUFFER : verdict;
}
