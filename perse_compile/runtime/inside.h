/* inside.h - what the library's own files share. Not for apps; they include perse.h. */
#ifndef PERSE_INSIDE_H
#define PERSE_INSIDE_H
#include "perse.h"
#include "plan.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and used as they are");

/* ---- memory: one block of the caller's, carved into 64-byte aligned pieces. A first pass with base NULL counts. ---- */

typedef struct {
    uint8_t *base;
    size_t size, used; /* used = SIZE_MAX: did not fit */
} perse_carver;

perse_carver perse_carve_in(void *memory, size_t size); /* skips to the first aligned byte */
void *perse_carve(perse_carver *c, uint64_t count, size_t each);
size_t perse_carved_size(const perse_carver *c); /* after a counting pass: what to ask the caller for */

/* ---- failures ---- */

perse_status perse_fail(perse_status status, const char *detail); /* sets perse_detail() */
perse_status perse_fail_errno(int error, const char *file);

/* ---- crc32 of zlib ---- */

uint32_t perse_crc32(uint32_t crc, const void *data, size_t size);

/* ---- file.c ---- */

typedef struct {
    const uint8_t *bytes; /* or, when NULL, */
    int fd;
    uint64_t size, left; /* of the whole; not yet taken */
    uint32_t crc;        /* of what was taken */
    const char *name;
} perse_source;

typedef struct {
    int fd; /* -1: only the checksum is wanted */
    uint32_t crc;
    const char *name;
} perse_sink;

perse_status perse_take(perse_source *s, void *to, size_t size);
perse_status perse_put(perse_sink *s, const void *from, size_t size);
perse_status perse_move(int folder, const char *from, const char *to); /* renames, and brings that to the disk */
bool perse_all_zero(const uint8_t *bytes, size_t size);

/* ---- base.c: random numbers, the same everywhere (splitmix64) ---- */

uint64_t perse_random(uint64_t *state);

/* ---- half.c: half precision, to nearest, ties to even; beyond 65504 the greatest half ---- */

uint16_t perse_to_half(float value);
static inline float perse_from_half(uint16_t half) {
    uint32_t rest = half & 0x7FFFu, normal = 0u - (rest >= 0x400u), bits; /* all ones or none: compilers vectorise that */
    float value = (float)(int32_t)rest * 0x1p-24f;                       /* exact: below the smallest normal half */
    memcpy(&bits, &value, sizeof bits);
    bits = (((rest << 13) + 0x38000000u) & normal) | (bits & ~normal) | (half & 0x8000u) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Features from `at` on of all that samples have. */
static inline bool perse_feature_is_sound(const perse_samples *s, size_t at) {
    return s->features != NULL ? isfinite(s->features[at]) : (s->halves[at] & 0x7C00u) != 0x7C00u;
}

static inline float perse_feature(const perse_samples *s, size_t at) {
    return s->features != NULL ? s->features[at] : perse_from_half(s->halves[at]);
}

void perse_sample_features(const perse_samples *s, size_t at, uint32_t count, float *to);

/* ---- likeness.c: how alike samples look to the backbone ---- */

enum { PERSE_BLOCK = 16 }; /* samples compared at a time */
/* The exit whose features are compared: the last early one, deep, but not where the final exit's mistakes come from. */
uint32_t perse_compared_exit(const perse_plan *plan);
/* x: the exit's features of a sample, less their mean, times scale, and then of length 1. */
void perse_unit_features(const perse *p, const perse_samples *samples, uint32_t e, uint32_t sample, const double *mean,
                         const double *scale, float *x);
/* likeness [PERSE_BLOCK]: x times each column of block [width][PERSE_BLOCK]. */
void perse_compare(const float *x, const float *block, uint32_t width, float *likeness);

/* ---- threads.c ---- */

typedef struct perse_pool perse_pool;
int perse_cores(void);
perse_pool *perse_pool_carve(perse_carver *c, int threads); /* NULL while counting */
perse_status perse_pool_start(perse_pool *pool);
void perse_pool_stop(perse_pool *pool);
void perse_pool_enter(perse_pool *pool); /* kernels that this thread runs from here on use the pool */
void perse_pool_leave(void);

/* ---- pack.c: heads in memory ---- */

typedef struct {
    bool enabled;
    float temperature, threshold;
    perse_head head;
} perse_pack_entry;

typedef struct {
    uint32_t generation;
    float *levels;          /* [channels][2] */
    char *names;            /* [spare][PERSE_CLASS_ROOM] of new classes */
    perse_pack_entry *exit; /* [exits] */
} perse_pack;

void perse_pack_carve(perse_carver *c, const perse_plan *plan, perse_pack *pack);
void perse_head_carve(perse_carver *c, uint32_t features, uint32_t classes, perse_head *head);
void perse_head_copy(const perse_head *to, const perse_head *from, uint32_t features, uint32_t classes);
/* All but the levels: those belong to the camera, not to the heads. */
void perse_pack_copy(const perse_plan *plan, perse_pack *to, const perse_pack *from);
uint64_t perse_pack_bytes(const perse_plan *plan); /* length of a pack file */
perse_status perse_pack_parse(const perse_plan *plan, const uint8_t *bytes, uint64_t size, const char *name, perse_pack *into);
perse_status perse_pack_read(const perse_plan *plan, int folder, const char *name, perse_pack *into);
void perse_pack_stored(perse *p); /* what is in use is what is on disk, or the factory's */

/* ---- classes.c: outputs that have no class as built ---- */

uint32_t perse_factory_classes(const perse_plan *plan);                  /* that the network was built with */
uint32_t perse_named_classes(const perse_plan *plan, const perse_pack *pack); /* and those that got a name since */
const char *perse_class_name(const perse *p, uint32_t k);
uint32_t perse_class_of_name(const perse *p, const char *name); /* perse_named_classes where there is none */
bool perse_head_knows(const perse_head *head, uint32_t k);
bool perse_pack_knows(const perse_plan *plan, const perse_pack *pack, uint32_t k); /* any of its heads */
bool perse_names_sound(const char *names, uint32_t spare);

/* ---- the library's state ---- */

/* A pack and the folder of its files. */
struct perse_place {
    perse *p;
    int folder;
    perse_pack pack;
};

struct perse {
    const perse_plan *plan;
    int folder; /* of the pack in use */
    const uint8_t *file; /* backbone.bin, mapped */
    const perse_backbone_header *header;
    const uint8_t *weights;
    perse_pool *pool;
    int threads;
    uint32_t features; /* of one image, over all exits */
    uint8_t *arena, *image;
    float *feature, *logits; /* of one exit */
    double *share; /* [classes]: mean probabilities */
    const char **class_names; /* [classes] */
    perse_pack live, spare;
    float *factory_levels; /* [channels][2] */
    float *stored_levels;  /* [channels][2] of the pack as last read or written; */
    uint32_t stored_generation; /* its generation */
    uint8_t *table; /* [channels][256]: where a pixel goes, if */
    bool corrects;
    perse_place own, *current; /* of the artifact itself; the one that `live` and `folder` are of, NULL = own */
};

perse_status perse_factory(perse *p, perse_pack *into);
uint32_t perse_feature_offset(const perse_plan *plan, uint32_t exit);
uint64_t perse_full_macs(const perse_plan *plan);

/* features -> logits with any head; enters the pool. logits: NULL leaves them in p->logits. */
perse_status perse_apply_head(perse *p, uint32_t exit, const perse_head *head, const float *features, float *logits);

/* ---- answer.c ---- */

uint32_t perse_argmax(const float *values, uint32_t count);
/* Top-1 of softmax(logits / temperature). False when the logits are not finite. */
bool perse_top(const float *logits, uint32_t classes, float temperature, int *label, float *confidence);
void perse_probabilities(const float *logits, uint32_t classes, double temperature, float *out);
/* The sum of exp((logits - top) * inverse_temperature); no logit exceeds `top`. */
double perse_exp_sum(const float *logits, uint32_t classes, double top, double inverse_temperature);

/* ---- levels.c ---- */

bool perse_levels_sound(const float *levels, uint32_t channels);
void perse_levels_use(perse *p); /* after the live levels changed */
void perse_levels_apply(const perse *p, const uint8_t *from, uint8_t *to, size_t count);
double perse_entropy(double share); /* one share's part of it, in nats */

/* ---- training.c ---- */

uint32_t perse_passes(uint32_t count, uint32_t batch); /* over so many samples, that make an epoch of a fit: of few samples several */
enum { PERSE_FEWEST_SAMPLES = 20 }; /* to learn or to calibrate from */

struct perse_training {
    perse *p;
    const perse_exit_plan *plan;
    const perse_head *head; /* trained in place */
    perse_head anchor;
    float *velocity_weight, *velocity_bias, *features, *hard, *soft, *loss; /* aligned batch buffers */
    uint8_t *arena;
};

perse_training *perse_training_carve(perse_carver *c, const perse_plan *plan, uint32_t exit);
void perse_training_begin(perse_training *t, perse *p, uint32_t exit, const perse_head *head);
perse_status perse_training_step(perse_training *t, float inverse_temperature, float learning_rate, float momentum, float decay);

/* ---- measure.c: what heads do on cached features ---- */

typedef struct {
    int label;
    float confidence;
} perse_answer;

typedef struct {
    float key;
    uint32_t index;
} perse_ranked;

typedef struct {
    const uint32_t *index; /* [count] of samples */
    uint32_t count;
} perse_slice;

/* Samples, what is right for them, and scratch. Rows of `logits` and `teacher` belong to the sample of the same number. */
typedef struct {
    perse *p;
    const perse_samples *samples;
    bool labelled;
    int32_t *truth;       /* [count] what counts as right; -1 = unknown */
    float *teacher;       /* [count][classes] logits at temperature 1; right when not labelled */
    float *logits;        /* [count][classes] scratch */
    double *dot;          /* [count] scratch */
    perse_ranked *ranked; /* [count] scratch */
    uint32_t *order;      /* [count] scratch */
} perse_lab;

void perse_lab_carve(perse_carver *c, const perse_plan *plan, uint32_t count, perse_lab *lab);
perse_status perse_check_samples(const perse *p, const perse_samples *samples, bool *labelled);
perse_status perse_lab_logits(perse_lab *lab, uint32_t exit, const perse_head *head, perse_slice slice, float *out);
double perse_lab_loss(perse_lab *lab, const float *logits, perse_slice slice, double temperature);
double perse_lab_temperature(perse_lab *lab, const float *logits, perse_slice slice); /* of the least loss */

typedef struct {
    double max_drop, max_cost;
    double *share; /* [exits] scratch, where max_cost > 0 */
} perse_aim;

/* answers: [exits][samples->count] */
perse_status perse_lab_answers(perse_lab *lab, const perse_pack *pack, perse_slice slice, perse_answer *answers);
perse_status perse_lab_calibrate(perse_lab *lab, perse_pack *pack, perse_slice slice, perse_aim aim, perse_answer *answers);

/* max_drop: that early answers may lose against the final exit; max_cost: 0, or of the mean answer, whatever it loses. */
void perse_lab_thresholds(perse_lab *lab, perse_pack *pack, perse_slice slice, perse_aim aim, const perse_answer *answers);

double perse_lab_accuracy(const perse_lab *lab, perse_slice slice, const perse_answer *answers_of_exit);
/* shares: [exits] */
perse_figures perse_lab_cascade(const perse_lab *lab, const perse_pack *pack, perse_slice slice, const perse_answer *answers,
                                double *shares);
#endif
