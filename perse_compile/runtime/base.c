/* base.c - status texts, the caller's memory, checksums. */
#include "inside.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char detail[192];

const char *perse_detail(void) { return detail; }

const char *perse_status_text(perse_status status) {
#define TEXT(code, text, advice) text,
    static const char *const texts[] = {PERSE_STATUS(TEXT)};
#undef TEXT
    return (unsigned)status < PERSE_STATUS_COUNT ? texts[status] : "unknown status";
}

const char *perse_status_advice(perse_status status) {
#define ADVICE(code, text, advice) advice,
    static const char *const advices[] = {PERSE_STATUS(ADVICE)};
#undef ADVICE
    return (unsigned)status < PERSE_STATUS_COUNT ? advices[status] : "";
}

#define TEXT(code, text) text,
const char *perse_verdict_text(perse_verdict verdict) {
    static const char *const texts[] = {PERSE_VERDICT(TEXT)};
    return (unsigned)verdict < PERSE_VERDICT_COUNT ? texts[verdict] : "unknown verdict";
}

const char *perse_teacher_text(perse_teacher teacher) {
    static const char *const texts[] = {PERSE_TEACHER(TEXT)};
    return (unsigned)teacher < PERSE_TEACHER_COUNT ? texts[teacher] : "unknown teacher";
}
#undef TEXT

perse_status perse_fail(perse_status status, const char *text) {
    if (text != detail) snprintf(detail, sizeof detail, "%s", text);
    return status;
}

perse_status perse_fail_errno(int error, const char *file) {
    if (error == ENOENT || error == ENOTDIR) return perse_fail(PERSE_NO_FILE, file);
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) return perse_fail(PERSE_DISK_FULL, file);
    snprintf(detail, sizeof detail, "%s (%s)", file, strerror(error));
    return PERSE_IO;
}

/* What a kernel of TVM says before it returns an error. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    size_t used = (size_t)snprintf(detail, sizeof detail, "%s: ", kind);
    for (int32_t i = 0; i < count && used < sizeof detail; i++)
        if (parts[i] != NULL) used += (size_t)snprintf(detail + used, sizeof detail - used, "%s", parts[i]);
}

perse_carver perse_carve_in(void *memory, size_t size) {
    size_t skip = (size_t)(-(uintptr_t)memory & 63);
    if (memory == NULL || size < skip) return (perse_carver){memory, 0, 0};
    return (perse_carver){(uint8_t *)memory + skip, size - skip, 0};
}

void *perse_carve(perse_carver *c, uint64_t count, size_t each) {
    size_t limit = c->base == NULL ? SIZE_MAX - 64 : c->size;
    if (c->used > limit || count > (limit - c->used) / each) {
        c->used = SIZE_MAX;
        return NULL;
    }
    size_t bytes = (size_t)count * each, padded = (bytes + 63) / 64 * 64;
    if (padded < bytes || padded > limit - c->used) {
        c->used = SIZE_MAX;
        return NULL;
    }
    void *piece = c->base == NULL ? NULL : c->base + c->used;
    c->used += padded;
    return piece;
}

size_t perse_carved_size(const perse_carver *c) { return c->used > SIZE_MAX - 64 ? SIZE_MAX : c->used + 64; }

/* Sixteen tables: table[k][b] is the checksum of byte b followed by k zeros. */
static uint32_t table[16][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = b;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        table[0][b] = c;
    }
    for (int k = 1; k < 16; k++)
        for (int b = 0; b < 256; b++) table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
}

uint32_t perse_crc32(uint32_t crc, const void *data, size_t size) {
    pthread_once(&table_once, make_table);
    const uint8_t *at = data;
    uint32_t c = ~crc;
    for (; size >= 16; size -= 16, at += 16) {
        uint32_t w[4];
        memcpy(w, at, 16);
        w[0] ^= c;
        c = 0;
        for (int i = 0; i < 4; i++)
            c ^= table[15 - 4 * i][w[i] & 255] ^ table[14 - 4 * i][w[i] >> 8 & 255] ^ table[13 - 4 * i][w[i] >> 16 & 255] ^
                 table[12 - 4 * i][w[i] >> 24];
    }
    for (; size > 0; size--, at++) c = c >> 8 ^ table[0][(c ^ *at) & 255];
    return ~c;
}

uint64_t perse_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
