/* cache.c - features of a person's images on disk: half precision, within a budget, every class with its share.
 *
 * When it is full, the class that has most samples gives one away at random, an unlabelled one if there is one. A newcomer
 * of that class itself is taken as often as keeps the class a fair draw of all that ever came (Vitter 1985, algorithm R,
 * by class: Chrysakis and Moens 2020). */
#define _DEFAULT_SOURCE
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_ROOM = 256, NONE = -1 };
static const uint32_t NO_CLASS = UINT32_MAX;

typedef struct {
    int32_t label, answer;
} sample_head; /* then halves [features] */

struct perse_cache {
    perse *p;
    int folder;
    char name[NAME_ROOM], fresh[NAME_ROOM]; /* in the folder */
    char shown[NAME_ROOM];                  /* for messages: as it was given */
    uint32_t capacity, count;
    size_t stride; /* of a sample */
    uint64_t random;
    uint32_t *seen, *stored; /* [classes]: that ever came; that are here */
    uint32_t *moved;         /* [classes] of a file: seen there, then the number that the class has here, or NO_CLASS */
    char *names;             /* [spare][PERSE_CLASS_ROOM] of a file */
    float *logits;           /* [classes] */
    perse_head teacher;      /* the factory's final head */
    uint8_t *incoming, *samples; /* [stride], [capacity][stride] */
};

/* ---- memory ---- */

static size_t stride_of(const perse *p) { return sizeof(sample_head) + ((size_t)p->features * sizeof(uint16_t) + 3) / 4 * 4; }

static uint64_t fixed_bytes(const perse *p) {
    return sizeof(perse_cache_header) + (uint64_t)p->plan->classes * sizeof(uint32_t) + (uint64_t)p->plan->spare * PERSE_CLASS_ROOM;
}

/* Samples within the budget. */
static uint32_t capacity_of(const perse *p, uint64_t budget) {
    if (budget < fixed_bytes(p)) return 0;
    uint64_t samples = (budget - fixed_bytes(p)) / stride_of(p);
    return samples < UINT32_MAX ? (uint32_t)samples : UINT32_MAX;
}

static perse_cache *carve_cache(perse_carver *c, const perse *p, uint64_t budget) {
    const perse_plan *plan = p->plan;
    perse_cache *cache = perse_carve(c, 1, sizeof *cache), all = {.folder = -1};
    all.capacity = capacity_of(p, budget);
    all.stride = stride_of(p);
    all.seen = perse_carve(c, plan->classes, sizeof *all.seen);
    all.stored = perse_carve(c, plan->classes, sizeof *all.stored);
    all.moved = perse_carve(c, plan->classes, sizeof *all.moved);
    all.names = perse_carve(c, plan->spare, PERSE_CLASS_ROOM);
    all.logits = perse_carve(c, plan->classes, sizeof *all.logits);
    perse_head_carve(c, plan->exit[plan->exits - 1].features, plan->classes, &all.teacher);
    all.incoming = perse_carve(c, 1, all.stride);
    all.samples = perse_carve(c, all.capacity, all.stride);
    if (c->base == NULL || c->used == SIZE_MAX) return NULL;
    *cache = all;
    return cache;
}

size_t perse_cache_size(const perse *p, uint64_t budget) {
    if (p == NULL) return 0;
    perse_carver c = {NULL, 0, 0};
    carve_cache(&c, p, budget);
    return perse_carved_size(&c);
}

/* ---- who stays ---- */

static uint8_t *at(const perse_cache *c, uint32_t i) { return c->samples + i * c->stride; }

static sample_head head_of(const uint8_t *sample) {
    sample_head h;
    memcpy(&h, sample, sizeof h);
    return h;
}

static uint32_t class_of(const uint8_t *sample) {
    sample_head h = head_of(sample);
    return (uint32_t)(h.label >= 0 ? h.label : h.answer);
}

/* A random sample of class k, among the unlabelled ones if there are any. */
static uint32_t one_of(perse_cache *c, uint32_t k) {
    uint32_t unlabelled = 0, all = c->stored[k];
    for (uint32_t i = 0; i < c->count; i++) unlabelled += class_of(at(c, i)) == k && head_of(at(c, i)).label < 0;
    uint32_t nth = (uint32_t)(perse_random(&c->random) % (unlabelled > 0 ? unlabelled : all)), i = 0;
    for (;; i++) {
        if (class_of(at(c, i)) != k || (unlabelled > 0 && head_of(at(c, i)).label >= 0)) continue;
        if (nth-- == 0) return i;
    }
}

/* Where the newcomer goes: its sample's number, the count for a free place, or NONE. */
static int64_t place_for(perse_cache *c, uint32_t k) {
    uint32_t most = 0;
    if (c->count < c->capacity) return c->count;
    for (uint32_t other = 1; other < c->p->plan->classes; other++)
        if (c->stored[other] > c->stored[most]) most = other;
    if (c->stored[k] < c->stored[most]) return one_of(c, most);
    uint32_t victim = one_of(c, k);
    bool labelled = head_of(c->incoming).label >= 0, labelled_there = head_of(at(c, victim)).label >= 0;
    if (labelled != labelled_there) return labelled ? (int64_t)victim : NONE;
    return perse_random(&c->random) % c->seen[k] < c->stored[k] ? (int64_t)victim : NONE;
}

/* The incoming sample finds its place, or none. */
static void settle(perse_cache *c) {
    uint32_t k = class_of(c->incoming);
    int64_t place = place_for(c, k);
    if (place == NONE) return;
    if (place < c->count) c->stored[class_of(at(c, (uint32_t)place))]--;
    else c->count++;
    c->stored[k]++;
    memcpy(at(c, (uint32_t)place), c->incoming, c->stride);
}

/* An image that is there already does not count twice; a label that it lacked is taken over. */
static bool known(perse_cache *c) {
    sample_head mine = head_of(c->incoming);
    for (uint32_t i = 0; i < c->count; i++) {
        uint8_t *sample = at(c, i);
        if (memcmp(sample + sizeof mine, c->incoming + sizeof mine, c->stride - sizeof mine) != 0) continue;
        if (mine.label < 0) return true;
        uint32_t before = class_of(sample), now = (uint32_t)mine.label;
        c->stored[before]--;
        c->stored[now]++;
        if (now != before && c->seen[now] < UINT32_MAX) c->seen[now]++;
        memcpy(sample, &mine, sizeof mine);
        return true;
    }
    return false;
}

perse_status perse_cache_add(perse_cache *c, const float *features, int32_t label) {
    if (c == NULL || features == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    const perse_plan *plan = c->p->plan;
    if (label < -1 || label >= (int32_t)perse_named_classes(plan, &c->p->live)) return perse_fail(PERSE_BAD_LABEL, "");
    for (uint32_t i = 0; i < c->p->features; i++)
        if (!isfinite(features[i])) return perse_fail(PERSE_NAN_INPUT, "features");
    uint32_t final = plan->exits - 1;
    sample_head h = {label, 0};
    float confidence;
    PERSE_TRY(perse_apply_head(c->p, final, &c->teacher, features + perse_feature_offset(plan, final), c->logits));
    if (!perse_top(c->logits, plan->classes, 1, &h.answer, &confidence)) return perse_fail(PERSE_KERNEL_FAILED, "logits are not finite");
    memset(c->incoming, 0, c->stride);
    memcpy(c->incoming, &h, sizeof h);
    for (uint32_t i = 0; i < c->p->features; i++) {
        uint16_t half = perse_to_half(features[i]);
        memcpy(c->incoming + sizeof h + i * sizeof half, &half, sizeof half);
    }
    if (known(c)) return PERSE_OK;
    uint32_t k = class_of(c->incoming);
    if (c->seen[k] < UINT32_MAX) c->seen[k]++;
    settle(c);
    return PERSE_OK;
}

/* ---- the file ---- */

static uint32_t checksum_of_header(const perse_cache_header *h) {
    return perse_crc32(0, (const uint8_t *)h + PERSE_CHECKED_FROM, sizeof *h - PERSE_CHECKED_FROM);
}

static uint32_t checksum_of_levels(const perse *p) { return perse_crc32(0, p->live.levels, 2 * p->plan->channels * sizeof(float)); }

static perse_status take_header(perse_source *s, const perse *p, perse_cache_header *h) {
    PERSE_TRY(perse_take(s, h, sizeof *h));
    if (memcmp(h->magic, "PERSEFEA", 8) != 0) return perse_fail(PERSE_BAD_MAGIC, s->name);
    if (h->version != PERSE_FORMAT_VERSION) return perse_fail(PERSE_BAD_VERSION, s->name);
    if (h->length != s->size) return perse_fail(PERSE_TRUNCATED, s->name);
    if (h->heads_id != p->plan->heads_id || h->classes != p->plan->classes || h->features != p->features)
        return perse_fail(PERSE_WRONG_CACHE, s->name);
    if (h->levels != checksum_of_levels(p)) return perse_fail(PERSE_WRONG_CACHE, s->name);
    if (h->length != fixed_bytes(p) + (uint64_t)h->samples * stride_of(p) || !perse_all_zero(h->reserved, sizeof h->reserved))
        return perse_fail(PERSE_BAD_LAYOUT, s->name);
    s->crc = checksum_of_header(h);
    return PERSE_OK;
}

/* Of the sample that just came from the file. */
static bool is_sound(const perse_cache *c) {
    sample_head h = head_of(c->incoming);
    int32_t classes = (int32_t)c->p->plan->classes;
    bool finite = true;
    for (uint32_t i = 0; i < c->p->features; i++) {
        uint16_t half;
        memcpy(&half, c->incoming + sizeof h + i * sizeof half, sizeof half);
        finite = finite && (half & 0x7C00u) != 0x7C00u;
    }
    return finite && h.label >= -1 && h.label < classes && h.answer >= 0 && h.answer < classes;
}

/* Classes that the network never had go by their names: with other heads in use they may have other numbers, or none. */
static void find_classes(perse_cache *c) {
    uint32_t factory = perse_factory_classes(c->p->plan), named = perse_named_classes(c->p->plan, &c->p->live);
    for (uint32_t k = 0; k < c->p->plan->classes; k++) {
        uint32_t here = k < factory ? k : perse_class_of_name(c->p, c->names + (size_t)(k - factory) * PERSE_CLASS_ROOM);
        if (here < named) c->seen[here] = c->moved[k];
        c->moved[k] = here < named ? here : NO_CLASS;
    }
}

/* The sample that just came from the file, under the number that its class has here. */
static bool renumber(perse_cache *c) {
    sample_head h = head_of(c->incoming);
    if (h.label < 0) return true;
    if (c->moved[h.label] == NO_CLASS) return false;
    h.label = (int32_t)c->moved[h.label];
    memcpy(c->incoming, &h, sizeof h);
    return true;
}

/* More samples than the budget has room for give way as if they came now; those of a class that has no name here go. */
static perse_status take_cache(perse_cache *c, perse_source *s) {
    perse_cache_header h;
    PERSE_TRY(take_header(s, c->p, &h));
    PERSE_TRY(perse_take(s, c->moved, c->p->plan->classes * sizeof *c->moved));
    PERSE_TRY(perse_take(s, c->names, (size_t)c->p->plan->spare * PERSE_CLASS_ROOM));
    c->random = h.random;
    bool sound = perse_names_sound(c->names, c->p->plan->spare);
    if (sound) find_classes(c);
    for (uint32_t i = 0; i < h.samples; i++) {
        PERSE_TRY(perse_take(s, c->incoming, c->stride));
        sound = sound && is_sound(c);
        if (!sound || !renumber(c)) continue;
        if ((sound = c->seen[class_of(c->incoming)] > 0)) settle(c);
    }
    if (s->crc != h.crc32) return perse_fail(PERSE_BAD_CHECKSUM, s->name);
    return sound ? PERSE_OK : perse_fail(PERSE_BAD_LAYOUT, s->name);
}

static perse_status load(perse_cache *c) {
    int fd = openat(c->folder, c->name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return PERSE_OK;
    if (fd < 0) return perse_fail_errno(errno, c->shown);
    struct stat about;
    perse_status status;
    if (fstat(fd, &about) != 0) {
        status = perse_fail_errno(errno, c->shown);
    } else {
        perse_source s = {NULL, fd, (uint64_t)about.st_size, (uint64_t)about.st_size, 0, c->shown};
        status = take_cache(c, &s);
    }
    close(fd);
    return status;
}

static perse_status put_body(perse_sink *s, const perse_cache *c) {
    PERSE_TRY(perse_put(s, c->seen, c->p->plan->classes * sizeof *c->seen));
    PERSE_TRY(perse_put(s, c->p->live.names, (size_t)c->p->plan->spare * PERSE_CLASS_ROOM));
    return perse_put(s, c->samples, c->count * c->stride);
}

static perse_status put_cache(perse_sink *s, const perse_cache *c) {
    uint64_t length = fixed_bytes(c->p) + (uint64_t)c->count * c->stride;
    perse_cache_header h = {"", PERSE_FORMAT_VERSION, 0, length, c->p->plan->heads_id, c->p->plan->classes, c->p->features,
                            c->count, c->random, checksum_of_levels(c->p), {0}};
    perse_sink body = {-1, checksum_of_header(&h), s->name};
    PERSE_TRY(put_body(&body, c));
    memcpy(h.magic, "PERSEFEA", 8);
    h.crc32 = body.crc;
    PERSE_TRY(perse_put(s, &h, sizeof h));
    return put_body(s, c);
}

static perse_status write_fresh(const perse_cache *c) {
    perse_sink s = {openat(c->folder, c->fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), 0, c->shown};
    if (s.fd < 0) return perse_fail_errno(errno, c->shown);
    perse_status status = put_cache(&s, c);
    if (status == PERSE_OK && fsync(s.fd) != 0) status = perse_fail_errno(errno, c->shown);
    if (close(s.fd) != 0 && status == PERSE_OK) status = perse_fail_errno(errno, c->shown);
    if (status == PERSE_OK) status = perse_move(c->folder, c->fresh, c->name);
    if (status != PERSE_OK) unlinkat(c->folder, c->fresh, 0);
    return status;
}

perse_status perse_cache_save(perse_cache *c) {
    if (c == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    if (flock(c->folder, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? perse_fail(PERSE_BUSY, c->shown) : perse_fail_errno(errno, c->shown);
    perse_status status = write_fresh(c);
    flock(c->folder, LOCK_UN);
    return status;
}

/* ---- open, look, close ---- */

/* The file's folder, opened, and its name there. */
static perse_status find_place(perse_cache *c, const char *path) {
    char folder[4096];
    const char *name = path == NULL ? "cache.bin" : path, *slash = strrchr(name, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - name);
    if (slash != NULL) name = slash + 1;
    if (strlen(name) + 5 > NAME_ROOM || *name == 0 || length >= sizeof folder) return perse_fail(PERSE_BAD_ARGUMENT, "name of the cache");
    memcpy(folder, slash == NULL ? "." : length == 0 ? "/" : path, slash == NULL || length == 0 ? 1 : length);
    folder[slash == NULL || length == 0 ? 1 : length] = 0;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->shown, sizeof c->shown, "%s", path == NULL ? name : path);
    snprintf(c->fresh, sizeof c->fresh, "%.250s.new", name);
    c->folder = path == NULL ? openat(c->p->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return c->folder < 0 ? perse_fail_errno(errno, c->shown) : PERSE_OK;
}

static perse_status open_cache(perse_cache *c, const char *path) {
    const perse_plan *plan = c->p->plan;
    memset(c->seen, 0, plan->classes * sizeof *c->seen);
    memset(c->stored, 0, plan->classes * sizeof *c->stored);
    PERSE_TRY(perse_factory(c->p, &c->p->spare));
    perse_head_copy(&c->teacher, &c->p->spare.exit[plan->exits - 1].head, plan->exit[plan->exits - 1].features, plan->classes);
    PERSE_TRY(find_place(c, path));
    return load(c);
}

perse_status perse_cache_open(perse *p, const char *path, uint64_t budget, void *memory, size_t size, perse_cache **out) {
    if (out != NULL) *out = NULL;
    if (p == NULL || memory == NULL || out == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    if (capacity_of(p, budget) == 0) return perse_fail(PERSE_BAD_ARGUMENT, "the budget has no room for one image");
    perse_carver carver = perse_carve_in(memory, size);
    perse_cache *c = carve_cache(&carver, p, budget);
    if (c == NULL) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_cache_size");
    c->p = p;
    perse_status status = open_cache(c, path);
    if (status == PERSE_OK) *out = c;
    else perse_cache_close(c);
    return status;
}

void perse_cache_close(perse_cache *c) {
    if (c != NULL && c->folder >= 0) close(c->folder);
}

perse_cache_info perse_get_cache_info(const perse_cache *c) {
    uint32_t labelled = 0;
    for (uint32_t i = 0; i < c->count; i++) labelled += head_of(at(c, i)).label >= 0;
    return (perse_cache_info){c->count, c->capacity, labelled, fixed_bytes(c->p) + (uint64_t)c->count * c->stride};
}

perse_status perse_cache_get(const perse_cache *c, uint32_t i, float *features, int32_t *label) {
    if (c == NULL || i >= c->count || features == NULL || label == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    *label = head_of(at(c, i)).label;
    for (uint32_t f = 0; f < c->p->features; f++) {
        uint16_t half;
        memcpy(&half, at(c, i) + sizeof(sample_head) + f * sizeof half, sizeof half);
        features[f] = perse_from_half(half);
    }
    return PERSE_OK;
}
