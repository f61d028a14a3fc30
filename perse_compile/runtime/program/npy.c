/* npy.c - see npy.h. */
#define _POSIX_C_SOURCE 200809L
#include "npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char NOT_NPY[] = "not a .npy file: save the array with numpy.save";
static const char BAD_HEADER[] = "damaged .npy header: save the array again with numpy.save";
static const char TRUNCATED[] = "truncated .npy file: copy or save it again";

/* Text after `'key':` and blanks, or NULL. */
static const char *value_of(const char *header, const char *key) {
    const char *at = strstr(header, key);
    if (at == NULL) return NULL;
    at += strlen(key);
    while (*at == ' ') at++;
    return at;
}

static const char *parse_dtype(npy *out, const char *header) {
    static const struct { const char *text; int size; } known[] = {{"'|u1'", 1}, {"'<f4'", 4}, {"'<i4'", 4}, {"'<i8'", 8}};
    const char *at = value_of(header, "'descr':");
    if (at == NULL) return BAD_HEADER;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strncmp(at, known[i].text, 5) != 0) continue;
        memcpy(out->dtype, at + 1, 3);
        out->count = (uint64_t)known[i].size; /* multiplied by the shape next */
        return NULL;
    }
    return strncmp(at, "'>", 2) == 0 ? "big-endian data: save it as little-endian"
                                     : "data type not supported: save images as uint8, labels as int32 or int64";
}

static const char *parse_shape(npy *out, const char *header) {
    const char *at = value_of(header, "'shape':");
    uint64_t bytes = out->count;
    if (at == NULL || *at++ != '(') return BAD_HEADER;
    out->count = 1;
    for (out->dimensions = 0; *at != ')'; out->dimensions++) {
        char *end;
        if (out->dimensions == NPY_MAX_DIMENSIONS) return "too many dimensions: give [H, W, C] or [N, H, W, C] images";
        if (*at < '0' || *at > '9') return BAD_HEADER;
        errno = 0;
        unsigned long long size = strtoull(at, &end, 10);
        if (errno != 0 || (size > 0 && out->count * bytes > SIZE_MAX / size)) return BAD_HEADER;
        out->shape[out->dimensions] = size;
        out->count *= size;
        for (at = end; *at == ' ' || *at == ','; at++) continue;
    }
    return out->count * bytes == 0 && bytes > 0 ? "no data in it: give at least one image" : NULL;
}

static const char *parse(npy *out, const uint8_t *file, size_t size) {
    char header[1024];
    if (size < 12) return memcmp(file, "\x93NUMPY", size < 6 ? size : 6) == 0 && size >= 6 ? TRUNCATED : NOT_NPY;
    if (memcmp(file, "\x93NUMPY", 6) != 0) return NOT_NPY;
    if ((file[6] != 1 && file[6] != 2) || file[7] != 0) return "version of .npy not supported: save it with version 1 or 2";
    size_t start = file[6] == 1 ? 10 : 12, length = file[8] + 256u * file[9];
    if (file[6] == 2) length += 65536u * (size_t)file[10] + 16777216u * (size_t)file[11];
    if (length >= sizeof header) return BAD_HEADER;
    if (length > size - start) return TRUNCATED;
    memcpy(header, file + start, length);
    header[length] = 0;
    const char *order = value_of(header, "'fortran_order':"), *wrong = parse_dtype(out, header);
    if (wrong != NULL) return wrong;
    uint64_t each = out->count;
    if (order == NULL) return BAD_HEADER;
    if (strncmp(order, "False", 5) != 0) return "Fortran order: save numpy.ascontiguousarray(x)";
    wrong = parse_shape(out, header);
    if (wrong != NULL) return wrong;
    uint64_t bytes = out->count * each, there = size - start - length;
    if (there < bytes) return TRUNCATED;
    if (there > bytes) return "more data than its header says: save it again";
    out->data = file + start + length;
    return NULL;
}

const char *npy_open(npy *out, const char *path) {
    static char text[160];
    *out = (npy){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(text, sizeof text, "%s: check the path", strerror(errno));
        return text;
    }
    struct stat about;
    const char *wrong = NULL;
    void *file = MAP_FAILED;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) wrong = "not a file: give a .npy file";
    else if (about.st_size == 0) wrong = "empty file: copy or save it again";
    else if ((uint64_t)about.st_size > SIZE_MAX || (file = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        wrong = "cannot be mapped into memory: give fewer images at a time";
    close(fd);
    if (wrong != NULL) return wrong;
    wrong = parse(out, file, (size_t)about.st_size);
    out->mapping = file;
    out->mapped = (size_t)about.st_size;
    if (wrong != NULL) npy_close(out);
    return wrong;
}

void npy_close(npy *file) {
    if (file->mapping != NULL) munmap(file->mapping, file->mapped);
    *file = (npy){0};
}
