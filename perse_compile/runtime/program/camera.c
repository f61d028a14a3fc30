/* camera.c - whether the camera is corrected before its images are learnt from. */
#include "program.h"

static const double TELLS_MORE = 0.05; /* nats that a correction must add to what an answer tells */

void undo_camera(perse *p, const camera *c) {
    if (perse_set_levels(p, c->before) != PERSE_OK) check(perse_set_levels(p, NULL));
}

perse_cache_info look_in_cache(const options *o, perse *p) {
    perse_cache *c;
    size_t size = perse_cache_size(p, o->budget);
    void *memory = take_memory(size);
    check(perse_cache_open(p, o->cache_file, o->budget, memory, size, &c));
    perse_cache_info info = perse_get_cache_info(c);
    perse_cache_close(c);
    free(memory);
    return info;
}

/* Whether the camera's levels can be in use from here on. */
static bool try_camera(const options *o, perse *p, const images *all, camera *c) {
    size_t size = 2 * perse_get_info(p).channels * sizeof(float);
    bool corrected, corrects;
    *c = (camera){.factory = take_memory(size), .before = take_memory(size), .measured = take_memory(size)};
    check(perse_get_levels(p, c->factory, c->before, &corrected));
    check(perse_measure_levels(p, all->file.data, all->count, c->measured));
    snprintf(c->why, sizeof c->why, "%s", o->no_levels ? "not wanted" : "as in training");
    if (o->no_levels) return false;
    if (o->cache && (perse_get_info(p).generation > 0 || look_in_cache(o, p).samples > 0)) {
        snprintf(c->why, sizeof c->why, "%s", "it stays as the cache has seen it");
        return false;
    }
    perse_status status = perse_set_levels(p, c->measured);
    if (status == PERSE_BAD_LEVELS) snprintf(c->why, sizeof c->why, "%s", perse_detail());
    if (status == PERSE_BAD_LEVELS) return false;
    check(status);
    check(perse_get_levels(p, NULL, NULL, &corrects));
    c->tried = (corrected || corrects) && memcmp(c->before, c->measured, size) != 0;
    if (!c->tried) undo_camera(p, c);
    return c->tried;
}

/* Of `of` images in a row every so many-th, `quota` at most. */
static bool taken_evenly(uint32_t number, uint32_t of, uint32_t quota) {
    return quota > 0 && number * (uint64_t)quota / of != (number + 1) * (uint64_t)quota / of;
}

/* What the final exit makes of some images, evenly spread, with the levels in use; half of them with labels, if there are so
 * many. */
static void look(const options *o, perse *p, const images *all, float *features, perse_final *out) {
    size_t each = perse_get_info(p).features;
    uint32_t known = 0, total = all->count < PERSE_ENOUGH_FOR_LEVELS ? all->count : PERSE_ENOUGH_FOR_LEVELS, passed[2] = {0, 0}, count = 0;
    int32_t labels[PERSE_ENOUGH_FOR_LEVELS];
    for (uint32_t i = 0; all->labels != NULL && i < all->count; i++) known += all->labels[i] >= 0;
    uint32_t of[2] = {all->count - known, known}, quota[2];
    quota[1] = known < total / 2 ? known : total - (of[0] < total / 2 ? of[0] : total / 2);
    quota[0] = total - quota[1];
    for (uint32_t i = 0; i < all->count; i++) {
        bool labelled = all->labels != NULL && all->labels[i] >= 0;
        if (!taken_evenly(passed[labelled]++, of[labelled], quota[labelled])) continue;
        show_progress((void *)(uintptr_t)o, "camera", count, total);
        check(perse_features_u8(p, image_at(all, i), features + count * each));
        labels[count++] = labelled ? all->labels[i] : -1;
    }
    check(perse_measure_final(p, &(perse_samples){count, features, labels, NULL}, out));
}

/* Features as the images are, or with the camera's levels if answers then tell more and, where there are labels, are not
 * more often wrong. */
uint16_t *choose_features(const options *o, perse *p, const images *all, camera *c) {
    if (!try_camera(o, p, all, c)) return extract_features(o, p, all);
    uint32_t some = all->count < PERSE_ENOUGH_FOR_LEVELS ? all->count : PERSE_ENOUGH_FOR_LEVELS;
    float *features = take_memory(some * (size_t)perse_get_info(p).features * sizeof *features);
    look(o, p, all, features, &c->corrected);
    undo_camera(p, c);
    look(o, p, all, features, &c->plain);
    free(features);
    c->taken = c->corrected.information >= c->plain.information + TELLS_MORE && c->corrected.right >= c->plain.right;
    if (c->taken) check(perse_set_levels(p, c->measured));
    return extract_features(o, p, all);
}

void print_camera(const options *o, const perse *p, const camera *c, bool live) {
    uint32_t channels = perse_get_info(p).channels;
    const char *verdict = !c->taken ? "not corrected" : live ? "corrected" : "corrected for this training only";
    if (c->tried) say(o, "camera %s: an answer tells %.2f nats as it is, %.2f corrected\n", verdict, c->plain.information, c->corrected.information);
    else say(o, "camera not corrected: %s\n", c->why);
    if (!o->json) return;
    json_open("levels", '{');
    json_bool("tried", c->tried), json_bool("taken", c->taken), json_bool("live", live), json_string("why", c->tried ? "" : c->why);
    json_levels("measured", c->measured, channels), json_levels("factory", c->factory, channels);
    json_number("confidence_before", c->tried ? c->plain.confidence : NAN);
    json_number("confidence_after", c->tried ? c->corrected.confidence : NAN);
    json_number("information_before", c->tried ? c->plain.information : NAN);
    json_number("information_after", c->tried ? c->corrected.information : NAN), json_close('}');
}
