/* file.c - what files are read and written with, whatever is in them. */
#define _DEFAULT_SOURCE
#include "inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

perse_status perse_take(perse_source *s, void *to, size_t size) {
    if (size > s->left) return perse_fail(PERSE_TRUNCATED, s->name);
    s->left -= size;
    if (s->bytes != NULL) {
        memcpy(to, s->bytes, size);
        s->bytes += size;
    } else {
        for (size_t done = 0; done < size;) {
            ssize_t n = read(s->fd, (uint8_t *)to + done, size - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return perse_fail_errno(errno, s->name);
            if (n == 0) return perse_fail(PERSE_TRUNCATED, s->name);
            done += (size_t)n;
        }
    }
    s->crc = perse_crc32(s->crc, to, size);
    return PERSE_OK;
}

perse_status perse_put(perse_sink *s, const void *from, size_t size) {
    s->crc = perse_crc32(s->crc, from, size);
    for (size_t done = 0; s->fd >= 0 && done < size;) {
        ssize_t n = write(s->fd, (const uint8_t *)from + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return perse_fail_errno(errno, s->name);
        done += (size_t)n;
    }
    return PERSE_OK;
}

perse_status perse_move(int folder, const char *from, const char *to) {
    if (renameat(folder, from, folder, to) != 0) return perse_fail_errno(errno, to);
    if (fsync(folder) != 0 && errno != EINVAL) return perse_fail_errno(errno, to);
    return PERSE_OK;
}

bool perse_all_zero(const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0) return false;
    return true;
}
