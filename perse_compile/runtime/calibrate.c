/* calibrate.c - temperatures and thresholds alone, of the heads in use. */
#include "inside.h"

typedef struct {
    perse_lab lab;
    perse_answer *before, *after; /* [exits][count] */
    double *share;                /* [exits] */
    uint32_t *index;              /* [count] */
} calibration;

static void carve_calibration(perse_carver *c, const perse_plan *plan, uint32_t count, calibration *a) {
    perse_lab_carve(c, plan, count, &a->lab);
    a->before = perse_carve(c, (uint64_t)count * plan->exits, sizeof *a->before);
    a->after = perse_carve(c, (uint64_t)count * plan->exits, sizeof *a->after);
    a->share = perse_carve(c, plan->exits, sizeof *a->share);
    a->index = perse_carve(c, count, sizeof *a->index);
}

size_t perse_calibrate_size(const perse *p, uint32_t count) {
    if (p == NULL) return 0;
    calibration a = {0};
    perse_carver c = {NULL, 0, 0};
    carve_calibration(&c, p->plan, count, &a);
    return perse_carved_size(&c);
}

/* What is right: the labels, or what the final exit says. Samples without a label do not count then. */
static perse_status find_truth(calibration *a, perse_slice *slice) {
    const perse_plan *plan = a->lab.p->plan;
    const perse_samples *s = a->lab.samples;
    const perse_pack_entry *final = &a->lab.p->live.exit[plan->exits - 1];
    for (uint32_t i = 0; i < s->count; i++) a->index[i] = i;
    *slice = (perse_slice){a->index, s->count};
    PERSE_TRY(perse_lab_logits(&a->lab, plan->exits - 1, &final->head, *slice, a->lab.teacher));
    for (size_t i = 0; i < (size_t)s->count * plan->classes; i++) a->lab.teacher[i] /= final->temperature;
    slice->count = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        a->lab.truth[i] = a->lab.labelled ? s->labels[i] : (int32_t)perse_argmax(a->lab.teacher + (size_t)i * plan->classes, plan->classes);
        if (a->lab.truth[i] >= 0) a->index[slice->count++] = i;
    }
    return slice->count < PERSE_FEWEST_SAMPLES ? perse_fail(PERSE_TOO_FEW_SAMPLES, "") : PERSE_OK;
}

static perse_status calibrate(calibration *a, perse_aim aim, perse_report *r) {
    perse *p = a->lab.p;
    const perse_plan *plan = p->plan;
    perse_slice slice;
    PERSE_TRY(find_truth(a, &slice));
    PERSE_TRY(perse_lab_answers(&a->lab, &p->live, slice, a->before));
    r->judged = slice.count;
    r->before = perse_lab_cascade(&a->lab, &p->live, slice, a->before, a->share);
    for (uint32_t e = 0; e < plan->exits; e++) r->exits[e].share_before = a->share[e];
    perse_pack_copy(plan, &p->spare, &p->live);
    aim.share = a->share;
    PERSE_TRY(perse_lab_calibrate(&a->lab, &p->spare, slice, aim, a->after));
    r->after = perse_lab_cascade(&a->lab, &p->spare, slice, a->after, a->share);
    p->spare.generation++;
    perse_pack_copy(plan, &p->live, &p->spare);
    for (uint32_t e = 0; e < plan->exits; e++) {
        double accuracy = perse_lab_accuracy(&a->lab, slice, a->before + (size_t)e * a->lab.samples->count);
        const perse_pack_entry *entry = &p->live.exit[e];
        r->exits[e] = (perse_exit_report){.accuracy_before = accuracy, .accuracy_after = accuracy, .share_before = r->exits[e].share_before,
                                          .share_after = a->share[e], .enabled = entry->enabled,
                                          .temperature = entry->temperature, .threshold = entry->threshold};
    }
    return PERSE_OK;
}

perse_status perse_calibrate(perse *p, const perse_samples *samples, float max_drop, float max_cost, void *memory, size_t size,
                             perse_report *report) {
    if (p == NULL || samples == NULL || memory == NULL || report == NULL || report->exits == NULL || !(max_drop >= 0 && max_drop <= 1) ||
        !(max_cost >= 0 && max_cost <= 1))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    calibration a = {0};
    PERSE_TRY(perse_check_samples(p, samples, &a.lab.labelled));
    perse_carver c = perse_carve_in(memory, size);
    carve_calibration(&c, p->plan, samples->count, &a);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_calibrate_size");
    a.lab.p = p;
    a.lab.samples = samples;
    *report = (perse_report){.labelled = a.lab.labelled, .exits = report->exits, .prior = report->prior};
    return calibrate(&a, (perse_aim){max_drop, max_cost, NULL}, report);
}
