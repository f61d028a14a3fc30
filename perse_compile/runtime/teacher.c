/* teacher.c - whose answers the exits learn from, how far to trust them, and how often the person meets each class. */
#include <math.h>
#include <string.h>

#include "fit.h"

enum { PRIOR_ROUNDS = 200 };
static const double PRIOR_TRUST = 0.8; /* share of the correction that is used: nearly all of the gain, less of the harm */
static const double HALVES_APART = 0.2, EXITS_APART = 0.06, EVENED_APART = 0.09; /* total variation; share of answers */
static const float USUAL_SHARE = 0.8f;        /* of neighbours, where they only check frequencies */
static const double EARLY_TELLS_MORE = 0.3;  /* nats by which an answer of an early exit must tell more, for that exit to teach */
static const double MOST = 0.5;               /* of the answers in use, that a teacher who has no labels must give too */
static const double OVERRULED = 0.005, EVENED_OVERRULED = 0.02; /* nats that answers in use tell more, by the share of them that it does not give */

static void scale_rows(float *logits, size_t count, double temperature) {
    for (size_t i = 0; i < count; i++) logits[i] = (float)(logits[i] / temperature);
}

/* weight = the teacher's confidence * the share of exits that agree with it. */
void fit_weigh(fit *f) {
    uint32_t exits = f->p->plan->exits, classes = f->p->plan->classes, n = f->samples->count;
    for (uint32_t i = 0; i < n; i++) {
        const float *logits = f->lab.teacher + (size_t)i * classes;
        int label = (int)perse_argmax(logits, classes);
        uint32_t agree = 0;
        for (uint32_t e = 0; e < exits; e++) /* who does not know the class cannot disagree */
            agree += f->before[(size_t)e * n + i].label == label || !perse_head_knows(&f->p->live.exit[e].head, (uint32_t)label);
        perse_probabilities(logits, classes, 1, f->soft);
        f->weight[i] = f->soft[label] * (float)agree / (float)exits;
    }
}

/* ---- with labels ---- */

/* Candidate logits become the teacher if, with their own temperature, they fit the labels better. */
static void consider(fit *f, perse_teacher name, double *best) {
    double temperature = perse_lab_temperature(&f->lab, f->candidate, f->judges);
    double loss = perse_lab_loss(&f->lab, f->candidate, f->judges, temperature);
    if (!(loss < *best)) return;
    float *teacher = f->candidate;
    f->candidate = f->lab.teacher;
    f->lab.teacher = teacher;
    scale_rows(teacher, (size_t)f->samples->count * f->p->plan->classes, temperature);
    *best = loss;
    f->report->teacher = name;
}

/* candidate = log of the mean of all exits' probabilities. */
static perse_status mean_of_exits(fit *f) {
    uint32_t classes = f->p->plan->classes, n = f->samples->count, exits = f->p->plan->exits;
    memset(f->candidate, 0, (size_t)n * classes * sizeof(float));
    for (uint32_t e = 0; e < exits; e++) {
        const perse_pack_entry *entry = &f->p->live.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
        for (uint32_t i = 0; i < n; i++) {
            perse_probabilities(f->lab.logits + (size_t)i * classes, classes, entry->temperature, f->soft);
            for (uint32_t k = 0; k < classes; k++) f->candidate[(size_t)i * classes + k] += f->soft[k] / (float)exits;
        }
    }
    for (size_t i = 0; i < (size_t)n * classes; i++)
        f->candidate[i] = i % classes < perse_factory_classes(f->p->plan) ? logf(f->candidate[i] + 1e-12f) : PERSE_SPARE_LOGIT;
    return PERSE_OK;
}

/* The best of the factory's final exit, the final exit trained on the labels (cross-fitted), and the mean of exits; the second
 * where there are classes that the network never had. */
perse_status fit_teach_with_labels(fit *f) {
    size_t table = (size_t)f->samples->count * f->p->plan->classes;
    double temperature = perse_lab_temperature(&f->lab, f->lab.teacher, f->judges);
    double best = perse_lab_loss(&f->lab, f->lab.teacher, f->judges, temperature);
    scale_rows(f->lab.teacher, table, temperature);
    f->report->teacher = PERSE_TEACHER_FINAL;
    if (f->own_classes) best = INFINITY; /* the factory's exit knows nothing of them */
    consider(f, PERSE_TEACHER_PERSONAL, &best);
    if (f->own_classes) return PERSE_OK;
    PERSE_TRY(mean_of_exits(f));
    consider(f, PERSE_TEACHER_MEAN, &best);
    return PERSE_OK;
}

void fit_count_prior(fit *f) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t k = 0; k < classes; k++) f->prior[k] = 0;
    for (uint32_t j = 0; j < f->judges.count; j++) f->prior[f->lab.truth[f->judges.index[j]]] += 1.0 / f->judges.count;
}

/* ---- without labels ---- */

/* Saerens, Latinne and Decaestecker 2002: the class frequencies under which posteriors (softmax of logits [count][classes]),
 * corrected for them, average to them; of every `step`-th sample from `first`. Drawn towards uniform when samples are few. */
static void estimate_prior(fit *f, const float *logits, uint32_t first, uint32_t step, double *prior) {
    uint32_t classes = perse_factory_classes(f->p->plan), stride = f->p->plan->classes, used = (f->all.count - first + step - 1) / step;
    double uniform = 1.0 / classes, drawn = (double)classes / (classes + used);
    for (uint32_t k = 0; k < stride; k++) prior[k] = k < classes ? uniform : 0;
    for (int round = 0; round < PRIOR_ROUNDS; round++) {
        double *next = f->prior + 2 * (size_t)stride, moved = 0;
        for (uint32_t k = 0; k < classes; k++) next[k] = 0;
        for (uint32_t j = first; j < f->all.count; j += step) {
            double sum = 0;
            perse_probabilities(logits + (size_t)j * stride, stride, 1, f->soft);
            for (uint32_t k = 0; k < classes; k++) sum += f->soft[k] * prior[k];
            for (uint32_t k = 0; k < classes; k++) next[k] += f->soft[k] * prior[k] / sum / used;
        }
        for (uint32_t k = 0; k < classes; k++) {
            double value = (1 - drawn) * next[k] + drawn * uniform;
            moved += fabs(value - prior[k]);
            prior[k] = value;
        }
        if (moved < 1e-6) break;
    }
}

/* What the teacher says of a sample once it knows the prior; written into out [classes]. */
static int32_t corrected(const fit *f, uint32_t i, double trust, float *out) {
    uint32_t classes = f->p->plan->classes, known = perse_factory_classes(f->p->plan);
    const float *z = f->lab.teacher + (size_t)i * classes;
    for (uint32_t k = 0; k < classes; k++) out[k] = z[k] + (k < known ? (float)(trust * log(f->prior[k] * known)) : 0);
    return (int32_t)perse_argmax(out, classes);
}

static double apart(const fit *f) {
    double sum = 0;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) sum += fabs(f->prior[k] - f->prior[f->p->plan->classes + k]) / 2;
    return sum;
}

/* The estimate takes it that only class frequencies differ from the factory's. When the images look different too, it
 * explains that away with frequencies: then two halves of the samples disagree, or most early exits do, each asked for its
 * own estimate. */
static perse_status prior_is_steady(fit *f, bool *steady) {
    uint32_t classes = f->p->plan->classes, early = f->p->plan->exits - 1, agree = 0;
    double *other = f->prior + classes;
    estimate_prior(f, f->lab.teacher, 0, 2, f->prior);
    estimate_prior(f, f->lab.teacher, 1, 2, other);
    *steady = apart(f) <= HALVES_APART;
    estimate_prior(f, f->lab.teacher, 0, 1, f->prior);
    for (uint32_t e = 0; *steady && e < early; e++) {
        const perse_pack_entry *entry = &f->p->spare.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
        scale_rows(f->lab.logits, (size_t)f->samples->count * classes, entry->temperature);
        estimate_prior(f, f->lab.logits, 0, 1, other);
        agree += apart(f) <= EXITS_APART;
    }
    *steady = *steady && (2 * agree > early || early == 0);
    return PERSE_OK;
}

/* The person's final head may have learnt once, from labels or from answers that knew more: then it knows more than the
 * factory's, and starting from that one again would undo it. Class frequencies change its bias only. */
static bool final_has_learnt(const fit *f) {
    uint32_t final = f->p->plan->exits - 1;
    size_t size = (size_t)f->p->plan->exit[final].features * f->p->plan->classes * sizeof(float);
    return memcmp(f->p->live.exit[final].head.weight, f->p->spare.exit[final].head.weight, size) != 0;
}

/* What answers tell, in nats: the entropy of the mean answer less the mean entropy. `mean` is [classes]. */
typedef struct {
    double *mean, found;
} told;

static told nothing_told(const fit *f) {
    told t = {f->prior + 2 * (size_t)f->p->plan->classes, 0};
    for (uint32_t k = 0; k < f->p->plan->classes; k++) t.mean[k] = 0;
    return t;
}

static void hear(const fit *f, told *t, const float *logits, double temperature) {
    perse_probabilities(logits, f->p->plan->classes, temperature, f->soft);
    for (uint32_t k = 0; k < f->p->plan->classes; k++) {
        t->mean[k] += (double)f->soft[k] / f->samples->count;
        t->found -= perse_entropy(f->soft[k]) / f->samples->count;
    }
}

static double all_told(const fit *f, const told *t) {
    double found = t->found;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) found += perse_entropy(t->mean[k]);
    return found;
}

static perse_status information(fit *f, uint32_t e, double *found) {
    const perse_pack_entry *entry = &f->p->spare.exit[e];
    told t = nothing_told(f);
    PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
    for (uint32_t i = 0; i < f->samples->count; i++) hear(f, &t, f->lab.logits + (size_t)i * f->p->plan->classes, entry->temperature);
    *found = all_told(f, &t);
    return PERSE_OK;
}

perse_status fit_is_contradicted(fit *f, bool *contradicted) {
    const perse_plan *plan = f->p->plan;
    double agreement = f->report->before.accuracy;
    *contradicted = agreement < MOST;
    if (*contradicted || (f->report->teacher != PERSE_TEACHER_NEAR && f->report->teacher != PERSE_TEACHER_FINAL)) return PERSE_OK;
    told in_use = nothing_told(f);
    for (uint32_t e = 0; e < plan->exits; e++) {
        const perse_pack_entry *entry = &f->p->live.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.logits));
        for (uint32_t i = 0; i < f->samples->count; i++)
            if (fit_who_answers(f, &f->p->live, f->before, i) == e) hear(f, &in_use, f->lab.logits + (size_t)i * plan->classes, entry->temperature);
    }
    double found = all_told(f, &in_use), teacher;
    PERSE_TRY(information(f, plan->exits - 1, &teacher)); /* as it is: evening out is not telling less */
    *contradicted = (1 - agreement) * (found - teacher) > (f->report->teacher == PERSE_TEACHER_NEAR ? EVENED_OVERRULED : OVERRULED);
    return PERSE_OK;
}

/* The final exit, or an early one whose answers tell much more: what a camera does to images (turned, for one) can spoil
 * deep features and leave others be. */
static perse_status who_teaches(fit *f, uint32_t *teacher) {
    double best, found;
    *teacher = f->p->plan->exits - 1;
    PERSE_TRY(information(f, *teacher, &best));
    best += EARLY_TELLS_MORE;
    for (uint32_t e = 0; e + 1 < f->p->plan->exits; e++) {
        PERSE_TRY(information(f, e, &found));
        if (found <= best) continue;
        best = found;
        *teacher = e;
    }
    return PERSE_OK;
}

bool fit_sees_several(const fit *f) {
    uint32_t i = 1;
    while (i < f->samples->count && f->lab.truth[i] == f->lab.truth[0]) i++;
    return i < f->samples->count;
}

/* What the teacher says is right. */
static void believe(fit *f) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t i = 0; i < f->samples->count; i++) f->lab.truth[i] = (int32_t)perse_argmax(f->lab.teacher + (size_t)i * classes, classes);
}

/* lab.teacher and lab.truth are what an exit says, at temperature 1. */
static perse_status ask(fit *f, uint32_t e, const perse_pack_entry *entry) {
    PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.teacher));
    scale_rows(f->lab.teacher, (size_t)f->samples->count * f->p->plan->classes, entry->temperature);
    believe(f);
    return PERSE_OK;
}

/* Similar samples are mostly of one class, however often it is met. Where only frequencies differ, answers that are evened out become
 * nearly the same with the correction and without; where it explains something else away, they do not. Leaves lab.teacher and
 * lab.truth evened out without it. */
static perse_status neighbours_confirm(fit *f, bool *confirmed) {
    uint32_t classes = f->p->plan->classes, final = f->p->plan->exits - 1, n = f->samples->count, changed = 0;
    float share = f->o.neighbours > 0 ? f->o.neighbours : USUAL_SHARE;
    PERSE_TRY(fit_find_neighbours(f));
    for (uint32_t i = 0; i < n; i++) corrected(f, i, PRIOR_TRUST, f->lab.teacher + (size_t)i * classes);
    fit_even_out(f, share);
    for (uint32_t i = 0; i < n; i++) f->picked[i] = (uint32_t)perse_argmax(f->lab.teacher + (size_t)i * classes, classes);
    PERSE_TRY(ask(f, final, &f->p->spare.exit[final]));
    fit_even_out(f, share);
    believe(f);
    for (uint32_t i = 0; i < n; i++) changed += f->picked[i] != (uint32_t)f->lab.truth[i];
    *confirmed = changed <= EVENED_APART * n;
    return PERSE_OK;
}

/* What the factory's final exit becomes: corrected for frequencies if they can be told, else evened out if it can be (lab.teacher
 * and lab.truth then are), else as it is. */
static perse_status choose_correction(fit *f, perse_teacher *name) {
    bool steady, confirmed = false;
    PERSE_TRY(prior_is_steady(f, &steady));
    if (steady) PERSE_TRY(neighbours_confirm(f, &confirmed));
    if (confirmed) *name = PERSE_TEACHER_PRIOR;
    if (confirmed || f->o.neighbours == 0) return PERSE_OK;
    if (!steady) {
        PERSE_TRY(fit_find_neighbours(f));
        fit_even_out(f, f->o.neighbours);
        believe(f);
    }
    if (fit_sees_several(f)) *name = PERSE_TEACHER_NEAR; /* of one class there is nothing to learn */
    return PERSE_OK;
}

/* The final exit (p->spare is the factory's), corrected for the person's class frequencies if they can be told, then
 * fresh's final exit says the same; if they cannot, evened out; or an exit that tells more. */
perse_status fit_teach_without_labels(fit *f) {
    uint32_t classes = f->p->plan->classes, n = f->samples->count, final = f->p->plan->exits - 1, teacher = final;
    bool learnt = final_has_learnt(f);
    if (!learnt) PERSE_TRY(who_teaches(f, &teacher));
    const perse_pack_entry *source = learnt ? &f->p->live.exit[final] : &f->p->spare.exit[teacher];
    perse_pack_entry *fresh = &f->fresh.exit[final];
    perse_teacher name = learnt ? PERSE_TEACHER_PERSONAL : teacher != final ? PERSE_TEACHER_EARLY : PERSE_TEACHER_FINAL;
    PERSE_TRY(ask(f, teacher, source));
    if (name == PERSE_TEACHER_FINAL && !f->plain) PERSE_TRY(choose_correction(f, &name));
    f->report->teacher = name;
    bool prior = name == PERSE_TEACHER_PRIOR;
    uint32_t known = prior ? perse_factory_classes(f->p->plan) : perse_named_classes(f->p->plan, &f->p->live);
    for (uint32_t k = 0; !prior && k < classes; k++) f->prior[k] = k < known ? 1.0 / known : 0;
    if (name == PERSE_TEACHER_EARLY || name == PERSE_TEACHER_NEAR) return PERSE_OK;
    PERSE_TRY(ask(f, teacher, source)); /* again: it may have been evened out */
    perse_head_copy(&fresh->head, &source->head, f->p->plan->exit[final].features, classes);
    fresh->temperature = source->temperature;
    for (uint32_t k = 0; k < known; k++) fresh->head.bias[k] += (float)(source->temperature * PRIOR_TRUST * log(f->prior[k] * known));
    for (uint32_t i = 0; prior && i < n; i++) f->lab.truth[i] = corrected(f, i, PRIOR_TRUST, f->lab.teacher + (size_t)i * classes);
    return PERSE_OK;
}
