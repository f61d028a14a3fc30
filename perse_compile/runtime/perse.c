/* perse.c - open, close, and the walk through stages and exits. */
#define _DEFAULT_SOURCE
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char BACKBONE[] = "backbone.bin";

uint32_t perse_feature_offset(const perse_plan *plan, uint32_t exit) {
    uint32_t offset = 0;
    for (uint32_t e = 0; e < exit; e++) offset += plan->exit[e].features;
    return offset;
}

uint64_t perse_full_macs(const perse_plan *plan) {
    uint64_t macs = plan->exit[plan->exits - 1].head_macs;
    for (uint32_t e = 0; e < plan->exits; e++) macs += plan->exit[e].stage_macs;
    return macs;
}

static size_t pixels(const perse_plan *plan) { return (size_t)plan->height * plan->width * plan->channels; }

/* ---- open ---- */

static perse *carve_all(perse_carver *c, const perse_plan *plan, int threads) {
    uint32_t widest = 0;
    for (uint32_t e = 0; e < plan->exits; e++)
        if (plan->exit[e].features > widest) widest = plan->exit[e].features;
    perse *p = perse_carve(c, 1, sizeof *p), all = {.plan = plan, .folder = -1, .threads = threads};
    all.features = perse_feature_offset(plan, plan->exits);
    all.pool = perse_pool_carve(c, threads);
    all.arena = perse_carve(c, plan->arena_size, 1);
    all.image = perse_carve(c, pixels(plan), sizeof(float));
    all.feature = perse_carve(c, widest, sizeof(float));
    all.logits = perse_carve(c, plan->classes, sizeof(float));
    all.share = perse_carve(c, plan->classes, sizeof *all.share);
    all.class_names = perse_carve(c, plan->classes, sizeof *all.class_names);
    perse_pack_carve(c, plan, &all.live);
    perse_pack_carve(c, plan, &all.spare);
    all.factory_levels = perse_carve(c, (uint64_t)2 * plan->channels, sizeof(float));
    all.stored_levels = perse_carve(c, (uint64_t)2 * plan->channels, sizeof(float));
    all.table = perse_carve(c, plan->channels, 256);
    if (c->base != NULL && c->used != SIZE_MAX) *p = all;
    return p;
}

static int resolve_threads(int threads) { return threads == 0 ? perse_cores() : threads; }

size_t perse_memory_size(int threads) {
    if (threads < 0 || threads > PERSE_MAX_THREADS) return 0;
    perse_carver c = {NULL, 0, 0};
    carve_all(&c, &perse_the_plan, resolve_threads(threads));
    return perse_carved_size(&c);
}

static perse_status check_backbone(const perse_plan *plan, const uint8_t *file, uint64_t size) {
    const perse_backbone_header *h = (const perse_backbone_header *)(const void *)file;
    if (memcmp(h->magic, "PERSEBIN", 8) != 0) return perse_fail(PERSE_BAD_MAGIC, BACKBONE);
    if (h->version != PERSE_FORMAT_VERSION) return perse_fail(PERSE_BAD_VERSION, BACKBONE);
    if (h->length != size) return perse_fail(PERSE_TRUNCATED, BACKBONE);
    if (perse_crc32(0, file + PERSE_CHECKED_FROM, (size_t)size - PERSE_CHECKED_FROM) != h->crc32) return perse_fail(PERSE_BAD_CHECKSUM, BACKBONE);
    if (h->crc32 != plan->backbone_crc32 || size != plan->backbone_size) return perse_fail(PERSE_WRONG_BACKBONE, BACKBONE);
    return PERSE_OK;
}

static perse_status map_backbone(perse *p) {
    int fd = openat(p->folder, BACKBONE, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return perse_fail_errno(errno, BACKBONE);
    struct stat about;
    perse_status status = PERSE_OK;
    void *file = MAP_FAILED;
    if (fstat(fd, &about) != 0) status = perse_fail_errno(errno, BACKBONE);
    else if (!S_ISREG(about.st_mode)) status = perse_fail_errno(EISDIR, BACKBONE);
    else if ((uint64_t)about.st_size < sizeof(perse_backbone_header) || (uint64_t)about.st_size > SIZE_MAX)
        status = perse_fail(PERSE_TRUNCATED, BACKBONE);
    else if ((file = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        status = perse_fail_errno(errno, BACKBONE);
    close(fd);
    PERSE_TRY(status);
    status = check_backbone(p->plan, file, (uint64_t)about.st_size);
    if (status != PERSE_OK) {
        munmap(file, (size_t)about.st_size);
        return status;
    }
    p->file = file;
    p->header = file;
    p->weights = p->file + p->header->weights_offset;
    return PERSE_OK;
}

perse_status perse_factory(perse *p, perse_pack *into) {
    return perse_pack_parse(p->plan, p->file + p->header->pack_offset, p->header->pack_size, BACKBONE, into);
}

static perse_status open_files(perse *p, const char *folder, bool factory) {
    p->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->folder < 0) return perse_fail_errno(errno, folder);
    PERSE_TRY(map_backbone(p));
    PERSE_TRY(perse_factory(p, &p->live));
    memcpy(p->factory_levels, p->live.levels, 2 * p->plan->channels * sizeof(float));
    perse_status status = factory ? PERSE_NO_FILE : perse_pack_read(p->plan, p->folder, "heads.pack", &p->live);
    if (status == PERSE_NO_FILE) status = PERSE_OK;
    PERSE_TRY(status);
    perse_levels_use(p);
    perse_pack_stored(p);
    return PERSE_OK;
}

/* Heads of many classes and images are read from end to end: with pages of 4 KB the processor looks up a new one all
 * the time. Where the system has no large pages nothing changes. */
static void ask_for_large_pages(void *memory, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t large = 2u << 20;
    uintptr_t first = ((uintptr_t)memory + large - 1) & ~(large - 1), end = ((uintptr_t)memory + size) & ~(large - 1);
    if (first < end) (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

static void close_files(perse *p) {
    if (p->file != NULL) munmap((void *)(uintptr_t)p->file, (size_t)p->header->length);
    if (p->own.folder >= 0) close(p->own.folder);
}

static perse_status open_any(perse **out, const char *folder, int threads, void *memory, size_t size, bool factory) {
    if (out == NULL || folder == NULL || memory == NULL || threads < 0 || threads > PERSE_MAX_THREADS)
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    *out = NULL;
    perse_carver c = perse_carve_in(memory, size);
    perse *p = carve_all(&c, &perse_the_plan, resolve_threads(threads));
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_memory_size");
    ask_for_large_pages(memory, size);
    perse_status status = open_files(p, folder, factory);
    p->own = (perse_place){p, p->folder, p->live};
    if (status == PERSE_OK) status = perse_pool_start(p->pool);
    if (status == PERSE_OK) *out = p;
    else close_files(p);
    return status;
}

perse_status perse_open(perse **out, const char *folder, int threads, void *memory, size_t size) {
    return open_any(out, folder, threads, memory, size, false);
}

perse_status perse_open_factory(perse **out, const char *folder, int threads, void *memory, size_t size) {
    return open_any(out, folder, threads, memory, size, true);
}

void perse_close(perse *p) {
    if (p == NULL) return;
    perse_pool_stop(p->pool);
    close_files(p);
}

/* ---- look ---- */

perse_info perse_get_info(const perse *p) {
    const perse_plan *plan = p->plan;
    for (uint32_t k = 0; k < plan->classes; k++) p->class_names[k] = perse_class_name(p, k);
    uint32_t spare = plan->classes - perse_named_classes(plan, &p->live);
    return (perse_info){plan->name,    plan->target,   plan->version,     p->class_names,        plan->height,
                        plan->width,   plan->channels, plan->classes,     plan->exits,           spare,
                        perse_factory_classes(plan),   p->features,       plan->train_batch,     p->header->probes,
                        p->live.generation, (uint32_t)p->threads, plan->backbone_size, perse_full_macs(plan)};
}

static bool is_exit(const perse *p, int exit) { return p != NULL && exit >= 0 && (uint32_t)exit < p->plan->exits; }

perse_status perse_get_exit(const perse *p, int exit, perse_exit_info *out) {
    if (!is_exit(p, exit) || out == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    const perse_exit_plan *x = &p->plan->exit[exit];
    const perse_pack_entry *entry = &p->live.exit[exit];
    *out = (perse_exit_info){x->name, x->tap, x->features, perse_feature_offset(p->plan, (uint32_t)exit), x->stage_macs,
                             x->head_macs, entry->enabled, entry->temperature, entry->threshold};
    return PERSE_OK;
}

perse_status perse_set_exit(perse *p, int exit, bool enabled, float temperature, float threshold) {
    if (!is_exit(p, exit) || !isfinite(temperature) || temperature <= 0 || !isfinite(threshold)) return perse_fail(PERSE_BAD_ARGUMENT, "");
    if (!enabled && (uint32_t)exit + 1 == p->plan->exits) return perse_fail(PERSE_BAD_ARGUMENT, "the final exit is always enabled");
    perse_pack_entry *entry = &p->live.exit[exit];
    entry->enabled = enabled;
    entry->temperature = temperature;
    entry->threshold = threshold;
    return PERSE_OK;
}

perse_status perse_drop_costly(perse *p, const double *share, const double *stage, const double *head, uint32_t *off) {
    if (p == NULL || share == NULL || stage == NULL || head == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    uint32_t final = p->plan->exits - 1, dropped = 0;
    for (uint32_t e = 0; e <= final; e++)
        if (!(share[e] >= 0 && stage[e] >= 0 && head[e] >= 0) || !isfinite(share[e] + stage[e] + head[e])) return perse_fail(PERSE_BAD_ARGUMENT, "");
    double reached = share[final], rest = head[final]; /* who comes to exit e + 1, and what one of them takes from there on */
    for (uint32_t e = final; e-- > 0;) {
        double here = p->live.exit[e].enabled ? share[e] : 0, all = reached + here;
        double going_on = stage[e + 1] + rest;
        rest = all > 0 ? reached / all * going_on + head[e] : going_on;
        bool pays = all > 0 && rest < going_on;
        dropped += p->live.exit[e].enabled && !pays;
        p->live.exit[e].enabled = p->live.exit[e].enabled && pays;
        if (!p->live.exit[e].enabled) rest = going_on;
        reached += share[e]; /* whom it does not answer any more goes on to the next */
    }
    if (off != NULL) *off = dropped;
    return PERSE_OK;
}

perse_status perse_get_probe(const perse *p, int probe, const uint8_t **image, const float **logits) {
    if (p == NULL || image == NULL || logits == NULL || probe < 0 || (uint32_t)probe >= p->header->probes)
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    size_t padded = (pixels(p->plan) + 63) / 64 * 64;
    const uint8_t *section = p->file + (size_t)p->header->probe_offset_pages * 4096;
    *image = section + (size_t)probe * padded;
    *logits = (const float *)(const void *)(section + p->header->probes * padded) + (size_t)probe * p->plan->exits * p->plan->classes;
    return PERSE_OK;
}

/* ---- the walk ---- */

enum { EVERY = -2 }; /* like PERSE_CASCADE, but every exit answers */

/* What is wanted of a walk; pointers may be NULL. */
typedef struct {
    int exit;              /* PERSE_CASCADE, EVERY, or the one that answers */
    perse_result *results; /* one, or [exits] for EVERY */
    float *logits;         /* likewise */
    float *features;       /* EVERY: [features] */
    double *input, *stage, *head; /* EVERY: milliseconds */
} wanted;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static perse_status kernel(int code) { return code == 0 ? PERSE_OK : PERSE_KERNEL_FAILED; }

/* Pools at exit e and, if an answer is wanted, gives it. */
static perse_status answer(perse *p, uint32_t e, int stages, bool head, perse_result *result) {
    const perse_exit_plan *x = &p->plan->exit[e];
    const perse_pack_entry *entry = &p->live.exit[e];
    PERSE_TRY(kernel(x->pool(p->arena, p->weights, p->feature)));
    if (!head) return PERSE_OK;
    PERSE_TRY(kernel(x->head(p->arena, p->feature, &entry->head, p->logits)));
    result->exit = (int)e;
    result->stages = stages;
    if (perse_top(p->logits, p->plan->classes, entry->temperature, &result->label, &result->confidence)) return PERSE_OK;
    return perse_fail(PERSE_KERNEL_FAILED, "logits are not finite");
}

static perse_status walk(perse *p, const wanted *w) {
    const perse_plan *plan = p->plan;
    int stages = 0;
    for (uint32_t e = 0; e < plan->exits; e++) {
        double start = now();
        PERSE_TRY(kernel(plan->exit[e].stage(p->arena, p->weights)));
        stages++;
        if (w->stage != NULL) w->stage[e] = now() - start;
        const perse_pack_entry *entry = &p->live.exit[e];
        bool final = e + 1 == plan->exits;
        if (w->exit == PERSE_CASCADE ? !entry->enabled && !final : w->exit != EVERY && w->exit != (int)e) continue;
        perse_result result;
        start = now();
        PERSE_TRY(answer(p, e, stages, w->results != NULL || w->head != NULL, &result));
        if (w->head != NULL) w->head[e] = now() - start;
        uint32_t row = w->exit == EVERY ? e : 0;
        bool taken = final || w->exit != PERSE_CASCADE || result.confidence >= entry->threshold;
        if (w->results != NULL && taken) w->results[row] = result;
        if (w->logits != NULL && taken) memcpy(w->logits + (size_t)row * plan->classes, p->logits, plan->classes * sizeof(float));
        if (w->features != NULL)
            memcpy(w->features + perse_feature_offset(plan, e), p->feature, plan->exit[e].features * sizeof(float));
        if (taken && w->exit != EVERY) return PERSE_OK;
    }
    return PERSE_OK;
}

/* One of the images is given. Kernels want it aligned. */
static perse_status walk_image(perse *p, const uint8_t *u8, const float *f32, const wanted *w) {
    size_t count = pixels(p->plan);
    for (size_t i = 0; f32 != NULL && i < count; i++)
        if (!isfinite(f32[i])) return perse_fail(PERSE_NAN_INPUT, "");
    double start = now();
    if (u8 != NULL) perse_levels_apply(p, u8, p->image, count);
    else memcpy(p->image, f32, count * sizeof(float));
    perse_pool_enter(p->pool);
    int code = u8 != NULL ? p->plan->input_u8(p->arena, p->weights, p->image)
                          : p->plan->input_f32(p->arena, p->weights, (const float *)(const void *)p->image);
    perse_status status = kernel(code);
    if (w->input != NULL) *w->input = now() - start;
    if (status == PERSE_OK) status = walk(p, w);
    perse_pool_leave();
    return status;
}

static perse_status run(perse *p, const uint8_t *u8, const float *f32, int exit, perse_result *result, float *logits) {
    if (p == NULL || (u8 == NULL && f32 == NULL) || result == NULL || (exit != PERSE_CASCADE && !is_exit(p, exit)))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    return walk_image(p, u8, f32, &(wanted){.exit = exit, .results = result, .logits = logits});
}

perse_status perse_run_u8(perse *p, const uint8_t *image, int exit, perse_result *result, float *logits) {
    return run(p, image, NULL, exit, result, logits);
}

perse_status perse_run_f32(perse *p, const float *image, int exit, perse_result *result, float *logits) {
    return run(p, NULL, image, exit, result, logits);
}

static perse_status observe(perse *p, const uint8_t *u8, const float *f32, perse_result *results, float *logits, float *features) {
    if (p == NULL || (u8 == NULL && f32 == NULL) || results == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    return walk_image(p, u8, f32, &(wanted){.exit = EVERY, .results = results, .logits = logits, .features = features});
}

perse_status perse_observe_u8(perse *p, const uint8_t *image, perse_result *results, float *logits, float *features) {
    return observe(p, image, NULL, results, logits, features);
}

perse_status perse_observe_f32(perse *p, const float *image, perse_result *results, float *logits, float *features) {
    return observe(p, NULL, image, results, logits, features);
}

static perse_status extract(perse *p, const uint8_t *u8, const float *f32, float *features) {
    if (p == NULL || (u8 == NULL && f32 == NULL) || features == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    return walk_image(p, u8, f32, &(wanted){.exit = EVERY, .features = features});
}

perse_status perse_features_u8(perse *p, const uint8_t *image, float *features) { return extract(p, image, NULL, features); }
perse_status perse_features_f32(perse *p, const float *image, float *features) { return extract(p, NULL, image, features); }

perse_status perse_apply_head(perse *p, uint32_t exit, const perse_head *head, const float *features, float *logits) {
    if (features != p->feature) memcpy(p->feature, features, p->plan->exit[exit].features * sizeof(float));
    perse_pool_enter(p->pool);
    perse_status status = kernel(p->plan->exit[exit].head(p->arena, p->feature, head, p->logits));
    perse_pool_leave();
    PERSE_TRY(status);
    if (logits != NULL) memcpy(logits, p->logits, p->plan->classes * sizeof(float));
    return PERSE_OK;
}

perse_status perse_head_logits(perse *p, int exit, const float *features, float *logits) {
    if (!is_exit(p, exit) || features == NULL || logits == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    for (uint32_t i = 0; i < p->plan->exit[exit].features; i++)
        if (!isfinite(features[i])) return perse_fail(PERSE_NAN_INPUT, "");
    return perse_apply_head(p, (uint32_t)exit, &p->live.exit[exit].head, features, logits);
}

perse_status perse_profile_u8(perse *p, const uint8_t *image, double *input, double *stage, double *head) {
    if (p == NULL || image == NULL || input == NULL || stage == NULL || head == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    return walk_image(p, image, NULL, &(wanted){.exit = EVERY, .input = input, .stage = stage, .head = head});
}
