/* fit.c - personalisation: split, choose a teacher, train every head, calibrate, and let the held-out slice decide. */
#include "inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_SAMPLES = 20, FEWEST_OF_A_SLICE = 4, PRIOR_ROUNDS = 200 };

perse_fit_options perse_fit_defaults(void) {
    return (perse_fit_options){.epochs = 40, .patience = 8, .learning_rate = 0.5f, .momentum = 0.9f, .decay = 1e-3f,
                               .teacher_temperature = 2.0f, .label_weight = 0.7f, .calibrate = 0.2f, .held_out = 0.2f,
                               .max_drop = 0.01f, .seed = 1};
}

typedef struct {
    uint32_t stratum, sample;
    uint64_t random;
} ticket;

typedef struct {
    perse *p;
    const perse_samples *samples;
    perse_fit_options o;
    perse_report *report;
    perse_lab lab;
    perse_pack fresh;    /* being trained */
    perse_head best;     /* weights of the best epoch; as long as the longest head */
    float *candidate;    /* [count][classes] logits of another teacher */
    float *weight;       /* [count] trust in the teacher */
    float *soft;         /* [classes] */
    double *prior;       /* [3][classes]: the estimate, another, scratch */
    double *mean;        /* [features of the widest exit] */
    double *deviation;   /* likewise */
    double *share;       /* [exits] */
    int32_t *chosen;     /* [count] */
    perse_answer *before, *after; /* [exits][count] */
    ticket *tickets;     /* [count] */
    uint32_t *index;     /* [count]: all slices, one after the other */
    perse_slice train, calibrate, held_out, all;
    void *training;      /* memory of one perse_training */
    size_t training_size;
    uint64_t random;
} fit;

/* ---- memory ---- */

static void carve_fit(perse_carver *c, const perse_plan *plan, uint32_t count, fit *f) {
    uint32_t widest = 0;
    for (uint32_t e = 0; e < plan->exits; e++) {
        perse_carver one = {NULL, 0, 0};
        perse_training_carve(&one, plan, e);
        if (perse_carved_size(&one) > f->training_size) f->training_size = perse_carved_size(&one);
        if (plan->exit[e].features > widest) widest = plan->exit[e].features;
    }
    perse_lab_carve(c, plan, count, &f->lab);
    perse_pack_carve(c, plan, &f->fresh);
    perse_head_carve(c, widest, plan->classes, &f->best);
    f->candidate = perse_carve(c, (uint64_t)count * plan->classes, sizeof(float));
    f->weight = perse_carve(c, count, sizeof *f->weight);
    f->soft = perse_carve(c, plan->classes, sizeof *f->soft);
    f->prior = perse_carve(c, (uint64_t)3 * plan->classes, sizeof *f->prior);
    f->mean = perse_carve(c, widest, sizeof *f->mean);
    f->deviation = perse_carve(c, widest, sizeof *f->deviation);
    f->share = perse_carve(c, plan->exits, sizeof *f->share);
    f->chosen = perse_carve(c, count, sizeof *f->chosen);
    f->before = perse_carve(c, (uint64_t)count * plan->exits, sizeof *f->before);
    f->after = perse_carve(c, (uint64_t)count * plan->exits, sizeof *f->after);
    f->tickets = perse_carve(c, count, sizeof *f->tickets);
    f->index = perse_carve(c, count, sizeof *f->index);
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

/* splitmix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void shuffle(uint32_t *order, uint32_t count, uint64_t *state) {
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(state) % i), swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

static perse_status tell(const fit *f, const char *phase, uint32_t done, uint32_t total) {
    return f->o.progress != NULL && f->o.progress(f->o.user, phase, done, total) != 0 ? perse_fail(PERSE_ABORTED, phase) : PERSE_OK;
}

static int32_t label_of(const fit *f, uint32_t i) { return f->samples->labels != NULL ? f->samples->labels[i] : -1; }

static uint32_t argmax(const float *values, uint32_t count) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < count; k++)
        if (values[k] > values[best]) best = k;
    return best;
}

/* ---- split ---- */

static int by_stratum(const void *left, const void *right) {
    const ticket *a = left, *b = right;
    if (a->stratum != b->stratum) return a->stratum < b->stratum ? -1 : 1;
    if (a->random != b->random) return a->random < b->random ? -1 : 1;
    return a->sample < b->sample ? -1 : a->sample > b->sample;
}

/* Samples in order of class, shuffled within; every so many-th is set aside, so that each slice has its share of
 * each class. Of a partly labelled set the unlabelled samples all train. truth holds the teacher's labels if unlabelled. */
static perse_status split(fit *f) {
    uint32_t n = f->samples->count, counts[3] = {0};
    for (uint32_t i = 0; i < n; i++)
        f->tickets[i] = (ticket){(uint32_t)f->lab.truth[i], i, next_random(&f->random)}; /* unknown sorts last */
    qsort(f->tickets, n, sizeof *f->tickets, by_stratum);
    double held_out = 0, calibrate = 0;
    for (int pass = 0; pass < 3; pass++) { /* 0 train, 1 calibrate, 2 held out */
        uint32_t *to = f->index + (pass > 0 ? counts[0] : 0) + (pass > 1 ? counts[1] : 0);
        held_out = calibrate = 0.5;
        for (uint32_t j = 0; j < n; j++) {
            int slice = 0;
            if (f->tickets[j].stratum != UINT32_MAX) {
                if ((held_out += f->o.held_out) >= 1) slice = 2, held_out -= 1;
                else if ((calibrate += f->o.calibrate / (1 - f->o.held_out)) >= 1) slice = 1, calibrate -= 1;
            }
            if (slice == pass) to[counts[pass]++] = f->tickets[j].sample;
        }
    }
    f->train = (perse_slice){f->index, counts[0]};
    f->calibrate = (perse_slice){f->index + counts[0], counts[1]};
    f->held_out = (perse_slice){f->index + counts[0] + counts[1], counts[2]};
    f->all = (perse_slice){f->index, n};
    f->report->train = counts[0];
    f->report->calibrate = counts[1];
    f->report->held_out = counts[2];
    for (int i = 0; i < 3; i++)
        if (counts[i] < FEWEST_OF_A_SLICE) return perse_fail(PERSE_TOO_FEW_SAMPLES, "");
    return PERSE_OK;
}

/* ---- training one head ---- */

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
        for (uint32_t j = 0; j < f->train.count; j++) sum += f->samples->features[(size_t)f->train.index[j] * f->p->features + offset + i];
        f->mean[i] = sum / f->train.count;
        for (uint32_t j = 0; j < f->train.count; j++) {
            double d = f->samples->features[(size_t)f->train.index[j] * f->p->features + offset + i] - f->mean[i];
            squares += d * d;
        }
        f->deviation[i] = sqrt(squares / f->train.count) * fabs((double)head->scale[i]);
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

/* Row j of the batch: what the sample should come out as. */
static void fill_row(fit *f, perse_training *t, uint32_t j, uint32_t i, uint32_t rows, uint32_t offset, float label_weight) {
    uint32_t classes = f->p->plan->classes;
    int32_t label = label_of(f, i);
    double temperature = f->o.teacher_temperature, hard = label >= 0 ? label_weight : 0;
    double soft = (1 - hard) * f->weight[i] * temperature * temperature / rows;
    memcpy(t->features + (size_t)j * t->plan->features, f->samples->features + (size_t)i * f->p->features + offset,
           t->plan->features * sizeof(float));
    perse_probabilities(f->lab.teacher + (size_t)i * classes, classes, temperature, f->soft);
    for (uint32_t k = 0; k < classes; k++) {
        t->hard[(size_t)j * classes + k] = (int32_t)k == label ? (float)(hard / rows) : 0;
        t->soft[(size_t)j * classes + k] = (float)(soft * f->soft[k]);
    }
}

static perse_status train_epoch(fit *f, perse_training *t, uint32_t e, uint32_t epoch, float label_weight, double *loss) {
    uint32_t batch = f->p->plan->train_batch, count = f->train.count, classes = f->p->plan->classes;
    uint32_t offset = perse_feature_offset(f->p->plan, e);
    double done = 0;
    *loss = 0;
    shuffle(f->lab.order, count, &f->random);
    for (uint32_t start = 0; start < count; start += batch) {
        uint32_t rows = count - start < batch ? count - start : batch;
        for (uint32_t j = 0; j < rows; j++) fill_row(f, t, j, f->lab.order[start + j], rows, offset, label_weight);
        memset(t->features + (size_t)rows * t->plan->features, 0, (size_t)(batch - rows) * t->plan->features * sizeof(float));
        memset(t->hard + (size_t)rows * classes, 0, (size_t)(batch - rows) * classes * sizeof(float));
        memset(t->soft + (size_t)rows * classes, 0, (size_t)(batch - rows) * classes * sizeof(float));
        double progress = (epoch + done / count) / f->o.epochs;
        float rate = (float)(f->o.learning_rate * 0.5 * (1 + cos(3.14159265358979323846 * progress)));
        PERSE_TRY(perse_training_step(t, (float)(1.0 / f->o.teacher_temperature), rate, f->o.momentum, f->o.decay));
        *loss += *t->loss * (double)rows / count;
        done += rows;
    }
    return PERSE_OK;
}

/* Loss of fresh head e on the calibration slice; what early stop goes by. */
static perse_status judge(fit *f, uint32_t e, double *loss) {
    PERSE_TRY(perse_lab_logits(&f->lab, e, &f->fresh.exit[e].head, f->calibrate, f->lab.logits));
    *loss = perse_lab_loss(&f->lab, f->lab.logits, f->calibrate, 1);
    return isfinite(*loss) ? PERSE_OK : perse_fail(PERSE_DIVERGED, f->p->plan->exit[e].name);
}

static perse_status train_head(fit *f, uint32_t e, float label_weight) {
    const perse_exit_plan *x = &f->p->plan->exit[e];
    const perse_head *head = &f->fresh.exit[e].head;
    perse_exit_report *report = &f->report->exits[e];
    perse_carver c = perse_carve_in(f->training, f->training_size);
    perse_training *t = perse_training_carve(&c, f->p->plan, e);
    double best, loss;
    perse_head_copy(head, &f->p->live.exit[e].head, x->features, f->p->plan->classes);
    standardise(f, e);
    perse_training_begin(t, f->p, e, head);
    perse_head_copy(&f->best, head, x->features, f->p->plan->classes);
    PERSE_TRY(judge(f, e, &best));
    memcpy(f->lab.order, f->train.index, f->train.count * sizeof *f->lab.order);
    uint32_t epoch = 0;
    for (uint32_t stale = 0; epoch < f->o.epochs && stale < f->o.patience;) {
        PERSE_TRY(tell(f, x->name, epoch, f->o.epochs));
        PERSE_TRY(train_epoch(f, t, e, epoch, label_weight, &report->last_loss));
        if (epoch++ == 0) report->first_loss = report->last_loss;
        PERSE_TRY(judge(f, e, &loss));
        stale = loss < best ? 0 : stale + 1;
        if (stale > 0) continue;
        best = loss;
        perse_head_copy(&f->best, head, x->features, f->p->plan->classes);
    }
    report->epochs = epoch;
    perse_head_copy(head, &f->best, x->features, f->p->plan->classes);
    return tell(f, x->name, f->o.epochs, f->o.epochs);
}

/* ---- the teacher ---- */

static void scale_rows(float *logits, size_t count, double temperature) {
    for (size_t i = 0; i < count; i++) logits[i] = (float)(logits[i] / temperature);
}

/* weight = the teacher's confidence * the share of exits that agree with it. */
static void weigh(fit *f) {
    uint32_t exits = f->p->plan->exits, classes = f->p->plan->classes, n = f->samples->count;
    for (uint32_t i = 0; i < n; i++) {
        const float *logits = f->lab.teacher + (size_t)i * classes;
        int label = (int)argmax(logits, classes);
        uint32_t agree = 0;
        for (uint32_t e = 0; e < exits; e++) agree += f->before[(size_t)e * n + i].label == label;
        perse_probabilities(logits, classes, 1, f->soft);
        f->weight[i] = f->soft[label] * (float)agree / (float)exits;
    }
}

/* Candidate logits become the teacher if, with their own temperature, they fit the calibration slice better. */
static void consider(fit *f, perse_teacher name, double *best) {
    double temperature = perse_lab_temperature(&f->lab, f->candidate, f->calibrate);
    double loss = perse_lab_loss(&f->lab, f->candidate, f->calibrate, temperature);
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
    for (size_t i = 0; i < (size_t)n * classes; i++) f->candidate[i] = logf(f->candidate[i] + 1e-12f);
    return PERSE_OK;
}

/* With labels: the best of the final exit, the final exit trained on the labels, and the mean of exits. */
static perse_status choose_teacher(fit *f) {
    uint32_t final = f->p->plan->exits - 1;
    double temperature = perse_lab_temperature(&f->lab, f->lab.teacher, f->calibrate);
    double best = perse_lab_loss(&f->lab, f->lab.teacher, f->calibrate, temperature);
    scale_rows(f->lab.teacher, (size_t)f->samples->count * f->p->plan->classes, temperature);
    f->report->teacher = PERSE_TEACHER_FINAL;
    weigh(f);
    PERSE_TRY(train_head(f, final, f->o.label_weight));
    PERSE_TRY(perse_lab_logits(&f->lab, final, &f->fresh.exit[final].head, f->all, f->candidate));
    consider(f, PERSE_TEACHER_PERSONAL, &best);
    PERSE_TRY(mean_of_exits(f));
    consider(f, PERSE_TEACHER_MEAN, &best);
    return PERSE_OK;
}

/* Saerens, Latinne and Decaestecker 2002: the class frequencies under which the teacher's posteriors, corrected for
 * them, average to them; of every `step`-th training sample from `first`. Drawn towards uniform when samples are few. */
static void estimate_prior(fit *f, uint32_t first, uint32_t step, double *prior) {
    uint32_t classes = f->p->plan->classes, used = (f->train.count - first + step - 1) / step;
    double uniform = 1.0 / classes, drawn = (double)classes / (classes + used);
    for (uint32_t k = 0; k < classes; k++) prior[k] = uniform;
    for (int round = 0; round < PRIOR_ROUNDS; round++) {
        double *next = f->prior + 2 * (size_t)classes, moved = 0;
        for (uint32_t k = 0; k < classes; k++) next[k] = 0;
        for (uint32_t j = first; j < f->train.count; j += step) {
            double sum = 0;
            perse_probabilities(f->lab.teacher + (size_t)f->train.index[j] * classes, classes, 1, f->soft);
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
static int32_t corrected(const fit *f, uint32_t i, float *out) {
    uint32_t classes = f->p->plan->classes;
    const float *z = f->lab.teacher + (size_t)i * classes;
    for (uint32_t k = 0; k < classes; k++) out[k] = z[k] + (float)log(f->prior[k] * classes);
    return (int32_t)argmax(out, classes);
}

/* The estimate takes it that only class frequencies differ from the factory's. When the images look different too, it
 * explains that away with frequencies: then two halves of the samples disagree, or many answers would change. */
static bool prior_is_stable(fit *f) {
    uint32_t classes = f->p->plan->classes, changed = 0;
    double *half = f->prior + classes, apart = 0;
    estimate_prior(f, 0, 2, f->prior);
    estimate_prior(f, 1, 2, half);
    for (uint32_t k = 0; k < classes; k++) apart += fabs(f->prior[k] - half[k]) / 2;
    estimate_prior(f, 0, 1, f->prior);
    for (uint32_t j = 0; j < f->train.count; j++) {
        uint32_t i = f->train.index[j];
        changed += corrected(f, i, f->soft) != f->lab.truth[i];
    }
    return apart <= 0.2 && changed <= 0.1 * f->train.count;
}

/* Without labels: the factory's final exit, corrected for the person's class frequencies if they can be told. */
static void correct_teacher(fit *f) {
    uint32_t classes = f->p->plan->classes;
    bool stable = prior_is_stable(f);
    f->report->teacher = stable ? PERSE_TEACHER_PRIOR : PERSE_TEACHER_FINAL;
    for (uint32_t k = 0; !stable && k < classes; k++) f->prior[k] = 1.0 / classes;
    for (uint32_t i = 0; stable && i < f->samples->count; i++) {
        float *z = f->lab.teacher + (size_t)i * classes;
        f->lab.truth[i] = corrected(f, i, z);
    }
}

static void count_prior(fit *f) {
    uint32_t classes = f->p->plan->classes, known = 0;
    for (uint32_t k = 0; k < classes; k++) f->prior[k] = 0;
    for (uint32_t j = 0; j < f->train.count; j++) {
        int32_t label = label_of(f, f->train.index[j]);
        if (label < 0) continue;
        f->prior[label]++;
        known++;
    }
    for (uint32_t k = 0; k < classes; k++) f->prior[k] /= known;
}

/* ---- the gate ---- */

/* Without labels, right is what the teacher says. Held to max_drop of that, exits that used to disagree with the teacher
 * more often would have to pass samples on, at a cost, for an accuracy that nobody has measured. So half of the
 * disagreement there was is allowed: the rest is gain, and so is the time. */
static double allowed_drop(fit *f) {
    if (f->lab.labelled) return f->o.max_drop;
    double apart = 1 - perse_lab_cascade(&f->lab, &f->p->live, f->calibrate, f->before, f->share, NULL).accuracy;
    return apart / 2 > f->o.max_drop ? apart / 2 : f->o.max_drop;
}

/* Per exit: the new head, unless the old one was better on held-out samples. Then temperatures and thresholds. */
static perse_status choose_heads(fit *f) {
    const perse_plan *plan = f->p->plan;
    for (uint32_t e = 0; e < plan->exits; e++) f->fresh.exit[e].temperature = 1; /* does not change who is right */
    PERSE_TRY(perse_lab_answers(&f->lab, &f->fresh, f->held_out, f->after));
    for (uint32_t e = 0; e < plan->exits; e++) {
        perse_exit_report *r = &f->report->exits[e];
        size_t offset = (size_t)e * f->samples->count;
        r->accuracy_before = perse_lab_accuracy(&f->lab, f->held_out, f->before + offset);
        r->accuracy_after = perse_lab_accuracy(&f->lab, f->held_out, f->after + offset);
        r->new_head = r->accuracy_after >= r->accuracy_before;
        if (r->new_head) continue;
        r->accuracy_after = r->accuracy_before;
        perse_head_copy(&f->fresh.exit[e].head, &f->p->live.exit[e].head, plan->exit[e].features, plan->classes);
    }
    return perse_lab_calibrate(&f->lab, &f->fresh, f->calibrate, allowed_drop(f), f->after);
}

/* Are answers and labels related at all (Cohen's kappa, two standard deviations above chance)? */
static bool beats_chance(fit *f) {
    uint32_t n = f->held_out.count;
    double chance = 0, right = 0;
    for (uint32_t k = 0; k < f->p->plan->classes; k++) {
        double said = 0, true_ = 0;
        for (uint32_t j = 0; j < n; j++) {
            said += f->chosen[f->held_out.index[j]] == (int32_t)k;
            true_ += f->lab.truth[f->held_out.index[j]] == (int32_t)k;
        }
        chance += said / n * true_ / n;
    }
    for (uint32_t j = 0; j < n; j++) right += f->chosen[f->held_out.index[j]] == f->lab.truth[f->held_out.index[j]];
    return right / n > chance + 2 * sqrt(chance * (1 - chance) / n);
}

/* Agreement with a teacher cannot rise above the teacher's own, so without labels max_drop is allowed for; and it is not
 * accuracy, so it is not worth a higher cost. */
static perse_verdict decide(fit *f) {
    const perse_report *r = f->report;
    double slack = f->lab.labelled ? 0 : ceil(f->o.max_drop * r->held_out) / r->held_out;
    if (r->after.accuracy + slack + 1e-9 < r->before.accuracy) return PERSE_LESS_ACCURATE;
    bool more_accurate = r->after.accuracy > r->before.accuracy + 1e-9, cheaper = r->after.cost < r->before.cost - 0.005;
    bool dearer = r->after.cost > r->before.cost + 0.005;
    if (f->lab.labelled ? !more_accurate && !cheaper : dearer || (!more_accurate && !cheaper)) return PERSE_NOT_BETTER;
    if (f->lab.labelled && !beats_chance(f)) return PERSE_UNLEARNABLE;
    return PERSE_BETTER;
}

static perse_status gate(fit *f) {
    const perse_plan *plan = f->p->plan;
    perse_report *r = f->report;
    PERSE_TRY(tell(f, "gate", 0, 1));
    PERSE_TRY(choose_heads(f));
    PERSE_TRY(perse_lab_answers(&f->lab, &f->fresh, f->held_out, f->after));
    r->before = perse_lab_cascade(&f->lab, &f->p->live, f->held_out, f->before, f->share, NULL);
    for (uint32_t e = 0; e < plan->exits; e++) r->exits[e].share_before = f->share[e];
    r->after = perse_lab_cascade(&f->lab, &f->fresh, f->held_out, f->after, f->share, f->chosen);
    for (uint32_t e = 0; e < plan->exits; e++) {
        r->exits[e].share_after = f->share[e];
        r->exits[e].enabled = f->fresh.exit[e].enabled;
        r->exits[e].temperature = f->fresh.exit[e].temperature;
        r->exits[e].threshold = f->fresh.exit[e].threshold;
    }
    r->verdict = decide(f);
    return tell(f, "gate", 1, 1);
}

/* ---- the whole ---- */

static bool options_are_sound(const perse_fit_options *o) {
    return o->epochs > 0 && o->patience > 0 && o->learning_rate > 0 && isfinite(o->learning_rate) && o->momentum >= 0 &&
           o->momentum < 1 && o->decay >= 0 && isfinite(o->decay) && o->teacher_temperature > 0 && isfinite(o->teacher_temperature) &&
           o->label_weight >= 0 && o->label_weight <= 1 && o->calibrate > 0 && o->held_out > 0 && o->calibrate + o->held_out < 1 &&
           o->max_drop >= 0 && o->max_drop <= 1;
}

/* Everybody's answers before, what counts as right, and the slices. The teacher is the factory's final exit. */
static perse_status prepare(fit *f) {
    perse *p = f->p;
    uint32_t final = p->plan->exits - 1, classes = p->plan->classes, n = f->samples->count, first = UINT32_MAX;
    bool several = false;
    for (uint32_t i = 0; i < n; i++) f->index[i] = i;
    f->all = (perse_slice){f->index, n};
    PERSE_TRY(tell(f, "teacher", 0, 1));
    PERSE_TRY(perse_lab_answers(&f->lab, &p->live, f->all, f->before));
    PERSE_TRY(perse_factory(p, &p->spare));
    PERSE_TRY(perse_lab_logits(&f->lab, final, &p->spare.exit[final].head, f->all, f->lab.teacher));
    if (!f->lab.labelled) scale_rows(f->lab.teacher, (size_t)n * classes, p->spare.exit[final].temperature);
    for (uint32_t i = 0; i < n; i++) {
        int32_t guess = (int32_t)argmax(f->lab.teacher + (size_t)i * classes, classes);
        f->lab.truth[i] = f->lab.labelled ? label_of(f, i) : guess;
        if (first == UINT32_MAX) first = (uint32_t)guess;
        several = several || (uint32_t)guess != first;
    }
    if (!f->lab.labelled && !several) return perse_fail(PERSE_ONE_CLASS, "as the network sees them");
    return split(f);
}

static perse_status personalise(fit *f) {
    perse *p = f->p;
    uint32_t final = p->plan->exits - 1;
    PERSE_TRY(prepare(f));
    if (f->lab.labelled) {
        PERSE_TRY(choose_teacher(f));
        count_prior(f);
    } else {
        correct_teacher(f);
    }
    weigh(f);
    PERSE_TRY(tell(f, "teacher", 1, 1));
    for (uint32_t e = 0; e < p->plan->exits; e++)
        if (e != final || f->report->teacher != PERSE_TEACHER_PERSONAL) PERSE_TRY(train_head(f, e, f->o.label_weight));
    PERSE_TRY(gate(f));
    for (uint32_t k = 0; f->report->prior != NULL && k < p->plan->classes; k++) f->report->prior[k] = (float)f->prior[k];
    if (f->report->verdict != PERSE_BETTER) return PERSE_OK;
    f->fresh.generation = p->live.generation + 1;
    perse_pack_copy(p->plan, &p->live, &f->fresh);
    return PERSE_OK;
}

perse_status perse_fit(perse *p, const perse_samples *samples, const perse_fit_options *options, void *memory, size_t size,
                       perse_report *report) {
    if (p == NULL || samples == NULL || options == NULL || memory == NULL || report == NULL || report->exits == NULL ||
        !options_are_sound(options))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    fit f = {.p = p, .samples = samples, .o = *options, .report = report, .random = options->seed};
    PERSE_TRY(perse_check_samples(p, samples, &f.lab.labelled));
    if (samples->count < FEWEST_SAMPLES) return perse_fail(PERSE_TOO_FEW_SAMPLES, "");
    perse_carver c = perse_carve_in(memory, size);
    carve_fit(&c, p->plan, samples->count, &f);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_fit_size");
    f.lab.p = p;
    f.lab.samples = samples;
    perse_exit_report *exits = report->exits;
    *report = (perse_report){.labelled = f.lab.labelled, .exits = exits, .prior = report->prior};
    memset(exits, 0, p->plan->exits * sizeof *exits);
    return personalise(&f);
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
    scale_rows(a->lab.teacher, (size_t)s->count * plan->classes, final->temperature);
    slice->count = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        a->lab.truth[i] = a->lab.labelled ? s->labels[i] : (int32_t)argmax(a->lab.teacher + (size_t)i * plan->classes, plan->classes);
        if (a->lab.truth[i] >= 0) a->index[slice->count++] = i;
    }
    return slice->count < FEWEST_SAMPLES ? perse_fail(PERSE_TOO_FEW_SAMPLES, "") : PERSE_OK;
}

static perse_status calibrate(calibration *a, float max_drop, perse_report *r) {
    perse *p = a->lab.p;
    const perse_plan *plan = p->plan;
    perse_slice slice;
    PERSE_TRY(find_truth(a, &slice));
    PERSE_TRY(perse_lab_answers(&a->lab, &p->live, slice, a->before));
    r->calibrate = slice.count;
    r->before = perse_lab_cascade(&a->lab, &p->live, slice, a->before, a->share, NULL);
    for (uint32_t e = 0; e < plan->exits; e++) r->exits[e].share_before = a->share[e];
    perse_pack_copy(plan, &p->spare, &p->live);
    PERSE_TRY(perse_lab_calibrate(&a->lab, &p->spare, slice, max_drop, a->after));
    r->after = perse_lab_cascade(&a->lab, &p->spare, slice, a->after, a->share, NULL);
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

perse_status perse_calibrate(perse *p, const perse_samples *samples, float max_drop, void *memory, size_t size, perse_report *report) {
    if (p == NULL || samples == NULL || memory == NULL || report == NULL || report->exits == NULL || !(max_drop >= 0 && max_drop <= 1))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    calibration a = {0};
    PERSE_TRY(perse_check_samples(p, samples, &a.lab.labelled));
    perse_carver c = perse_carve_in(memory, size);
    carve_calibration(&c, p->plan, samples->count, &a);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_calibrate_size");
    a.lab.p = p;
    a.lab.samples = samples;
    *report = (perse_report){.labelled = a.lab.labelled, .exits = report->exits, .prior = report->prior};
    return calibrate(&a, max_drop, report);
}
