/* levels.c - a camera's brightness, contrast and colour cast: measured on images, undone at the input. */
#include "inside.h"

#include <math.h>
#include <string.h>

enum { GRAYS = 256, FEWEST_GRAYS = 8, DARK = 1, BRIGHT = 250, FARTHER = 5 };

/* ---- measure ---- */

/* The least value that at least so many twentieths of the pixels do not exceed. */
static uint32_t quantile(const uint32_t *histogram, uint64_t pixels, uint32_t twentieths) {
    uint64_t below = 0;
    for (uint32_t v = 0; v < GRAYS - 1; v++)
        if (20 * (below += histogram[v]) >= twentieths * pixels) return v;
    return GRAYS - 1;
}

perse_status perse_measure_levels(const perse *p, const uint8_t *images, uint32_t count, float *levels) {
    if (p == NULL || images == NULL || count == 0 || levels == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    uint32_t channels = p->plan->channels;
    size_t pixels = (size_t)p->plan->height * p->plan->width;
    for (uint32_t c = 0; c < channels; c++) {
        uint64_t low = 0, high = 0;
        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *channel = images + i * pixels * channels + c;
            uint32_t histogram[GRAYS] = {0};
            for (size_t j = 0; j < pixels; j++) histogram[channel[j * channels]]++;
            low += quantile(histogram, pixels, 1);
            high += quantile(histogram, pixels, 19);
        }
        levels[2 * c] = (float)((double)low / count);
        levels[2 * c + 1] = (float)((double)high / count);
    }
    return PERSE_OK;
}

/* ---- the table ---- */

bool perse_levels_sound(const float *levels, uint32_t channels) {
    for (uint32_t c = 0; c < channels; c++)
        if (!(levels[2 * c] >= 0 && levels[2 * c] <= levels[2 * c + 1] && levels[2 * c + 1] <= GRAYS - 1)) return false;
    return true;
}

static bool known(const float *levels, uint32_t channels) {
    for (uint32_t i = 0; i < 2 * channels; i++)
        if (levels[i] != 0) return true;
    return false;
}

/* Why nothing leads from these levels to those; NULL if something does. At an end of the range, and not so near it in
 * the factory's images, the camera has cut off what no table brings back. */
static const char *obstacle(const float *from, const float *to, uint32_t channels) {
    if (!known(to, channels)) return "the artifact does not know the levels of its training images";
    for (uint32_t c = 0; c < channels; c++, from += 2, to += 2) {
        if (from[1] - from[0] < FEWEST_GRAYS) return "images without contrast";
        if (to[1] - to[0] < FEWEST_GRAYS) return "training images without contrast";
        if ((from[0] < DARK && to[0] > from[0] + FARTHER) || (from[1] >= BRIGHT && to[1] < from[1] - FARTHER)) return "clipped images";
    }
    return NULL;
}

/* out = round((v - low) * (to_high - to_low) / (high - low) + to_low), halves up, within 0 .. 255; whether it changes any v */
static bool fill(uint8_t *table, const float *from, const float *to) {
    double slope = ((double)to[1] - (double)to[0]) / ((double)from[1] - (double)from[0]);
    bool changes = false;
    for (int v = 0; v < GRAYS; v++) {
        double out = floor((v - (double)from[0]) * slope + (double)to[0] + 0.5);
        table[v] = (uint8_t)(out < 0 ? 0 : out > GRAYS - 1 ? GRAYS - 1 : out);
        changes = changes || table[v] != v;
    }
    return changes;
}

void perse_levels_use(perse *p) {
    uint32_t channels = p->plan->channels;
    p->corrects = false;
    if (!known(p->live.levels, channels) || obstacle(p->live.levels, p->factory_levels, channels) != NULL) return;
    for (uint32_t c = 0; c < channels; c++)
        p->corrects = fill(p->table + c * GRAYS, p->live.levels + 2 * c, p->factory_levels + 2 * c) || p->corrects;
}

void perse_levels_apply(const perse *p, const uint8_t *from, uint8_t *to, size_t count) {
    if (!p->corrects) {
        memcpy(to, from, count);
        return;
    }
    uint32_t channels = p->plan->channels;
    for (size_t i = 0; i < count; i += channels)
        for (uint32_t c = 0; c < channels; c++) to[i + c] = p->table[c * GRAYS + from[i + c]];
}

/* ---- look and set ---- */

perse_status perse_get_levels(const perse *p, float *factory, float *live, bool *corrects) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    size_t size = 2 * p->plan->channels * sizeof(float);
    if (factory != NULL) memcpy(factory, p->factory_levels, size);
    if (live != NULL) memcpy(live, p->live.levels, size);
    if (corrects != NULL) *corrects = p->corrects;
    return PERSE_OK;
}

perse_status perse_set_levels(perse *p, const float *levels) {
    if (p == NULL || (levels != NULL && !perse_levels_sound(levels, p->plan->channels))) return perse_fail(PERSE_BAD_ARGUMENT, "");
    size_t size = 2 * p->plan->channels * sizeof(float);
    bool correct = levels != NULL && known(levels, p->plan->channels);
    const char *why = correct ? obstacle(levels, p->factory_levels, p->plan->channels) : NULL;
    if (why != NULL) return perse_fail(PERSE_BAD_LEVELS, why);
    if (correct) memcpy(p->live.levels, levels, size);
    else memset(p->live.levels, 0, size);
    perse_levels_use(p);
    return PERSE_OK;
}

/* ---- does it help ---- */

/* Leaves the final exit's probabilities in p->logits. */
static perse_status answer(perse *p, const perse_pack_entry *entry, const float *features, int *label, float *confidence) {
    uint32_t classes = p->plan->classes;
    PERSE_TRY(perse_apply_head(p, p->plan->exits - 1, &entry->head, features, NULL));
    if (!perse_top(p->logits, classes, entry->temperature, label, confidence))
        return perse_fail(PERSE_KERNEL_FAILED, "logits are not finite");
    perse_probabilities(p->logits, classes, entry->temperature, p->logits);
    return PERSE_OK;
}

double perse_entropy(double share) { return share > 0 ? -share * log(share) : 0; }

perse_status perse_measure_final(perse *p, const perse_samples *samples, perse_final *out) {
    if (p == NULL || samples == NULL || samples->count == 0 || (samples->features == NULL && samples->halves == NULL) || out == NULL)
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    uint32_t final = p->plan->exits - 1, offset = perse_feature_offset(p->plan, final);
    int label;
    float confidence;
    *out = (perse_final){0};
    memset(p->share, 0, p->plan->classes * sizeof *p->share);
    PERSE_TRY(perse_factory(p, &p->spare));
    for (uint32_t i = 0; i < samples->count; i++) {
        float *features = p->feature;
        perse_sample_features(samples, (size_t)i * p->features + offset, p->plan->exit[final].features, features);
        for (uint32_t j = 0; j < p->plan->exit[final].features; j++)
            if (!isfinite(features[j])) return perse_fail(PERSE_NAN_INPUT, "features");
        PERSE_TRY(answer(p, &p->spare.exit[final], features, &label, &confidence));
        out->confidence += (double)confidence / samples->count;
        for (uint32_t k = 0; k < p->plan->classes; k++) {
            p->share[k] += (double)p->logits[k] / samples->count;
            out->information -= perse_entropy(p->logits[k]) / samples->count;
        }
        if (samples->labels == NULL || samples->labels[i] < 0) continue;
        PERSE_TRY(answer(p, &p->live.exit[final], features, &label, &confidence));
        out->labelled++;
        out->right += label == samples->labels[i];
    }
    for (uint32_t k = 0; k < p->plan->classes; k++) out->information += perse_entropy(p->share[k]);
    return PERSE_OK;
}
