/* watch.c - do early answers still agree with the final exit? Every so many-th image runs to the end, and an exit that
 * disagrees more often than allowed is made stricter or switched off until it is fine again.
 *
 * The judge is a Wilson interval of the rate of disagreement among the exit's last confident answers: an exit is made stricter
 * when of the last 50 even the lower end is above what is allowed, and trusted again when of the last 400 even the upper end
 * is below: quick to doubt, slow to trust. */
#include "inside.h"

#include <math.h>
#include <string.h>

enum { WINDOW = 400, LATEST = 50, FEWEST = 20 }; /* answers judged; those that raise doubts; at least so many */
enum { STEPS = 4 };                             /* from the given threshold to off */

typedef struct {
    bool enabled; /* as it was given */
    float threshold;
    uint32_t level; /* 0 = as given, STEPS = off */
    uint32_t checked, disagreed, tightened, loosened;
    uint32_t recent, next; /* answers in the window; where the next goes */
    uint8_t wrong[WINDOW];
} watched;

struct perse_watch {
    perse *p;
    perse_watch_options o;
    uint32_t images, checked;
    perse_result *results; /* [exits] */
    float *logits;         /* [exits][classes] */
    watched *exit;         /* [exits - 1] */
};

perse_watch_options perse_watch_defaults(void) { return (perse_watch_options){.every = 20, .max_disagreement = 0.1f, .deviations = 2.58f}; }

static perse_watch *carve_watch(perse_carver *c, const perse_plan *plan) {
    perse_watch *w = perse_carve(c, 1, sizeof *w), all = {0};
    all.results = perse_carve(c, plan->exits, sizeof *all.results);
    all.logits = perse_carve(c, (uint64_t)plan->exits * plan->classes, sizeof(float));
    all.exit = perse_carve(c, plan->exits, sizeof *all.exit);
    if (c->base == NULL || c->used == SIZE_MAX) return NULL;
    *w = all;
    return w;
}

size_t perse_watch_size(const perse *p) {
    if (p == NULL) return 0;
    perse_carver c = {NULL, 0, 0};
    carve_watch(&c, p->plan);
    return perse_carved_size(&c);
}

perse_status perse_watch_begin(perse *p, const perse_watch_options *options, void *memory, size_t size, perse_watch **out) {
    if (p == NULL || options == NULL || memory == NULL || out == NULL || options->every == 0 || !(options->max_disagreement > 0) ||
        options->max_disagreement >= 1 || !(options->deviations >= 0) || !isfinite(options->deviations))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    perse_carver c = perse_carve_in(memory, size);
    perse_watch *w = carve_watch(&c, p->plan);
    if (w == NULL) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_watch_size");
    w->p = p;
    w->o = *options;
    for (uint32_t e = 0; e < p->plan->exits; e++)
        w->exit[e] = (watched){.enabled = p->live.exit[e].enabled, .threshold = p->live.exit[e].threshold};
    *out = w;
    return PERSE_OK;
}

void perse_watch_end(perse_watch *w) {
    for (uint32_t e = 0; w != NULL && e + 1 < w->p->plan->exits; e++) {
        w->p->live.exit[e].enabled = w->exit[e].enabled;
        w->p->live.exit[e].threshold = w->exit[e].threshold;
    }
}

/* ---- the judge ---- */

/* Wilson 1927: an interval for a rate of which `wrong` of `count` were seen. */
static void wilson(double wrong, double count, double z, double *low, double *high) {
    *low = 0, *high = 1;
    if (!(count > 0)) return;
    double rate = wrong / count, middle = rate + z * z / (2 * count), scale = 1 + z * z / count;
    double half = z * sqrt(rate * (1 - rate) / count + z * z / (4 * count * count));
    *low = (middle - half) / scale;
    *high = (middle + half) / scale;
}

/* Among the last `count`. */
static uint32_t wrong_of(const watched *x, uint32_t count) {
    uint32_t wrong = 0;
    for (uint32_t i = 1; i <= count; i++) wrong += x->wrong[(x->next + WINDOW - i) % WINDOW];
    return wrong;
}

/* Each step halves what the threshold leaves to 1. An exit that is off is judged by the strictest. */
static float threshold_at(const watched *x, uint32_t level) {
    uint32_t halvings = level < STEPS ? level : STEPS - 1;
    return x->threshold >= 1 ? x->threshold : 1 - (1 - x->threshold) / (float)(1u << halvings);
}

static void set_level(perse_watch *w, uint32_t e, uint32_t level) {
    watched *x = &w->exit[e];
    x->tightened += level > x->level;
    x->loosened += level < x->level;
    x->level = level;
    x->recent = x->next = 0; /* other answers will be given from here on */
    w->p->live.exit[e].enabled = level < STEPS;
    w->p->live.exit[e].threshold = threshold_at(x, level);
}

static void judge(perse_watch *w, uint32_t e) {
    watched *x = &w->exit[e];
    double low, high, unused;
    uint32_t latest = x->recent < LATEST ? x->recent : LATEST;
    if (x->recent < FEWEST) return;
    wilson(wrong_of(x, latest), latest, (double)w->o.deviations, &low, &unused);
    wilson(wrong_of(x, x->recent), x->recent, (double)w->o.deviations, &unused, &high);
    if (low > (double)w->o.max_disagreement && x->level < STEPS) set_level(w, e, x->level + 1);
    else if (high < (double)w->o.max_disagreement && x->level > 0) set_level(w, e, x->level - 1);
}

static void note(perse_watch *w, uint32_t e, bool wrong) {
    watched *x = &w->exit[e];
    x->checked++;
    x->disagreed += wrong;
    x->wrong[x->next] = wrong;
    x->next = (x->next + 1) % WINDOW;
    if (x->recent < WINDOW) x->recent++;
    judge(w, e);
}

/* ---- watching ---- */

/* The exit that answers in the cascade, by every exit's result; and the exits before it, switched off ones included, have
 * their say checked if they would have been confident. */
static uint32_t check(perse_watch *w) {
    uint32_t final = w->p->plan->exits - 1, answering = final;
    for (uint32_t e = 0; e < final && answering == final; e++) {
        const perse_pack_entry *entry = &w->p->live.exit[e];
        if (entry->enabled && w->results[e].confidence >= entry->threshold) answering = e;
    }
    for (uint32_t e = 0; e <= answering && e < final; e++) {
        const watched *x = &w->exit[e];
        if (x->enabled && w->results[e].confidence >= threshold_at(x, x->level)) note(w, e, w->results[e].label != w->results[final].label);
    }
    return answering;
}

static perse_status run(perse_watch *w, const uint8_t *u8, const float *f32, perse_result *result, float *logits) {
    if (w == NULL || (u8 == NULL && f32 == NULL) || result == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    if ((w->images + 1) % w->o.every != 0) {
        PERSE_TRY(u8 != NULL ? perse_run_u8(w->p, u8, PERSE_CASCADE, result, logits) : perse_run_f32(w->p, f32, PERSE_CASCADE, result, logits));
        w->images++;
        return PERSE_OK;
    }
    PERSE_TRY(u8 != NULL ? perse_observe_u8(w->p, u8, w->results, w->logits, NULL) : perse_observe_f32(w->p, f32, w->results, w->logits, NULL));
    w->images++;
    w->checked++;
    uint32_t exit = check(w), classes = w->p->plan->classes;
    *result = w->results[exit];
    result->stages = (int)w->p->plan->exits;
    if (logits != NULL) memcpy(logits, w->logits + (size_t)exit * classes, classes * sizeof(float));
    return PERSE_OK;
}

perse_status perse_watch_run_u8(perse_watch *w, const uint8_t *image, perse_result *result, float *logits) {
    return run(w, image, NULL, result, logits);
}

perse_status perse_watch_run_f32(perse_watch *w, const float *image, perse_result *result, float *logits) {
    return run(w, NULL, image, result, logits);
}

perse_status perse_watch_look(const perse_watch *w, int exit, perse_watch_report *out) {
    if (w == NULL || out == NULL || exit < 0 || (uint32_t)exit + 1 >= w->p->plan->exits) return perse_fail(PERSE_BAD_ARGUMENT, "");
    const watched *x = &w->exit[exit];
    double low, high;
    wilson(wrong_of(x, x->recent), x->recent, (double)w->o.deviations, &low, &high);
    *out = (perse_watch_report){.images = w->images, .images_checked = w->checked, .checked = x->checked, .disagreed = x->disagreed,
                                .recent = x->recent, .recent_disagreed = wrong_of(x, x->recent), .low = low, .high = high,
                                .tightened = x->tightened, .loosened = x->loosened, .switched_off = x->enabled && x->level == STEPS,
                                .enabled = w->p->live.exit[exit].enabled, .threshold = w->p->live.exit[exit].threshold};
    return PERSE_OK;
}
