/* perse.h - run a multi-exit image classifier on a device, and make it its owner's.
 *
 * An artifact is a folder with backbone.bin (never written) and heads.pack (the person's heads). The classifier
 * itself is code, linked with this library. From open to close:
 *
 *     size_t size = perse_memory_size(2);
 *     void *memory = malloc(size);
 *     perse *p;
 *     perse_status status = perse_open(&p, "my-artifact", 2, memory, size);
 *     if (status != PERSE_OK) { puts(perse_status_text(status)); puts(perse_detail()); }
 *     perse_result result;
 *     status = perse_run_u8(p, pixels, PERSE_CASCADE, &result, NULL);
 *     ...
 *     perse_close(p);
 *     free(memory);
 *
 * To personalise: perse_features_u8 once per image of the person, perse_fit on all of them, perse_save_pack.
 *
 * The library never prints, never exits, and never allocates after open; memory is the caller's, of any
 * alignment, and is free again after perse_close. One `perse` is for one thread at a time; several may be open.
 * Results do not depend on the number of threads, bit for bit. Images are [height][width][channels]; logits are
 * [classes] floats; features of one image are all exits' pooled features one after the other. */
#ifndef PERSE_H
#define PERSE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* code, what happened, what to do */
#define PERSE_STATUS(X) \
    X(PERSE_OK, "ok", "") \
    X(PERSE_BAD_ARGUMENT, "argument out of range", "see perse.h") \
    X(PERSE_OUT_OF_MEMORY, "memory too small", "give as much as the matching size function says") \
    X(PERSE_NO_FILE, "no such file", "is this the artifact's folder?") \
    X(PERSE_IO, "cannot read or write", "check the folder's permissions and the disk") \
    X(PERSE_DISK_FULL, "disk full", "free some space and try again; the heads in use are as they were") \
    X(PERSE_BUSY, "another process is saving heads here", "try again when it is done") \
    X(PERSE_BAD_MAGIC, "not a perse file", "build the artifact again; `perse reset` for heads.pack; delete a cache") \
    X(PERSE_BAD_VERSION, "file version not supported", "build the artifact again with this version") \
    X(PERSE_TRUNCATED, "file length is wrong", "copy the file again; `perse rollback` for heads.pack; delete a cache") \
    X(PERSE_BAD_LAYOUT, "file contents contradict themselves", "build the artifact again; `perse reset` for heads.pack; delete a cache") \
    X(PERSE_BAD_CHECKSUM, "file is damaged", "copy the file again; `perse rollback` for heads.pack; delete a cache") \
    X(PERSE_WRONG_BACKBONE, "backbone is not the one this program was built for", "keep an artifact's files together") \
    X(PERSE_WRONG_PACK, "heads belong to another artifact", "`perse reset` brings back the factory heads") \
    X(PERSE_BAD_NAME, "not a name for a pack", "use 1 to 48 letters, digits, - and _") \
    X(PERSE_WRONG_CACHE, "cached features are of another artifact or camera", "delete it, or name another file") \
    X(PERSE_NO_PREVIOUS, "no previous heads to roll back to", "`perse reset` brings back the factory heads") \
    X(PERSE_THREAD_FAILED, "cannot start a thread", "ask for fewer threads") \
    X(PERSE_NAN_INPUT, "input has NaN or infinite values", "check how the image was prepared") \
    X(PERSE_KERNEL_FAILED, "a kernel failed", "this is a bug; report it with the artifact's manifest.json") \
    X(PERSE_BAD_LABEL, "label out of range", "labels are class numbers from 0, or -1 for unknown") \
    X(PERSE_TOO_FEW_SAMPLES, "too few samples", "give at least 20, a few of each class") \
    X(PERSE_ONE_CLASS, "all samples are of one class", "add images of other classes; from one class nothing can be told apart") \
    X(PERSE_BAD_CLASS_NAME, "not a name for a class", "use 1 to 63 bytes of UTF-8, no control characters") \
    X(PERSE_CLASS_KNOWN, "a class has that name already", "it can be taught as it is") \
    X(PERSE_NO_SPARE_CLASS, "no output is left for a new class", "build again, with `insert-exits --spare-classes N`") \
    X(PERSE_TOO_FEW_OF_CLASS, "too few samples of a new class", "label at least 5") \
    X(PERSE_BAD_LEVELS, "a camera that cannot be corrected", "use the images as they are") \
    X(PERSE_DIVERGED, "training diverged", "use a smaller learning rate") \
    X(PERSE_ABORTED, "stopped by the caller", "the heads in use are as they were")

typedef enum {
#define PERSE_STATUS_CODE(code, text, advice) code,
    PERSE_STATUS(PERSE_STATUS_CODE)
#undef PERSE_STATUS_CODE
    PERSE_STATUS_COUNT
} perse_status;

const char *perse_status_text(perse_status status);   /* what happened */
const char *perse_status_advice(perse_status status); /* what to do about it */
const char *perse_detail(void); /* file or kernel that the last failure in this thread was about; may be "" */

#define PERSE_TRY(call) \
    do { \
        perse_status perse_try_ = (call); \
        if (perse_try_ != PERSE_OK) return perse_try_; \
    } while (0)

/* ---- open, close, look ---- */

typedef struct perse perse;
enum { PERSE_MAX_THREADS = 64 };

/* threads: 1 .. PERSE_MAX_THREADS, the caller's own included; 0 = one per core. */
size_t perse_memory_size(int threads);

/* Checks both files in full before using them. Without a heads.pack the factory heads are used. */
perse_status perse_open(perse **out, const char *folder, int threads, void *memory, size_t size);

/* The same with the factory heads, whatever heads.pack is: for self-tests and repairs. */
perse_status perse_open_factory(perse **out, const char *folder, int threads, void *memory, size_t size);

void perse_close(perse *p); /* close its places and caches before; NULL is fine */

typedef struct {
    const char *name, *target, *version;
    const char *const *class_names; /* [classes]; "" where an output has none yet; good until heads change */
    uint32_t height, width, channels, classes, exits;
    uint32_t spare;           /* the last of the classes that have no name yet: they are never the answer */
    uint32_t factory_classes; /* the first ones, which the network was built with */
    uint32_t features;    /* of one image, over all exits */
    uint32_t train_batch; /* rows of a training batch */
    uint32_t probes;      /* images with known answers in backbone.bin */
    uint32_t generation;  /* of the heads: 0 = factory */
    uint32_t threads;
    uint64_t backbone_size, macs; /* bytes of the file; of the full network with its own classifier */
} perse_info;

typedef struct {
    const char *name, *tap;
    uint32_t features, feature_offset; /* its part of an image's features */
    uint64_t stage_macs, head_macs;
    bool enabled;
    float temperature, threshold;
} perse_exit_info;

perse_info perse_get_info(const perse *p);
perse_status perse_get_exit(const perse *p, int exit, perse_exit_info *out);
perse_status perse_set_exit(perse *p, int exit, bool enabled, float temperature, float threshold); /* until close or save */

/* Switches exits off that cost more than they save, by share [exits] of the images that each answers and by milliseconds of
 * stage [exits] and head [exits] (perse_profile_u8): from the last exit to the first, asking everybody who comes by must take
 * less than the answers spare. With all exits off, an image takes the stages and the final head, the full network. With
 * exits on, the worst case is every stage and every enabled head once. off: NULL or how many were switched off. */
perse_status perse_drop_costly(perse *p, const double *share, const double *stage, const double *head, uint32_t *off);

/* ---- classes that the network never had ----
 *
 * An artifact built with spare classes has outputs that no class has yet. The next of them becomes the class `name` of the heads
 * in use: labels may then say its number, classes - spare as it was before, and perse_fit teaches it to every head once 5
 * samples have that label. Until close, or for good with perse_save_pack: names are kept with the heads. It is the answer to
 * nothing before a fit has learnt it. NULL takes back names that no fit has learnt. */
enum { PERSE_LONGEST_CLASS = 63 }; /* bytes */
perse_status perse_name_class(perse *p, const char *name);

/* A probe: its uint8 image, and PyTorch's logits [exits][classes] with the factory heads. */
perse_status perse_get_probe(const perse *p, int probe, const uint8_t **image, const float **logits);

/* ---- inference ---- */

enum { PERSE_CASCADE = -1 }; /* the first enabled exit that is confident answers */

typedef struct {
    int label, exit;
    float confidence; /* top-1 of softmax(logits / temperature) */
    int stages;       /* stages executed, counted as they ran */
} perse_result;

/* exit: PERSE_CASCADE, or the exit that must answer. logits: NULL or [classes]. Float images are normalised ones. */
perse_status perse_run_u8(perse *p, const uint8_t *image, int exit, perse_result *result, float *logits);
perse_status perse_run_f32(perse *p, const float *image, int exit, perse_result *result, float *logits);

/* Every exit's answer. results: [exits]; logits: NULL or [exits][classes]; features: NULL or [features]. */
perse_status perse_observe_u8(perse *p, const uint8_t *image, perse_result *results, float *logits, float *features);
perse_status perse_observe_f32(perse *p, const float *image, perse_result *results, float *logits, float *features);

/* What training needs of an image; no head runs. features: [features]. */
perse_status perse_features_u8(perse *p, const uint8_t *image, float *features);
perse_status perse_features_f32(perse *p, const float *image, float *features);

/* features: that exit's part only. */
perse_status perse_head_logits(perse *p, int exit, const float *features, float *logits);

/* Milliseconds of one walk through everything. stage, head: [exits]; head includes pooling. */
perse_status perse_profile_u8(perse *p, const uint8_t *image, double *input, double *stage, double *head);

/* ---- the camera: brightness, contrast, colour cast ----
 *
 * Levels are [channels][2] floats, a low and a high end: the mean over images of the least pixel value that at least
 * 1/20, and 19/20, of that image's pixels do not exceed. When those of the person's camera are known and differ from
 * those of the images that the network was trained on, the _u8 functions above first replace each pixel v by
 *     round((v - low) * (factory_high - factory_low) / (high - low) + factory_low), within 0 .. 255.
 * Normalised images (_f32) are never corrected: whoever normalises them may. Features that were cached under other
 * levels are of no use any more. */

/* images: [count][height][width][channels], one after the other, as they come from the camera. */
perse_status perse_measure_levels(const perse *p, const uint8_t *images, uint32_t count, float *levels);

/* Each may be NULL. corrects: whether pixels are changed now. Levels of 0 are not known. */
perse_status perse_get_levels(const perse *p, float *factory, float *live, bool *corrects);

/* Of the camera, from now on: until close, or for good with perse_save_pack. NULL: no correction. PERSE_BAD_LEVELS, and
 * nothing changes, where the artifact does not know its own, where low and high are nearer than 8, or where they lie at an
 * end of the range and the factory's do not: what is clipped is lost. */
perse_status perse_set_levels(perse *p, const float *levels);

/* ---- drift watch ---- */

/* Every so many-th image runs to the end although an early exit was confident; the answer is the same as without. If an exit
 * then disagrees with the final one more often than is allowed, its threshold is halved towards 1, four times at most, then the
 * exit is switched off; step by step it comes back when it agrees again. This changes the heads in use until
 * perse_watch_end, which must come before heads are saved, trained or exchanged. */
typedef struct perse_watch perse_watch;

typedef struct {
    uint32_t every;         /* 1 = every image */
    float max_disagreement; /* allowed share of an exit's confident answers that the final exit contradicts, 0 .. 1 */
    float deviations;       /* how sure to be, in standard deviations, before anything is changed */
} perse_watch_options;

typedef struct {
    uint32_t images, images_checked;   /* seen in all; run to the end */
    uint32_t checked, disagreed;       /* of this exit's confident answers */
    uint32_t recent, recent_disagreed; /* the same since its threshold last changed, the last 400 at most */
    double low, high;                  /* Wilson's interval of the recent rate */
    uint32_t tightened, loosened;      /* steps */
    bool switched_off, enabled;        /* by the watch; as it is now */
    float threshold;                   /* as it is now */
} perse_watch_report;

perse_watch_options perse_watch_defaults(void);
size_t perse_watch_size(const perse *p);
perse_status perse_watch_begin(perse *p, const perse_watch_options *options, void *memory, size_t size, perse_watch **out);
perse_status perse_watch_run_u8(perse_watch *w, const uint8_t *image, perse_result *result, float *logits); /* as perse_run_u8 */
perse_status perse_watch_run_f32(perse_watch *w, const float *image, perse_result *result, float *logits);
perse_status perse_watch_look(const perse_watch *w, int exit, perse_watch_report *out); /* not the final exit */
void perse_watch_end(perse_watch *w); /* thresholds as they were; NULL is fine */

/* ---- one training step ---- */

typedef struct perse_training perse_training; /* one exit's velocity, and the weights that decay pulls towards */

typedef struct {
    const float *features; /* [train_batch][features of the exit] */
    const float *hard;     /* [train_batch][classes]: one-hot * weight / samples in the batch; zero rows are padding */
    const float *soft;     /* [train_batch][classes]: teacher's probabilities * weight * T*T / samples */
    float inverse_temperature, learning_rate, momentum, decay; /* inverse_temperature = 1/T, of the soft part */
} perse_batch;

size_t perse_training_size(const perse *p, int exit);
perse_status perse_train_begin(perse *p, int exit, void *memory, size_t size, perse_training **out);

/* Changes the exit's head in use (not the file). loss, before the step, may be NULL. */
perse_status perse_train_batch(perse_training *t, const perse_batch *batch, float *loss);

/* ---- personalisation ---- */

typedef struct {
    uint32_t count;
    const float *features; /* [count][features] */
    const int32_t *labels; /* [count], -1 = unknown; NULL = all unknown */
    const uint16_t *halves; /* [count][features] in half precision, where features is NULL: half the memory, as good for heads */
} perse_samples;

/* To the nearest half; what is beyond them becomes the greatest. */
void perse_to_halves(const float *from, uint16_t *to, size_t count);
void perse_from_halves(const uint16_t *from, float *to, size_t count);

/* Called often; not zero stops with PERSE_ABORTED. */
typedef int (*perse_progress)(void *user, const char *phase, uint32_t done, uint32_t total);

typedef enum { PERSE_AGAINST_FINAL, PERSE_AGAINST_FACTORY } perse_reference;

typedef struct {
    uint32_t epochs, folds;    /* folds, 2 .. 10: every sample is judged by heads that learnt from the other folds only */
    float learning_rate, momentum, decay;
    float teacher_temperature; /* T of the soft targets */
    float label_weight;        /* a: share of the label in a labelled sample's loss, 0 .. 1 */
    float neighbours;          /* share of a teacher's answer that those to similar images are, 0 .. 0.99, where nothing else corrects it */
    float max_drop;            /* accuracy that early answers may lose on the same samples, against what is next: */
    perse_reference against;   /* the person's own final exit or, for speed, the factory's, where labels tell the difference */
    float max_cost;            /* 0, or the share of the full network's MACs that answers may cost on average, whatever they lose */
    uint64_t seed;
    perse_progress progress;
    void *user;
} perse_fit_options;

perse_fit_options perse_fit_defaults(void);

#define PERSE_VERDICT(X) \
    X(PERSE_BETTER, "the new heads are better and in use") \
    X(PERSE_LESS_ACCURATE, "kept the old heads: the new ones are less accurate on samples they did not learn from") \
    X(PERSE_NOT_BETTER, "kept the old heads: the new ones gain neither accuracy nor time") \
    X(PERSE_UNLEARNABLE, "kept the old heads: the labels look random, nothing learnt from them holds on new images") \
    X(PERSE_NOT_RECOGNISED, "kept the old heads: a new class is mostly not recognised") \
    X(PERSE_KNOWN_SUFFER, "kept the old heads: a new class would cost known ones") \
    X(PERSE_CONTRADICTED, "kept the old heads: the final exit contradicts many answers, and no label tells who is right")
#define PERSE_TEACHER(X) \
    X(PERSE_TEACHER_FINAL, "final exit") \
    X(PERSE_TEACHER_PERSONAL, "personalised final exit") \
    X(PERSE_TEACHER_MEAN, "mean of exits") \
    X(PERSE_TEACHER_PRIOR, "final exit, corrected for how often the person meets each class") \
    X(PERSE_TEACHER_EARLY, "early exit, whose answers tell more") \
    X(PERSE_TEACHER_NEAR, "final exit, evened out among images that look alike")
#define PERSE_NAME(code, text) code,
typedef enum { PERSE_VERDICT(PERSE_NAME) PERSE_VERDICT_COUNT } perse_verdict;
typedef enum { PERSE_TEACHER(PERSE_NAME) PERSE_TEACHER_COUNT } perse_teacher;
#undef PERSE_NAME
const char *perse_verdict_text(perse_verdict verdict);
const char *perse_teacher_text(perse_teacher teacher);

/* Accuracy is agreement with the labels or, where there are none, with the teacher. */
typedef struct {
    double accuracy, cost; /* of the cascade; mean cost as a share of the full network's MACs */
} perse_figures;

typedef struct {
    double accuracy_before, accuracy_after, share_before, share_after; /* share of samples that this exit answers */
    bool new_head;                                                     /* its new head was not worse, and was taken */
    bool enabled;
    float temperature, threshold;
    uint32_t epochs;
    double first_loss, last_loss; /* mean over an epoch */
} perse_exit_report;

/* All figures are of the samples that judge (those with labels, or all where there are none), each by heads that did not
 * learn from it; they chose, exit by exit, between the old head and the new, and set temperatures and thresholds.
 * `after` is the new pack, also when the verdict was to keep the old one; it and `share_after` are with thresholds fitted on
 * other samples than those they judge, `threshold` and `enabled` are the new pack's own. */
typedef struct {
    perse_verdict verdict;
    perse_teacher teacher;
    bool labelled;
    uint32_t train, judged, left_out; /* the last without labels: as from another camera, whose images the network cannot read */
    perse_figures before, after;
    perse_exit_report *exits; /* in: [exits] of the caller */
    float *prior;             /* in: NULL or [classes] of the caller; how often the person meets each class */
    float *recognised;        /* in: NULL or [classes]; share of each class's samples that the new pack answers rightly, NAN: none */
} perse_report;

/* What tells without labels whether levels help, from the probabilities that the factory's final exit gives the samples:
 * the mean of the greatest, and the information, in nats, that an answer carries: the entropy of their mean less the mean
 * of their entropies. A network that no longer understands its images can be as sure as ever that all are one thing; then
 * the information is small. With labels also how often the final exit in use is right. */
enum { PERSE_ENOUGH_FOR_LEVELS = 100 }; /* images, to tell */

typedef struct {
    double confidence, information;
    uint32_t labelled, right; /* samples with a label; of those */
} perse_final;

perse_status perse_measure_final(perse *p, const perse_samples *samples, perse_final *out);

/* Trains every head on the samples, refits temperatures and thresholds, and puts the result in use only if it is
 * surely better on samples it did not learn from. Writes no file: perse_save_pack does. On any status but PERSE_OK nothing changed. */
size_t perse_fit_size(const perse *p, uint32_t count); /* SIZE_MAX when there is no such amount */
perse_status perse_fit(perse *p, const perse_samples *samples, const perse_fit_options *options, void *memory, size_t size,
                       perse_report *report);

/* What that will take, before it starts: of a probe here and now (some inferences, some training batches of every head) and
 * the number of batches; without labels images are compared with each other, too. `seconds` is what to expect; `seconds_at_most` is
 * where a correction of the camera is tried and, without labels, images are compared again and, with options->neighbours, heads learn
 * a second time. */
typedef struct {
    uint32_t images, samples, epochs_at_most; /* images: through the backbone first; samples: to learn from */
    double seconds, seconds_at_most, core_seconds, core_seconds_at_most; /* core-seconds: times the threads */
    uint64_t memory; /* bytes, with the backbone, the features and the images */
} perse_estimate;

size_t perse_estimate_size(const perse *p);
perse_status perse_estimate_fit(perse *p, uint32_t images, uint32_t samples, bool labelled, const perse_fit_options *options, void *memory,
                                size_t size, perse_estimate *out);

/* Temperatures and thresholds only, from all of the samples, without a gate. Without labels the final exit is right.
 * max_drop and max_cost: as for a fit, against the person's own final exit. */
size_t perse_calibrate_size(const perse *p, uint32_t count);
perse_status perse_calibrate(perse *p, const perse_samples *samples, float max_drop, float max_cost, void *memory, size_t size,
                             perse_report *report);

/* ---- several packs ---- */

/* A place is a named pack: other heads for another person or another surrounding, in packs/NAME of the artifact's
 * folder. It has its own heads.pack, heads.pack.previous and cache.bin. All functions on heads mean the place in use;
 * after perse_open that is the artifact's own. Names: 1 to 48 of a-z A-Z 0-9 - _ and ., the first no dot. */
typedef struct perse_place perse_place;
enum { PERSE_LONGEST_NAME = 48 };

/* PERSE_CREATE makes the folder if it is missing. Without a heads.pack there, or with PERSE_FACTORY, the factory heads
 * are used. */
enum { PERSE_CREATE = 1, PERSE_FACTORY = 2 };
size_t perse_place_size(const perse *p);
perse_status perse_open_place(perse *p, const char *name, int flags, void *memory, size_t size, perse_place **out);

/* NULL is the artifact's own. Swaps pointers; copies and reads nothing. */
perse_status perse_use_place(perse *p, perse_place *place);

void perse_close_place(perse_place *place); /* if it is in use, the artifact's own is from here on; NULL is fine */

/* ---- the feature cache ---- */

/* Features of a person's images, kept on disk in half precision, so that a later fit learns from all of them and forgets no
 * class. It never takes more than its budget in bytes, on disk or in memory: when it is full, the class with most samples (by
 * label, or by the factory's final exit where there is none) gives one away, at random but reproducibly. It fits
 * every build of the same program, on any target. */
typedef struct perse_cache perse_cache;

typedef struct {
    uint32_t samples, room, labelled; /* room: samples that the budget has place for */
    uint64_t bytes;                   /* of the file, once saved */
} perse_cache_info;

/* path: NULL is cache.bin beside the heads in use. Without the file the cache is empty. Uses p until it is closed. */
size_t perse_cache_size(const perse *p, uint64_t budget);
perse_status perse_cache_open(perse *p, const char *path, uint64_t budget, void *memory, size_t size, perse_cache **out);
void perse_cache_close(perse_cache *c); /* without saving; NULL is fine */

/* features: [features] of one image; label: -1 = unknown. An image that is there already only brings its label. */
perse_status perse_cache_add(perse_cache *c, const float *features, int32_t label);
perse_status perse_cache_get(const perse_cache *c, uint32_t sample, float *features, int32_t *label);
perse_cache_info perse_get_cache_info(const perse_cache *c);
/* In one step: whatever happens, the old file or the new one is there. Before the names of classes, or the heads in use, change. */
perse_status perse_cache_save(perse_cache *c);

/* ---- the pack on disk ---- */

/* heads.pack is replaced in one step, and the one before kept as heads.pack.previous: whatever happens in between
 * (full disk, kill -9, power), a valid heads.pack is there. */
perse_status perse_save_pack(perse *p);
perse_status perse_load_pack(perse *p);     /* back to what the file says */
perse_status perse_rollback_pack(perse *p); /* swaps heads.pack and heads.pack.previous, and loads */
perse_status perse_reset_pack(perse *p);    /* factory heads, in use and on disk */

#ifdef __cplusplus
}
#endif
#endif
