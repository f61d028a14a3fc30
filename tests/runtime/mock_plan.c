/* mock_plan.c - a network small enough to read, in the shape of a generated plan.c: 8x8x3 images, three
 * exits, five classes and room for two more.
 *
 * Each stage is a random dense layer with relu, run through TVM's parallel launch as a kernel would. */
#include "mock_values.h"
#include "plan.h"

#include <math.h>
#include <string.h>

enum { PIXELS = 8 * 8 * 3, F0 = 16, F1 = 24, F2 = 32, KNOWN = 5, SPARE = 2, K = KNOWN + SPARE, B = 8 };
static const int width[] = {PIXELS, F0, F1, F2};

int mock_fail;    /* tests: which kernel fails; see below */
int mock_stages;  /* tests: stages really run */
int mock_heads;   /* tests: heads really run */
enum { FAIL_NONE, FAIL_INPUT, FAIL_STAGE, FAIL_POOL, FAIL_HEAD, FAIL_TRAIN, FAIL_NAN_LOGITS, FAIL_WORKSPACE };

typedef struct { void *sync; int32_t num_task; } parallel_env;
typedef int (*parallel_task)(int, parallel_env *, void *);
typedef struct { const float *in, *weight; float *out; int inputs, outputs; } dense;

static int dense_rows(int task, parallel_env *env, void *closure) {
    const dense *d = closure;
    int step = (d->outputs + env->num_task - 1) / env->num_task;
    for (int o = task * step; o < d->outputs && o < (task + 1) * step; o++) {
        float sum = 0;
        for (int i = 0; i < d->inputs; i++) sum += d->in[i] * d->weight[o * d->inputs + i];
        d->out[o] = sum > 0 ? sum : 0;
    }
    return 0;
}

static int launch(parallel_task task, void *closure, int num_task) {
    int (*run)(parallel_task, void *, int);
    memcpy(&run, &__TVMBackendParallelLaunch, sizeof run);
    return run(task, closure, num_task);
}

static int fail(int kernel) {
    const char *parts[] = {"mock kernel ", NULL, "refused"};
    if (mock_fail != kernel) return 0;
    TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 3);
    return -1;
}

/* The arena: image and taps, one after the other. Scratch of a stage comes from the workspace. */
static float *tap(uint8_t *arena, int stage) {
    size_t offset = 0;
    for (int i = 0; i < stage; i++) offset += (size_t)width[i];
    return (float *)(void *)arena + offset;
}

/* As several threads do it: always a piece in use, each freed before the one taken after it. */
static int take_turns(void *(*alloc)(int, int, uint64_t, int, int), int (*release)(int, int, void *)) {
    void *held = alloc(1, 0, PERSE_WORKSPACE / 4, 2, 32);
    for (int i = 0; held != NULL && i < 40; i++) {
        void *next = alloc(1, 0, PERSE_WORKSPACE / 4 - (uint64_t)i * 4096, 2, 32);
        if (release(1, 0, held) != 0) return -1;
        held = next;
    }
    return held == NULL ? -1 : release(1, 0, held);
}

static int stage(uint8_t *arena, const uint8_t *weights, int s) {
    void *(*alloc)(int, int, uint64_t, int, int);
    int (*release)(int, int, void *);
    memcpy(&alloc, &__TVMBackendAllocWorkspace, sizeof alloc);
    memcpy(&release, &__TVMBackendFreeWorkspace, sizeof release);
    mock_stages++;
    if (fail(FAIL_STAGE) || take_turns(alloc, release) != 0) return -1;
    uint64_t bytes = mock_fail == FAIL_WORKSPACE ? PERSE_WORKSPACE : (uint64_t)width[s] * sizeof(float);
    float *first = alloc(1, 0, bytes, 2, 32), *copy = alloc(1, 0, bytes, 2, 32);
    if (first == NULL || copy == NULL) return -1;
    memcpy(copy, tap(arena, s), (size_t)width[s] * sizeof(float));
    const float *weight = (const float *)(const void *)weights;
    for (int i = 0; i < s; i++) weight += width[i] * width[i + 1];
    dense d = {copy, weight, tap(arena, s + 1), width[s], width[s + 1]};
    int status = launch(dense_rows, &d, s == 1 ? 5 : 0);
    return release(1, 0, first) | release(1, 0, copy) | status; /* out of order on purpose */
}

static int pool(uint8_t *arena, float *features, int s) {
    memcpy(features, tap(arena, s + 1), (size_t)width[s + 1] * sizeof(float));
    return fail(FAIL_POOL);
}

static void logits_of(const float *features, const perse_head *h, int inputs, float *logits) {
    for (int k = 0; k < K; k++) logits[k] = h->bias[k];
    for (int i = 0; i < inputs; i++)
        for (int k = 0; k < K; k++) logits[k] += (features[i] - h->shift[i]) * h->scale[i] * h->weight[i * K + k];
}

static int head(const float *features, const perse_head *h, float *logits, int s) {
    mock_heads++;
    logits_of(features, h, width[s + 1], logits);
    if (mock_fail == FAIL_NAN_LOGITS) logits[1] = NAN;
    return fail(FAIL_HEAD);
}

/* Adds to gradient[k] and returns the loss of one row: -sum(target * log_softmax(z * factor)). */
static float cross_entropy(const float *z, const float *target, float factor, float *gradient) {
    float top = z[0], sum = 0, mass = 0, loss = 0;
    for (int k = 1; k < K; k++) top = z[k] > top ? z[k] : top;
    for (int k = 0; k < K; k++) sum += expf((z[k] - top) * factor), mass += target[k];
    for (int k = 0; k < K; k++) {
        float log_p = (z[k] - top) * factor - logf(sum);
        loss -= target[k] * log_p;
        gradient[k] += factor * (mass * expf(log_p) - target[k]);
    }
    return loss;
}

static int train(uint8_t *arena, const perse_step *s, int position) {
    int inputs = width[position + 1];
    float *gradient = (float *)(void *)arena, *bias = gradient + inputs * K, z[K], g[K];
    *s->loss = 0;
    for (int i = 0; i < inputs * K; i++) {
        float d = s->head->weight[i] - s->anchor->weight[i];
        gradient[i] = s->decay * d;
        *s->loss += s->decay / 2 * d * d;
    }
    for (int k = 0; k < K; k++) {
        float d = s->head->bias[k] - s->anchor->bias[k];
        bias[k] = s->decay * d;
        *s->loss += s->decay / 2 * d * d;
    }
    for (int b = 0; b < B; b++) {
        const float *x = s->features + b * inputs;
        memset(g, 0, sizeof g);
        logits_of(x, s->head, inputs, z);
        *s->loss += cross_entropy(z, s->hard + b * K, 1, g);
        *s->loss += cross_entropy(z, s->soft + b * K, s->inverse_temperature, g);
        for (int k = 0; k < K; k++) bias[k] += g[k];
        for (int i = 0; i < inputs; i++)
            for (int k = 0; k < K; k++) gradient[i * K + k] += (x[i] - s->head->shift[i]) * s->head->scale[i] * g[k];
    }
    for (int i = 0; i < inputs * K; i++) {
        s->velocity_weight[i] = s->momentum * s->velocity_weight[i] + gradient[i];
        s->head->weight[i] -= s->learning_rate * s->velocity_weight[i];
    }
    for (int k = 0; k < K; k++) {
        s->velocity_bias[k] = s->momentum * s->velocity_bias[k] + bias[k];
        s->head->bias[k] -= s->learning_rate * s->velocity_bias[k];
    }
    return fail(FAIL_TRAIN);
}

static int input_u8(uint8_t *arena, const uint8_t *weights, const uint8_t *image) {
    (void)weights;
    for (int i = 0; i < PIXELS; i++) tap(arena, 0)[i] = (float)image[i] / 255.0f - 0.5f;
    return fail(FAIL_INPUT);
}

static int input_f32(uint8_t *arena, const uint8_t *weights, const float *image) {
    (void)weights;
    memcpy(tap(arena, 0), image, PIXELS * sizeof(float));
    return fail(FAIL_INPUT);
}

#define EXIT(n) \
    static int stage##n(uint8_t *a, const uint8_t *w) { return stage(a, w, n); } \
    static int pool##n(uint8_t *a, const uint8_t *w, float *f) { return (void)w, pool(a, f, n); } \
    static int head##n(uint8_t *a, const float *f, const perse_head *h, float *z) { return (void)a, head(f, h, z, n); } \
    static int train##n(uint8_t *a, const perse_step *s) { return train(a, s, n); }
EXIT(0)
EXIT(1)
EXIT(2)

static const perse_exit_plan exits[] = {
    {"exit0", "relu0", F0, PIXELS * F0, F0 * K, (F0 + 1) * K * sizeof(float), stage0, pool0, head0, train0},
    {"exit1", "relu1", F1, 8 * F0 * F1, F1 * K, (F1 + 1) * K * sizeof(float), stage1, pool1, head1, train1},
    {"final", "relu2", F2, 8 * F1 * F2, F2 * K, (F2 + 1) * K * sizeof(float), stage2, pool2, head2, train2},
};
static const char *const class_names[KNOWN] = {"ant", "bee", "\"cat\"\n", "dog", "emu"};

const perse_plan perse_the_plan = {
    "mock", "test", "0", class_names, 8, 8, 3, K, 3, SPARE, B, MOCK_CRC32, MOCK_SIZE, MOCK_ID, (PIXELS + F0 + F1 + F2) * sizeof(float),
    input_u8, input_f32, exits,
};
