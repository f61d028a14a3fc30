/* classes.c - classes that the network never had: outputs without a class, and the names that a person gives them. */
#include "inside.h"

#include <string.h>

uint32_t perse_factory_classes(const perse_plan *plan) { return plan->classes - plan->spare; }

uint32_t perse_named_classes(const perse_plan *plan, const perse_pack *pack) {
    uint32_t named = 0;
    while (named < plan->spare && pack->names[(size_t)named * PERSE_CLASS_ROOM] != 0) named++;
    return perse_factory_classes(plan) + named;
}

static char *room_of(const perse *p, uint32_t k) {
    return p->live.names + (size_t)(k - perse_factory_classes(p->plan)) * PERSE_CLASS_ROOM;
}

const char *perse_class_name(const perse *p, uint32_t k) {
    return k < perse_factory_classes(p->plan) ? p->plan->class_names[k] : room_of(p, k);
}

uint32_t perse_class_of_name(const perse *p, const char *name) {
    uint32_t k = 0, named = perse_named_classes(p->plan, &p->live);
    while (k < named && strcmp(perse_class_name(p, k), name) != 0) k++;
    return k;
}

bool perse_head_knows(const perse_head *head, uint32_t k) { return head->bias[k] > PERSE_SPARE_LOGIT / 2; }

bool perse_pack_knows(const perse_plan *plan, const perse_pack *pack, uint32_t k) {
    bool knows = false;
    for (uint32_t e = 0; e < plan->exits; e++) knows = knows || perse_head_knows(&pack->exit[e].head, k);
    return knows;
}

/* ---- names ---- */

/* Whole characters of UTF-8, and nothing that is a command to a terminal. */
static bool is_text(const char *text) {
    int more = 0;
    for (const uint8_t *c = (const uint8_t *)text; *c != 0; c++) {
        bool goes_on = (*c & 0xC0) == 0x80;
        if (goes_on != (more > 0) || *c < ' ' || *c == 0x7F || *c > 0xF4 || (*c == 0xC2 && c[1] < 0xA0)) return false;
        bool longer = *c == 0xC0 || *c == 0xC1 || (*c == 0xE0 && c[1] < 0xA0) || (*c == 0xF0 && c[1] < 0x90); /* than it need be */
        if (longer || (*c == 0xED && c[1] > 0x9F) || (*c == 0xF4 && c[1] > 0x8F)) return false; /* half a character, none */
        more = goes_on ? more - 1 : *c < 0xC0 ? 0 : *c < 0xE0 ? 1 : *c < 0xF0 ? 2 : 3;
    }
    return more == 0;
}

bool perse_names_sound(const char *names, uint32_t spare) {
    for (uint32_t n = 0; n < spare; n++, names += PERSE_CLASS_ROOM) {
        if (names[PERSE_CLASS_ROOM - 1] != 0 || !is_text(names) || (n > 0 && *names != 0 && names[-PERSE_CLASS_ROOM] == 0)) return false;
        for (size_t i = strlen(names); i < PERSE_CLASS_ROOM; i++)
            if (names[i] != 0) return false;
    }
    return true;
}

perse_status perse_name_class(perse *p, const char *name) {
    if (p == NULL) return perse_fail(PERSE_BAD_ARGUMENT, "");
    uint32_t named = perse_named_classes(p->plan, &p->live);
    if (name == NULL) {
        while (named > perse_factory_classes(p->plan) && !perse_pack_knows(p->plan, &p->live, named - 1)) memset(room_of(p, --named), 0, PERSE_CLASS_ROOM);
        return PERSE_OK;
    }
    if (*name == 0 || strlen(name) > PERSE_LONGEST_CLASS || !is_text(name)) return perse_fail(PERSE_BAD_CLASS_NAME, is_text(name) ? name : "");
    if (perse_class_of_name(p, name) < named) return perse_fail(PERSE_CLASS_KNOWN, name);
    if (named == p->plan->classes) return perse_fail(PERSE_NO_SPARE_CLASS, name);
    memcpy(room_of(p, named), name, strlen(name));
    return PERSE_OK;
}
