/* personalise.c - personalise, estimate, calibrate. */
#include "program.h"

static void json_figures(const char *key, perse_figures f) {
    json_open(key, '{');
    json_number("accuracy", f.accuracy), json_number("cost", f.cost), json_close('}');
}

static void json_exit_report(const perse *p, uint32_t e, const perse_exit_report *x) {
    json_open(NULL, '{');
    json_string("name", exit_info(p, e).name);
    json_number("accuracy_before", x->accuracy_before), json_number("accuracy_after", x->accuracy_after);
    json_number("share_before", x->share_before), json_number("share_after", x->share_after);
    json_bool("new_head", x->new_head), json_bool("enabled", x->enabled);
    json_number("temperature", (double)x->temperature), json_number("threshold", (double)x->threshold);
    json_whole("epochs", x->epochs), json_number("first_loss", x->first_loss), json_number("last_loss", x->last_loss), json_close('}');
}

/* Of a mean answer: every one at the first exit. */
static double least_cost(const perse *p) {
    perse_exit_info first = exit_info(p, 0);
    return (double)(first.stage_macs + first.head_macs) / (double)perse_get_info(p).macs;
}

static void print_report(const options *o, const perse *p, const perse_report *r) {
    perse_info i = perse_get_info(p);
    say(o, "%-8s %19s %19s\n%-8s %9s %9s %9s %9s\n", "", "accuracy", "share", "exit", "before", "after", "before", "after");
    for (uint32_t e = 0; e < i.exits; e++) {
        const perse_exit_report *x = &r->exits[e];
        say(o, "%-8s %8.1f%% %8.1f%% %8.1f%% %8.1f%%%s\n", exit_info(p, e).name, 100 * x->accuracy_before, 100 * x->accuracy_after,
            100 * x->share_before, 100 * x->share_after, x->enabled ? "" : "  (disabled)");
    }
    say(o, "%-8s %8.1f%% %8.1f%%\n%-8s %8.1f%% %8.1f%%\n", "together", 100 * r->before.accuracy, 100 * r->after.accuracy, "cost",
        100 * r->before.cost, 100 * r->after.cost);
    if (!o->json) return;
    json_figures("before", r->before), json_figures("after", r->after);
    json_number("least_cost", least_cost(p));
    json_open("exits", '[');
    for (uint32_t e = 0; e < i.exits; e++) json_exit_report(p, e, &r->exits[e]);
    json_close(']');
}

static void print_budget(const options *o, const perse *p) {
    if (o->fit.max_cost > 0 && least_cost(p) > (double)o->fit.max_cost + 1e-9)
        say(o, "a mean cost of %.1f%% cannot be had: the first exit alone costs more\n", 100 * (double)o->fit.max_cost);
}

static perse_samples samples_of(const images *all, const uint16_t *features) { return (perse_samples){all->count, NULL, all->labels, features}; }

/* The new images go to the cache, and what it then holds is what is learnt from. */
static perse_samples through_cache(const options *o, perse *p, const images *all, const uint16_t *features, perse_cache_info *info) {
    size_t each = perse_get_info(p).features, size = perse_cache_size(p, o->budget);
    perse_cache *c;
    void *memory = take_memory(size);
    float *row = take_memory(each * sizeof *row);
    check(perse_cache_open(p, o->cache_file, o->budget, memory, size, &c));
    for (uint32_t i = 0; i < all->count; i++) {
        perse_from_halves(features + i * each, row, each);
        check(perse_cache_add(c, row, all->labels != NULL ? all->labels[i] : -1));
    }
    check(perse_cache_save(c));
    *info = perse_get_cache_info(c);
    uint16_t *kept = take_memory(info->samples * each * sizeof *kept);
    int32_t *labels = take_memory(info->samples * sizeof *labels);
    for (uint32_t i = 0; i < info->samples; i++) {
        check(perse_cache_get(c, i, row, &labels[i]));
        perse_to_halves(row, kept + i * each, each);
    }
    free(row);
    perse_cache_close(c);
    free(memory);
    return (perse_samples){info->samples, NULL, labels, kept};
}

static void print_cache(const options *o, const perse_cache_info *c) {
    if (!o->cache) return;
    say(o, "cache: %u images, %u of them labelled, %.1f of %.1f kB\n", c->samples, c->labelled, (double)c->bytes * 1e-3, (double)o->budget * 1e-3);
    if (!o->json) return;
    json_open("cache", '{');
    json_whole("samples", c->samples), json_whole("room", c->room), json_whole("labelled", c->labelled);
    json_whole("bytes", c->bytes), json_whole("budget", o->budget), json_close('}');
}

static void print_estimate(const options *o, const char *key, const perse_estimate *e) {
    say(o, "%u images to see, %u to learn from: about %.2f s, at most %.2f s (%.2f and %.2f core-seconds), %.1f MB of memory\n", e->images,
        e->samples, e->seconds, e->seconds_at_most, e->core_seconds, e->core_seconds_at_most, (double)e->memory * 1e-6);
    fflush(stdout);
    if (!o->json) return;
    json_open(key, '{');
    json_whole("images", e->images), json_whole("samples", e->samples), json_whole("epochs_at_most", e->epochs_at_most);
    json_number("seconds", e->seconds), json_number("seconds_at_most", e->seconds_at_most);
    json_number("core_seconds", e->core_seconds), json_number("core_seconds_at_most", e->core_seconds_at_most);
    json_whole("memory_bytes", e->memory), json_close('}');
}

/* What came of a fit. */
typedef struct {
    const perse_report *report;
    const camera *camera;
    const perse_estimate *expected;
    const perse_cache_info *cached;
    bool live, alone; /* something changed; it was the camera's correction only */
    uint32_t classes; /* with names while it learnt */
    double bytes, seconds;
} outcome;

static void print_personalised(const options *o, const perse *p, const outcome *f) {
    perse_info i = perse_get_info(p);
    const perse_report *r = f->report;
    if (o->json) json_open(NULL, '{');
    print_camera(o, p, f->camera, f->camera->taken && f->live);
    print_report(o, p, r);
    print_budget(o, p);
    say(o, "%s on %u samples, each judged by heads that did not learn from it; %u trained; teacher: %s\n",
        r->labelled ? "accuracy" : "agreement with the teacher", r->judged, r->train, perse_teacher_text(r->teacher));
    if (r->left_out > 0) say(o, "%u samples left out: they are as from another camera, and the network cannot read them\n", r->left_out);
    for (uint32_t n = 0; n < o->new_classes; n++)
        say(o, "%s: %.0f%% recognised\n", o->new_class[n], 100 * (double)r->recognised[f->classes - o->new_classes + n]);
    print_cache(o, f->cached);
    say(o, "%s%s (%.1f s, %.1f MB of cached features)\n", perse_verdict_text(r->verdict), f->alone ? ", with the camera corrected" : "",
        f->seconds, f->bytes * 1e-6);
    if (!o->json) return;
    print_estimate(o, "estimate", f->expected);
    json_bool("live", f->live), json_string("verdict", perse_verdict_text(r->verdict));
    json_string("teacher", perse_teacher_text(r->teacher)), json_bool("labelled", r->labelled);
    json_whole("generation", i.generation), json_open("samples", '{');
    json_whole("train", r->train), json_whole("judged", r->judged), json_whole("left_out", r->left_out), json_close('}');
    json_open("prior", '[');
    for (uint32_t k = 0; k < f->classes; k++) json_number(NULL, (double)r->prior[k]);
    json_close(']'), json_open("recognised", '[');
    for (uint32_t k = 0; k < f->classes; k++) json_number(NULL, (double)r->recognised[k]);
    json_close(']'), json_number("cache_bytes", f->bytes), json_number("seconds", f->seconds), json_close('}'), puts("");
}

/* Samples that the cache will have once these images are in it. */
static uint32_t samples_with_cache(const options *o, perse *p, uint32_t images) {
    if (!o->cache) return images;
    perse_cache_info info = look_in_cache(o, p);
    uint64_t samples = (uint64_t)info.samples + images;
    return samples < info.room ? (uint32_t)samples : info.room;
}

static bool any_label(const images *all) {
    uint32_t i = 0;
    while (all->labels != NULL && i < all->count && all->labels[i] < 0) i++;
    return all->labels != NULL && i < all->count;
}

static perse_estimate estimate_fit(const options *o, perse *p, uint32_t images, bool labelled) {
    perse_estimate e;
    size_t size = perse_estimate_size(p);
    void *memory = take_memory(size);
    check(perse_estimate_fit(p, images, samples_with_cache(o, p, images), labelled, &o->fit, memory, size, &e));
    free(memory);
    return e;
}

int estimate(const options *o) {
    perse *p = open_heads(o, PERSE_CREATE);
    perse_estimate e = estimate_fit(o, p, o->images, false);
    print_estimate(o, NULL, &e);
    if (o->json) puts("");
    perse_close(p);
    return 0;
}

int personalise(const options *o) {
    perse *p = open_heads(o, PERSE_CREATE);
    for (uint32_t n = 0; n < o->new_classes; n++) check(perse_name_class(p, o->new_class[n]));
    perse_info i = perse_get_info(p);
    images all = open_images(o, p);
    perse_estimate expected = estimate_fit(o, p, all.count, any_label(&all));
    if (!o->json) print_estimate(o, NULL, &expected);
    double start = now();
    camera c;
    uint16_t *features = choose_features(o, p, &all, &c);
    npy_close(&all.file); /* its pages are free for what follows */
    perse_cache_info cached = {0};
    perse_samples samples = o->cache ? through_cache(o, p, &all, features, &cached) : samples_of(&all, features);
    perse_report r = {.exits = take_memory(i.exits * sizeof *r.exits), .prior = take_memory(i.classes * sizeof *r.prior),
                      .recognised = take_memory(i.classes * sizeof *r.recognised)};
    size_t size = perse_fit_size(p, samples.count);
    void *memory = take_memory(size);
    check(perse_fit(p, &samples, &o->fit, memory, size, &r));
    bool alone = c.taken && r.verdict != PERSE_BETTER && i.generation == 0, live = r.verdict == PERSE_BETTER || alone;
    if (c.taken && !live) undo_camera(p, &c); /* heads that learnt from other pixels */
    double seconds = (now() - start) * 1e-3; /* without the disk's */
    if (alone) check(perse_name_class(p, NULL)); /* the heads are the factory's */
    if (live) check(perse_save_pack(p));
    end_progress(o);
    const outcome found = {&r, &c, &expected, &cached, live, alone, i.classes - i.spare, (double)samples.count * i.features * sizeof *features, seconds};
    print_personalised(o, p, &found);
    free(features), free(memory);
    perse_close(p);
    return 0;
}

int calibrate(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    images all = open_images(o, p);
    uint16_t *features = extract_features(o, p, &all);
    npy_close(&all.file);
    perse_samples samples = samples_of(&all, features);
    perse_report r = {.exits = take_memory(i.exits * sizeof *r.exits)};
    size_t size = perse_calibrate_size(p, all.count);
    check(perse_calibrate(p, &samples, o->fit.max_drop, o->fit.max_cost, take_memory(size), size, &r));
    check(perse_save_pack(p));
    end_progress(o);
    if (o->json) json_open(NULL, '{'), json_bool("labelled", r.labelled), json_whole("samples", r.judged);
    print_report(o, p, &r);
    print_budget(o, p);
    if (o->json) json_whole("generation", perse_get_info(p).generation), json_close('}'), puts("");
    perse_close(p);
    return 0;
}
