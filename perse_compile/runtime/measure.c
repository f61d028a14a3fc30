/* measure.c - answers, losses, temperatures, thresholds and the cascade's figures, all on cached features. */
#include "inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_ANSWERS = 4, ROUNDS = 50 }; /* that a threshold may rest on; of Newton's method */
static const double UNSEEN = 0.25;         /* answers, half of them lost, that every curve of losses starts from */
static const double SLOPE_TRUST = 2;       /* in the slope that a calibrated exit has: -1 */
static const double LEAST_DOUBT = 1e-6;    /* 1 - confidence, in single precision */

void perse_lab_carve(perse_carver *c, const perse_plan *plan, uint32_t count, perse_lab *lab) {
    uint64_t table = (uint64_t)count * plan->classes;
    lab->truth = perse_carve(c, count, sizeof *lab->truth);
    lab->teacher = perse_carve(c, table, sizeof(float));
    lab->logits = perse_carve(c, table, sizeof(float));
    lab->dot = perse_carve(c, count, sizeof *lab->dot);
    lab->ranked = perse_carve(c, count, sizeof *lab->ranked);
    lab->order = perse_carve(c, count, sizeof *lab->order);
}

perse_status perse_check_samples(const perse *p, const perse_samples *s, bool *labelled) {
    if (s->count > 0 && s->features == NULL && s->halves == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "features");
    int32_t first = -1;
    bool several = false;
    for (uint32_t i = 0; s->labels != NULL && i < s->count; i++) {
        int32_t label = s->labels[i];
        if (label < -1 || (label >= 0 && (uint32_t)label >= perse_named_classes(p->plan, &p->live))) return perse_fail(PERSE_BAD_LABEL, "");
        if (label >= 0 && first < 0) first = label;
        several = several || (label >= 0 && label != first);
    }
    for (uint64_t i = 0; i < (uint64_t)s->count * p->features; i++)
        if (!perse_feature_is_sound(s, i)) return perse_fail(PERSE_NAN_INPUT, "features");
    *labelled = first >= 0;
    return first >= 0 && !several ? perse_fail(PERSE_ONE_CLASS, "labels") : PERSE_OK;
}

static float *row(const perse_lab *lab, const float *table, uint32_t sample) {
    return (float *)(uintptr_t)table + (size_t)sample * lab->p->plan->classes;
}

perse_status perse_lab_logits(perse_lab *lab, uint32_t exit, const perse_head *head, perse_slice slice, float *out) {
    uint32_t offset = perse_feature_offset(lab->p->plan, exit);
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        perse_sample_features(lab->samples, (size_t)i * lab->p->features + offset, lab->p->plan->exit[exit].features, lab->p->feature);
        PERSE_TRY(perse_apply_head(lab->p, exit, head, lab->p->feature, row(lab, out, i)));
    }
    return PERSE_OK;
}

/* dot[i] = the sum over classes of what is right times its logit, so that loss = log-sum-exp(z/T) - dot/T. */
static void fill_dot(perse_lab *lab, const float *logits, perse_slice slice) {
    uint32_t classes = lab->p->plan->classes;
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        const float *z = row(lab, logits, i), *t = row(lab, lab->teacher, i);
        if (lab->labelled) {
            lab->dot[i] = z[lab->truth[i]];
            continue;
        }
        double top = -INFINITY, sum = 0, dot = 0;
        for (uint32_t k = 0; k < classes; k++) top = z[k] < PERSE_SPARE_LOGIT / 2 ? top : fmax(top, t[k]);
        for (uint32_t k = 0; k < classes; k++) {
            if (z[k] < PERSE_SPARE_LOGIT / 2) continue; /* a class that this head does not know */
            double e = exp(t[k] - top);
            sum += e;
            dot += e * z[k];
        }
        lab->dot[i] = dot / sum;
    }
}

static double loss_at(const perse_lab *lab, const float *logits, perse_slice slice, double temperature) {
    uint32_t classes = lab->p->plan->classes;
    double loss = 0;
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        const float *z = row(lab, logits, i);
        double top = z[perse_argmax(z, classes)];
        if (lab->dot[i] < PERSE_SPARE_LOGIT / 2) continue; /* likewise: no temperature helps */
        loss += log(perse_exp_sum(z, classes, top, 1 / temperature)) + (top - lab->dot[i]) / temperature;
    }
    return loss / (slice.count > 0 ? slice.count : 1);
}

double perse_lab_loss(perse_lab *lab, const float *logits, perse_slice slice, double temperature) {
    fill_dot(lab, logits, slice);
    return loss_at(lab, logits, slice, temperature);
}

/* Golden-section search on log T: the loss is unimodal in 1/T. */
double perse_lab_temperature(perse_lab *lab, const float *logits, perse_slice slice) {
    const double golden = 0.6180339887498949;
    double low = log(0.05), high = log(20.0);
    fill_dot(lab, logits, slice);
    double a = high - golden * (high - low), b = low + golden * (high - low);
    double at_a = loss_at(lab, logits, slice, exp(a)), at_b = loss_at(lab, logits, slice, exp(b));
    for (int i = 0; i < 24; i++) {
        if (at_a < at_b) {
            high = b, b = a, at_b = at_a;
            a = high - golden * (high - low), at_a = loss_at(lab, logits, slice, exp(a));
        } else {
            low = a, a = b, at_a = at_b;
            b = low + golden * (high - low), at_b = loss_at(lab, logits, slice, exp(b));
        }
    }
    return exp((low + high) / 2);
}

static perse_status answer_exit(perse_lab *lab, const perse_pack_entry *entry, perse_slice slice, perse_answer *answers) {
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        perse_answer *a = &answers[i];
        if (!perse_top(row(lab, lab->logits, i), lab->p->plan->classes, entry->temperature, &a->label, &a->confidence))
            return perse_fail(PERSE_KERNEL_FAILED, "logits are not finite");
    }
    return PERSE_OK;
}

perse_status perse_lab_answers(perse_lab *lab, const perse_pack *pack, perse_slice slice, perse_answer *answers) {
    for (uint32_t e = 0; e < lab->p->plan->exits; e++) {
        PERSE_TRY(perse_lab_logits(lab, e, &pack->exit[e].head, slice, lab->logits));
        PERSE_TRY(answer_exit(lab, &pack->exit[e], slice, answers + (size_t)e * lab->samples->count));
    }
    return PERSE_OK;
}

double perse_lab_accuracy(const perse_lab *lab, perse_slice slice, const perse_answer *answers) {
    uint32_t right = 0;
    for (uint32_t j = 0; j < slice.count; j++) right += answers[slice.index[j]].label == lab->truth[slice.index[j]];
    return slice.count > 0 ? (double)right / slice.count : 0;
}

static int by_confidence(const void *left, const void *right) {
    const perse_ranked *a = left, *b = right;
    if (a->key != b->key) return a->key > b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* MACs that an answer at exit e saves against going on to the end. */
static double saved_macs(const perse_plan *plan, uint32_t e) {
    uint64_t macs = plan->exit[plan->exits - 1].head_macs;
    for (uint32_t later = e + 1; later < plan->exits; later++) macs += plan->exit[later].stage_macs;
    return (double)macs;
}

/* An answer is lost where the final exit is right and this one is not. How likely that is, as
 * 1 / (1 + exp(-(level + slope * x))) of x = (-log(1 - confidence) - mean) / spread. */
typedef struct {
    double mean, spread, level, slope;
} losses;

static double surety(float confidence) { return -log(fmax(1 - (double)confidence, LEAST_DOUBT)); }

static double lost_at(const losses *l, float confidence) {
    return 1 / (1 + exp(-(l->level + l->slope * (surety(confidence) - l->mean) / l->spread)));
}

/* Logistic regression, drawn towards the slope of a calibrated exit, whose error is 1 - confidence. All answers have a say,
 * not only those above a threshold: the few that are lost there would be a poor measure. */
static losses fit_losses(const perse_lab *lab, uint32_t count, const perse_answer *mine, const perse_answer *final) {
    losses l = {0, 0, 0, 0};
    double squares = 0, lost = UNSEEN / 2;
    for (uint32_t j = 0; j < count; j++) {
        uint32_t i = lab->ranked[j].index;
        double x = surety(lab->ranked[j].key);
        l.mean += x / count;
        squares += x * x / count;
        lost += final[i].label == lab->truth[i] && mine[i].label != lab->truth[i];
    }
    l.spread = sqrt(fmax(squares - l.mean * l.mean, 0)) + 1e-9;
    l.level = log(lost / (count + UNSEEN - lost));
    for (int round = 0; round < ROUNDS; round++) {
        double up = 0, tilt = SLOPE_TRUST * (l.slope + l.spread), a = 1e-9, b = 0, c = SLOPE_TRUST + 1e-9;
        for (uint32_t j = 0; j < count; j++) {
            uint32_t i = lab->ranked[j].index;
            double x = (surety(lab->ranked[j].key) - l.mean) / l.spread, p = lost_at(&l, lab->ranked[j].key);
            double each = 1 + UNSEEN / count;
            double off = each * p - (final[i].label == lab->truth[i] && mine[i].label != lab->truth[i]) - UNSEEN / count / 2;
            double curve = each * p * (1 - p);
            up += off;
            tilt += off * x;
            a += curve;
            b += curve * x;
            c += curve * x * x;
        }
        double even = a * c - b * b, level = (c * up - b * tilt) / even, slope = (a * tilt - b * up) / even;
        level = fmin(fmax(level, -2), 2);
        slope = fmin(fmax(slope, -2), 2);
        l.level -= level;
        l.slope -= slope;
        if (fabs(level) + fabs(slope) < 1e-7) break;
    }
    return l;
}

/* The smallest threshold at which at most a share max_drop of the accepted answers is expected to be lost. Sorts
 * order[0..reached) by confidence and returns how many are accepted. */
static uint32_t fit_threshold(perse_lab *lab, uint32_t e, uint32_t reached, double max_drop, const perse_answer *mine,
                              const perse_answer *final, float *threshold) {
    const perse_plan *plan = lab->p->plan;
    for (uint32_t j = 0; j < reached; j++) lab->ranked[j] = (perse_ranked){mine[lab->order[j]].confidence, lab->order[j]};
    qsort(lab->ranked, reached, sizeof *lab->ranked, by_confidence);
    losses l = fit_losses(lab, reached, mine, final);
    uint32_t accepted = 0;
    double lost = 0;
    for (uint32_t j = 0; j < reached; j++) {
        lab->order[j] = lab->ranked[j].index;
        lost += lost_at(&l, lab->ranked[j].key);
        bool tie = j + 1 < reached && lab->ranked[j + 1].key == lab->ranked[j].key;
        if (!tie && j + 1 >= FEWEST_ANSWERS && lost <= max_drop * (j + 1) + 1e-9) accepted = j + 1;
    }
    if (accepted * saved_macs(plan, e) <= (double)reached * (double)plan->exit[e].head_macs) return 0;
    *threshold = lab->ranked[accepted - 1].key;
    return accepted;
}

static void thresholds_at(perse_lab *lab, perse_pack *pack, perse_slice slice, double max_drop, const perse_answer *answers) {
    uint32_t reached = slice.count, exits = lab->p->plan->exits;
    const perse_answer *final = answers + (size_t)(exits - 1) * lab->samples->count;
    memcpy(lab->order, slice.index, reached * sizeof *lab->order);
    for (uint32_t e = 0; e + 1 < exits; e++) {
        const perse_answer *mine = answers + (size_t)e * lab->samples->count;
        uint32_t accepted = reached == 0 ? 0 : fit_threshold(lab, e, reached, max_drop, mine, final, &pack->exit[e].threshold);
        pack->exit[e].enabled = accepted > 0;
        if (accepted == 0) pack->exit[e].threshold = 1;
        reached -= accepted;
        memmove(lab->order, lab->order + accepted, reached * sizeof *lab->order);
    }
    pack->exit[exits - 1].enabled = true;
    pack->exit[exits - 1].threshold = 1;
}

void perse_lab_thresholds(perse_lab *lab, perse_pack *pack, perse_slice slice, perse_aim aim, const perse_answer *answers) {
    double low = aim.max_drop, high = 1;
    thresholds_at(lab, pack, slice, low, answers);
    if (!(aim.max_cost > 0) || perse_lab_cascade(lab, pack, slice, answers, aim.share).cost <= aim.max_cost) return;
    for (int i = 0; i < 12; i++) { /* cost falls as more may be lost */
        double drop = (low + high) / 2;
        thresholds_at(lab, pack, slice, drop, answers);
        *(perse_lab_cascade(lab, pack, slice, answers, aim.share).cost <= aim.max_cost ? &high : &low) = drop;
    }
    thresholds_at(lab, pack, slice, high, answers);
}

perse_status perse_lab_calibrate(perse_lab *lab, perse_pack *pack, perse_slice slice, perse_aim aim, perse_answer *answers) {
    for (uint32_t e = 0; e < lab->p->plan->exits; e++) {
        perse_pack_entry *entry = &pack->exit[e];
        PERSE_TRY(perse_lab_logits(lab, e, &entry->head, slice, lab->logits));
        entry->temperature = (float)perse_lab_temperature(lab, lab->logits, slice);
        PERSE_TRY(answer_exit(lab, entry, slice, answers + (size_t)e * lab->samples->count));
    }
    perse_lab_thresholds(lab, pack, slice, aim, answers);
    return PERSE_OK;
}

perse_figures perse_lab_cascade(const perse_lab *lab, const perse_pack *pack, perse_slice slice, const perse_answer *answers,
                                double *shares) {
    const perse_plan *plan = lab->p->plan;
    double macs = 0, right = 0, each = slice.count > 0 ? 1.0 / slice.count : 0;
    for (uint32_t e = 0; e < plan->exits; e++) shares[e] = 0;
    for (uint32_t j = 0; j < slice.count; j++) {
        uint32_t i = slice.index[j];
        for (uint32_t e = 0; e < plan->exits; e++) {
            const perse_answer *a = &answers[(size_t)e * lab->samples->count + i];
            bool final = e + 1 == plan->exits;
            macs += (double)plan->exit[e].stage_macs;
            if (!pack->exit[e].enabled && !final) continue;
            macs += (double)plan->exit[e].head_macs;
            if (!final && a->confidence < pack->exit[e].threshold) continue;
            shares[e] += each;
            right += a->label == lab->truth[i];
            break;
        }
    }
    uint64_t full = perse_full_macs(plan);
    return (perse_figures){right * each, full > 0 ? macs * each / (double)full : 0};
}
