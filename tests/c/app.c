/* app.c - what an app does with libperse.a: open, look at every probe through every exit, close.
 * Prints label, exit, stages, and confidence and logits bit by bit, so that two runs can be compared. */
#include "perse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void bits(float value) {
    uint32_t raw;
    memcpy(&raw, &value, sizeof raw);
    printf(" %08" PRIx32, raw);
}

static perse_status look(perse *p) {
    perse_info info = perse_get_info(p);
    float *logits = malloc(info.classes * sizeof *logits);
    if (logits == NULL) return PERSE_OUT_OF_MEMORY;
    for (int probe = 0; probe < (int)info.probes; probe++) {
        for (int exit = PERSE_CASCADE; exit < (int)info.exits; exit++) {
            const uint8_t *image;
            const float *expected;
            perse_result r;
            PERSE_TRY(perse_get_probe(p, probe, &image, &expected));
            PERSE_TRY(perse_run_u8(p, image, exit, &r, logits));
            printf("%d %d %d", r.label, r.exit, r.stages);
            bits(r.confidence);
            for (uint32_t k = 0; k < info.classes; k++) bits(logits[k]);
            puts("");
        }
    }
    free(logits);
    return PERSE_OK;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int threads = atoi(argv[2]);
    size_t size = perse_memory_size(threads);
    void *memory = malloc(size);
    perse *p = NULL;
    perse_status status = memory == NULL ? PERSE_OUT_OF_MEMORY : perse_open(&p, argv[1], threads, memory, size);
    if (status == PERSE_OK) status = look(p);
    if (status != PERSE_OK) fprintf(stderr, "%s: %s\n", perse_status_text(status), perse_detail());
    perse_close(p);
    free(memory);
    return status != PERSE_OK;
}
