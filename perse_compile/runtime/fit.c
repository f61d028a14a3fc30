/* fit.c - personalisation: a teacher, every head cross-fitted, temperatures and thresholds, and a gate. */
#include "fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_SAMPLES = 20, FEWEST_LABELS = 10 };
static const double SURE = 1.645;         /* standard errors: one-sided, 95 % */
static const double LEAST_LIKELY = 1e-3;  /* that a single answer can cost in the comparison of likelihoods */
static const double WORTH_IT = 0.02;      /* nats of mean log-probability, where no more answers are right */
static const double SAME_COST = 0.005;    /* of the full network's */
static const double WORSE = 0.005;        /* of the answers, that a cascade which only gains time may surely not lose */

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
    uint32_t n = f->samples->count, judges = 0, others = n;
    for (uint32_t i = 0; i < n; i++)
        f->tickets[i] = (fit_ticket){(uint32_t)f->lab.truth[i], i, perse_random(&f->random)}; /* unknown sorts last */
    qsort(f->tickets, n, sizeof *f->tickets, by_stratum);
    for (uint32_t j = 0; j < n; j++) f->fold[f->tickets[j].sample] = j % f->o.folds;
    for (uint32_t i = 0; i < n; i++) {
        if (f->lab.truth[i] >= 0) f->index[judges++] = i;
        else f->index[--others] = i;
    }
    f->judges = (perse_slice){f->index, judges};
    f->all = (perse_slice){f->index, n};
    f->report->train = n;
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

/* ---- the gate ---- */

/* Are answers and labels related at all (Cohen's kappa, three standard deviations above chance)? Those of the final exit:
 * no threshold was chosen for them, and nobody taught it who knew other samples' labels. */
static bool beats_chance(const fit *f) {
    uint32_t n = f->judges.count;
    const perse_answer *answers = f->after + (size_t)(f->p->plan->exits - 1) * f->samples->count;
    double chance = 0, right = 0;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) {
        double said = 0, true_ = 0;
        for (uint32_t j = 0; j < n; j++) {
            said += answers[f->judges.index[j]].label == (int)k;
            true_ += f->lab.truth[f->judges.index[j]] == (int32_t)k;
        }
        chance += said / n * true_ / n;
    }
    for (uint32_t j = 0; j < n; j++) right += answers[f->judges.index[j]].label == f->lab.truth[f->judges.index[j]];
    return right / n > chance + 3 * sqrt(chance * (1 - chance) / n);
}

uint32_t fit_who_answers(const fit *f, const perse_pack *pack, const perse_answer *answers, uint32_t i) {
    uint32_t e = 0, final = f->p->plan->exits - 1;
    while (e < final && !(pack->exit[e].enabled && answers[(size_t)e * f->samples->count + i].confidence >= pack->exit[e].threshold)) e++;
    return e;
}

/* Who answers each sample, by thresholds fitted on the other folds: thresholds too are judged on samples that they have
 * not seen. report->after and shares are of these; then fits the thresholds on all. */
static void cross_fit_thresholds(fit *f, perse_aim aim) {
    perse_report *r = f->report;
    uint32_t exits = f->p->plan->exits;
    for (uint32_t fold = 0; fold < f->o.folds; fold++) {
        perse_lab_thresholds(&f->lab, &f->fresh, fit_pick(f, fold, false, false, f->picked), aim, f->after);
        uint32_t judges = 0;
        for (uint32_t j = 0; j < f->judges.count; j++) {
            uint32_t i = f->judges.index[j];
            if (f->fold[i] != fold) continue;
            f->picked[judges++] = i;
            f->who[i] = fit_who_answers(f, &f->fresh, f->after, i);
        }
        perse_figures of_fold = perse_lab_cascade(&f->lab, &f->fresh, (perse_slice){f->picked, judges}, f->after, f->share);
        double part = (double)judges / f->judges.count;
        r->after.accuracy += part * of_fold.accuracy;
        r->after.cost += part * of_fold.cost;
        for (uint32_t e = 0; e < exits; e++) r->exits[e].share_after += part * f->share[e];
    }
    perse_lab_thresholds(&f->lab, &f->fresh, f->all, aim, f->after);
}

/* Of a difference between the new and the old cascade, sample by sample: the mean, and how sure it is. */
typedef struct {
    double mean, error;
} paired;

static paired compare(const fit *f, bool likelihood) {
    double sum = 0, squares = 0, n = f->judges.count;
    for (uint32_t j = 0; j < f->judges.count; j++) {
        uint32_t i = f->judges.index[j];
        size_t old = (size_t)fit_who_answers(f, &f->p->live, f->before, i) * f->samples->count + i;
        size_t new = (size_t)f->who[i] * f->samples->count + i;
        double d = likelihood ? log((f->likely_after[new] + LEAST_LIKELY) / (f->likely_before[old] + LEAST_LIKELY))
                              : (f->after[new].label == f->lab.truth[i]) - (f->before[old].label == f->lab.truth[i]);
        sum += d;
        squares += d * d;
    }
    return (paired){sum / n, sqrt((squares - sum * sum / n) / n / (n > 1 ? n - 1 : 1))};
}

/* Better is what is surely more likely to be right and not less often right; or as often right, surely not much less (nor
 * than early answers may lose), and cheaper. Without labels, right is what the teacher says: going on to it more often is
 * agreement too, so that a costlier cascade must surely gain more than early answers may lose. Not where the final exit learns like
 * the others from answers that were evened out: it has no advantage there. */
static perse_verdict decide(const fit *f, bool contradicted) {
    const perse_report *r = f->report;
    paired right = compare(f, false), likely = compare(f, true);
    bool surely_better = likely.mean - SURE * likely.error > 0 && right.mean > -1e-9 && (right.mean > 1e-9 || likely.mean > WORTH_IT);
    bool as_good = right.mean > -1e-9 && right.mean - SURE * right.error > -fmin(f->o.max_drop, WORSE) - 1e-9;
    bool cheaper = r->after.cost < r->before.cost - SAME_COST, costlier = r->after.cost > r->before.cost + SAME_COST;
    if (contradicted) return PERSE_CONTRADICTED;
    if (!f->lab.labelled && costlier && r->teacher != PERSE_TEACHER_NEAR)
        surely_better = surely_better && right.mean - SURE * right.error > f->o.max_drop;
    if (!surely_better && !(as_good && cheaper)) return right.mean < -1e-9 ? PERSE_LESS_ACCURATE : PERSE_NOT_BETTER;
    return f->lab.labelled && !beats_chance(f) ? PERSE_UNLEARNABLE : PERSE_BETTER;
}

/* Against the factory's final exit, early answers may lose what the person's own is better, less a standard error: few
 * labels say little of that. */
static perse_aim aim(const fit *f) {
    double better = 0;
    if (f->lab.labelled && f->o.against == PERSE_AGAINST_FACTORY) better = f->report->exits[f->p->plan->exits - 1].accuracy_after - f->factory;
    if (better > 0) better -= sqrt(better * (1 - better) / f->judges.count);
    return (perse_aim){f->o.max_drop + fmax(better, 0), f->o.max_cost, f->share};
}

static perse_status gate(fit *f) {
    const perse_plan *plan = f->p->plan;
    perse_report *r = f->report;
    size_t final = (size_t)(plan->exits - 1) * f->samples->count;
    bool contradicted = false;
    PERSE_TRY(fit_tell(f, "gate", 0, 1));
    for (uint32_t i = 0; i < f->samples->count; i++) /* for thresholds the final exit speaks for samples without a label */
        if (f->lab.truth[i] < 0) f->lab.truth[i] = f->after[final + i].label;
    cross_fit_thresholds(f, aim(f));
    r->before = perse_lab_cascade(&f->lab, &f->p->live, f->judges, f->before, f->share);
    for (uint32_t e = 0; e < plan->exits; e++) {
        r->exits[e].share_before = f->share[e];
        r->exits[e].enabled = f->fresh.exit[e].enabled;
        r->exits[e].temperature = f->fresh.exit[e].temperature;
        r->exits[e].threshold = f->fresh.exit[e].threshold;
    }
    if (!f->lab.labelled) PERSE_TRY(fit_is_contradicted(f, &contradicted));
    r->verdict = fit_judge_classes(f, decide(f, contradicted));
    return fit_tell(f, "gate", 1, 1);
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
    for (uint32_t i = 0; i < n; i++) f->index[i] = i;
    f->all = (perse_slice){f->index, n};
    PERSE_TRY(fit_tell(f, "teacher", 0, 1));
    PERSE_TRY(perse_factory(p, &p->spare));
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
    PERSE_TRY(prepare(f));
    PERSE_TRY(learn_final(f));
    fit_weigh(f);
    PERSE_TRY(fit_tell(f, "teacher", 1, 1));
    uint32_t learn = final_learns_too(f) ? p->plan->exits : p->plan->exits - 1;
    for (uint32_t e = 0; e < learn; e++) {
        PERSE_TRY(fit_learn(f, e, false));
        PERSE_TRY(choose_head(f, e));
    }
    PERSE_TRY(gate(f));
    for (uint32_t k = 0; f->report->prior != NULL && k < p->plan->classes; k++) f->report->prior[k] = (float)f->prior[k];
    if (f->report->verdict != PERSE_BETTER) return PERSE_OK;
    f->fresh.generation = p->live.generation + 1;
    perse_pack_copy(p->plan, &p->live, &f->fresh);
    return PERSE_OK;
}

static perse_status fit_once(perse *p, const perse_samples *samples, const perse_fit_options *options, bool plain, void *memory,
                             size_t size, perse_report *report) {
    if (p == NULL || samples == NULL || options == NULL || memory == NULL || report == NULL || report->exits == NULL ||
        !options_are_sound(options))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    fit f = {.p = p, .samples = samples, .o = *options, .plain = plain, .report = report, .random = options->seed};
    PERSE_TRY(perse_check_samples(p, samples, &f.lab.labelled));
    if (samples->count < FEWEST_SAMPLES) return perse_fail(PERSE_TOO_FEW_SAMPLES, "");
    perse_carver c = perse_carve_in(memory, size);
    carve_fit(&c, p->plan, samples->count, &f);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_fit_size");
    f.lab.p = p;
    f.lab.samples = samples;
    perse_exit_report *exits = report->exits;
    *report = (perse_report){.labelled = f.lab.labelled, .exits = exits, .prior = report->prior, .recognised = report->recognised};
    PERSE_TRY(fit_check_classes(&f));
    memset(exits, 0, p->plan->exits * sizeof *exits);
    return personalise(&f);
}

/* What is refused with answers evened out may still be worth its time with the final exit's answers as they are. */
perse_status perse_fit(perse *p, const perse_samples *samples, const perse_fit_options *options, void *memory, size_t size,
                       perse_report *report) {
    PERSE_TRY(fit_once(p, samples, options, false, memory, size, report));
    if (report->teacher != PERSE_TEACHER_NEAR || report->verdict == PERSE_BETTER) return PERSE_OK;
    return fit_once(p, samples, options, true, memory, size, report);
}

/* ---- calibration alone ---- */

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
    return slice->count < FEWEST_SAMPLES ? perse_fail(PERSE_TOO_FEW_SAMPLES, "") : PERSE_OK;
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
