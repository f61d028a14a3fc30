/* test_runtime.c - the library on the mock network. Usage: test_runtime ARTIFACT SCRATCH [TESTS]; the first two are folders,
 * TESTS is what the names of the tests to run begin with (all).
 *
 * Every status must come up at least once; see `met`. */
#define _DEFAULT_SOURCE
#include "fit.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIXELS = 8 * 8 * 3, USERS = 300, KNOWN = 5, SPARE = 2, K = KNOWN + SPARE, EXITS = 3, FEATURES = 16 + 24 + 32, B = 8, NAMES = 64 * SPARE };
enum { FAIL_NONE, FAIL_INPUT, FAIL_STAGE, FAIL_POOL, FAIL_HEAD, FAIL_TRAIN, FAIL_NAN_LOGITS, FAIL_WORKSPACE };
extern int mock_fail, mock_stages, mock_heads;

static const char *source, *scratch;
static bool met[PERSE_STATUS_COUNT];
static const char *running;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: %s [%s]\n", __FILE__, __LINE__, running, #condition, perse_detail()); \
            exit(1); \
        } \
    } while (0)

static void expect_at(int line, perse_status want, perse_status got) {
    met[want] = true;
    if (want == got) return;
    fprintf(stderr, "%s:%d: %s: expected '%s', got '%s' [%s]\n", __FILE__, line, running, perse_status_text(want), perse_status_text(got),
            perse_detail());
    exit(1);
}
#define EXPECT(want, call) expect_at(__LINE__, want, call)

/* ---- files ---- */

static const char *path_in(const char *folder, const char *name) {
    static char path[2][512];
    static int turn;
    snprintf(path[turn ^= 1], sizeof *path, "%s/%s", folder, name);
    return path[turn];
}

static uint8_t *read_file(const char *folder, const char *name, size_t *size) {
    FILE *f = fopen(path_in(folder, name), "rb");
    CHECK(f != NULL);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*size + 1);
    CHECK(bytes != NULL && fread(bytes, 1, *size, f) == *size);
    fclose(f);
    return bytes;
}

static void write_file(const char *folder, const char *name, const void *bytes, size_t size) {
    FILE *f = fopen(path_in(folder, name), "wb");
    CHECK(f != NULL && fwrite(bytes, 1, size, f) == size);
    fclose(f);
}

static void copy_in(const char *name) {
    size_t size;
    uint8_t *bytes = read_file(source, name, &size);
    write_file(scratch, name, bytes, size);
    free(bytes);
}

static bool exists(const char *name) { return access(path_in(scratch, name), F_OK) == 0; }

static void fresh_folder(void) {
    static const char *const leftovers[] = {"heads.pack.previous", "heads.pack.new", "heads.pack.kept", "cache.bin", "cache.bin.new"};
    for (int i = 0; i < 5; i++) {
        unlink(path_in(scratch, leftovers[i]));
        rmdir(path_in(scratch, leftovers[i]));
    }
    copy_in("backbone.bin");
    copy_in("heads.pack");
}

static bool same_file(const char *name, const uint8_t *bytes, size_t size) {
    size_t now_size;
    uint8_t *now = read_file(scratch, name, &now_size);
    bool same = now_size == size && memcmp(now, bytes, size) == 0;
    free(now);
    return same;
}

/* ---- opening ---- */

static void *memory;
static size_t memory_size;

static perse_status try_open_with(perse **p, int threads) {
    free(memory);
    memory_size = perse_memory_size(threads);
    memory = malloc(memory_size);
    memset(memory, 0xA5, memory_size);
    return perse_open(p, scratch, threads, memory, memory_size);
}

static perse_status try_open(void) {
    perse *p;
    perse_status status = try_open_with(&p, 1);
    if (status == PERSE_OK) perse_close(p);
    else CHECK(p == NULL);
    return status;
}

static perse *open_with(int threads) {
    perse *p;
    EXPECT(PERSE_OK, try_open_with(&p, threads));
    return p;
}

static uint8_t (*pixels)[PIXELS]; /* [USERS] of the user at hand */
static int32_t labels[USERS];
static float *features; /* [USERS][FEATURES] */

static void load_user(perse *p, const char *name) {
    size_t size;
    uint8_t *bytes = read_file(source, name, &size);
    CHECK(size == USERS * (PIXELS + 4));
    free(pixels);
    pixels = (uint8_t(*)[PIXELS])(void *)bytes;
    memcpy(labels, bytes + USERS * PIXELS, sizeof labels);
    free(features);
    features = malloc(USERS * FEATURES * sizeof *features);
    for (int i = 0; i < USERS; i++) EXPECT(PERSE_OK, perse_features_u8(p, pixels[i], features + i * FEATURES));
}

/* ---- tests ---- */

static void test_crc32(void) {
    CHECK(perse_crc32(0, "123456789", 9) == 0xCBF43926u);
    uint8_t bytes[100];
    for (int i = 0; i < 100; i++) bytes[i] = (uint8_t)(i * 37);
    for (size_t cut = 0; cut <= 100; cut++) CHECK(perse_crc32(perse_crc32(0, bytes, cut), bytes + cut, 100 - cut) == perse_crc32(0, bytes, 100));
}

static void test_texts(void) {
    for (int s = 0; s < PERSE_STATUS_COUNT; s++) CHECK(*perse_status_text((perse_status)s) && (s == PERSE_OK || *perse_status_advice((perse_status)s)));
    CHECK(strcmp(perse_status_text(PERSE_STATUS_COUNT), "unknown status") == 0);
    CHECK(strcmp(perse_verdict_text(PERSE_VERDICT_COUNT), "unknown verdict") == 0);
    CHECK(strcmp(perse_teacher_text(PERSE_TEACHER_COUNT), "unknown teacher") == 0);
}

static int threads_may_start = 99;
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    return threads_may_start-- > 0 ? __real_pthread_create(thread, attributes, run, argument) : EAGAIN;
}

static void test_open(void) {
    perse *p;
    char *block = malloc(perse_memory_size(2) + 1);
    CHECK(perse_memory_size(-1) == 0 && perse_memory_size(PERSE_MAX_THREADS + 1) == 0 && perse_memory_size(0) > 0);
    EXPECT(PERSE_BAD_ARGUMENT, perse_open(&p, NULL, 1, block, 1));
    EXPECT(PERSE_BAD_ARGUMENT, perse_open(&p, scratch, -1, block, 1));
    EXPECT(PERSE_BAD_ARGUMENT, perse_open(&p, scratch, 1, NULL, 1));
    EXPECT(PERSE_BAD_ARGUMENT, perse_open(NULL, scratch, 1, block, 1));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_open(&p, scratch, 1, block, 0));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_open(&p, scratch, 2, block, perse_memory_size(2) - 128));
    EXPECT(PERSE_NO_FILE, perse_open(&p, "/no/such/folder", 2, block, perse_memory_size(2)));
    EXPECT(PERSE_OK, perse_open(&p, scratch, 2, block + 1, perse_memory_size(2))); /* any alignment */
    perse_info info = perse_get_info(p);
    CHECK(info.exits == EXITS && info.classes == K && info.spare == SPARE && info.features == FEATURES && info.threads == 2 && info.generation == 0);
    perse_close(p);
    perse_close(NULL);
    threads_may_start = 1;
    EXPECT(PERSE_THREAD_FAILED, try_open_with(&p, 4));
    threads_may_start = 9999;
    unlink(path_in(scratch, "heads.pack")); /* the factory heads do then */
    EXPECT(PERSE_OK, try_open());
    unlink(path_in(scratch, "backbone.bin"));
    EXPECT(PERSE_NO_FILE, try_open());
    CHECK(strcmp(perse_detail(), "backbone.bin") == 0);
    mkdir(path_in(scratch, "backbone.bin"), 0755);
    EXPECT(PERSE_IO, try_open());
    rmdir(path_in(scratch, "backbone.bin"));
    free(block);
}

static void patch(const char *name, size_t at, const void *bytes, size_t size, bool fix_checksum) {
    size_t total;
    copy_in(name);
    uint8_t *file = read_file(scratch, name, &total);
    memcpy(file + at, bytes, size);
    if (fix_checksum) {
        uint32_t crc = perse_crc32(0, file + 16, total - 16);
        memcpy(file + 12, &crc, 4);
    }
    write_file(scratch, name, file, total);
    free(file);
}

static void test_damage(void) {
    static const char *const names[] = {"backbone.bin", "heads.pack"};
    uint32_t other = 77;
    for (int n = 0; n < 2; n++) {
        patch(names[n], 0, "X", 1, false);
        EXPECT(PERSE_BAD_MAGIC, try_open());
        CHECK(strcmp(perse_detail(), names[n]) == 0);
        patch(names[n], 8, &other, 4, false);
        EXPECT(PERSE_BAD_VERSION, try_open());
        copy_in(names[n]);
        size_t size;
        uint8_t *whole = read_file(scratch, names[n], &size);
        for (size_t cut = 0; cut < size; cut += cut < 200 ? 1 : 331) {
            write_file(scratch, names[n], whole, cut);
            EXPECT(PERSE_TRUNCATED, try_open());
        }
        write_file(scratch, names[n], whole, size + 1); /* one byte of read_file's spare */
        EXPECT(PERSE_TRUNCATED, try_open());
        for (size_t bit = 0; bit < size * 8; bit += bit < 64 * 8 ? 1 : 641) { /* every bit of the header, and many after */
            whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
            write_file(scratch, names[n], whole, size);
            CHECK(try_open() != PERSE_OK);
            whole[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        whole[size - 1] ^= 1;
        write_file(scratch, names[n], whole, size);
        EXPECT(PERSE_BAD_CHECKSUM, try_open());
        free(whole);
        copy_in(names[n]);
    }
    uint64_t offset = 8192;
    patch("backbone.bin", 24, &offset, 8, false);
    EXPECT(PERSE_BAD_CHECKSUM, try_open());
    patch("backbone.bin", 4096, "another network", 15, true);
    EXPECT(PERSE_WRONG_BACKBONE, try_open());
    copy_in("backbone.bin");
    uint32_t values[] = {0, 7}; /* heads_id; enabled; temperature; reserved; */
    patch("heads.pack", 32, &values[0], 4, true);
    EXPECT(PERSE_WRONG_PACK, try_open());
    patch("heads.pack", 92 + NAMES, &values[1], 4, true);
    EXPECT(PERSE_BAD_LAYOUT, try_open());
    patch("heads.pack", 96 + NAMES, &values[0], 4, true);
    EXPECT(PERSE_BAD_LAYOUT, try_open());
    patch("heads.pack", 60, &values[1], 4, true);
    EXPECT(PERSE_BAD_LAYOUT, try_open());
    patch("heads.pack", 40, &values[1], 4, true); /* channels */
    EXPECT(PERSE_BAD_LAYOUT, try_open());
    const float levels[][2] = {{-1, 9}, {9, 8}, {0, 256}, {NAN, 9}, {0, INFINITY}};
    for (int i = 0; i < 5; i++) {
        patch("heads.pack", 80, levels[i], 8, true);
        EXPECT(PERSE_BAD_LAYOUT, try_open());
    }
    perse *p;
    EXPECT(PERSE_OK, perse_open_factory(&p, scratch, 1, memory, memory_size));
    perse_close(p);
}

static void test_cascade(void) {
    perse *p = open_with(2);
    load_user(p, "generic.raw");
    perse_result r, all[EXITS];
    float logits[K], every[EXITS][K], cached[FEATURES], image[PIXELS];
    for (int i = 0; i < 50; i++) {
        EXPECT(PERSE_OK, perse_observe_u8(p, pixels[i], all, &every[0][0], cached));
        CHECK(memcmp(cached, features + i * FEATURES, sizeof cached) == 0);
        for (int e = 0; e < EXITS; e++) {
            mock_stages = 0;
            EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], e, &r, logits));
            CHECK(r.exit == e && r.stages == e + 1 && mock_stages == e + 1);
            CHECK(memcmp(&r, &all[e], sizeof r) == 0 && memcmp(logits, every[e], sizeof logits) == 0);
            perse_exit_info x;
            EXPECT(PERSE_OK, perse_get_exit(p, e, &x));
            EXPECT(PERSE_OK, perse_head_logits(p, e, cached + x.feature_offset, logits));
            CHECK(memcmp(logits, every[e], sizeof logits) == 0);
        }
        int want = all[0].confidence >= 0.9f ? 0 : all[1].confidence >= 0.9f ? 1 : 2;
        mock_stages = 0;
        EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], PERSE_CASCADE, &r, logits));
        CHECK(r.exit == want && r.stages == want + 1 && mock_stages == want + 1 && r.label == all[want].label);
        for (int j = 0; j < PIXELS; j++) image[j] = (float)pixels[i][j] / 255.0f - 0.5f;
        float same[K];
        EXPECT(PERSE_OK, perse_run_f32(p, image, PERSE_CASCADE, &r, same));
        CHECK(memcmp(logits, same, sizeof same) == 0);
    }
    EXPECT(PERSE_OK, perse_observe_f32(p, image, all, NULL, NULL));
    EXPECT(PERSE_OK, perse_features_f32(p, image, cached));
    EXPECT(PERSE_OK, perse_set_exit(p, 0, false, 1, 0)); /* disabled: its threshold means nothing */
    EXPECT(PERSE_OK, perse_set_exit(p, 1, true, 1, 0));
    EXPECT(PERSE_OK, perse_run_u8(p, pixels[0], PERSE_CASCADE, &r, NULL));
    CHECK(r.exit == 1 && r.stages == 2);
    double input, stage[EXITS], head[EXITS];
    EXPECT(PERSE_OK, perse_profile_u8(p, pixels[0], &input, stage, head));
    for (int e = 0; e < EXITS; e++) CHECK(stage[e] > 0 && head[e] > 0);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        image[PIXELS - 1] = bad[i];
        EXPECT(PERSE_NAN_INPUT, perse_run_f32(p, image, 0, &r, NULL));
        cached[0] = bad[i];
        EXPECT(PERSE_NAN_INPUT, perse_head_logits(p, 0, cached, logits));
    }
    const uint8_t *probe;
    const float *expected;
    for (int i = 0; i < 3; i++) {
        EXPECT(PERSE_OK, perse_get_probe(p, i, &probe, &expected));
        EXPECT(PERSE_OK, perse_observe_u8(p, probe, all, &every[0][0], NULL));
        for (int j = 0; j < EXITS * K; j++) CHECK(fabsf(every[j / K][j % K] - expected[j]) < 1e-4f);
    }
    perse_close(p);
}

static void test_arguments(void) {
    perse *p = open_with(1);
    perse_result r;
    float values[FEATURES] = {0};
    uint8_t image[PIXELS] = {0};
    perse_exit_info x;
    perse_training *t;
    const uint8_t *probe;
    const float *expected;
    EXPECT(PERSE_BAD_ARGUMENT, perse_run_u8(p, image, EXITS, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_run_u8(p, image, -2, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_run_u8(p, NULL, 0, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_run_u8(NULL, image, 0, &r, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_observe_u8(p, image, NULL, NULL, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_features_u8(p, image, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_head_logits(p, EXITS, values, values));
    EXPECT(PERSE_BAD_ARGUMENT, perse_profile_u8(p, image, NULL, NULL, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_get_exit(p, -1, &x));
    EXPECT(PERSE_BAD_ARGUMENT, perse_get_probe(p, 3, &probe, &expected));
    EXPECT(PERSE_BAD_ARGUMENT, perse_set_exit(p, 0, true, 0, 0.5f));
    EXPECT(PERSE_BAD_ARGUMENT, perse_set_exit(p, 0, true, 1, NAN));
    EXPECT(PERSE_BAD_ARGUMENT, perse_set_exit(p, EXITS - 1, false, 1, 0));
    EXPECT(PERSE_BAD_ARGUMENT, perse_train_begin(p, EXITS, values, 4, &t));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_train_begin(p, 0, values, sizeof values, &t));
    EXPECT(PERSE_BAD_ARGUMENT, perse_train_batch(NULL, NULL, NULL));
    float levels[6] = {10, 200, 10, 200, 10, 200};
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_levels(NULL, image, 1, levels));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_levels(p, NULL, 1, levels));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_levels(p, image, 0, levels));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_levels(p, image, 1, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_get_levels(NULL, levels, NULL, NULL));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, NULL, NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_set_levels(NULL, levels));
    static const float bad[] = {-1, 201, NAN, -INFINITY};
    for (int i = 0; i < 4; i++) {
        levels[4] = bad[i];
        EXPECT(PERSE_BAD_ARGUMENT, perse_set_levels(p, levels));
    }
    levels[4] = 10, levels[5] = 255.5f;
    EXPECT(PERSE_BAD_ARGUMENT, perse_set_levels(p, levels));
    perse_final final;
    perse_samples samples = {.count = 1, .features = values}, none = {.count = 1};
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_final(NULL, &samples, &final));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_final(p, NULL, &final));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_final(p, &none, &final));
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_final(p, &samples, NULL));
    samples.count = 0;
    EXPECT(PERSE_BAD_ARGUMENT, perse_measure_final(p, &samples, &final));
    EXPECT(PERSE_BAD_ARGUMENT, perse_save_pack(NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_load_pack(NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_rollback_pack(NULL));
    EXPECT(PERSE_BAD_ARGUMENT, perse_reset_pack(NULL));
    CHECK(perse_training_size(p, -1) == 0 && perse_fit_size(NULL, 1) == 0 && perse_calibrate_size(NULL, 1) == 0);
    perse_close(p);
}

static void test_kernel_failures(void) {
    perse *p = open_with(2);
    uint8_t image[PIXELS] = {0};
    perse_result r;
    for (mock_fail = FAIL_INPUT; mock_fail <= FAIL_WORKSPACE; mock_fail++) {
        if (mock_fail == FAIL_TRAIN) continue;
        EXPECT(PERSE_KERNEL_FAILED, perse_run_u8(p, image, 0, &r, NULL));
        CHECK(strcmp(perse_detail(), mock_fail == FAIL_NAN_LOGITS   ? "logits are not finite"
                                     : mock_fail == FAIL_WORKSPACE ? "kernel workspace exhausted"
                                                                   : "ValueError: mock kernel refused") == 0);
    }
    mock_fail = FAIL_NONE;
    EXPECT(PERSE_OK, perse_run_u8(p, image, 0, &r, NULL));
    perse_close(p);
}

/* Loss of plan.h in double, for the reference of the training step. */
static double reference_loss(const float *x, const float *hard, const float *soft, double inverse, double decay, const perse_head *h,
                             const perse_head *anchor, int f) {
    double loss = 0;
    for (int b = 0; b < B; b++) {
        double z[K], sum = 0, soft_sum = 0;
        for (int k = 0; k < K; k++) {
            z[k] = h->bias[k];
            for (int i = 0; i < f; i++) z[k] += ((double)x[b * f + i] - h->shift[i]) * h->scale[i] * h->weight[i * K + k];
        }
        for (int k = 0; k < K; k++) sum += exp(z[k]), soft_sum += exp(z[k] * inverse);
        for (int k = 0; k < K; k++) loss -= hard[b * K + k] * (z[k] - log(sum)) + soft[b * K + k] * (z[k] * inverse - log(soft_sum));
    }
    for (int i = 0; i < f * K; i++) loss += decay / 2 * pow((double)h->weight[i] - anchor->weight[i], 2);
    for (int k = 0; k < K; k++) loss += decay / 2 * pow((double)h->bias[k] - anchor->bias[k], 2);
    return loss;
}

static void test_training_step(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    enum { EXIT = 1, F = 24, OFFSET = 16 };
    size_t size = perse_training_size(p, EXIT);
    void *block = malloc(size);
    perse_training *t;
    EXPECT(PERSE_OK, perse_train_begin(p, EXIT, block, size, &t));
    float x[B * F], hard[B * K] = {0}, soft[B * K] = {0}, before[F * K], loss;
    for (int b = 0; b < B - 1; b++) { /* the last row is padding */
        memcpy(x + b * F, features + b * FEATURES + OFFSET, F * sizeof *x);
        hard[b * K + labels[b]] = 0.7f / (B - 1);
        for (int k = 0; k < KNOWN; k++) soft[b * K + k] = 0.3f * 4 * (float)(k + 1) / 15 / (B - 1);
    }
    memset(x + (B - 1) * F, 0, F * sizeof *x);
    perse_batch batch = {x, hard, soft, 0.5f, 0.1f, 0.9f, 0.01f};
    const perse_head *h = &p->live.exit[EXIT].head;
    double velocity[F * K] = {0}, first = 0;
    for (int step = 0; step < 5; step++) {
        double want = reference_loss(x, hard, soft, 0.5, (double)0.01f, h, &t->anchor, F);
        for (int i = 0; i < F * K; i++) { /* gradients by central differences */
            float kept = h->weight[i];
            h->weight[i] = kept + 1e-3f;
            double above = reference_loss(x, hard, soft, 0.5, (double)0.01f, h, &t->anchor, F), high = h->weight[i];
            h->weight[i] = kept - 1e-3f;
            double below = reference_loss(x, hard, soft, 0.5, (double)0.01f, h, &t->anchor, F);
            velocity[i] = (double)0.9f * velocity[i] + (above - below) / (high - h->weight[i]);
            h->weight[i] = kept;
        }
        memcpy(before, h->weight, sizeof before);
        EXPECT(PERSE_OK, perse_train_batch(t, &batch, &loss));
        CHECK(fabs(loss - want) < 1e-5 * fabs(want));
        for (int i = 0; i < F * K; i++) CHECK(fabs(before[i] - (double)0.1f * velocity[i] - h->weight[i]) < 2e-5);
        CHECK(step == 0 || loss < first);
        if (step == 0) first = loss;
    }
    mock_fail = FAIL_TRAIN;
    EXPECT(PERSE_KERNEL_FAILED, perse_train_batch(t, &batch, NULL));
    mock_fail = FAIL_NONE;
    x[3] = NAN;
    EXPECT(PERSE_NAN_INPUT, perse_train_batch(t, &batch, NULL));
    x[3] = 0, hard[0] = INFINITY;
    EXPECT(PERSE_NAN_INPUT, perse_train_batch(t, &batch, NULL));
    free(block);
    perse_close(p);
}

static perse_exit_report exit_reports[EXITS];
static float prior[K];

static perse_status fit_with(perse *p, uint32_t count, const int32_t *given, const perse_fit_options *o, perse_report *report) {
    perse_samples samples = {.count = count, .features = features, .labels = given};
    size_t size = perse_fit_size(p, count);
    void *block = malloc(size);
    memset(block, 0xFF, size); /* NaN, where something is used before it is written */
    *report = (perse_report){.exits = exit_reports, .prior = prior};
    perse_status status = perse_fit(p, &samples, o, block, size, report);
    free(block);
    return status;
}

static double accuracy_of(perse *p) {
    perse_result r;
    int right = 0;
    for (int i = 0; i < USERS; i++) {
        EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], PERSE_CASCADE, &r, NULL));
        right += r.label == labels[i];
    }
    return (double)right / USERS;
}

static void test_personalise(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    double before = accuracy_of(p);
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    CHECK(r.verdict == PERSE_BETTER && r.labelled && r.after.accuracy > r.before.accuracy + 0.1 && r.after.cost < r.before.cost);
    CHECK(r.train == USERS && r.judged == USERS);
    CHECK(accuracy_of(p) > before + 0.2 && perse_get_info(p).generation == 1);
    double sum = 0;
    for (int e = 0; e < EXITS; e++) sum += exit_reports[e].share_after;
    CHECK(fabs(sum - 1) < 1e-9 && prior[4] == 0);
    for (int e = 0; e < EXITS; e++) CHECK(exit_reports[e].epochs > 0 && exit_reports[e].last_loss < exit_reports[e].first_loss);
    EXPECT(PERSE_OK, perse_save_pack(p));
    perse_close(p);

    p = open_with(1);
    CHECK(perse_get_info(p).generation == 1);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* without labels, images too strange to estimate frequencies from */
    CHECK(!r.labelled && r.teacher == PERSE_TEACHER_NEAR && fabsf(prior[0] - 1.0f / KNOWN) < 1e-6f);
    CHECK(r.verdict == PERSE_BETTER);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    load_user(p, "generic.raw"); /* lacks class 4 */
    double generic = accuracy_of(p);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.verdict == PERSE_BETTER && r.teacher == PERSE_TEACHER_PRIOR && prior[4] < 0.1f && prior[0] > 0.15f);
    CHECK(r.after.cost < r.before.cost && accuracy_of(p) > generic);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    load_user(p, "user.raw");
    int32_t some[USERS]; /* a third has labels */
    for (int i = 0; i < USERS; i++) some[i] = i % 3 == 0 ? labels[i] : -1;
    EXPECT(PERSE_OK, fit_with(p, USERS, some, &o, &r));
    CHECK(r.verdict == PERSE_BETTER && r.judged == USERS / 3 && r.train == USERS && accuracy_of(p) > before + 0.1);
    double learnt = accuracy_of(p);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* what labels taught is not unlearnt without them */
    CHECK(r.teacher == PERSE_TEACHER_PERSONAL && accuracy_of(p) > learnt - 0.02);
    perse_close(p);
}

/* Without labels, going on to the teacher more often is agreement with it, and has to be worth its time. */
static void test_agreement_has_a_price(void) {
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "user.raw");
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    float temperature = p->live.exit[0].temperature;
    EXPECT(PERSE_OK, perse_set_exit(p, 0, true, temperature, 0.6f));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.verdict == PERSE_NOT_BETTER && r.after.cost > 1.5 * r.before.cost);
    CHECK(r.after.accuracy > r.before.accuracy + 0.015 && r.after.accuracy < r.before.accuracy + 0.03);
    EXPECT(PERSE_OK, perse_set_exit(p, 0, true, temperature, 0.5f));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.verdict == PERSE_BETTER && r.after.cost > 1.5 * r.before.cost && r.after.accuracy > r.before.accuracy + 0.05);
    perse_close(p);
}

/* With many labels heads must be better for sure, at 99 %: the second and third gain 2.2 and 2.1 standard errors. */
static void test_many_labels_must_be_sure(void) {
    static const struct { uint64_t seed; perse_verdict again; } trials[] = {{17, PERSE_BETTER}, {16, PERSE_NOT_BETTER}, {23, PERSE_NOT_BETTER}};
    perse_fit_options o = perse_fit_defaults();
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        perse *p = open_with(1);
        perse_report r;
        load_user(p, "generic.raw");
        o.seed = trials[i].seed;
        EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        CHECK(r.verdict == PERSE_BETTER);
        o.seed += 100;
        EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        CHECK(r.verdict == trials[i].again && r.after.accuracy > r.before.accuracy);
        perse_close(p);
    }
}

/* Who gains only time must surely lose next to nothing, whatever early answers may lose: a third of the labels do not tell. */
static void test_time_is_not_bought_blindly(void) {
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "generic.raw");
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    perse_pack_entry *first = &p->live.exit[0];
    o.max_drop = 0.09f;
    for (int part = 3; part > 0; part -= 2) {
        load_user(p, "generic.raw");
        for (int i = 0; i < USERS; i++) labels[i] = i % part == 0 ? labels[i] : -1;
        EXPECT(PERSE_OK, perse_set_exit(p, 0, true, first->temperature, 0.6f));
        EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        CHECK(r.verdict == (part == 1 ? PERSE_BETTER : PERSE_NOT_BETTER) && r.judged == (uint32_t)(USERS / part));
        CHECK(r.after.accuracy > r.before.accuracy && r.after.cost < r.before.cost - 0.02);
    }
    perse_close(p);
}

/* Without labels, where the exits do not know the same. */
static void test_a_final_exit_that_knows_less(void) {
    enum { FINAL = FEATURES - 32, OTHER = 37 };
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "generic.raw");
    double before = accuracy_of(p);
    for (int i = 1; i < USERS; i++) memcpy(features + i * FEATURES + FINAL, features + FINAL, 32 * sizeof *features);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* it says the same of all */
    CHECK(r.teacher == PERSE_TEACHER_EARLY && r.verdict == PERSE_BETTER && exit_reports[EXITS - 1].epochs > 0);
    CHECK(fabsf(prior[0] - 1.0f / KNOWN) < 1e-6f && accuracy_of(p) > before - 0.05);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    load_user(p, "generic.raw");
    for (int i = 1; i < USERS; i++) memcpy(features + i * FEATURES, features, 16 * sizeof *features);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* the first exit says the same of all: not how often the classes are met */
    CHECK(r.teacher == PERSE_TEACHER_NEAR && fabsf(prior[0] - 1.0f / KNOWN) < 1e-6f);
    CHECK(r.verdict == PERSE_BETTER);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* what it learnt from evened answers is not unlearnt from others */
    CHECK(r.teacher == PERSE_TEACHER_PERSONAL);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    load_user(p, "generic.raw");
    for (int i = 2; i < USERS; i += 3) memcpy(features + i * FEATURES + FINAL, features + FINAL, 32 * sizeof *features);
    EXPECT(PERSE_OK, perse_set_exit(p, 1, true, 1, 0.6f)); /* it says the same of a third of them, and the second exit answers */
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.teacher == PERSE_TEACHER_FINAL && r.verdict == PERSE_CONTRADICTED && r.before.accuracy > 0.5 && r.before.accuracy < 0.9);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    load_user(p, "generic.raw");
    float kept[OTHER * 32];
    for (int i = 0; i < OTHER; i++) memcpy(kept + i * 32, features + i * FEATURES + FINAL, 32 * sizeof *kept);
    for (int i = 0; i < USERS; i++)
        memcpy(features + i * FEATURES + FINAL, i + OTHER < USERS ? features + (i + OTHER) * FEATURES + FINAL : kept + (i + OTHER - USERS) * 32,
               32 * sizeof *features);
    uint32_t generation = perse_get_info(p).generation;
    EXPECT(PERSE_OK, perse_set_exit(p, 0, true, 1, 0.3f));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r)); /* it speaks of other images, and the first exit answers */
    CHECK(r.teacher != PERSE_TEACHER_EARLY && r.verdict == PERSE_CONTRADICTED && perse_get_info(p).generation == generation);
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r)); /* labels tell */
    CHECK(r.verdict != PERSE_CONTRADICTED);
    perse_close(p);
}

static int stop_at_third(void *user, const char *phase, uint32_t done, uint32_t total) {
    CHECK(*phase != 0 && done <= total);
    return ++*(int *)user == 3;
}

/* What a teacher says of an image is drawn towards what it says of those that look alike. */
static void test_even_out(void) {
    enum { WRONG = 8 }; /* one in so many */
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    for (int i = 0; i < USERS; i++) /* the second exit sees the classes clearly */
        for (int k = 0; k < KNOWN; k++) features[i * FEATURES + 16 + k] += k == labels[i] ? 10 : 0;
    perse_samples samples = {.count = USERS, .features = features};
    size_t table = (size_t)USERS * K, widest = FEATURES;
    uint32_t index[USERS];
    for (uint32_t i = 0; i < USERS; i++) index[i] = i;
    fit f = {.p = p, .samples = &samples, .o = perse_fit_defaults(), .all = {index, USERS}};
    f.lab.teacher = calloc(table, sizeof(float)), f.lab.logits = calloc(table, sizeof(float)), f.candidate = calloc(table, sizeof(float));
    f.mean = calloc(widest, sizeof *f.mean), f.deviation = calloc(widest, sizeof *f.deviation);
    f.near = calloc(USERS, sizeof *f.near), f.block = calloc(widest * PERSE_BLOCK, sizeof *f.block);
    for (int i = 0; i < USERS; i++)
        for (int k = 0; k < K; k++)
            f.lab.teacher[i * K + k] = k >= KNOWN ? PERSE_SPARE_LOGIT : k == (i % WRONG != 0 ? labels[i] : (labels[i] + 1) % KNOWN) ? 2 : 0;
    EXPECT(PERSE_OK, fit_find_neighbours(&f));
    fit_even_out(&f, 0.8f);
    int mended = 0, broken = 0;
    for (int i = 0; i < USERS; i++) {
        bool right = (int)perse_argmax(f.lab.teacher + i * K, K) == labels[i];
        float sum = 0;
        for (int k = 0; k < KNOWN; k++) sum += expf(f.lab.teacher[i * K + k]);
        CHECK(fabsf(sum - 1) < 1e-4f && f.lab.teacher[i * K + KNOWN] == PERSE_SPARE_LOGIT);
        mended += i % WRONG == 0 && right;
        broken += i % WRONG != 0 && !right;
        for (int k = 0; k < FIT_NEAR; k++) CHECK(f.near[i].sample[k] != (uint32_t)i && f.near[i].sample[k] < USERS && f.near[i].likeness[k] >= 0);
    }
    CHECK(mended > USERS / WRONG - 2 && broken < 3);
    memset(features, 0, (size_t)USERS * FEATURES * sizeof *features); /* nothing to tell them apart by */
    EXPECT(PERSE_OK, fit_find_neighbours(&f));
    fit_even_out(&f, 0.8f);
    for (size_t i = 0; i < table; i++) CHECK(isfinite(f.lab.teacher[i]));
    int calls = 0;
    f.o.progress = stop_at_third, f.o.user = &calls;
    EXPECT(PERSE_ABORTED, fit_find_neighbours(&f));
    free(f.lab.teacher), free(f.lab.logits), free(f.candidate), free(f.mean), free(f.deviation), free(f.near), free(f.block);
    perse_close(p);
}

/* Frequencies explain away what similar images of a class that is not met are, where they are many. */
static void test_neighbours_check_frequencies(void) {
    enum { TAKEN_FOR_ANOTHER = 292, MANY = 22 }; /* its greatest logit is that of class 4, by a little; too many once evened out, not before */
    perse *p = open_with(1);
    perse_report r;
    for (int shared = 0; shared < 2; shared++) { /* whether answers may be evened out, or neighbours are only asked */
        perse_fit_options o = perse_fit_defaults();
        if (!shared) o.neighbours = 0;
        load_user(p, "generic.raw");
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
        CHECK(r.teacher == PERSE_TEACHER_PRIOR && prior[4] < 0.02f);
        EXPECT(PERSE_OK, perse_reset_pack(p));
        load_user(p, "generic.raw");
        for (int i = 0; i < MANY; i++) memcpy(features + i * FEATURES, features + TAKEN_FOR_ANOTHER * FEATURES, FEATURES * sizeof *features);
        EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
        CHECK(r.teacher != PERSE_TEACHER_PRIOR && fabsf(prior[4] - 1.0f / KNOWN) < 1e-6f);
        EXPECT(PERSE_OK, perse_reset_pack(p));
    }
    perse_close(p);
}

/* Who meets nearly one class only may be left with it once frequencies count: then answers are learnt from as they are. */
static void test_frequencies_leave_one_class(void) {
    enum { COMMON = 12, RARE = 292, FEW = 10 }; /* class 1 surely; as good as class 1 */
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "generic.raw");
    float common[FEATURES], rare[FEATURES];
    memcpy(common, features + COMMON * FEATURES, sizeof common);
    memcpy(rare, features + RARE * FEATURES, sizeof rare);
    for (int i = 0; i < USERS; i++) memcpy(features + i * FEATURES, i < FEW ? rare : common, sizeof common);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.teacher == PERSE_TEACHER_FINAL && fabsf(prior[1] - 1.0f / KNOWN) < 1e-6f);
    perse_close(p);
}

/* Evened out, all answers may be of one class: then they are learnt from as they are. */
static void test_evened_out_to_one_class(void) {
    enum { FINAL = FEATURES - 32 };
    perse *p = open_with(1);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    load_user(p, "generic.raw");
    int other = 1;
    while (labels[other] == labels[0]) other++;
    memcpy(features + (USERS - 1) * FEATURES, features + other * FEATURES, FEATURES * sizeof *features);
    for (int i = 1; i < USERS - 1; i++) memcpy(features + i * FEATURES, features, FEATURES * sizeof *features);
    for (int i = 0; i < USERS - 1; i += 8) memcpy(features + i * FEATURES + FINAL, features + (USERS - 1) * FEATURES + FINAL, 32 * sizeof *features);
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.teacher == PERSE_TEACHER_FINAL);
    o.neighbours = 0; /* the same as without, from the start */
    uint32_t judged = r.judged;
    double before = r.before.accuracy;
    EXPECT(PERSE_OK, perse_reset_pack(p));
    EXPECT(PERSE_OK, fit_with(p, USERS, NULL, &o, &r));
    CHECK(r.teacher == PERSE_TEACHER_FINAL && r.judged == judged && r.before.accuracy == before);
    perse_close(p);
}

/* Features in half precision are as good as the same in single. */
static void test_halves(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    size_t values = (size_t)USERS * FEATURES, size = perse_fit_size(p, USERS), length = perse_pack_bytes(p->plan), other;
    uint16_t *halves = malloc(values * sizeof *halves);
    void *block = malloc(size);
    perse_fit_options o = perse_fit_defaults();
    perse_report r = {.exits = exit_reports};
    perse_to_halves(features, halves, values);
    perse_from_halves(halves, features, values);
    perse_samples samples = {.count = USERS, .labels = labels, .halves = halves};
    EXPECT(PERSE_OK, perse_fit(p, &samples, &o, block, size, &r));
    CHECK(r.verdict == PERSE_BETTER);
    EXPECT(PERSE_OK, perse_save_pack(p));
    uint8_t *pack = read_file(scratch, "heads.pack", &other);
    CHECK(other == length);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    p->live.generation = 0;
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    EXPECT(PERSE_OK, perse_save_pack(p));
    CHECK(same_file("heads.pack", pack, length));
    halves[5] = 0x7C00; /* infinite */
    EXPECT(PERSE_NAN_INPUT, perse_fit(p, &samples, &o, block, size, &r));
    samples.halves = NULL;
    EXPECT(PERSE_BAD_ARGUMENT, perse_fit(p, &samples, &o, block, size, &r));
    free(pack), free(halves), free(block);
    perse_close(p);
}

/* What early answers may lose: against the person's own final exit, against the factory's, or whatever a cost takes. */
static void test_aims(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    perse_fit_options o = perse_fit_defaults();
    perse_report own, factory, cheap;
    o.max_drop = 0;
    srand(3);
    for (int i = 0; i < USERS; i++) /* the first exit sees less */
        for (uint32_t f = 0; f < p->plan->exit[0].features; f++) features[i * FEATURES + (int)f] += 0.8f * ((float)rand() / (float)RAND_MAX - 0.5f);
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &own));
    EXPECT(PERSE_OK, perse_reset_pack(p));
    o.against = PERSE_AGAINST_FACTORY;
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &factory));
    CHECK(factory.verdict == PERSE_BETTER && factory.after.cost < own.after.cost && factory.after.accuracy <= own.after.accuracy);
    CHECK(factory.after.accuracy >= exit_reports[EXITS - 1].accuracy_before - (double)o.max_drop);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    o.against = PERSE_AGAINST_FINAL, o.max_cost = (float)((factory.after.cost + own.after.cost) / 2);
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &cheap));
    CHECK(cheap.after.cost <= (double)o.max_cost + 0.02 && cheap.after.accuracy >= factory.after.accuracy - 0.05);
    o.max_cost = 1e-6f; /* less than the first exit costs: as little as there is */
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &cheap));
    CHECK(cheap.after.cost > 1e-6);
    perse_fit_options bad = o;
    bad.max_cost = 1.5f;
    EXPECT(PERSE_BAD_ARGUMENT, fit_with(p, USERS, labels, &bad, &cheap));
    bad.max_cost = 0, bad.against = (perse_reference)7;
    EXPECT(PERSE_BAD_ARGUMENT, fit_with(p, USERS, labels, &bad, &cheap));
    perse_close(p);
}

static void test_refusals(void) {
    perse *p = open_with(1);
    load_user(p, "user.raw");
    uint8_t *kept = malloc(perse_pack_bytes(p->plan));
    size_t size;
    uint8_t *before = read_file(scratch, "heads.pack", &size);
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    int32_t other[USERS];
    for (int i = 0; i < USERS; i++) other[i] = 3;
    EXPECT(PERSE_ONE_CLASS, fit_with(p, USERS, other, &o, &r));
    other[7] = -1;
    EXPECT(PERSE_ONE_CLASS, fit_with(p, USERS, other, &o, &r));
    other[7] = KNOWN;
    EXPECT(PERSE_BAD_LABEL, fit_with(p, USERS, other, &o, &r));
    other[7] = -2;
    EXPECT(PERSE_BAD_LABEL, fit_with(p, USERS, other, &o, &r));
    EXPECT(PERSE_TOO_FEW_SAMPLES, fit_with(p, 19, labels, &o, &r));
    EXPECT(PERSE_TOO_FEW_SAMPLES, fit_with(p, 0, NULL, &o, &r));
    for (int i = 0; i < USERS; i++) other[i] = i < 8 ? labels[i] : -1;
    EXPECT(PERSE_TOO_FEW_SAMPLES, fit_with(p, USERS, other, &o, &r)); /* of those with labels */
    perse_fit_options bad = o;
    bad.folds = 1;
    EXPECT(PERSE_BAD_ARGUMENT, fit_with(p, USERS, labels, &bad, &r));
    static const float shares[] = {-0.1f, 1, NAN};
    for (int i = 0; i < 3; i++) {
        bad = o, bad.neighbours = shares[i];
        EXPECT(PERSE_BAD_ARGUMENT, fit_with(p, USERS, NULL, &bad, &r));
    }
    bad = o, bad.learning_rate = 1e30f;
    EXPECT(PERSE_DIVERGED, fit_with(p, USERS, labels, &bad, &r));
    int calls = 0;
    bad = o, bad.progress = stop_at_third, bad.user = &calls;
    EXPECT(PERSE_ABORTED, fit_with(p, USERS, labels, &bad, &r));
    features[11] = NAN;
    EXPECT(PERSE_NAN_INPUT, fit_with(p, USERS, labels, &o, &r));
    features[11] = 0;
    for (int i = 1; i < USERS; i++) memcpy(features + i * FEATURES, features, FEATURES * sizeof *features);
    EXPECT(PERSE_ONE_CLASS, fit_with(p, USERS, NULL, &o, &r)); /* all look alike */
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));      /* no variance at all */
    CHECK(r.verdict != PERSE_BETTER);
    perse_samples samples = {.count = USERS, .features = features, .labels = labels};
    EXPECT(PERSE_OUT_OF_MEMORY, perse_fit(p, &samples, &o, kept, perse_pack_bytes(p->plan), &r));
    EXPECT(PERSE_OUT_OF_MEMORY, perse_calibrate(p, &samples, 0, 0, kept, 1, &r));
    EXPECT(PERSE_BAD_ARGUMENT, perse_calibrate(p, &samples, 2, 0, kept, 1, &r));
    CHECK(sizeof(size_t) > 4 || perse_fit_size(p, UINT32_MAX) == SIZE_MAX);
    EXPECT(PERSE_OK, perse_save_pack(p)); /* nothing changed in memory either */
    CHECK(same_file("heads.pack", before, size));
    free(kept), free(before);
    perse_close(p);
}

/* Labels that say nothing, and labels of which half are wrong, must not make anything worse. */
static void test_poison(void) {
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    int verdicts[PERSE_VERDICT_COUNT] = {0};
    srand(1);
    for (int user = 0; user < 12; user++) {
        int32_t poisoned[USERS];
        for (int i = 0; i < USERS; i++) poisoned[i] = rand() % 4;
        o.seed = (uint64_t)user;
        EXPECT(PERSE_OK, fit_with(p, USERS, poisoned, &o, &r));
        verdicts[r.verdict]++;
    }
    CHECK(verdicts[PERSE_BETTER] == 0 && perse_get_info(p).generation == 0);
    CHECK(verdicts[PERSE_UNLEARNABLE] > 0);
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    uint32_t generation = perse_get_info(p).generation;
    for (int again = 0; again < 6; again++) {
        EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        CHECK(r.verdict != PERSE_BETTER && perse_get_info(p).generation == generation); /* nothing new */
    }
    EXPECT(PERSE_OK, perse_reset_pack(p));
    o.max_drop = 1, o.seed = 1; /* every answer at the first exit, which knows less */
    int32_t few[USERS];
    for (int i = 0; i < USERS; i++) few[i] = i % 20 == 1 ? labels[i] : -1;
    EXPECT(PERSE_OK, fit_with(p, USERS, few, &o, &r));
    CHECK(r.verdict == PERSE_LESS_ACCURATE && r.after.accuracy < r.before.accuracy);
    perse_close(p);
}

static void test_threads_agree(void) {
    uint8_t *first = NULL;
    size_t size = 0;
    float one[USERS][EXITS][K], now[EXITS][K];
    perse_result results[EXITS];
    for (int threads = 1; threads <= 5; threads++) {
        fresh_folder();
        perse *p = open_with(threads);
        load_user(p, "user.raw");
        for (int i = 0; i < USERS; i++) {
            EXPECT(PERSE_OK, perse_observe_u8(p, pixels[i], results, &now[0][0], NULL));
            if (threads == 1) memcpy(one[i], now, sizeof now);
            CHECK(memcmp(one[i], now, sizeof now) == 0);
        }
        perse_fit_options o = perse_fit_defaults();
        perse_report r;
        EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
        EXPECT(PERSE_OK, perse_save_pack(p));
        if (first == NULL) first = read_file(scratch, "heads.pack", &size);
        CHECK(same_file("heads.pack", first, size));
        perse_close(p);
    }
    free(first);
}

static void test_calibrate(void) {
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    size_t size = perse_calibrate_size(p, USERS);
    void *block = malloc(size);
    perse_samples samples = {.count = USERS, .features = features, .labels = labels};
    perse_report r = {.exits = exit_reports};
    EXPECT(PERSE_OK, perse_calibrate(p, &samples, 0.05f, 0, block, size, &r));
    CHECK(r.after.accuracy >= exit_reports[EXITS - 1].accuracy_after - 0.05 && r.after.cost < 1);
    for (int e = 0; e < EXITS; e++) CHECK(exit_reports[e].temperature >= 0.05f && exit_reports[e].temperature <= 20);
    EXPECT(PERSE_OK, perse_save_pack(p));
    EXPECT(PERSE_OK, perse_load_pack(p));
    samples.labels = NULL;
    EXPECT(PERSE_OK, perse_calibrate(p, &samples, 0.01f, 0, block, size, &r));
    CHECK(exit_reports[EXITS - 1].accuracy_after == 1 && r.after.accuracy >= 0.99);
    samples.count = 5;
    EXPECT(PERSE_TOO_FEW_SAMPLES, perse_calibrate(p, &samples, 0.01f, 0, block, size, &r));
    free(block);
    perse_close(p);
}

static void nudge(perse *p) { p->live.exit[0].head.bias[0] += 1, p->live.generation++; }

static void test_pack_files(void) {
    perse *p = open_with(1);
    size_t size, next_size;
    uint8_t *factory = read_file(scratch, "heads.pack", &size), *next;
    EXPECT(PERSE_NO_PREVIOUS, perse_rollback_pack(p));
    EXPECT(PERSE_OK, perse_save_pack(p));
    CHECK(same_file("heads.pack", factory, size) && same_file("heads.pack.previous", factory, size)); /* C writes what Python wrote */
    nudge(p);
    EXPECT(PERSE_OK, perse_save_pack(p));
    next = read_file(scratch, "heads.pack", &next_size);
    CHECK(same_file("heads.pack.previous", factory, size) && !same_file("heads.pack", factory, size));
    EXPECT(PERSE_OK, perse_rollback_pack(p));
    CHECK(same_file("heads.pack", factory, size) && same_file("heads.pack.previous", next, next_size) && perse_get_info(p).generation == 0);
    EXPECT(PERSE_OK, perse_rollback_pack(p)); /* and forward again */
    CHECK(same_file("heads.pack", next, next_size) && perse_get_info(p).generation == 1);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    CHECK(same_file("heads.pack", factory, size) && same_file("heads.pack.previous", next, next_size));
    write_file(scratch, "heads.pack", next, 50); /* a damaged one is not worth keeping */
    EXPECT(PERSE_TRUNCATED, perse_load_pack(p));
    EXPECT(PERSE_OK, perse_reset_pack(p));
    CHECK(same_file("heads.pack.previous", next, next_size));
    unlink(path_in(scratch, "heads.pack"));
    EXPECT(PERSE_NO_FILE, perse_load_pack(p));
    EXPECT(PERSE_OK, perse_rollback_pack(p));
    CHECK(same_file("heads.pack", next, next_size) && !exists("heads.pack.previous"));
    unlink(path_in(scratch, "heads.pack"));
    EXPECT(PERSE_OK, perse_save_pack(p));
    CHECK(same_file("heads.pack.previous", factory, size)); /* without a file the factory heads were in use */
    write_file(scratch, "heads.pack.previous", factory, size - 1);
    EXPECT(PERSE_TRUNCATED, perse_rollback_pack(p));
    CHECK(same_file("heads.pack", next, next_size));
    CHECK(!exists("heads.pack.new") && !exists("heads.pack.kept"));
    free(factory), free(next);
    perse_close(p);
}

static void test_pack_trouble(void) {
    perse *p = open_with(1);
    size_t size;
    uint8_t *factory = read_file(scratch, "heads.pack", &size);
    nudge(p);
    int folder = open(scratch, O_RDONLY);
    CHECK(flock(folder, LOCK_EX) == 0);
    EXPECT(PERSE_BUSY, perse_save_pack(p));
    EXPECT(PERSE_BUSY, perse_rollback_pack(p));
    close(folder);
    static const char *const names[] = {"heads.pack.new", "heads.pack.kept"};
    for (int i = 0; i < 2; i++) {
        mkdir(path_in(scratch, names[i]), 0755);
        EXPECT(PERSE_IO, perse_save_pack(p));
        CHECK(same_file("heads.pack", factory, size));
        rmdir(path_in(scratch, names[i]));
    }
    struct rlimit all, few;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &all);
    for (size_t limit = 0; limit < size; limit += limit < 128 ? 13 : 301) { /* the disk is full after so many bytes */
        few = (struct rlimit){limit, all.rlim_max};
        setrlimit(RLIMIT_FSIZE, &few);
        perse_status status = perse_save_pack(p);
        setrlimit(RLIMIT_FSIZE, &all);
        EXPECT(PERSE_DISK_FULL, status);
        CHECK(same_file("heads.pack", factory, size) && !exists("heads.pack.new") && !exists("heads.pack.kept"));
    }
    EXPECT(PERSE_OK, perse_save_pack(p));
    free(factory);
    perse_close(p);
}

/* ---- levels ---- */

enum { CHANNELS = 3, LEVELS = 2 * CHANNELS };

static void test_measured_levels(void) {
    perse *p = open_with(1);
    uint8_t two[2][PIXELS];
    float levels[LEVELS];
    for (int i = 0; i < PIXELS; i++) { /* of 64 pixels the 4th and the 61st in order */
        int pixel = i / CHANNELS, channel = i % CHANNELS;
        two[0][i] = (uint8_t)(channel == 0 ? pixel : channel == 1 ? 255 - pixel : 255);
        two[1][i] = (uint8_t)(channel == 0 ? 2 * (63 - pixel) + 1 : channel == 1 ? 7 : 0);
    }
    static const float one[LEVELS] = {3, 60, 195, 252, 255, 255}, mean[LEVELS] = {5, 90.5f, 101, 129.5f, 127.5f, 127.5f};
    EXPECT(PERSE_OK, perse_measure_levels(p, two[0], 1, levels));
    CHECK(memcmp(levels, one, sizeof one) == 0);
    EXPECT(PERSE_OK, perse_measure_levels(p, two[0], 2, levels));
    CHECK(memcmp(levels, mean, sizeof mean) == 0);
    perse_close(p);
}

/* Every way in for uint8 images sees what a mapped image would show; normalised images are as they are. */
static void test_corrected(void) {
    perse *p = open_with(2), *plain;
    load_user(p, "user.raw");
    void *block = malloc(perse_memory_size(1));
    EXPECT(PERSE_OK, perse_open_factory(&plain, scratch, 1, block, perse_memory_size(1)));
    float to[LEVELS], from[LEVELS], live[LEVELS], image[PIXELS], got[FEATURES], want[FEATURES];
    perse_result all[EXITS], other[EXITS];
    bool corrects;
    EXPECT(PERSE_OK, perse_get_levels(p, to, live, &corrects));
    CHECK(!corrects && memcmp(to, live, sizeof to) == 0 && to[0] > 20 && to[1] < 235);
    EXPECT(PERSE_OK, perse_measure_levels(p, pixels[0], USERS, from));
    EXPECT(PERSE_OK, perse_set_levels(p, from));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(corrects && memcmp(from, live, sizeof from) == 0);
    double input, stage[EXITS], head[EXITS];
    for (int i = 0; i < 50; i++) {
        uint8_t mapped[PIXELS];
        for (int j = 0; j < PIXELS; j++) {
            const float *f = from + 2 * (j % CHANNELS), *t = to + 2 * (j % CHANNELS);
            double out = ((double)pixels[i][j] - f[0]) * (((double)t[1] - t[0]) / ((double)f[1] - f[0])) + t[0];
            mapped[j] = (uint8_t)(out < 0 ? 0 : out > 255 ? 255 : lround(out));
            image[j] = (float)pixels[i][j] / 255.0f - 0.5f;
        }
        EXPECT(PERSE_OK, perse_features_u8(p, pixels[i], got));
        EXPECT(PERSE_OK, perse_features_u8(plain, mapped, want));
        CHECK(memcmp(got, want, sizeof want) == 0 && memcmp(got, features + i * FEATURES, sizeof got) != 0);
        EXPECT(PERSE_OK, perse_observe_u8(p, pixels[i], all, NULL, got));
        EXPECT(PERSE_OK, perse_observe_u8(plain, mapped, other, NULL, NULL));
        CHECK(memcmp(all, other, sizeof all) == 0 && memcmp(got, want, sizeof want) == 0);
        EXPECT(PERSE_OK, perse_run_u8(p, pixels[i], 1, all, NULL));
        CHECK(memcmp(all, &other[1], sizeof *all) == 0);
        EXPECT(PERSE_OK, perse_features_f32(p, image, got));
        CHECK(memcmp(got, features + i * FEATURES, sizeof got) == 0);
    }
    EXPECT(PERSE_OK, perse_profile_u8(p, pixels[0], &input, stage, head));
    double better = accuracy_of(p);
    EXPECT(PERSE_OK, perse_set_levels(p, NULL));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(!corrects && live[0] == 0 && live[5] == 0 && better > accuracy_of(p) + 0.1);
    for (int v = 0; v < 256; v++) { /* a table is within 0 .. 255, whatever it is for */
        float steep[LEVELS] = {100, 108, 100, 108, 100, 108};
        memset(pixels[0], v, PIXELS);
        EXPECT(PERSE_OK, perse_set_levels(p, steep));
        EXPECT(PERSE_OK, perse_features_u8(p, pixels[0], got));
        CHECK(p->image[0] == (v < 98 ? 0 : v > 110 ? 255 : p->image[0]));
    }
    perse_close(plain);
    perse_close(p);
    free(block);
}

static void refuses(perse *p, float low, float high, const char *why) {
    float levels[LEVELS] = {60, 160, 60, 160, low, high};
    EXPECT(PERSE_BAD_LEVELS, perse_set_levels(p, levels));
    CHECK(strcmp(perse_detail(), why) == 0);
}

static void test_refused_levels(void) {
    perse *p = open_with(1);
    float levels[LEVELS] = {60, 160, 60, 160, 60, 160}, live[LEVELS];
    bool corrects;
    EXPECT(PERSE_OK, perse_set_levels(p, levels));
    refuses(p, 100, 107.5f, "images without contrast");
    refuses(p, 0.5f, 100, "clipped images");
    refuses(p, 100, 250, "clipped images");
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(corrects && memcmp(live, levels, sizeof live) == 0);
    p->factory_levels[4] = 3, p->factory_levels[5] = 252; /* ends that the training images reach too */
    levels[4] = 0, levels[5] = 255;
    EXPECT(PERSE_OK, perse_set_levels(p, levels));
    p->factory_levels[4] = 246;
    refuses(p, 60, 160, "training images without contrast");
    perse_levels_use(p); /* as with a pack from elsewhere: no harm */
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, NULL, &corrects));
    CHECK(!corrects);
    memset(p->factory_levels, 0, sizeof levels);
    refuses(p, 60, 160, "the artifact does not know the levels of its training images");
    EXPECT(PERSE_OK, perse_set_levels(p, NULL));
    perse_close(p);
}

static void test_levels_on_disk(void) {
    perse *p = open_with(1);
    float levels[LEVELS] = {60, 160, 50, 150, 40, 140}, live[LEVELS], factory[LEVELS];
    bool corrects;
    EXPECT(PERSE_OK, perse_set_levels(p, levels));
    CHECK(perse_get_info(p).generation == 0);
    int folder = open(scratch, O_RDONLY);
    CHECK(flock(folder, LOCK_EX) == 0);
    EXPECT(PERSE_BUSY, perse_save_pack(p));
    CHECK(perse_get_info(p).generation == 0);
    close(folder);
    EXPECT(PERSE_OK, perse_save_pack(p));
    EXPECT(PERSE_OK, perse_save_pack(p));
    CHECK(perse_get_info(p).generation == 1); /* levels alone are a change, but once */
    perse_close(p);

    p = open_with(1);
    EXPECT(PERSE_OK, perse_get_levels(p, factory, live, &corrects));
    CHECK(corrects && memcmp(live, levels, sizeof live) == 0 && perse_get_info(p).generation == 1);
    EXPECT(PERSE_OK, perse_set_levels(p, NULL));
    EXPECT(PERSE_OK, perse_load_pack(p));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(corrects && memcmp(live, levels, sizeof live) == 0);
    EXPECT(PERSE_OK, perse_reset_pack(p));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(!corrects && memcmp(live, factory, sizeof live) == 0 && perse_get_info(p).generation == 0);
    EXPECT(PERSE_OK, perse_rollback_pack(p));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(corrects && memcmp(live, levels, sizeof live) == 0);
    load_user(p, "user.raw"); /* new heads keep the levels that they learnt with */
    perse_fit_options o = perse_fit_defaults();
    perse_report r;
    EXPECT(PERSE_OK, fit_with(p, USERS, labels, &o, &r));
    EXPECT(PERSE_OK, perse_save_pack(p));
    CHECK(r.verdict == PERSE_BETTER && perse_get_info(p).generation == 2);
    EXPECT(PERSE_OK, perse_load_pack(p));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, live, &corrects));
    CHECK(corrects && memcmp(live, levels, sizeof live) == 0);
    perse_close(p);

    EXPECT(PERSE_OK, perse_open_factory(&p, scratch, 1, memory, memory_size));
    EXPECT(PERSE_OK, perse_get_levels(p, NULL, NULL, &corrects));
    CHECK(!corrects);
    perse_close(p);
}

/* The exponential that compilers vectorise, against the C library's: whole blocks of classes and what is left over. */
static void test_softmax(void) {
    enum { MANY = 1003 };
    static const float spreads[] = {0, 1, 30, 300, 3000};
    static float z[MANY], got[MANY];
    int label;
    float confidence;
    for (size_t s = 0; s < sizeof spreads / sizeof *spreads; s++)
        for (uint32_t classes = 1; classes <= MANY; classes += 167)
            for (float temperature = 0.05f; temperature < 21; temperature *= 20) {
                uint64_t state = s + classes;
                uint32_t best = 0;
                double sum = 0;
                for (uint32_t k = 0; k < classes; k++) {
                    z[k] = spreads[s] * (float)((double)(perse_random(&state) >> 11) * 0x1p-53 - 0.5);
                    if (z[k] > z[best]) best = k;
                }
                for (uint32_t k = 0; k < classes; k++) sum += exp(((double)z[k] - z[best]) / temperature);
                CHECK(perse_top(z, classes, temperature, &label, &confidence));
                CHECK(label == (int)best && fabs(confidence * sum - 1) < 1e-6);
                CHECK(fabs(perse_exp_sum(z, classes, z[best], 1 / (double)temperature) / sum - 1) < 1e-10);
                perse_probabilities(z, classes, temperature, got);
                for (uint32_t k = 0; k < classes; k++)
                    CHECK(fabs(got[k] - exp(((double)z[k] - z[best]) / temperature) / sum) < 1e-7);
            }
    static const uint32_t places[] = {0, 500, MANY - 1};
    static const float unfit[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 9; i++) {
        float kept = z[places[i / 3]];
        z[places[i / 3]] = unfit[i % 3];
        CHECK(!perse_top(z, MANY, 1, &label, &confidence));
        z[places[i / 3]] = kept;
    }
}

static void test_how_sure(void) {
    perse *p = open_with(1);
    load_user(p, "generic.raw");
    perse_result all[EXITS];
    perse_final final;
    double sum = 0, share[K] = {0}, information = 0;
    float logits[EXITS][K], probabilities[K];
    uint32_t right = 0;
    for (int i = 0; i < USERS; i++) {
        EXPECT(PERSE_OK, perse_observe_u8(p, pixels[i], all, logits[0], NULL));
        perse_probabilities(logits[EXITS - 1], K, 1, probabilities);
        for (int k = 0; k < KNOWN; k++) share[k] += (double)probabilities[k] / USERS;
        for (int k = 0; k < KNOWN; k++) information += probabilities[k] * log(probabilities[k]) / USERS;
        sum += all[EXITS - 1].confidence;
        right += i % 2 == 0 && all[EXITS - 1].label == labels[i];
        if (i % 2 != 0) labels[i] = -1;
    }
    for (int k = 0; k < KNOWN; k++) information -= share[k] * log(share[k]);
    perse_samples samples = {.count = USERS, .features = features, .labels = labels};
    EXPECT(PERSE_OK, perse_measure_final(p, &samples, &final));
    CHECK(fabs(final.information - information) < 1e-5 && information > 0.2 && information < log(KNOWN));
    CHECK(fabs(final.confidence - sum / USERS) < 1e-6 && final.right == right && final.labelled == USERS / 2);
    p->live.exit[EXITS - 1].head.bias[4] += 1000; /* heads in use: right never; the factory's: as sure as before */
    EXPECT(PERSE_OK, perse_measure_final(p, &samples, &final));
    CHECK(fabs(final.confidence - sum / USERS) < 1e-6 && final.right == 0);
    samples.labels = NULL;
    EXPECT(PERSE_OK, perse_measure_final(p, &samples, &final));
    CHECK(final.labelled == 0 && final.right == 0);
    samples.count = 1; /* one answer alone tells nothing */
    EXPECT(PERSE_OK, perse_measure_final(p, &samples, &final));
    CHECK(fabs(final.information) < 1e-6);
    samples.count = USERS;
    static const int failing[] = {FAIL_HEAD, FAIL_NAN_LOGITS};
    for (int i = 0; i < 2; i++) {
        mock_fail = failing[i];
        EXPECT(PERSE_KERNEL_FAILED, perse_measure_final(p, &samples, &final));
    }
    mock_fail = FAIL_NONE;
    features[16 + 24] = NAN;
    EXPECT(PERSE_NAN_INPUT, perse_measure_final(p, &samples, &final));
    perse_close(p);
}

/* kill -9 at any moment leaves a heads.pack that opens. */
static void test_kill(void) {
    int finished = 0;
    bool changed = false; /* on a busy machine a child may not come far */
    for (int i = 0; i < 60 || (!changed && i < 200); i++) {
        int ready[2];
        CHECK(pipe(ready) == 0);
        pid_t child = fork();
        if (child == 0) {
            perse *p = open_with(1);
            CHECK(write(ready[1], "x", 1) == 1);
            for (;;) {
                nudge(p);
                if (perse_save_pack(p) != PERSE_OK) _exit(1);
                if (p->live.generation % 7 == 0 && perse_rollback_pack(p) != PERSE_OK) _exit(2);
            }
        }
        char byte;
        CHECK(read(ready[0], &byte, 1) == 1);
        usleep((useconds_t)(i < 60 ? i * 137 % 3000 : i * 1000));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        finished += WIFEXITED(status);
        close(ready[0]), close(ready[1]);
        EXPECT(PERSE_OK, try_open());
        perse *p = open_with(1);
        changed = changed || perse_get_info(p).generation > 0;
        perse_close(p);
    }
    CHECK(finished == 0);
    perse *p = open_with(1);
    CHECK(perse_get_info(p).generation > 0);
    EXPECT(PERSE_OK, perse_save_pack(p)); /* leftovers do not matter */
    CHECK(!exists("heads.pack.new") && !exists("heads.pack.kept"));
    perse_close(p);
}

#include "test_streaming.c"
#include "test_classes.c"
#include "test_kinds.c"

/* ---- */

int main(int argc, char **argv) {
#define TEST(name) {#name, test_##name}
    static const struct { const char *name; void (*run)(void); } tests[] = {
        TEST(crc32), TEST(texts), TEST(open), TEST(damage), TEST(cascade), TEST(arguments), TEST(kernel_failures),
        TEST(training_step), TEST(personalise), TEST(agreement_has_a_price), TEST(many_labels_must_be_sure), TEST(time_is_not_bought_blindly), TEST(a_final_exit_that_knows_less), TEST(even_out), TEST(neighbours_check_frequencies), TEST(frequencies_leave_one_class), TEST(evened_out_to_one_class), TEST(unreadable_cameras), TEST(cameras_that_are_read), TEST(two_cameras_are_judged_one_by_one), TEST(exits_that_contradict_each_other), TEST(halves), TEST(aims), TEST(refusals), TEST(poison), TEST(threads_agree), TEST(calibrate),
        TEST(pack_files), TEST(pack_trouble), TEST(measured_levels), TEST(corrected), TEST(refused_levels), TEST(levels_on_disk),
        TEST(softmax), TEST(how_sure), TEST(kill),
        TEST(half), TEST(cache), TEST(reservoir), TEST(cache_damage), TEST(cache_trouble),
        TEST(places), TEST(place_refusals), TEST(estimate), TEST(watch), TEST(watch_refusals), TEST(worst_case), TEST(drop_costly),
        TEST(names_of_classes), TEST(a_new_class), TEST(a_new_class_is_not_forgotten), TEST(spare_outputs_stay), TEST(new_classes_refused), TEST(names_in_packs),
        TEST(names_in_the_cache),
    };
    if (argc < 3) return 2;
    source = argv[1];
    scratch = argv[2];
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        running = tests[i].name;
        bool wanted = argc == 3; /* or named */
        for (int a = 3; a < argc; a++) wanted = wanted || strcmp(running, argv[a]) == 0;
        if (!wanted) continue;
        fresh_folder();
        tests[i].run();
        printf("ok %s\n", running);
        fflush(stdout);
    }
    running = "every status";
    for (int s = 0; argc == 3 && s < PERSE_STATUS_COUNT; s++)
        if (!met[s]) return fprintf(stderr, "no test for status '%s'\n", perse_status_text((perse_status)s)), 1;
    free(memory), free(pixels), free(features), free(cache_memory);
    return 0;
}
