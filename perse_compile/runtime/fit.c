/* fit.c - personalisation: a teacher, every head cross-fitted, temperatures and thresholds, and a gate (gate.c). */
#include "fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_LABELS = 10 };

perse_fit_options perse_fit_defaults(void) {
    return (perse_fit_options){.epochs = 40, .folds = 4, .learning_rate = 0.5f, .momentum = 0.9f, .decay = 1e-3f,
                               .teacher_temperature = 2.0f, .label_weight = 0.9f, .neighbours = 0.8f, .max_drop = 0.01f, .seed = 1};
}

/* ---- memory ---- */

static void carve_fit(perse_carver *c, const perse_plan *plan, uint32_t count, fit *f) {
    uint32_t widest = 0;
    uint64_t answers = (uint64_t)count * plan->exits;
    for (uint32_t e = 0; e < plan->exits; e++) {
        perse_carver one = {NULL, 0, 0};
        perse_training_carve(&one, plan, e);
        if (perse_carved_size(&one) > f->training_size) f->training_size = perse_carved_size(&one);
        if (plan->exit[e].features > widest) widest = plan->exit[e].features;
    }
    perse_lab_carve(c, plan, count, &f->lab);
    perse_pack_carve(c, plan, &f->fresh);
    f->candidate = perse_carve(c, (uint64_t)count * plan->classes, sizeof(float));
    f->weight = perse_carve(c, count, sizeof *f->weight);
    f->soft = perse_carve(c, plan->classes, sizeof *f->soft);
    f->prior = perse_carve(c, (uint64_t)3 * plan->classes, sizeof *f->prior);
    f->mean = perse_carve(c, widest, sizeof *f->mean);
    f->deviation = perse_carve(c, widest, sizeof *f->deviation);
    f->share = perse_carve(c, plan->exits, sizeof *f->share);
    f->before = perse_carve(c, answers, sizeof *f->before);
    f->after = perse_carve(c, answers, sizeof *f->after);
    f->likely_before = perse_carve(c, answers, sizeof *f->likely_before);
    f->likely_after = perse_carve(c, answers, sizeof *f->likely_after);
    f->tickets = perse_carve(c, count, sizeof *f->tickets);
    f->near = perse_carve(c, count, sizeof *f->near);
    f->block = perse_carve(c, (uint64_t)widest * PERSE_BLOCK, sizeof *f->block);
    f->change = perse_carve(c, plan->classes, sizeof *f->change);
    f->kind = perse_carve(c, count, sizeof *f->kind);
    f->crossing = perse_carve(c, (uint64_t)2 * count, sizeof *f->crossing);
    f->fold = perse_carve(c, count, sizeof *f->fold);
    f->index = perse_carve(c, count, sizeof *f->index);
    f->picked = perse_carve(c, (uint64_t)2 * count, sizeof *f->picked);
    f->who = perse_carve(c, count, sizeof *f->who);
    f->training = perse_carve(c, f->training_size, 1);
}

size_t perse_fit_size(const perse *p, uint32_t count) {
    if (p == NULL) return 0;
    fit f = {0};
    perse_carver c = {NULL, 0, 0};
    carve_fit(&c, p->plan, count, &f);
    return perse_carved_size(&c);
}

/* ---- small helpers ---- */

perse_status fit_tell(const fit *f, const char *phase, uint32_t done, uint32_t total) {
    return f->o.progress != NULL && f->o.progress(f->o.user, phase, done, total) != 0 ? perse_fail(PERSE_ABORTED, phase) : PERSE_OK;
}

int32_t fit_label(const fit *f, uint32_t i) { return f->samples->labels != NULL ? f->samples->labels[i] : -1; }

/* ---- folds, and who judges ---- */

static int by_stratum(const void *left, const void *right) {
    const fit_ticket *a = left, *b = right;
    if (a->stratum != b->stratum) return a->stratum < b->stratum ? -1 : 1;
    if (a->random != b->random) return a->random < b->random ? -1 : 1;
    return a->sample < b->sample ? -1 : a->sample > b->sample;
}

/* Samples in order of what counts as right, shuffled within, are dealt out to the folds: each has its share of each
 * class. With labels, only they judge. */
static perse_status deal(fit *f) {
    uint32_t n = f->all.count, judges = 0, others = n;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t i = f->all.index[j];
        f->tickets[j] = (fit_ticket){(uint32_t)f->lab.truth[i], i, perse_random(&f->random)}; /* unknown sorts last */
    }
    qsort(f->tickets, n, sizeof *f->tickets, by_stratum);
    for (uint32_t i = 0; i < f->samples->count; i++) f->fold[i] = FIT_LEFT_OUT;
    for (uint32_t j = 0; j < n; j++) f->fold[f->tickets[j].sample] = j % f->o.folds;
    for (uint32_t i = 0; i < f->samples->count; i++) {
        if (f->fold[i] == FIT_LEFT_OUT) continue;
        if (f->lab.truth[i] >= 0) f->index[judges++] = i;
        else f->index[--others] = i;
    }
    f->judges = (perse_slice){f->index, judges};
    f->all = (perse_slice){f->index, n};
    f->report->train = n;
    f->report->left_out = f->samples->count - n;
    f->report->judged = judges;
    return f->lab.labelled && judges < FEWEST_LABELS ? perse_fail(PERSE_TOO_FEW_SAMPLES, "labels") : PERSE_OK;
}

/* ---- answers ---- */

/* Answers of exit e to the samples, from its logits in lab.logits; and how likely it finds what is right. */
static perse_status answer(fit *f, uint32_t e, perse_slice slice, float temperature, perse_answer *answers, float *likely) {
    uint32_t classes = f->p->plan->classes;
    size_t row = (size_t)e * f->samples->count;
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        const float *z = f->lab.logits + (size_t)i * classes;
        perse_answer *a = &answers[row + i];
        if (!perse_top(z, classes, temperature, &a->label, &a->confidence)) return perse_fail(PERSE_DIVERGED, f->p->plan->exit[e].name);
        if (f->lab.truth[i] < 0) continue;
        perse_probabilities(z, classes, temperature, f->soft);
        likely[row + i] = f->soft[f->lab.truth[i]];
    }
    return PERSE_OK;
}

static perse_status answers_before(fit *f) {
    for (uint32_t e = 0; e < f->p->plan->exits; e++) {
        const perse_pack_entry *entry = &f->p->live.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
        PERSE_TRY(answer(f, e, f->all, entry->temperature, f->before, f->likely_before));
    }
    return PERSE_OK;
}

/* lab.logits has what the new head of exit e says (cross-fitted). It is kept unless the old one is right more often. */
static perse_status choose_head(fit *f, uint32_t e) {
    const perse_plan *plan = f->p->plan;
    perse_pack_entry *fresh = &f->fresh.exit[e];
    perse_exit_report *r = &f->report->exits[e];
    size_t row = (size_t)e * f->samples->count;
    PERSE_TRY(answer(f, e, f->all, 1, f->after, f->likely_after));
    r->accuracy_before = perse_lab_accuracy(&f->lab, f->judges, f->before + row);
    r->accuracy_after = perse_lab_accuracy(&f->lab, f->judges, f->after + row);
    r->new_head = r->accuracy_after >= r->accuracy_before;
    if (!r->new_head) {
        r->accuracy_after = r->accuracy_before;
        perse_head_copy(&fresh->head, &f->p->live.exit[e].head, plan->exit[e].features, plan->classes);
        PERSE_TRY(perse_lab_logits(&f->lab, e, &fresh->head, f->all, f->lab.logits));
    }
    fresh->temperature = (float)perse_lab_temperature(&f->lab, f->lab.logits, f->judges);
    return answer(f, e, f->all, fresh->temperature, f->after, f->likely_after);
}

/* ---- the whole ---- */

static bool options_are_sound(const perse_fit_options *o) {
    return o->epochs > 0 && o->folds >= 2 && o->folds <= FEWEST_LABELS && o->learning_rate > 0 && isfinite(o->learning_rate) &&
           o->momentum >= 0 && o->momentum < 1 && o->decay >= 0 && isfinite(o->decay) && o->teacher_temperature > 0 &&
           isfinite(o->teacher_temperature) && o->label_weight >= 0 && o->label_weight <= 1 && o->neighbours >= 0 && o->neighbours <= 0.99f &&
           o->max_drop >= 0 && o->max_drop <= 1 && o->max_cost >= 0 && o->max_cost <= 1 &&
           (o->against == PERSE_AGAINST_FINAL || o->against == PERSE_AGAINST_FACTORY);
}

/* What counts as right, the folds, everybody's answers before. With labels lab.teacher is the factory's final exit. */
static perse_status prepare(fit *f) {
    perse *p = f->p;
    uint32_t final = p->plan->exits - 1, n = f->samples->count;
    for (uint32_t i = 0; !f->plain && i < n; i++) f->index[i] = i;
    if (!f->plain) f->all = (perse_slice){f->index, n};
    PERSE_TRY(fit_tell(f, "teacher", 0, 1));
    PERSE_TRY(perse_factory(p, &p->spare));
    if (!f->lab.labelled && !f->plain) PERSE_TRY(fit_find_kinds(f));
    if (f->lab.labelled) {
        PERSE_TRY(perse_lab_logits(&f->lab, final, &p->spare.exit[final].head, f->all, f->lab.teacher));
        for (uint32_t i = 0; i < n; i++) f->lab.truth[i] = fit_label(f, i);
    } else {
        PERSE_TRY(fit_teach_without_labels(f));
        if (!fit_sees_several(f)) return perse_fail(PERSE_ONE_CLASS, "as the network sees them");
    }
    PERSE_TRY(deal(f));
    for (uint32_t j = 0; f->lab.labelled && j < f->judges.count; j++) {
        uint32_t i = f->judges.index[j], classes = p->plan->classes;
        bool own = (uint32_t)f->lab.truth[i] >= perse_factory_classes(p->plan); /* which it cannot know, and early answers must */
        f->factory += (double)(own || perse_argmax(f->lab.teacher + (size_t)i * classes, classes) == (uint32_t)f->lab.truth[i]) / f->judges.count;
    }
    return answers_before(f);
}

/* From a teacher that knows more. */
static bool final_learns_too(const fit *f) { return f->report->teacher == PERSE_TEACHER_EARLY || f->report->teacher == PERSE_TEACHER_NEAR; }

/* The final exit first: with labels it learns from them alone, and may then teach the others. */
static perse_status learn_final(fit *f) {
    uint32_t final = f->p->plan->exits - 1, classes = f->p->plan->classes;
    if (f->lab.labelled) {
        PERSE_TRY(fit_learn(f, final, true));
        memcpy(f->candidate, f->lab.logits, (size_t)f->samples->count * classes * sizeof(float));
        PERSE_TRY(choose_head(f, final));
        fit_count_prior(f);
        return fit_teach_with_labels(f);
    }
    if (final_learns_too(f)) return PERSE_OK;
    perse_exit_report *r = &f->report->exits[final];
    memcpy(f->lab.logits, f->lab.teacher, (size_t)f->samples->count * classes * sizeof(float));
    r->accuracy_before = perse_lab_accuracy(&f->lab, f->judges, f->before + (size_t)final * f->samples->count);
    r->accuracy_after = 1;
    r->new_head = true;
    return answer(f, final, f->all, 1, f->after, f->likely_after); /* the teacher's logits are at temperature 1 */
}

static perse_status personalise(fit *f) {
    perse *p = f->p;
    perse_exit_report *exits = f->report->exits;
    *f->report = (perse_report){.labelled = f->lab.labelled, .exits = exits, .prior = f->report->prior, .recognised = f->report->recognised};
    memset(exits, 0, p->plan->exits * sizeof *exits);
    f->random = f->o.seed;
    PERSE_TRY(prepare(f));
    PERSE_TRY(learn_final(f));
    fit_weigh(f);
    PERSE_TRY(fit_tell(f, "teacher", 1, 1));
    uint32_t learn = final_learns_too(f) ? p->plan->exits : p->plan->exits - 1;
    for (uint32_t e = 0; e < learn; e++) {
        PERSE_TRY(fit_learn(f, e, false));
        PERSE_TRY(choose_head(f, e));
    }
    PERSE_TRY(fit_gate(f));
    for (uint32_t k = 0; f->report->prior != NULL && k < p->plan->classes; k++) f->report->prior[k] = (float)f->prior[k];
    if (f->report->verdict != PERSE_BETTER) return PERSE_OK;
    f->fresh.generation = p->live.generation + 1;
    perse_pack_copy(p->plan, &p->live, &f->fresh);
    return PERSE_OK;
}

/* What is refused with answers evened out may still be worth its time with the final exit's answers as they are. */
perse_status perse_fit(perse *p, const perse_samples *samples, const perse_fit_options *options, void *memory, size_t size,
                       perse_report *report) {
    if (p == NULL || samples == NULL || options == NULL || memory == NULL || report == NULL || report->exits == NULL ||
        !options_are_sound(options))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    fit f = {.p = p, .samples = samples, .o = *options, .report = report};
    PERSE_TRY(perse_check_samples(p, samples, &f.lab.labelled));
    if (samples->count < PERSE_FEWEST_SAMPLES) return perse_fail(PERSE_TOO_FEW_SAMPLES, "");
    perse_carver c = perse_carve_in(memory, size);
    carve_fit(&c, p->plan, samples->count, &f);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_fit_size");
    f.lab.p = p;
    f.lab.samples = samples;
    PERSE_TRY(fit_check_classes(&f));
    PERSE_TRY(personalise(&f));
    if (report->teacher != PERSE_TEACHER_NEAR || report->verdict == PERSE_BETTER) return PERSE_OK;
    f.plain = true;
    return personalise(&f);
}
