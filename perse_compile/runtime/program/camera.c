/* camera.c - whether the camera is corrected before its images are learnt from. */
#include "program.h"

/* Nats that a correction must add to what an answer tells: of all images, and of either half of them. */
static const double TELLS_MORE = 0.1, EITHER_HALF = 0.05;

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

/* Of `of` images in a row about `quota`, evenly spread by multiples of the golden ratio: every so many-th could all be from one of
 * several cameras that take turns. */
static bool taken_evenly(uint32_t number, uint32_t of, uint32_t quota) {
    double at = number * 0.6180339887498949;
    return (at - floor(at)) * of < quota;
}

/* A chosen image, and how far apart its levels are. */
typedef struct {
    uint32_t image;
    float contrast;
} chosen;

static int by_contrast(const void *left, const void *right) {
    const chosen *a = left, *b = right;
    if (a->contrast != b->contrast) return a->contrast < b->contrast ? -1 : 1;
    return a->image < b->image ? -1 : a->image > b->image;
}

/* Some images, evenly spread, half of them with labels, if there are so many; those of least contrast first. */
static uint32_t choose(perse *p, const images *all, chosen *some) {
    uint32_t channels = perse_get_info(p).channels, known = 0, passed[2] = {0, 0}, count = 0;
    uint32_t total = all->count < PERSE_ENOUGH_FOR_LEVELS ? all->count : PERSE_ENOUGH_FOR_LEVELS;
    float *levels = take_memory(2 * channels * sizeof *levels);
    for (uint32_t i = 0; all->labels != NULL && i < all->count; i++) known += all->labels[i] >= 0;
    uint32_t of[2] = {all->count - known, known}, quota[2];
    quota[1] = known < total / 2 ? known : total - (of[0] < total / 2 ? of[0] : total / 2);
    quota[0] = total - quota[1];
    for (uint32_t i = 0; i < all->count; i++) {
        bool labelled = all->labels != NULL && all->labels[i] >= 0;
        if (!taken_evenly(passed[labelled]++, of[labelled], quota[labelled]) || count == total) continue;
        some[count] = (chosen){i, 0};
        check(perse_measure_levels(p, image_at(all, i), 1, levels));
        for (uint32_t c = 0; c < channels; c++) some[count].contrast += levels[2 * c + 1] - levels[2 * c];
        count++;
    }
    free(levels);
    qsort(some, count, sizeof *some, by_contrast);
    return count;
}

/* What the final exit makes of all images, and of either half, with the levels in use. */
typedef struct {
    perse_final all, flat, crisp;
} sight;

static void look(const options *o, perse *p, const images *all, const chosen *some, uint32_t count, sight *out) {
    size_t each = perse_get_info(p).features;
    float *features = take_memory(count * each * sizeof *features);
    int32_t labels[PERSE_ENOUGH_FOR_LEVELS];
    for (uint32_t j = 0; j < count; j++) {
        show_progress((void *)(uintptr_t)o, "camera", j, count);
        check(perse_features_u8(p, image_at(all, some[j].image), features + j * each));
        labels[j] = all->labels != NULL ? all->labels[some[j].image] : -1;
    }
    uint32_t half = count / 2;
    check(perse_measure_final(p, &(perse_samples){count, features, labels, NULL}, &out->all));
    check(perse_measure_final(p, &(perse_samples){half > 0 ? half : count, features, labels, NULL}, &out->flat));
    check(perse_measure_final(p, &(perse_samples){count - half, features + half * each, labels + half, NULL}, &out->crisp));
    free(features);
}

/* Answers tell more of the flat images and of the crisp ones: if they do of one half only, those may be from two cameras, and
 * what helps the one harms the other. Where there are labels, answers are not more often wrong. */
static bool helps(const sight *corrected, const sight *plain) {
    return corrected->all.information >= plain->all.information + TELLS_MORE &&
           corrected->flat.information >= plain->flat.information + EITHER_HALF &&
           corrected->crisp.information >= plain->crisp.information + EITHER_HALF && corrected->all.right >= plain->all.right;
}

/* Features as the images are, or with the camera's levels if these help. */
uint16_t *choose_features(const options *o, perse *p, const images *all, camera *c) {
    chosen some[PERSE_ENOUGH_FOR_LEVELS];
    sight plain, corrected;
    if (!try_camera(o, p, all, c)) return extract_features(o, p, all);
    undo_camera(p, c); /* for the contrasts as they are */
    uint32_t count = choose(p, all, some);
    look(o, p, all, some, count, &plain);
    check(perse_set_levels(p, c->measured));
    look(o, p, all, some, count, &corrected);
    c->plain = plain.all, c->corrected = corrected.all;
    c->taken = helps(&corrected, &plain);
    if (!c->taken) undo_camera(p, c);
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
