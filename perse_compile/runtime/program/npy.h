/* npy.h - the executable's reader of NumPy's .npy files: versions 1 and 2, little-endian, C order. */
#ifndef PERSE_NPY_H
#define PERSE_NPY_H
#include <stddef.h>
#include <stdint.h>

enum { NPY_MAX_DIMENSIONS = 4 };

typedef struct {
    const uint8_t *data; /* of 8-byte alignment at least only if the file says so: copy what is wider than a byte */
    char dtype[8];       /* "|u1", "<f4", "<i4", "<i8" */
    int dimensions;
    uint64_t shape[NPY_MAX_DIMENSIONS], count;
    void *mapping;
    size_t mapped;
} npy;

/* NULL, or what is wrong, in the form "what: what to do". */
const char *npy_open(npy *out, const char *path);
void npy_close(npy *file);
#endif
