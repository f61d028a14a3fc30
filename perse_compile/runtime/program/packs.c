/* packs.c - packs, rollback, reset. */
#include "program.h"

#include <dirent.h>
#include <errno.h>

/* p: with that pack in use, where it is sound */
static void print_pack(const options *o, const perse *p, const char *name, perse_status status) {
    perse_info i = perse_get_info(p);
    uint32_t generation = status == PERSE_OK ? i.generation : 0, own = status == PERSE_OK ? i.classes - i.spare : 0;
    say(o, "%-24s %s", *name ? name : "(the artifact's own)", status != PERSE_OK ? perse_status_text(status) : generation == 0 ? "factory" : "personalised");
    if (generation > 0) say(o, ", generation %u", generation);
    for (uint32_t k = i.factory_classes; k < own; k++) say(o, ", %s", i.class_names[k]);
    say(o, "\n");
    if (!o->json) return;
    json_open(NULL, '{'), json_string("name", name), json_bool("sound", status == PERSE_OK), json_whole("generation", generation);
    json_open("new_classes", '[');
    for (uint32_t k = i.factory_classes; k < own; k++) json_string(NULL, i.class_names[k]);
    json_close(']'), json_close('}');
}

static void list_pack(const options *o, perse *p, const char *name, void *memory, size_t size) {
    perse_place *place;
    perse_status status = perse_open_place(p, name, 0, memory, size, &place);
    if (status == PERSE_BAD_NAME || status == PERSE_NO_FILE) return; /* a stray file */
    if (status == PERSE_OK) check(perse_use_place(p, place));
    print_pack(o, p, name, status);
    perse_close_place(place);
}

static int by_text(const void *left, const void *right) { return strcmp(*(char *const *)left, *(char *const *)right); }

/* Names in the folder, in order. */
static char **names_in(DIR *folder, size_t *count) {
    char **names = NULL;
    *count = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char **more = realloc(names, (*count + 1) * sizeof *names);
        if (more == NULL || (more[*count] = strdup(entry->d_name)) == NULL) fail("not enough memory", "this device", "");
        names = more;
        ++*count;
    }
    if (*count > 0) qsort(names, *count, sizeof *names, by_text);
    return names;
}

int packs(const options *o) {
    char path[4200];
    size_t count = 0;
    perse *p = open_artifact(o, perse_open_factory);
    size_t size = perse_place_size(p);
    void *memory = take_memory(size);
    snprintf(path, sizeof path, "%s/packs", o->artifact);
    DIR *folder = opendir(path);
    if (folder == NULL && errno != ENOENT) fail(strerror(errno), path, "check the folder's permissions");
    char **names = folder == NULL ? NULL : names_in(folder, &count);
    if (o->json) json_open(NULL, '{'), json_open("packs", '[');
    perse_status own = perse_load_pack(p);
    print_pack(o, p, "", own == PERSE_NO_FILE ? PERSE_OK : own);
    for (size_t i = 0; i < count; i++) list_pack(o, p, names[i], memory, size);
    if (o->json) json_close(']'), json_close('}'), puts("");
    if (folder != NULL) closedir(folder);
    perse_close(p);
    return 0;
}

static int change_pack(const options *o, perse_status (*change)(perse *), const char *text) {
    perse *p = o->pack != NULL ? open_heads(o, PERSE_FACTORY) : open_artifact(o, perse_open_factory);
    check(change(p));
    uint32_t generation = perse_get_info(p).generation;
    say(o, "%s (generation %u)\n", text, generation);
    if (o->json) json_open(NULL, '{'), json_whole("generation", generation), json_close('}'), puts("");
    perse_close(p);
    return 0;
}

int rollback(const options *o) { return change_pack(o, perse_rollback_pack, "the previous heads are back"); }
int reset(const options *o) { return change_pack(o, perse_reset_pack, "the factory heads are back"); }
