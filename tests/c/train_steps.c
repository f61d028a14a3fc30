/* Runs the training steps that a test wrote, and leaves the losses on stdout and the head in heads.pack.
 * usage: train_steps FOLDER EXIT STEPS.bin; STEPS.bin: uint32 count, then per step 4 floats (1/T, rate, momentum,
 * decay), features [B][F], hard [B][K], soft [B][K]. */
#include <stdio.h>
#include <stdlib.h>

#include "perse.h"

static void check(perse_status status) {
    if (status == PERSE_OK) return;
    fprintf(stderr, "%s: %s\n", perse_status_text(status), perse_detail());
    exit(1);
}

static void *take(size_t size) {
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
    if (memory == NULL) exit(3);
    return memory;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int exit_index = atoi(argv[2]);
    size_t size = perse_memory_size(2);
    perse *p;
    check(perse_open(&p, argv[1], 2, take(size), size));
    perse_info info = perse_get_info(p);
    perse_exit_info exit_info;
    check(perse_get_exit(p, exit_index, &exit_info));
    size_t f = (size_t)info.train_batch * exit_info.features, k = (size_t)info.train_batch * info.classes;
    float *features = take(f * sizeof *features), *hard = take(k * sizeof *hard), *soft = take(k * sizeof *soft), knobs[4];
    size_t training_size = perse_training_size(p, exit_index);
    perse_training *training;
    check(perse_train_begin(p, exit_index, take(training_size), training_size, &training));
    FILE *file = fopen(argv[3], "rb");
    uint32_t count;
    if (file == NULL || fread(&count, sizeof count, 1, file) != 1) return 3;
    for (uint32_t step = 0; step < count; step++) {
        if (fread(knobs, sizeof *knobs, 4, file) != 4 || fread(features, sizeof *features, f, file) != f ||
            fread(hard, sizeof *hard, k, file) != k || fread(soft, sizeof *soft, k, file) != k)
            return 3;
        perse_batch batch = {features, hard, soft, knobs[0], knobs[1], knobs[2], knobs[3]};
        float loss;
        check(perse_train_batch(training, &batch, &loss));
        printf("%.9g\n", (double)loss);
    }
    check(perse_save_pack(p));
    perse_close(p);
    return 0;
}
