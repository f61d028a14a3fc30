/* place.c - several packs for one backbone, each in its own folder; the one in use changes by pointer. */
#define _DEFAULT_SOURCE
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static perse_place *carve_place(perse_carver *c, const perse_plan *plan) {
    perse_place *place = perse_carve(c, 1, sizeof *place), all = {.folder = -1};
    perse_pack_carve(c, plan, &all.pack);
    if (c->base == NULL || c->used == SIZE_MAX) return NULL;
    *place = all;
    return place;
}

size_t perse_place_size(const perse *p) {
    if (p == NULL) return 0;
    perse_carver c = {NULL, 0, 0};
    carve_place(&c, p->plan);
    return perse_carved_size(&c);
}

static bool is_name(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length > PERSE_LONGEST_NAME || *name == '.') return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == length;
}

static perse_status make_folder(int in, const char *path) {
    return mkdirat(in, path, 0755) == 0 || errno == EEXIST ? PERSE_OK : perse_fail_errno(errno, path);
}

static perse_status open_files(perse_place *place, const char *name, int flags) {
    char path[8 + PERSE_LONGEST_NAME];
    int root = place->p->own.folder;
    snprintf(path, sizeof path, "packs/%s", name);
    if (flags & PERSE_CREATE) {
        PERSE_TRY(make_folder(root, "packs"));
        PERSE_TRY(make_folder(root, path));
    }
    place->folder = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (place->folder < 0) return perse_fail_errno(errno, path);
    bool factory = (flags & PERSE_FACTORY) != 0;
    perse_status status = factory ? PERSE_NO_FILE : perse_pack_read(place->p->plan, place->folder, "heads.pack", &place->pack);
    return status == PERSE_NO_FILE ? perse_factory(place->p, &place->pack) : status;
}

perse_status perse_open_place(perse *p, const char *name, int flags, void *memory, size_t size, perse_place **out) {
    if (out != NULL) *out = NULL;
    if (p == NULL || name == NULL || memory == NULL || out == NULL || flags < 0 || flags > (PERSE_CREATE | PERSE_FACTORY))
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    if (!is_name(name)) return perse_fail(PERSE_BAD_NAME, name);
    perse_carver c = perse_carve_in(memory, size);
    perse_place *place = carve_place(&c, p->plan);
    if (place == NULL) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_place_size");
    place->p = p;
    perse_status status = open_files(place, name, flags);
    if (status == PERSE_OK) *out = place;
    else perse_close_place(place);
    return status;
}

perse_status perse_use_place(perse *p, perse_place *place) {
    if (p == NULL || (place != NULL && place->p != p)) return perse_fail(PERSE_BAD_ARGUMENT, "");
    perse_place *old = p->current != NULL ? p->current : &p->own, *next = place != NULL ? place : &p->own;
    old->pack = p->live; /* its generation may have changed; the entries are pointed to */
    p->live = next->pack;
    p->folder = next->folder;
    p->current = place;
    perse_levels_use(p);
    perse_pack_stored(p);
    return PERSE_OK;
}

void perse_close_place(perse_place *place) {
    if (place == NULL) return;
    if (place->p->current == place) perse_use_place(place->p, NULL);
    if (place->folder >= 0) close(place->folder);
}
