/* pack.c - heads.pack: read with every check, write in one step. */
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

static const char LIVE[] = "heads.pack", PREVIOUS[] = "heads.pack.previous", NEW[] = "heads.pack.new", KEPT[] = "heads.pack.kept";

/* ---- heads in memory ---- */

void perse_head_carve(perse_carver *c, uint32_t features, uint32_t classes, perse_head *head) {
    head->shift = perse_carve(c, features, sizeof(float));
    head->scale = perse_carve(c, features, sizeof(float));
    head->weight = perse_carve(c, (uint64_t)features * classes, sizeof(float));
    head->bias = perse_carve(c, classes, sizeof(float));
}

void perse_pack_carve(perse_carver *c, const perse_plan *plan, perse_pack *pack) {
    perse_head unused;
    pack->levels = perse_carve(c, (uint64_t)2 * plan->channels, sizeof(float));
    pack->names = perse_carve(c, plan->spare, PERSE_CLASS_ROOM);
    pack->exit = perse_carve(c, plan->exits, sizeof *pack->exit);
    for (uint32_t e = 0; e < plan->exits; e++)
        perse_head_carve(c, plan->exit[e].features, plan->classes, pack->exit ? &pack->exit[e].head : &unused);
}

void perse_head_copy(const perse_head *to, const perse_head *from, uint32_t features, uint32_t classes) {
    memcpy(to->shift, from->shift, features * sizeof(float));
    memcpy(to->scale, from->scale, features * sizeof(float));
    memcpy(to->weight, from->weight, (size_t)features * classes * sizeof(float));
    memcpy(to->bias, from->bias, classes * sizeof(float));
}

void perse_pack_copy(const perse_plan *plan, perse_pack *to, const perse_pack *from) {
    to->generation = from->generation;
    memcpy(to->names, from->names, (size_t)plan->spare * PERSE_CLASS_ROOM);
    for (uint32_t e = 0; e < plan->exits; e++) {
        perse_head head = to->exit[e].head;
        perse_head_copy(&head, &from->exit[e].head, plan->exit[e].features, plan->classes);
        to->exit[e] = from->exit[e];
        to->exit[e].head = head;
    }
}

uint64_t perse_pack_bytes(const perse_plan *plan) {
    uint64_t bytes = sizeof(perse_pack_header) + sizeof(float) * 2 * (uint64_t)plan->channels + (uint64_t)plan->spare * PERSE_CLASS_ROOM;
    for (uint32_t e = 0; e < plan->exits; e++) {
        uint64_t f = plan->exit[e].features, k = plan->classes;
        bytes += sizeof(perse_pack_exit) + sizeof(float) * (2 * f + f * k + k);
    }
    return bytes;
}

/* ---- reading ---- */

static uint32_t checksum_of_header(const perse_pack_header *h) {
    return perse_crc32(0, (const uint8_t *)h + PERSE_CHECKED_FROM, sizeof *h - PERSE_CHECKED_FROM);
}

static perse_status take_header(perse_source *s, const perse_plan *plan, perse_pack_header *h) {
    PERSE_TRY(perse_take(s, h, sizeof *h));
    if (memcmp(h->magic, "PERSEPAK", 8) != 0) return perse_fail(PERSE_BAD_MAGIC, s->name);
    if (h->version != PERSE_FORMAT_VERSION) return perse_fail(PERSE_BAD_VERSION, s->name);
    if (h->length != s->size) return perse_fail(PERSE_TRUNCATED, s->name);
    if (h->exits != plan->exits || h->classes != plan->classes || h->spare != plan->spare || h->heads_id != plan->heads_id)
        return perse_fail(PERSE_WRONG_PACK, s->name);
    if (h->channels != plan->channels || h->length != perse_pack_bytes(plan) || !perse_all_zero(h->reserved, sizeof h->reserved))
        return perse_fail(PERSE_BAD_LAYOUT, s->name);
    return PERSE_OK;
}

static perse_status take_pack(perse_source *s, const perse_plan *plan, perse_pack *into) {
    perse_pack_header h;
    PERSE_TRY(take_header(s, plan, &h));
    s->crc = checksum_of_header(&h);
    PERSE_TRY(perse_take(s, into->levels, 2 * plan->channels * sizeof(float)));
    PERSE_TRY(perse_take(s, into->names, (size_t)plan->spare * PERSE_CLASS_ROOM));
    bool sound = perse_levels_sound(into->levels, plan->channels) && perse_names_sound(into->names, plan->spare);
    for (uint32_t e = 0; e < plan->exits; e++) {
        uint32_t f = plan->exit[e].features, k = plan->classes;
        perse_pack_exit x;
        perse_pack_entry *entry = &into->exit[e];
        PERSE_TRY(perse_take(s, &x, sizeof x));
        PERSE_TRY(perse_take(s, entry->head.shift, f * sizeof(float)));
        PERSE_TRY(perse_take(s, entry->head.scale, f * sizeof(float)));
        PERSE_TRY(perse_take(s, entry->head.weight, (size_t)f * k * sizeof(float)));
        PERSE_TRY(perse_take(s, entry->head.bias, k * sizeof(float)));
        sound = sound && x.features == f && x.enabled <= 1 && (x.enabled == 1 || e + 1 < plan->exits) && isfinite(x.temperature) &&
                x.temperature > 0 && isfinite(x.threshold) && perse_all_zero(x.reserved, sizeof x.reserved);
        entry->enabled = x.enabled == 1;
        entry->temperature = x.temperature;
        entry->threshold = x.threshold;
    }
    if (s->crc != h.crc32) return perse_fail(PERSE_BAD_CHECKSUM, s->name);
    if (!sound) return perse_fail(PERSE_BAD_LAYOUT, s->name);
    into->generation = h.generation;
    return PERSE_OK;
}

perse_status perse_pack_parse(const perse_plan *plan, const uint8_t *bytes, uint64_t size, const char *name, perse_pack *into) {
    perse_source s = {bytes, -1, size, size, 0, name};
    return take_pack(&s, plan, into);
}

perse_status perse_pack_read(const perse_plan *plan, int folder, const char *name, perse_pack *into) {
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return perse_fail_errno(errno, name);
    struct stat about;
    perse_status status;
    if (fstat(fd, &about) != 0) {
        status = perse_fail_errno(errno, name);
    } else {
        perse_source s = {NULL, fd, (uint64_t)about.st_size, (uint64_t)about.st_size, 0, name};
        status = take_pack(&s, plan, into);
    }
    close(fd);
    return status;
}

/* ---- writing ---- */

static perse_status put_body(perse_sink *s, const perse_plan *plan, const perse_pack *pack) {
    PERSE_TRY(perse_put(s, pack->levels, 2 * plan->channels * sizeof(float)));
    PERSE_TRY(perse_put(s, pack->names, (size_t)plan->spare * PERSE_CLASS_ROOM));
    for (uint32_t e = 0; e < plan->exits; e++) {
        uint32_t f = plan->exit[e].features, k = plan->classes;
        const perse_pack_entry *entry = &pack->exit[e];
        perse_pack_exit x = {f, entry->enabled, entry->temperature, entry->threshold, {0}};
        PERSE_TRY(perse_put(s, &x, sizeof x));
        PERSE_TRY(perse_put(s, entry->head.shift, f * sizeof(float)));
        PERSE_TRY(perse_put(s, entry->head.scale, f * sizeof(float)));
        PERSE_TRY(perse_put(s, entry->head.weight, (size_t)f * k * sizeof(float)));
        PERSE_TRY(perse_put(s, entry->head.bias, k * sizeof(float)));
    }
    return PERSE_OK;
}

static perse_status put_pack(perse_sink *s, const perse_plan *plan, const perse_pack *pack) {
    perse_pack_header h = {"", PERSE_FORMAT_VERSION, 0, perse_pack_bytes(plan), plan->exits, plan->classes,
                           plan->heads_id, pack->generation, plan->channels, plan->spare, {0}};
    perse_sink body = {-1, checksum_of_header(&h), s->name};
    PERSE_TRY(put_body(&body, plan, pack));
    memcpy(h.magic, "PERSEPAK", 8);
    h.crc32 = body.crc;
    PERSE_TRY(perse_put(s, &h, sizeof h));
    return put_body(s, plan, pack);
}

static perse_status put_file(perse_sink *s, int folder, const char *name) {
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return perse_fail_errno(errno, name);
    perse_status status = PERSE_OK;
    for (ssize_t n = 1; n != 0 && status == PERSE_OK;) {
        uint8_t bytes[4096];
        n = read(fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR) continue;
        status = n < 0 ? perse_fail_errno(errno, name) : perse_put(s, bytes, (size_t)n);
    }
    close(fd);
    return status;
}

/* What a file in the making consists of: a pack, or another file, or else the factory pack's bytes. */
typedef struct {
    const perse_pack *pack;
    const char *file;
} contents;

static perse_status write_file(perse *p, const char *name, contents from) {
    perse_sink s = {openat(p->folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), 0, name};
    if (s.fd < 0) return perse_fail_errno(errno, name);
    perse_status status = from.pack != NULL   ? put_pack(&s, p->plan, from.pack)
                          : from.file != NULL ? put_file(&s, p->folder, from.file)
                                              : perse_put(&s, p->file + p->header->pack_offset, (size_t)p->header->pack_size);
    if (status == PERSE_OK && fsync(s.fd) != 0) status = perse_fail_errno(errno, name);
    if (close(s.fd) != 0 && status == PERSE_OK) status = perse_fail_errno(errno, name);
    if (status != PERSE_OK) unlinkat(p->folder, name, 0);
    return status;
}

/* heads.pack becomes heads.pack.previous too, unless it is damaged: then an older one is worth more. */
static perse_status keep_live(perse *p) {
    perse_status now = perse_pack_read(p->plan, p->folder, LIVE, &p->spare);
    if (now != PERSE_OK && now != PERSE_NO_FILE) return PERSE_OK;
    PERSE_TRY(write_file(p, KEPT, (contents){NULL, now == PERSE_OK ? LIVE : NULL}));
    return perse_move(p->folder, KEPT, PREVIOUS);
}

static perse_status lock_folder(perse *p) {
    if (flock(p->folder, LOCK_EX | LOCK_NB) == 0) return PERSE_OK;
    return errno == EWOULDBLOCK ? perse_fail(PERSE_BUSY, LIVE) : perse_fail_errno(errno, LIVE);
}

static perse_status replace(perse *p, contents with) {
    PERSE_TRY(lock_folder(p));
    perse_status status = write_file(p, NEW, with);
    if (status == PERSE_OK) status = keep_live(p);
    if (status == PERSE_OK) status = perse_move(p->folder, NEW, LIVE);
    if (status != PERSE_OK) unlinkat(p->folder, NEW, 0);
    flock(p->folder, LOCK_UN);
    return status;
}

void perse_pack_stored(perse *p) {
    memcpy(p->stored_levels, p->live.levels, 2 * p->plan->channels * sizeof(float));
    p->stored_generation = p->live.generation;
}

static void use_spare(perse *p) {
    perse_pack_copy(p->plan, &p->live, &p->spare);
    memcpy(p->live.levels, p->spare.levels, 2 * p->plan->channels * sizeof(float));
    perse_levels_use(p);
    perse_pack_stored(p);
}

perse_status perse_save_pack(perse *p) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    uint32_t generation = p->live.generation;
    bool other_levels = memcmp(p->live.levels, p->stored_levels, 2 * p->plan->channels * sizeof(float)) != 0;
    if (other_levels && generation == p->stored_generation) p->live.generation++;
    perse_status status = replace(p, (contents){&p->live, NULL});
    if (status == PERSE_OK) perse_pack_stored(p);
    else p->live.generation = generation;
    return status;
}

perse_status perse_load_pack(perse *p) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    PERSE_TRY(perse_pack_read(p->plan, p->folder, LIVE, &p->spare));
    use_spare(p);
    return PERSE_OK;
}

/* The kept copy is made first, so that heads.pack is whole at every moment. */
static perse_status swap_files(perse *p) {
    perse_status status = perse_pack_read(p->plan, p->folder, PREVIOUS, &p->spare);
    if (status == PERSE_NO_FILE) return perse_fail(PERSE_NO_PREVIOUS, PREVIOUS);
    PERSE_TRY(status);
    status = write_file(p, KEPT, (contents){NULL, LIVE});
    if (status != PERSE_OK && status != PERSE_NO_FILE) return status;
    PERSE_TRY(perse_move(p->folder, PREVIOUS, LIVE));
    return status == PERSE_OK ? perse_move(p->folder, KEPT, PREVIOUS) : PERSE_OK;
}

perse_status perse_rollback_pack(perse *p) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    PERSE_TRY(lock_folder(p));
    perse_status status = swap_files(p);
    flock(p->folder, LOCK_UN);
    if (status == PERSE_OK) use_spare(p);
    return status;
}

perse_status perse_reset_pack(perse *p) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    PERSE_TRY(replace(p, (contents){NULL, NULL}));
    PERSE_TRY(perse_factory(p, &p->spare));
    use_spare(p);
    return PERSE_OK;
}
