/* teacher.c - whose answers the exits learn from, how far to trust them, and how often the person meets each class. */
#include <math.h>
#include <string.h>

#include "fit.h"

static const double MOST = 0.5;               /* of the answers in use, that a teacher who has no labels must give too */
static const double OVERRULED = 0.0025, EVENED_OVERRULED = 0.02; /* nats that answers in use tell more, by the share of them that it does not give */
static const double AGREES = 0.75, AS_MUCH = 0.2; /* of what an exit's confidence lets expect; nats */

static void scale_rows(float *logits, size_t count, double temperature) {
    for (size_t i = 0; i < count; i++) logits[i] = (float)(logits[i] / temperature);
}

/* weight = the teacher's confidence * the share of exits that agree with it. */
void fit_weigh(fit *f) {
    uint32_t exits = f->p->plan->exits, classes = f->p->plan->classes, n = f->samples->count;
    for (uint32_t j = 0; j < f->all.count; j++) {
        uint32_t i = f->all.index[j];
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

/* The person's final head may have learnt once, from labels or from answers that knew more: then it knows more than the
 * factory's, and starting from that one again would undo it. Class frequencies change its bias only. */
bool fit_final_has_learnt(const fit *f) {
    uint32_t final = f->p->plan->exits - 1;
    size_t size = (size_t)f->p->plan->exit[final].features * f->p->plan->classes * sizeof(float);
    return memcmp(f->p->live.exit[final].head.weight, f->p->spare.exit[final].head.weight, size) != 0;
}

/* What answers tell, in nats: the entropy of the mean answer less the mean entropy. `mean` is [classes]. */
typedef struct {
    double *mean, found;
    uint32_t count;
} told;

static told nothing_told(const fit *f, uint32_t count) {
    told t = {f->prior + 2 * (size_t)f->p->plan->classes, 0, count};
    for (uint32_t k = 0; k < f->p->plan->classes; k++) t.mean[k] = 0;
    return t;
}

static void hear(const fit *f, told *t, const float *logits, double temperature) {
    perse_probabilities(logits, f->p->plan->classes, temperature, f->soft);
    for (uint32_t k = 0; k < f->p->plan->classes; k++) {
        t->mean[k] += (double)f->soft[k] / t->count;
        t->found -= perse_entropy(f->soft[k]) / t->count;
    }
}

static double all_told(const fit *f, const told *t) {
    double found = t->found;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) found += perse_entropy(t->mean[k]);
    return found;
}

perse_status fit_information(fit *f, uint32_t e, const perse_pack_entry *entry, perse_slice slice, double *found) {
    told t = nothing_told(f, slice.count);
    PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, slice, f->lab.logits));
    for (uint32_t j = 0; j < slice.count; j++) hear(f, &t, f->lab.logits + (size_t)slice.index[j] * f->p->plan->classes, entry->temperature);
    *found = all_told(f, &t);
    return PERSE_OK;
}

/* Two calibrated exits agree about as often as the less sure one is right (Jiang, Nagarajan, Baek and Kolter 2022). If an early exit tells
 * about as much as the final one and they agree far less often than that exit is sure, nothing says which of them is wrong. */
static perse_status exits_agree(fit *f, perse_slice slice, bool *agreed) {
    uint32_t final = f->p->plan->exits - 1, n = f->samples->count;
    double last, mine;
    PERSE_TRY(fit_information(f, final, &f->p->live.exit[final], slice, &last));
    *agreed = true;
    for (uint32_t e = 0; e < final; e++) {
        double sure = 0, agree = 0;
        for (uint32_t j = 0; j < slice.count; j++) {
            size_t row = (size_t)e * n + slice.index[j];
            sure += (double)f->before[row].confidence;
            agree += f->before[row].label == f->before[(size_t)final * n + slice.index[j]].label;
        }
        PERSE_TRY(fit_information(f, e, &f->p->live.exit[e], slice, &mine));
        *agreed = *agreed && (agree >= AGREES * sure || mine < last - AS_MUCH);
    }
    return PERSE_OK;
}

perse_status fit_is_contradicted(fit *f, perse_slice slice, bool *contradicted) {
    const perse_plan *plan = f->p->plan;
    double agreement = 0;
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j], e = fit_who_answers(f, &f->p->live, f->before, i);
        agreement += (double)(f->before[(size_t)e * f->samples->count + i].label == f->lab.truth[i]) / slice.count;
    }
    *contradicted = agreement < MOST;
    if (*contradicted || (f->report->teacher != PERSE_TEACHER_NEAR && f->report->teacher != PERSE_TEACHER_FINAL)) return PERSE_OK;
    bool agreed;
    PERSE_TRY(exits_agree(f, slice, &agreed));
    told in_use = nothing_told(f, slice.count);
    for (uint32_t e = 0; e < plan->exits; e++) {
        const perse_pack_entry *entry = &f->p->live.exit[e];
        PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, slice, f->lab.logits));
        for (uint32_t j = 0; j < slice.count; j++) {
            const float *logits = f->lab.logits + (size_t)slice.index[j] * plan->classes;
            if (fit_who_answers(f, &f->p->live, f->before, slice.index[j]) == e) hear(f, &in_use, logits, entry->temperature);
        }
    }
    double found = all_told(f, &in_use), teacher;
    PERSE_TRY(fit_information(f, plan->exits - 1, &f->p->spare.exit[plan->exits - 1], slice, &teacher)); /* as it is: evening out is not telling less */
    *contradicted = !agreed || (1 - agreement) * (found - teacher) > (f->report->teacher == PERSE_TEACHER_NEAR ? EVENED_OVERRULED : OVERRULED);
    return PERSE_OK;
}

/* The final exit, or an early one whose answers tell much more: what a camera does to images (turned, for one) can spoil
 * deep features and leave others be. */
static perse_status who_teaches(fit *f, uint32_t *teacher) {
    double best, found;
    *teacher = f->p->plan->exits - 1;
    PERSE_TRY(fit_information(f, *teacher, &f->p->spare.exit[*teacher], f->all, &best));
    best += FIT_EARLY_TELLS_MORE;
    for (uint32_t e = 0; e + 1 < f->p->plan->exits; e++) {
        PERSE_TRY(fit_information(f, e, &f->p->spare.exit[e], f->all, &found));
        if (found <= best) continue;
        best = found;
        *teacher = e;
    }
    return PERSE_OK;
}

bool fit_sees_several(const fit *f) {
    const uint32_t *index = f->all.index;
    uint32_t j = 1;
    while (j < f->all.count && f->lab.truth[index[j]] == f->lab.truth[index[0]]) j++;
    return j < f->all.count;
}

/* What the teacher says is right. */
void fit_believe(fit *f) {
    uint32_t classes = f->p->plan->classes;
    for (uint32_t j = 0; j < f->all.count; j++) {
        uint32_t i = f->all.index[j];
        f->lab.truth[i] = (int32_t)perse_argmax(f->lab.teacher + (size_t)i * classes, classes);
    }
}

/* lab.teacher and lab.truth are what an exit says, at temperature 1. */
perse_status fit_ask(fit *f, uint32_t e, const perse_pack_entry *entry) {
    PERSE_TRY(perse_lab_logits(&f->lab, e, &entry->head, f->all, f->lab.teacher));
    scale_rows(f->lab.teacher, (size_t)f->samples->count * f->p->plan->classes, entry->temperature);
    fit_believe(f);
    return PERSE_OK;
}

/* What the factory's final exit becomes, in lab.teacher: corrected for frequencies if they can be told, else evened out if it may
 * be, else as it is; so, too, where one class would be left, of which there is nothing to learn. */
static perse_status choose_correction(fit *f, perse_teacher *name) {
    uint32_t final = f->p->plan->exits - 1;
    const perse_pack_entry *entry = &f->p->spare.exit[final];
    bool believed;
    PERSE_TRY(fit_estimate_frequencies(f, &believed));
    PERSE_TRY(fit_ask(f, final, entry));
    if (believed) {
        *name = PERSE_TEACHER_PRIOR;
        fit_correct(f);
    } else if (f->o.neighbours > 0) {
        *name = PERSE_TEACHER_NEAR;
        fit_even_out(f, f->o.neighbours);
        fit_believe(f);
    }
    if (*name == PERSE_TEACHER_FINAL || fit_sees_several(f)) return PERSE_OK;
    *name = PERSE_TEACHER_FINAL;
    return fit_ask(f, final, entry);
}

/* The final exit (p->spare is the factory's), corrected for the person's class frequencies if they can be told, then
 * fresh's final exit says the same; if they cannot, evened out; or an exit that tells more. */
perse_status fit_teach_without_labels(fit *f) {
    uint32_t classes = f->p->plan->classes, final = f->p->plan->exits - 1, teacher = final;
    bool learnt = fit_final_has_learnt(f);
    if (!learnt) PERSE_TRY(who_teaches(f, &teacher));
    const perse_pack_entry *source = learnt ? &f->p->live.exit[final] : &f->p->spare.exit[teacher];
    perse_pack_entry *fresh = &f->fresh.exit[final];
    perse_teacher name = learnt ? PERSE_TEACHER_PERSONAL : teacher != final ? PERSE_TEACHER_EARLY : PERSE_TEACHER_FINAL;
    PERSE_TRY(fit_ask(f, teacher, source));
    if (name == PERSE_TEACHER_FINAL && !f->plain) PERSE_TRY(choose_correction(f, &name));
    f->report->teacher = name;
    bool by_frequency = name == PERSE_TEACHER_PRIOR;
    uint32_t known = perse_named_classes(f->p->plan, &f->p->live);
    for (uint32_t k = 0; !by_frequency && k < classes; k++) f->prior[k] = k < known ? 1.0 / known : 0;
    if (name == PERSE_TEACHER_EARLY || name == PERSE_TEACHER_NEAR) return PERSE_OK; /* the final exit learns from it */
    perse_head_copy(&fresh->head, &source->head, f->p->plan->exit[final].features, classes);
    fresh->temperature = source->temperature;
    for (uint32_t k = 0; by_frequency && k < classes; k++) fresh->head.bias[k] += source->temperature * fit_frequency_bias(f, k);
    return PERSE_OK;
}
