/* artifact.c - the artifact and the heads that are asked for, opened. */
#include "program.h"

#include <unistd.h>

const options *given; /* for the messages of check() */
static bool pack_opened;     /* what is said of heads is said of --pack's */

void check(perse_status status) {
    if (status == PERSE_OK) return;
    char where[512];
    const char *detail = perse_detail();
    bool of_pack = strncmp(detail, "heads.pack", 10) == 0 || (given->cache_file == NULL && strncmp(detail, "cache.bin", 9) == 0);
    bool of_artifact = of_pack || strncmp(detail, "backbone.bin", 12) == 0 || strncmp(detail, "packs", 5) == 0;
    bool named = of_pack && given->pack != NULL && pack_opened;
    snprintf(where, sizeof where, "%s%s%s%s%s%s", of_artifact ? given->artifact : "", of_artifact ? "/" : "", named ? "packs/" : "",
             named ? given->pack : "", named ? "/" : "", *detail ? detail : given->file ? given->file : given->command);
    fail(perse_status_text(status), where, perse_status_advice(status));
}

perse *open_artifact(const options *o, opener open) {
    perse *p;
    size_t size = perse_memory_size(o->threads);
    check(open(&p, o->artifact, o->threads, take_memory(size), size));
    return p;
}

perse_place *open_place(perse *p, const char *name, int flags) {
    perse_place *place;
    size_t size = perse_place_size(p);
    pack_opened = true;
    check(perse_open_place(p, name, flags, take_memory(size), size, &place));
    return place;
}

/* The artifact with the heads that --pack names. */
perse *open_heads(const options *o, int flags) {
    perse *p = open_artifact(o, o->pack != NULL ? perse_open_factory : perse_open);
    if (o->pack != NULL) check(perse_use_place(p, open_place(p, o->pack, flags)));
    return p;
}

perse_exit_info exit_info(const perse *p, uint32_t e) {
    perse_exit_info info;
    check(perse_get_exit(p, (int)e, &info));
    return info;
}

/* The folder of the executable. */
void find_artifact(options *o, const char *argv0) {
    static char path[4096];
    if (o->artifact != NULL) return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) length = snprintf(path, sizeof path, "%s", argv0);
    path[length < (ssize_t)sizeof path ? length : (ssize_t)sizeof path - 1] = 0;
    char *slash = strrchr(path, '/');
    if (slash == NULL) strcpy(path, ".");
    else slash[slash == path] = 0;
    o->artifact = path;
}
