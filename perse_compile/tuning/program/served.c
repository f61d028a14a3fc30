/* served.c - the measuring program as a library that a server of TVM's RPC loads and calls.
 *
 * The server's child process for this session works in a folder of its own, where batch.data lies and the answers go.
 * The function's form is TVM-FFI's C ABI, so the library needs nothing of TVM. */
#define _GNU_SOURCE
#include "batch.h"

#include <stdio.h>

typedef struct {
    int32_t kind;
    uint32_t zero;
    union {
        int64_t integer;
        double number;
    } value;
} any;
enum { INTEGER = 1, BOOLEAN = 2, NUMBER = 3 };
enum { DONE, BAD_CALL, NO_DATA, NO_ANSWERS };

static double number(any a) { return a.kind == NUMBER ? a.value.number : (double)a.value.integer; }

static int measure(const perse_effort *effort) {
    static char line[PERSE_LINE];
    const uint8_t *data = perse_map("batch.data");
    if (data == NULL) return NO_DATA;
    FILE *answers = fopen("batch.answers", "w");
    if (answers == NULL) return NO_ANSWERS;
    for (uint32_t i = 0; i < perse_candidate_count; i++) {
        perse_measure_apart(&perse_candidates[i], data, effort, line);
        fprintf(answers, "%s\n", line);
    }
    bool failed = ferror(answers) != 0;
    return fclose(answers) != 0 || failed ? NO_ANSWERS : DONE;
}

/* (threads, repeats, seconds, limit, sweep), as in perse_effort. */
int __tvm_ffi_perse_measure(void *self, const any *arguments, int32_t count, any *result);
int __tvm_ffi_perse_measure(void *self, const any *arguments, int32_t count, any *result) {
    (void)self;
    bool numbers = count == 5;
    for (int32_t i = 0; numbers && i < count; i++) numbers = arguments[i].kind >= INTEGER && arguments[i].kind <= NUMBER;
    int status = BAD_CALL;
    if (numbers) {
        const any *a = arguments;
        perse_effort effort = {(int)number(a[0]), (int)number(a[1]), number(a[2]), number(a[3]), (uint64_t)number(a[4])};
        status = measure(&effort);
    }
    *result = (any){INTEGER, 0, {.integer = status}};
    return 0;
}
