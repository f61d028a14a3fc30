/* learn.c - one head learns from cached features; cross-fitted, so that every sample is judged by a head that did not see it. */
#include <math.h>
#include <string.h>

#include "fit.h"

static const double TRUST = 0.3; /* in the teacher where other samples have labels */

static void shuffle(uint32_t *order, uint32_t count, uint64_t *state) {
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)(perse_random(state) % i), swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

/* Rewrites the head for standardised features: shift = mean and scale = 1 / (deviation * sqrt(F)) of the person's
 * own, weight and bias such that it computes what it did. Inputs then have length about 1, and one learning
 * rate fits every exit. Deviations have a floor: a tenth of their root mean square, in the head's own units. */
static void standardise(fit *f, uint32_t e) {
    const perse_exit_plan *x = &f->p->plan->exit[e];
    const perse_head *head = &f->fresh.exit[e].head;
    uint32_t classes = f->p->plan->classes, offset = perse_feature_offset(f->p->plan, e);
    double typical = 0;
    for (uint32_t i = 0; i < x->features; i++) {
        double sum = 0, squares = 0;
        for (uint32_t j = 0; j < f->all.count; j++) sum += perse_feature(f->samples, (size_t)f->all.index[j] * f->p->features + offset + i);
        f->mean[i] = sum / f->all.count;
        for (uint32_t j = 0; j < f->all.count; j++) {
            double d = perse_feature(f->samples, (size_t)f->all.index[j] * f->p->features + offset + i) - f->mean[i];
            squares += d * d;
        }
        f->deviation[i] = sqrt(squares / f->all.count) * fabs((double)head->scale[i]);
        typical += f->deviation[i] * f->deviation[i] / x->features;
    }
    typical = sqrt(typical);
    if (!(typical > 1e-12)) return;
    for (uint32_t i = 0; i < x->features; i++) {
        double old = head->scale[i], units = f->deviation[i] > 0.1 * typical ? f->deviation[i] : 0.1 * typical;
        float scale = (float)(fabs(old) / (units * sqrt((double)x->features))), shift = (float)f->mean[i];
        if (!isfinite(scale) || !(scale > 0)) continue;
        for (uint32_t k = 0; k < classes; k++) {
            float *w = &head->weight[(size_t)i * classes + k];
            head->bias[k] += (float)(((double)shift - head->shift[i]) * old * *w);
            *w = (float)(*w * old / scale);
        }
        head->shift[i] = shift;
        head->scale[i] = scale;
    }
}

/* Shares of a sample's loss that its label and the teacher have. */
typedef struct {
    double hard, soft;
} weights;

static weights weights_of(const fit *f, uint32_t i, bool labels_only) {
    bool known = fit_label(f, i) >= 0;
    if (labels_only) return (weights){known ? 1 : 0, 0};
    if (known) return (weights){f->o.label_weight, (1 - f->o.label_weight) * f->weight[i]};
    return (weights){0, f->lab.labelled ? TRUST * f->weight[i] : f->weight[i]};
}

/* Row j of the batch: what the sample should come out as; `each`: of the batch's loss. */
static void fill_row(fit *f, perse_training *t, uint32_t j, uint32_t i, double each, uint32_t offset, bool labels_only) {
    uint32_t classes = f->p->plan->classes;
    int32_t label = fit_label(f, i);
    double temperature = f->o.teacher_temperature;
    weights w = weights_of(f, i, labels_only);
    perse_sample_features(f->samples, (size_t)i * f->p->features + offset, t->plan->features, t->features + (size_t)j * t->plan->features);
    if (!labels_only) perse_probabilities(f->lab.teacher + (size_t)i * classes, classes, temperature, f->soft);
    for (uint32_t k = 0; k < classes; k++) {
        t->hard[(size_t)j * classes + k] = (int32_t)k == label ? (float)(w.hard * each) : 0;
        t->soft[(size_t)j * classes + k] = labels_only ? 0 : (float)(w.soft * temperature * temperature * each * f->soft[k]);
    }
}

/* One pass over the slice (in lab.order); the mean weight of its samples counts as 1. */
static perse_status train_pass(fit *f, perse_training *t, uint32_t count, double mean_weight, double progress, double step,
                               bool labels_only, double *loss) {
    uint32_t batch = f->p->plan->train_batch, classes = f->p->plan->classes;
    uint32_t offset = perse_feature_offset(f->p->plan, (uint32_t)(t->plan - f->p->plan->exit));
    *loss = 0;
    shuffle(f->lab.order, count, &f->random);
    for (uint32_t start = 0; start < count; start += batch) {
        uint32_t rows = count - start < batch ? count - start : batch;
        for (uint32_t j = 0; j < rows; j++) fill_row(f, t, j, f->lab.order[start + j], 1 / (rows * mean_weight), offset, labels_only);
        memset(t->features + (size_t)rows * t->plan->features, 0, (size_t)(batch - rows) * t->plan->features * sizeof(float));
        memset(t->hard + (size_t)rows * classes, 0, (size_t)(batch - rows) * classes * sizeof(float));
        memset(t->soft + (size_t)rows * classes, 0, (size_t)(batch - rows) * classes * sizeof(float));
        double done = progress + step * start / count;
        float rate = (float)(f->o.learning_rate * 0.5 * (1 + cos(3.14159265358979323846 * done)));
        PERSE_TRY(perse_training_step(t, (float)(1.0 / f->o.teacher_temperature), rate, f->o.momentum, f->o.decay));
        fit_settle_classes(f, t);
        *loss += *t->loss * (double)rows / count;
    }
    return PERSE_OK;
}

/* From the head in use; `turn` of `turns` for the progress. */
static perse_status train(fit *f, uint32_t e, perse_slice slice, bool labels_only, uint32_t turn) {
    const perse_exit_plan *x = &f->p->plan->exit[e];
    const perse_head *head = &f->fresh.exit[e].head;
    perse_exit_report *report = &f->report->exits[e];
    perse_carver c = perse_carve_in(f->training, f->training_size);
    perse_training *t = perse_training_carve(&c, f->p->plan, e);
    uint32_t turns = f->o.folds + 1;
    double total = 0;
    perse_head_copy(head, &f->p->live.exit[e].head, x->features, f->p->plan->classes);
    standardise(f, e);
    PERSE_TRY(fit_start_classes(f, e, slice));
    perse_training_begin(t, f->p, e, head);
    for (uint32_t j = 0; j < slice.count; j++) {
        weights w = weights_of(f, slice.index[j], labels_only);
        total += w.hard + w.soft;
    }
    if (!(total > 1e-6)) return PERSE_OK; /* nobody knows anything */
    memcpy(f->lab.order, slice.index, slice.count * sizeof *f->lab.order);
    uint32_t passes = perse_passes(slice.count, f->p->plan->train_batch);
    for (uint32_t epoch = 0; epoch < f->o.epochs; epoch++) {
        PERSE_TRY(fit_tell(f, x->name, turn * f->o.epochs + epoch, turns * f->o.epochs));
        double step = 1.0 / f->o.epochs / passes;
        for (uint32_t pass = 0; pass < passes; pass++)
            PERSE_TRY(train_pass(f, t, slice.count, total / slice.count, (double)epoch / f->o.epochs + pass * step, step, labels_only,
                                 &report->last_loss));
        if (epoch == 0) report->first_loss = report->last_loss;
    }
    report->epochs = f->o.epochs;
    return PERSE_OK;
}

perse_slice fit_pick(const fit *f, uint32_t fold, bool in, bool labels_only, uint32_t *into) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->samples->count; i++)
        if (f->fold[i] != FIT_LEFT_OUT && (f->fold[i] == fold) == in && (!labels_only || fit_label(f, i) >= 0)) into[count++] = i;
    return (perse_slice){into, count};
}

perse_status fit_learn(fit *f, uint32_t e, bool labels_only) {
    uint32_t folds = f->o.folds;
    for (uint32_t fold = 0; fold <= folds; fold++) { /* the last holds nobody back */
        PERSE_TRY(train(f, e, fit_pick(f, fold, false, labels_only, f->picked), labels_only, fold));
        perse_slice held_back = fit_pick(f, fold, true, false, f->picked + f->samples->count);
        PERSE_TRY(perse_lab_logits(&f->lab, e, &f->fresh.exit[e].head, held_back, f->lab.logits));
    }
    return fit_tell(f, f->p->plan->exit[e].name, (folds + 1) * f->o.epochs, (folds + 1) * f->o.epochs);
}
