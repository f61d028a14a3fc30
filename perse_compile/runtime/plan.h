/* plan.h - what the compiler's generated plan.c gives the runtime. Not for apps; they include perse.h.
 *
 * All tensors are float32, batch 1 unless said; images are HWC on the device. Functions return 0 or, when
 * a kernel refused, non-zero (PERSE_KERNEL_FAILED). `arena` is scratch memory of the caller, 64-byte
 * aligned; `weights` is the weights section of backbone.bin, 4096-byte aligned, read-only. */
#ifndef PERSE_PLAN_H
#define PERSE_PLAN_H
#include <stddef.h>
#include <stdint.h>

#define PERSE_FORMAT_VERSION 3u

/* An output that no class has yet, and that must not win: its weights are 0 and its bias is this, in every head. Whatever the
 * temperature (0.05 .. 20), its probability is exactly 0 and it is never trained, unless the other logits are as low. */
#define PERSE_SPARE_LOGIT (-30000.0f)
enum { PERSE_CLASS_ROOM = 64 }; /* bytes of a new class's name in a file, padded with zeros, the last is 0 */

/* Parameters of one head, pointers into the live pack. F = features, K = classes, spare ones too. */
typedef struct {
    float *shift;  /* [F] */
    float *scale;  /* [F] */
    float *weight; /* [F][K] */
    float *bias;   /* [K] */
} perse_head;

/* One batch of one head's training step. Rows past the end of the data have hard = soft = 0.
 * loss = -sum(hard * log_softmax(z)) - sum(soft * log_softmax(z * inverse_temperature))
 *        + decay/2 * (|weight - anchor.weight|^2 + |bias - anchor.bias|^2)
 * with z the head's logits. Then v = momentum*v + gradient; p = p - learning_rate*v. */
typedef struct {
    const float *features; /* [B][F] raw pooled features */
    const float *hard;     /* [B][K] one-hot * weight of the sample / number of samples */
    const float *soft;     /* [B][K] teacher's probabilities * weight * T^2 / number of samples */
    float inverse_temperature, learning_rate, momentum, decay;
    const perse_head *head;   /* weight and bias are updated in place */
    const perse_head *anchor; /* the head that decay pulls towards */
    float *velocity_weight;   /* [F][K], in place */
    float *velocity_bias;     /* [K], in place */
    float *loss;              /* [1] */
} perse_step;

typedef struct {
    const char *name; /* "exit0", ..., the last is "final" */
    const char *tap;
    uint32_t features;         /* F */
    uint64_t stage_macs;       /* of the backbone since the tap before */
    uint64_t head_macs;        /* pool, a bottleneck's projection, head */
    uint64_t train_arena_size; /* bytes that train() needs */
    int (*stage)(uint8_t *arena, const uint8_t *weights);                  /* from the tap before to this tap */
    int (*pool)(uint8_t *arena, const uint8_t *weights, float *features);  /* tap -> features; leaves the tap intact */
    int (*head)(uint8_t *arena, const float *features, const perse_head *head, float *logits);
    int (*train)(uint8_t *train_arena, const perse_step *step);
} perse_exit_plan;

typedef struct {
    const char *name;    /* "resnet50" */
    const char *target;  /* "arm64-android" */
    const char *version; /* of perse-compile */
    const char *const *class_names; /* [classes - spare] */
    uint32_t height, width, channels, classes, exits;
    uint32_t spare;          /* of the classes: the last ones, which the network never had and a person may name */
    uint32_t train_batch;    /* B */
    uint32_t backbone_crc32; /* perse_backbone_header.crc32: which weights this code was built for */
    uint64_t backbone_size;  /* of the file */
    uint32_t heads_id;       /* over the backbone's tensors and the taps: heads fit every build with the same id, on any target.
                              * (Not backbone_crc32: the factory pack lies inside backbone.bin and cannot know that.) */
    uint64_t arena_size;     /* bytes */
    int (*input_u8)(uint8_t *arena, const uint8_t *weights, const uint8_t *image);  /* HWC pixels: normalises */
    int (*input_f32)(uint8_t *arena, const uint8_t *weights, const float *image);   /* HWC, already normalised */
    const perse_exit_plan *exit; /* [exits] */
} perse_plan;

extern const perse_plan perse_the_plan;

/* backbone.bin: this header, then weights, pack, probes, in this order. Little-endian. crc32 is zlib's. The
 * weights start at 4096, each later section at the first multiple of 4096 at or after the end of the one before,
 * and the file ends with the last probe's logits. Never written on the device. */
typedef struct {
    char magic[8]; /* "PERSEBIN" */
    uint32_t version;
    uint32_t crc32;  /* of bytes [16, length) */
    uint64_t length; /* of the file */
    uint64_t weights_offset, weights_size;
    uint64_t pack_offset, pack_size;   /* the factory pack, in the format of heads.pack */
    uint32_t probe_offset_pages;       /* offset / 4096 of: uint8 image [H][W][C] each padded to 64 bytes, then float logits
                                        * [probes][exits][K] starting 64-byte aligned, PyTorch's answer with factory heads */
    uint32_t probes;
} perse_backbone_header;

/* heads.pack: this header, then levels as floats [channels][2], then names of new classes as char [spare][PERSE_CLASS_ROOM] in
 * UTF-8 (empty = nobody named that one, nor those after it), then per exit a perse_pack_exit followed by shift, scale, weight,
 * bias as floats. Levels are the mean low and high end of the images' pixels (perse_measure_levels): in
 * the factory pack those of the training images, in a person's pack those of their camera. 0 = not known: no correction. */
typedef struct {
    char magic[8]; /* "PERSEPAK" */
    uint32_t version;
    uint32_t crc32;  /* of bytes [16, length) */
    uint64_t length; /* of the file */
    uint32_t exits, classes;
    uint32_t heads_id;       /* perse_plan.heads_id of the artifact these heads belong to */
    uint32_t generation;     /* 0 = factory; +1 whenever new heads, temperatures, thresholds or levels went live */
    uint32_t channels;
    uint32_t spare;          /* of the classes */
    uint8_t reserved[16];    /* 0 */
} perse_pack_header;

typedef struct {
    uint32_t features;
    uint32_t enabled;  /* 0 or 1; the final exit is always 1 */
    float temperature; /* > 0 */
    float threshold;   /* top-1 confidence at which the answer is taken; ignored for the final exit */
    uint8_t reserved[16]; /* 0 */
} perse_pack_exit;

/* cache.bin: this header, then uint32 seen[classes] (samples of each class that ever came), then names of new classes as in
 * heads.pack (which labels of them mean), then the samples: int32 label (-1 = unknown), int32 answer (class that the factory's
 * final exit gave it), halves [features], padded to 4 bytes. */
typedef struct {
    char magic[8]; /* "PERSEFEA" */
    uint32_t version;
    uint32_t crc32;  /* of bytes [16, length) */
    uint64_t length; /* of the file */
    uint32_t heads_id; /* perse_plan.heads_id: features are of that backbone and those taps */
    uint32_t classes, features, samples;
    uint64_t random;      /* state of the generator that chooses what gives way */
    uint32_t levels;      /* CRC-32 of the levels through which the features were seen */
    uint8_t reserved[12]; /* 0 */
} perse_cache_header;

_Static_assert(sizeof(perse_cache_header) == 64, "format");
_Static_assert(sizeof(perse_backbone_header) == 64, "format");
_Static_assert(sizeof(perse_pack_header) == 64, "format");
_Static_assert(sizeof(perse_pack_exit) == 32, "format");
_Static_assert(offsetof(perse_backbone_header, length) == 16 && offsetof(perse_pack_header, length) == 16, "the checksum's range");
#define PERSE_CHECKED_FROM 16u

/* Set by the runtime (threads.c) before any kernel runs; referenced by TVM's object code. What a kernel reports
 * through TVMFFIErrorSetRaisedFromCStrParts, which the runtime defines too, is what perse_detail() then says.
 * Workspace of all kernels that run at once: PERSE_WORKSPACE bytes. Images, features, targets and heads reach
 * the functions above 64-byte aligned. */
#define PERSE_WORKSPACE (4u << 20)
extern void *__TVMBackendParallelLaunch, *__TVMBackendAllocWorkspace, *__TVMBackendFreeWorkspace;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);
#endif
