/* gate.c - thresholds, and whether the new heads may go live. */
#include "fit.h"

#include <math.h>

static const double SURE = 1.645, SURER = 2.326; /* standard errors: one-sided, 95 % and 99 % */
enum { MANY = 200 };                             /* labels, with which certainty costs next to nothing */
static const double LEAST_LIKELY = 1e-3; /* that a single answer can cost in the comparison of likelihoods */
static const double WORTH_IT = 0.02;     /* nats of mean log-probability, where no more answers are right */
static const double SAME_COST = 0.005;   /* of the full network's */
static const double WORSE = 0.005;       /* of the answers, that a cascade which only gains time may surely not lose */

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

static paired difference(const fit *f, perse_slice judges, bool likelihood) {
    double sum = 0, squares = 0, n = judges.count;
    for (uint32_t j = 0; j < judges.count; j++) {
        uint32_t i = judges.index[j];
        size_t old = (size_t)fit_who_answers(f, &f->p->live, f->before, i) * f->samples->count + i;
        size_t new = (size_t)f->who[i] * f->samples->count + i;
        double d = likelihood ? log((f->likely_after[new] + LEAST_LIKELY) / (f->likely_before[old] + LEAST_LIKELY))
                              : (f->after[new].label == f->lab.truth[i]) - (f->before[old].label == f->lab.truth[i]);
        sum += d;
        squares += d * d;
    }
    return (paired){sum / n, sqrt((squares - sum * sum / n) / n / (n > 1 ? n - 1 : 1))};
}

/* How the new cascade does beside the old one. */
typedef struct {
    paired right;
    bool better; /* surely likelier to be right, and not less often right */
    bool as_good; /* as often right, surely not much less (nor than early answers may lose) */
} comparison;

static comparison compare(const fit *f, perse_slice judges) {
    double sure = f->lab.labelled && judges.count >= MANY ? SURER : SURE;
    paired right = difference(f, judges, false), likely = difference(f, judges, true);
    bool no_worse = right.mean > -1e-9;
    return (comparison){right, no_worse && likely.mean - sure * likely.error > 0 && (right.mean > 1e-9 || likely.mean > WORTH_IT),
                        no_worse && right.mean - sure * right.error > -fmin(f->o.max_drop, WORSE) - 1e-9};
}

static perse_verdict refusal(comparison c) { return c.right.mean < -1e-9 ? PERSE_LESS_ACCURATE : PERSE_NOT_BETTER; }

/* Samples of two kinds: new heads that are better for all of them together may be worse for one kind, which the other hides. */
static perse_status serves_both_kinds(fit *f, perse_verdict *verdict) {
    for (uint8_t kind = 0; kind < 2; kind++) {
        perse_slice these = fit_of_kind(f, kind, f->picked);
        bool contradicted;
        PERSE_TRY(fit_is_contradicted(f, these, &contradicted));
        comparison c = compare(f, these);
        if (contradicted) *verdict = PERSE_CONTRADICTED;
        else if (!c.better && !c.as_good) *verdict = refusal(c);
        if (*verdict != PERSE_BETTER) break;
    }
    return PERSE_OK;
}

/* Better is what is surely more likely to be right and not less often right; or as often right, surely not much less,
 * and cheaper. Without labels, right is what the teacher says: going on to it more often is agreement too, so that a costlier
 * cascade must surely gain more than early answers may lose. Not where the final exit learns like the others from answers that
 * were evened out: it has no advantage there. */
static perse_status decide(fit *f, perse_verdict *verdict) {
    const perse_report *r = f->report;
    comparison c = compare(f, f->judges);
    bool cheaper = r->after.cost < r->before.cost - SAME_COST, costlier = r->after.cost > r->before.cost + SAME_COST, contradicted = false;
    if (!f->lab.labelled) PERSE_TRY(fit_is_contradicted(f, f->judges, &contradicted));
    if (!f->lab.labelled && costlier && r->teacher != PERSE_TEACHER_NEAR)
        c.better = c.better && c.right.mean - SURE * c.right.error > f->o.max_drop;
    if (contradicted) *verdict = PERSE_CONTRADICTED;
    else if (!c.better && !(c.as_good && cheaper)) *verdict = refusal(c);
    else *verdict = f->lab.labelled && !beats_chance(f) ? PERSE_UNLEARNABLE : PERSE_BETTER;
    return *verdict == PERSE_BETTER && f->two_kinds ? serves_both_kinds(f, verdict) : PERSE_OK;
}

/* Against the factory's final exit, early answers may lose what the person's own is better, less a standard error: few
 * labels say little of that. */
static perse_aim aim(const fit *f) {
    double better = 0;
    if (f->lab.labelled && f->o.against == PERSE_AGAINST_FACTORY) better = f->report->exits[f->p->plan->exits - 1].accuracy_after - f->factory;
    if (better > 0) better -= sqrt(better * (1 - better) / f->judges.count);
    return (perse_aim){f->o.max_drop + fmax(better, 0), f->o.max_cost, f->share};
}

perse_status fit_gate(fit *f) {
    const perse_plan *plan = f->p->plan;
    perse_report *r = f->report;
    size_t final = (size_t)(plan->exits - 1) * f->samples->count;
    PERSE_TRY(fit_tell(f, "gate", 0, 1));
    for (uint32_t j = f->judges.count; j < f->all.count; j++) /* for thresholds the final exit speaks for samples without a label */
        f->lab.truth[f->all.index[j]] = f->after[final + f->all.index[j]].label;
    cross_fit_thresholds(f, aim(f));
    r->before = perse_lab_cascade(&f->lab, &f->p->live, f->judges, f->before, f->share);
    for (uint32_t e = 0; e < plan->exits; e++) {
        r->exits[e].share_before = f->share[e];
        r->exits[e].enabled = f->fresh.exit[e].enabled;
        r->exits[e].temperature = f->fresh.exit[e].temperature;
        r->exits[e].threshold = f->fresh.exit[e].threshold;
    }
    PERSE_TRY(decide(f, &r->verdict));
    r->verdict = fit_judge_classes(f, r->verdict);
    return fit_tell(f, "gate", 1, 1);
}

