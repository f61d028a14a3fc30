/* main.c - the artifact's executable. Parses, calls the library, prints; nothing else. */
#define _POSIX_C_SOURCE 200809L
#include "npy.h"
#include "perse.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_BUDGET = 4000000 }; /* bytes of the feature cache */
static const double TOLERANCE = 1e-3; /* of selftest, relative to the greatest logit */

/* ---- errors: one line, exit status 1; wrong usage 2 ---- */

static _Noreturn void fail(const char *what, const char *where, const char *advice) {
    fprintf(stderr, "perse: %s: %s%s%s\n", what, where, *where && *advice ? ": " : "", advice);
    exit(1);
}

static _Noreturn void usage_error(const char *what, const char *word) {
    fprintf(stderr, "perse: %s: %s: see perse --help\n", what, word);
    exit(2);
}

static void *take_memory(size_t size) {
    void *memory = size == SIZE_MAX ? NULL : malloc(size > 0 ? size : 1);
    if (memory == NULL) fail("not enough memory", "this device", "give fewer images");
    return memory;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* ---- options ---- */

typedef struct {
    const char *command, *file, *artifact, *labels, *cache_file, *pack, *enable, *disable;
    bool json, progress, help, quick, no_levels, cache;
    int threads, runs, exit, probes;
    uint32_t images;
    uint64_t budget;
    perse_fit_options fit;
    perse_watch_options watch; /* every = 0: none */
} options;

static double number(const char *name, const char *text) {
    char *end;
    errno = 0;
    double value = text == NULL ? 0 : strtod(text, &end);
    if (text == NULL) usage_error("option needs a value", name);
    if (end == text || *end != 0 || errno != 0 || !isfinite(value)) usage_error("not a number", text);
    return value;
}

static double number_in(const char *name, const char *text, double low, double high) {
    double value = number(name, text);
    if (value < low || value > high) usage_error("value out of range", name);
    return value;
}

/* "300kB", "2MB", "1 000 000" less its blanks: bytes. */
static uint64_t number_of_bytes(const char *name, const char *text) {
    static const struct { const char *unit; double bytes; } units[] = {{"", 1}, {"B", 1}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}};
    char *end;
    if (text == NULL) usage_error("option needs a value", name);
    double value = strtod(text, &end);
    for (size_t i = 0; end != text && value > 0 && i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0 && value * units[i].bytes < 1e15) return (uint64_t)(value * units[i].bytes);
    usage_error("not a size such as 500kB or 2MB", text);
}

/* Takes the option at argv[i]; returns how many words it was. */
static int take_option(options *o, char **argv) {
    const char *name = argv[0], *value = argv[1];
    if (strcmp(name, "--json") == 0) return o->json = true, 1;
    if (strcmp(name, "--quick") == 0) return o->quick = true, 1;
    if (strcmp(name, "--progress") == 0) return o->progress = true, 1;
    if (strcmp(name, "--no-levels") == 0) return o->no_levels = true, 1;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return o->help = true, 1;
    if (strcmp(name, "--cache") == 0) return o->cache = true, 1;
    if (strcmp(name, "--pack") == 0 || strcmp(name, "--enable") == 0 || strcmp(name, "--disable") == 0) {
        if (value == NULL) usage_error("option needs a value", name);
        *(name[2] == 'p' ? &o->pack : name[2] == 'e' ? &o->enable : &o->disable) = value;
    } else if (strcmp(name, "--cache-file") == 0) {
        if (value == NULL) usage_error("option needs a value", name);
        o->cache = true, o->cache_file = value;
    } else if (strcmp(name, "--budget") == 0) o->budget = number_of_bytes(name, value);
    else if (strcmp(name, "--artifact") == 0 || strcmp(name, "--labels") == 0) {
        if (value == NULL) usage_error("option needs a value", name);
        *(strcmp(name, "--labels") == 0 ? &o->labels : &o->artifact) = value;
    } else if (strcmp(name, "--threads") == 0) o->threads = (int)number_in(name, value, 0, PERSE_MAX_THREADS);
    else if (strcmp(name, "--runs") == 0) o->runs = (int)number_in(name, value, 1, 100000);
    else if (strcmp(name, "--probes") == 0) o->probes = (int)number_in(name, value, 1, 1000);
    else if (strcmp(name, "--watch") == 0) o->watch.every = (uint32_t)number_in(name, value, 1, 1000000);
    else if (strcmp(name, "--max-disagreement") == 0) o->watch.max_disagreement = (float)number_in(name, value, 0.001, 0.99);
    else if (strcmp(name, "--images") == 0) o->images = (uint32_t)number_in(name, value, 1, 10000000);
    else if (strcmp(name, "--exit") == 0) o->exit = (int)number_in(name, value, 0, 1000);
    else if (strcmp(name, "--epochs") == 0) o->fit.epochs = (uint32_t)number_in(name, value, 1, 100000);
    else if (strcmp(name, "--folds") == 0) o->fit.folds = (uint32_t)number_in(name, value, 2, 10);
    else if (strcmp(name, "--learning-rate") == 0) o->fit.learning_rate = (float)number_in(name, value, 1e-12, 1e30);
    else if (strcmp(name, "--momentum") == 0) o->fit.momentum = (float)number_in(name, value, 0, 0.9999);
    else if (strcmp(name, "--decay") == 0) o->fit.decay = (float)number_in(name, value, 0, 1e6);
    else if (strcmp(name, "--temperature") == 0) o->fit.teacher_temperature = (float)number_in(name, value, 0.05, 100);
    else if (strcmp(name, "--label-weight") == 0) o->fit.label_weight = (float)number_in(name, value, 0, 1);
    else if (strcmp(name, "--max-drop") == 0) o->fit.max_drop = (float)number_in(name, value, 0, 1);
    else if (strcmp(name, "--seed") == 0) o->fit.seed = (uint64_t)number_in(name, value, 0, 9e15);
    else usage_error("unknown option", name);
    return 2;
}

static options parse(int argc, char **argv) {
    options o = {.exit = PERSE_CASCADE, .threads = 1, .runs = 30, .images = 300, .budget = DEFAULT_BUDGET, .fit = perse_fit_defaults(), .watch = perse_watch_defaults()};
    o.watch.every = 0;
    for (int i = 1; i < argc;) {
        if (argv[i][0] == '-') {
            i += take_option(&o, argv + i);
            continue;
        }
        if (o.command == NULL) o.command = argv[i++];
        else if (o.file == NULL) o.file = argv[i++];
        else usage_error("one file is enough", argv[i]);
    }
    return o;
}

/* ---- JSON: one object on stdout ---- */

static bool first_in_json = true;

static void json_text(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c != 0; c++) {
        if (*c == '"' || *c == '\\') printf("\\%c", *c);
        else if (*c < 32) printf("\\u%04x", *c);
        else putchar(*c);
    }
    putchar('"');
}

static void json_key(const char *key) {
    if (!first_in_json) putchar(',');
    first_in_json = false;
    if (key == NULL) return;
    json_text(key);
    putchar(':');
}

static void json_open(const char *key, char bracket) {
    if (key != NULL || !first_in_json) json_key(key);
    putchar(bracket);
    first_in_json = true;
}

static void json_close(char bracket) {
    putchar(bracket);
    first_in_json = false;
}

static void json_string(const char *key, const char *text) { json_key(key), json_text(text); }
static void json_bool(const char *key, bool value) { json_key(key), fputs(value ? "true" : "false", stdout); }
static void json_whole(const char *key, uint64_t value) { json_key(key), printf("%llu", (unsigned long long)value); }

static void json_number(const char *key, double value) {
    json_key(key);
    if (isfinite(value)) printf("%.9g", value);
    else fputs("null", stdout);
}

/* [[low, high], ...] */
static void json_levels(const char *key, const float *levels, uint32_t channels) {
    json_open(key, '[');
    for (uint32_t c = 0; c < channels; c++) {
        json_open(NULL, '[');
        json_number(NULL, (double)levels[2 * c]), json_number(NULL, (double)levels[2 * c + 1]), json_close(']');
    }
    json_close(']');
}

static void say(const options *o, const char *format, ...) {
    if (o->json) return;
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

/* ---- the artifact ---- */

static const options *given; /* for the messages of check() */
static bool pack_opened;     /* what is said of heads is said of --pack's */

static void check(perse_status status) {
    if (status == PERSE_OK) return;
    char where[512];
    const char *detail = perse_detail();
    bool of_pack = strncmp(detail, "heads.pack", 10) == 0 || (given->cache_file == NULL && strncmp(detail, "cache.bin", 9) == 0);
    bool of_artifact = of_pack || strncmp(detail, "backbone.bin", 12) == 0 || strncmp(detail, "packs", 5) == 0;
    bool named = of_pack && given->pack != NULL && pack_opened;
    snprintf(where, sizeof where, "%s%s%s%s%s%s", of_artifact ? given->artifact : "", of_artifact ? "/" : "", named ? "packs/" : "",
             named ? given->pack : "", named ? "/" : "", *detail ? detail : given->file ? given->file : given->command);
    fail(perse_status_text(status), where, perse_status_advice(status));
}

typedef perse_status (*opener)(perse **, const char *, int, void *, size_t);

static perse *open_artifact(const options *o, opener open) {
    perse *p;
    size_t size = perse_memory_size(o->threads);
    check(open(&p, o->artifact, o->threads, take_memory(size), size));
    return p;
}

static perse_place *open_place(perse *p, const char *name, int flags) {
    perse_place *place;
    size_t size = perse_place_size(p);
    pack_opened = true;
    check(perse_open_place(p, name, flags, take_memory(size), size, &place));
    return place;
}

/* The artifact with the heads that --pack names. */
static perse *open_heads(const options *o, int flags) {
    perse *p = open_artifact(o, o->pack != NULL ? perse_open_factory : perse_open);
    if (o->pack != NULL) check(perse_use_place(p, open_place(p, o->pack, flags)));
    return p;
}

static perse_exit_info exit_info(const perse *p, uint32_t e) {
    perse_exit_info info;
    check(perse_get_exit(p, (int)e, &info));
    return info;
}

/* The folder of the executable. */
static void find_artifact(options *o, const char *argv0) {
    static char path[4096];
    if (o->artifact != NULL) return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) length = snprintf(path, sizeof path, "%s", argv0);
    path[length < (ssize_t)sizeof path ? length : (ssize_t)sizeof path - 1] = 0;
    char *slash = strrchr(path, '/');
    if (slash == NULL) strcpy(path, ".");
    else slash[slash == path] = 0;
    o->artifact = path;
}

/* ---- images and labels ---- */

typedef struct {
    npy file;
    uint32_t count;
    size_t size; /* of one image in bytes */
    int32_t *labels;
} images;

static const char *need_file(const options *o) {
    if (o->file == NULL) usage_error("needs a .npy file", o->command);
    return o->file;
}

static void open_npy(npy *out, const char *path) {
    const char *wrong = npy_open(out, path);
    if (wrong == NULL) return;
    char what[200];
    snprintf(what, sizeof what, "%s", wrong);
    char *advice = strstr(what, ": ");
    if (advice != NULL) *advice = 0, advice += 2;
    fail(what, path, advice != NULL ? advice : "");
}

static void check_shape(const npy *file, const perse_info *i, int batch, const char *path) {
    const uint64_t *s = file->shape + batch;
    if (file->dimensions == 3 + batch && s[0] == i->height && s[1] == i->width && s[2] == i->channels) return;
    char advice[120];
    snprintf(advice, sizeof advice, "expected %s[%u, %u, %u]", batch ? "a batch of images " : "one image ", (unsigned)i->height,
             (unsigned)i->width, (unsigned)i->channels);
    fail("shape does not fit the network", path, advice);
}

static int32_t *read_labels(const options *o, const perse_info *info, uint32_t count) {
    npy file;
    open_npy(&file, o->labels);
    bool wide = strcmp(file.dtype, "<i8") == 0;
    if (!wide && strcmp(file.dtype, "<i4") != 0) fail("labels are not whole numbers", o->labels, "save them as int32 or int64");
    if (file.dimensions != 1 || file.shape[0] != count) fail("not one label per image", o->labels, "expected shape [number of images]");
    int32_t *labels = take_memory(count * sizeof *labels);
    for (uint32_t i = 0; i < count; i++) {
        int64_t label = 0;
        if (wide) memcpy(&label, file.data + 8 * (size_t)i, 8);
        else memcpy(&labels[i], file.data + 4 * (size_t)i, 4), label = labels[i];
        if (label < -1 || label >= (int64_t)info->classes) fail(perse_status_text(PERSE_BAD_LABEL), o->labels, perse_status_advice(PERSE_BAD_LABEL));
        labels[i] = (int32_t)label;
    }
    npy_close(&file);
    return labels;
}

static images open_images(const options *o, const perse *p) {
    images all = {0};
    perse_info info = perse_get_info(p);
    open_npy(&all.file, need_file(o));
    if (strcmp(all.file.dtype, "|u1") != 0) fail("images are not uint8", o->file, "save pixels 0..255 as uint8");
    check_shape(&all.file, &info, 1, o->file);
    if (all.file.shape[0] > 10000000) fail("too many images", o->file, "give fewer at a time");
    all.count = (uint32_t)all.file.shape[0];
    all.size = (size_t)info.height * info.width * info.channels;
    if (o->labels != NULL) all.labels = read_labels(o, &info, all.count);
    return all;
}

static const uint8_t *image_at(const images *all, uint32_t i) { return all->file.data + i * all->size; }

static int show_progress(void *user, const char *phase, uint32_t done, uint32_t total) {
    const options *o = user;
    if (o->progress) fprintf(stderr, "progress %s %u %u\n", phase, (unsigned)done, (unsigned)total);
    else if (isatty(2)) fprintf(stderr, "\r\033[K%s %u/%u", phase, (unsigned)done, (unsigned)total);
    return 0;
}

static void end_progress(const options *o) {
    if (!o->progress && isatty(2)) fputs("\r\033[K", stderr);
}

/* The backbone runs once per image; everything after works on what it left here. */
static float *extract_features(const options *o, perse *p, const images *all) {
    size_t each = perse_get_info(p).features;
    if (each * sizeof(float) > SIZE_MAX / all->count) fail("not enough memory", o->file, "give fewer images");
    float *features = take_memory(all->count * each * sizeof *features);
    for (uint32_t i = 0; i < all->count; i++) {
        show_progress((void *)(uintptr_t)o, "features", i, all->count);
        check(perse_features_u8(p, image_at(all, i), features + i * each));
    }
    show_progress((void *)(uintptr_t)o, "features", all->count, all->count);
    return features;
}

/* ---- the camera ---- */

static const double TELLS_MORE = 0.1; /* nats that a correction must add to what an answer tells */

typedef struct {
    float *factory, *before, *measured; /* levels */
    bool tried, taken;
    char why[100]; /* it was not tried */
    perse_final plain, corrected;
} camera;

static void undo_camera(perse *p, const camera *c) {
    if (perse_set_levels(p, c->before) != PERSE_OK) check(perse_set_levels(p, NULL));
}

static perse_cache_info look_in_cache(const options *o, perse *p) {
    perse_cache *c;
    size_t size = perse_cache_size(p, o->budget);
    void *memory = take_memory(size);
    check(perse_cache_open(p, o->cache_file, o->budget, memory, size, &c));
    perse_cache_info info = perse_get_cache_info(c);
    perse_cache_close(c);
    free(memory);
    return info;
}

/* Whether the camera's levels can be in use from here on. */
static bool try_camera(const options *o, perse *p, const images *all, camera *c) {
    size_t size = 2 * perse_get_info(p).channels * sizeof(float);
    bool corrected, corrects;
    *c = (camera){.factory = take_memory(size), .before = take_memory(size), .measured = take_memory(size)};
    check(perse_get_levels(p, c->factory, c->before, &corrected));
    check(perse_measure_levels(p, all->file.data, all->count, c->measured));
    snprintf(c->why, sizeof c->why, "%s", o->no_levels ? "not wanted" : "as in training");
    if (o->no_levels) return false;
    if (o->cache && (perse_get_info(p).generation > 0 || look_in_cache(o, p).samples > 0)) {
        snprintf(c->why, sizeof c->why, "%s", "it stays as the cache has seen it");
        return false;
    }
    perse_status status = perse_set_levels(p, c->measured);
    if (status == PERSE_BAD_LEVELS) snprintf(c->why, sizeof c->why, "%s", perse_detail());
    if (status == PERSE_BAD_LEVELS) return false;
    check(status);
    check(perse_get_levels(p, NULL, NULL, &corrects));
    c->tried = (corrected || corrects) && memcmp(c->before, c->measured, size) != 0;
    if (!c->tried) undo_camera(p, c);
    return c->tried;
}

/* Features as the images are, or with the camera's levels if answers then tell more and, where there are labels, are not
 * more often wrong. */
static float *choose_features(const options *o, perse *p, const images *all, camera *c) {
    float *features = extract_features(o, p, all);
    if (!try_camera(o, p, all, c)) return features;
    float *corrected = extract_features(o, p, all);
    check(perse_measure_final(p, &(perse_samples){all->count, features, all->labels}, &c->plain));
    check(perse_measure_final(p, &(perse_samples){all->count, corrected, all->labels}, &c->corrected));
    c->taken = c->corrected.information >= c->plain.information + TELLS_MORE && c->corrected.right >= c->plain.right;
    if (!c->taken) undo_camera(p, c);
    free(c->taken ? features : corrected);
    return c->taken ? corrected : features;
}

static void print_camera(const options *o, const perse *p, const camera *c, bool live) {
    uint32_t channels = perse_get_info(p).channels;
    const char *verdict = !c->taken ? "not corrected" : live ? "corrected" : "corrected for this training only";
    if (c->tried) say(o, "camera %s: an answer tells %.2f nats as it is, %.2f corrected\n", verdict, c->plain.information, c->corrected.information);
    else say(o, "camera not corrected: %s\n", c->why);
    if (!o->json) return;
    json_open("levels", '{');
    json_bool("tried", c->tried), json_bool("taken", c->taken), json_bool("live", live), json_string("why", c->tried ? "" : c->why);
    json_levels("measured", c->measured, channels), json_levels("factory", c->factory, channels);
    json_number("confidence_before", c->tried ? c->plain.confidence : NAN);
    json_number("confidence_after", c->tried ? c->corrected.confidence : NAN);
    json_number("information_before", c->tried ? c->plain.information : NAN);
    json_number("information_after", c->tried ? c->corrected.information : NAN), json_close('}');
}

/* ---- commands ---- */

static int info(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    say(o, "%s for %s, built by perse-compile %s\n", i.name, i.target, i.version);
    say(o, "input %u x %u x %u, %u classes, %.1f million MACs\n", i.height, i.width, i.channels, i.classes, (double)i.macs * 1e-6);
    say(o, "backbone %.1f MB, memory %.1f MB, heads: %s\n", (double)i.backbone_size * 1e-6, (double)perse_memory_size(o->threads) * 1e-6,
        i.generation == 0 ? "factory" : "personalised");
    float *levels = take_memory(4 * i.channels * sizeof *levels), *camera = levels + 2 * i.channels; /* the factory's, the camera's */
    bool corrects;
    check(perse_get_levels(p, levels, camera, &corrects));
    say(o, "camera: %s", corrects ? "corrected, levels" : "as it is");
    for (uint32_t c = 0; corrects && c < i.channels; c++)
        say(o, "%s %.0f to %.0f as %.0f to %.0f", c > 0 ? "," : "", (double)camera[2 * c], (double)camera[2 * c + 1], (double)levels[2 * c],
            (double)levels[2 * c + 1]);
    say(o, "\n\n%-8s %-24s %8s %10s %8s %9s %11s\n", "exit", "tap", "features", "MACs", "enabled", "threshold", "temperature");
    if (o->json) {
        json_open(NULL, '{');
        json_string("name", i.name), json_string("target", i.target), json_string("version", i.version);
        json_whole("height", i.height), json_whole("width", i.width), json_whole("channels", i.channels);
        json_whole("classes", i.classes), json_whole("features", i.features), json_whole("train_batch", i.train_batch);
        json_whole("probes", i.probes), json_whole("generation", i.generation), json_whole("macs", i.macs);
        json_whole("backbone_bytes", i.backbone_size), json_whole("memory_bytes", perse_memory_size(o->threads));
        json_open("class_names", '[');
        for (uint32_t k = 0; k < i.classes; k++) json_string(NULL, i.class_names[k]);
        json_close(']'), json_open("levels", '{'), json_bool("corrected", corrects);
        json_levels("factory", levels, i.channels), json_levels("camera", camera, i.channels), json_close('}');
        json_open("exits", '[');
    }
    for (uint32_t e = 0; e < i.exits; e++) {
        perse_exit_info x = exit_info(p, e);
        say(o, "%-8s %-24s %8u %9.1fM %8s %9.4f %11.4f\n", x.name, x.tap, x.features, (double)x.stage_macs * 1e-6,
            x.enabled ? "yes" : "no", (double)x.threshold, (double)x.temperature);
        if (!o->json) continue;
        json_open(NULL, '{');
        json_string("name", x.name), json_string("tap", x.tap), json_whole("features", x.features);
        json_whole("stage_macs", x.stage_macs), json_whole("head_macs", x.head_macs), json_bool("enabled", x.enabled);
        json_number("temperature", (double)x.temperature), json_number("threshold", (double)x.threshold);
        json_close('}');
    }
    if (o->json) json_close(']'), json_close('}'), puts("");
    perse_close(p);
    return 0;
}

typedef struct {
    double absolute, relative; /* greatest difference to PyTorch's logits; relative to the greatest of them */
} difference;

static void compare(const float *got, const float *expected, uint32_t count, difference *worst) {
    double greatest = 0, most = 0;
    for (uint32_t k = 0; k < count; k++) {
        greatest = fmax(greatest, fabs((double)expected[k]));
        double off = fabs((double)got[k] - (double)expected[k]);
        most = isfinite(off) ? fmax(most, off) : INFINITY;
    }
    worst->absolute = fmax(worst->absolute, most);
    worst->relative = fmax(worst->relative, greatest > 0 ? most / greatest : most);
}

/* The first probe leaves at each exit in turn (or, quick, passes all of them once), the others pass all of them. */
static int selftest(const options *o) {
    perse *p = open_artifact(o, perse_open_factory);
    perse_info i = perse_get_info(p);
    uint32_t probes = o->probes > 0 && (uint32_t)o->probes < i.probes ? (uint32_t)o->probes : i.probes;
    if (probes == 0) fail("no probes in the artifact", "backbone.bin", "build the artifact again");
    perse_result *results = take_memory(i.exits * sizeof *results), one;
    float *logits = take_memory((size_t)i.exits * i.classes * sizeof *logits);
    difference *worst = calloc(i.exits, sizeof *worst);
    if (worst == NULL) fail("not enough memory", "this device", "");
    const uint8_t *image;
    const float *expected;
    bool ok = true;
    if (o->quick) probes = 1;
    for (uint32_t probe = o->quick ? 0 : 1; probe < probes; probe++) {
        check(perse_get_probe(p, (int)probe, &image, &expected));
        check(perse_observe_u8(p, image, results, logits, NULL));
        for (uint32_t e = 0; e < i.exits; e++) compare(logits + (size_t)e * i.classes, expected + (size_t)e * i.classes, i.classes, &worst[e]);
    }
    check(perse_get_probe(p, 0, &image, &expected));
    if (o->json) json_open(NULL, '{'), json_whole("probes", probes), json_number("tolerance", TOLERANCE), json_open("exits", '[');
    say(o, "%-8s %14s %14s %8s\n", "exit", "max |diff|", "relative", "stages");
    for (uint32_t e = 0; e < i.exits; e++) {
        if (o->quick) one = results[e];
        else check(perse_run_u8(p, image, (int)e, &one, logits));
        if (!o->quick) compare(logits, expected + (size_t)e * i.classes, i.classes, &worst[e]);
        bool fine = worst[e].relative <= TOLERANCE && one.stages == (int)e + 1 && one.exit == (int)e;
        ok = ok && fine;
        say(o, "%-8s %14.3e %14.3e %8d %s\n", exit_info(p, e).name, worst[e].absolute, worst[e].relative, one.stages, fine ? "ok" : "WRONG");
        if (!o->json) continue;
        json_open(NULL, '{');
        json_string("name", exit_info(p, e).name), json_number("max_abs_diff", worst[e].absolute);
        json_number("max_rel_diff", worst[e].relative);
        json_whole("stages", (uint64_t)one.stages), json_bool("ok", fine), json_close('}');
    }
    check(perse_set_exit(p, 0, true, exit_info(p, 0).temperature, 0));
    check(perse_run_u8(p, image, PERSE_CASCADE, &one, NULL));
    bool skipped = one.stages == 1 && one.exit == 0;
    ok = ok && skipped;
    say(o, "a confident exit 0 runs %d of %u stages: %s\n%s\n", one.stages, i.exits, skipped ? "ok" : "WRONG",
        ok ? "selftest passed" : "selftest FAILED");
    if (o->json) json_close(']'), json_whole("confident_exit_stages", (uint64_t)one.stages), json_bool("ok", ok), json_close('}'), puts("");
    perse_close(p);
    return ok ? 0 : 1;
}

static void json_result(const perse *p, const perse_result *r, double ms) {
    json_whole("label", (uint64_t)r->label), json_string("name", perse_get_info(p).class_names[r->label]);
    json_whole("exit", (uint64_t)r->exit), json_string("exit_name", exit_info(p, (uint32_t)r->exit).name);
    json_number("confidence", (double)r->confidence), json_whole("stages", (uint64_t)r->stages), json_number("ms", ms);
}

static void print_watch(const options *o, const perse *p, const perse_watch *w) {
    say(o, "%-8s %8s %9s %16s %9s  %s\n", "exit", "checked", "disagree", "of late", "threshold", "what the watch did");
    if (o->json) json_open("watch", '[');
    for (uint32_t e = 0; e + 1 < perse_get_info(p).exits; e++) {
        perse_watch_report x;
        check(perse_watch_look(w, (int)e, &x));
        const char *name = exit_info(p, e).name;
        say(o, "%-8s %8u %9u %5.1f%% to %5.1f%% %9.4f  %u stricter, %u looser%s\n", name, x.checked, x.disagreed, 100 * x.low, 100 * x.high,
            (double)x.threshold, x.tightened, x.loosened, x.switched_off ? ", switched off" : x.enabled ? "" : " (disabled)");
        if (!o->json) continue;
        json_open(NULL, '{'), json_string("name", name), json_whole("checked", x.checked), json_whole("disagreed", x.disagreed);
        json_number("low", x.low), json_number("high", x.high), json_number("threshold", (double)x.threshold);
        json_whole("tightened", x.tightened), json_whole("loosened", x.loosened), json_bool("switched_off", x.switched_off);
        json_bool("enabled", x.enabled), json_close('}');
    }
    if (o->json) json_close(']');
}

/* A stream of images, watched. */
static int watch(const options *o) {
    perse *p = open_heads(o, 0);
    images all = open_images(o, p);
    size_t size = perse_watch_size(p);
    perse_watch *w;
    check(perse_watch_begin(p, &o->watch, take_memory(size), size, &w));
    if (o->json) json_open(NULL, '{'), json_open("results", '[');
    for (uint32_t n = 0; n < all.count; n++) {
        perse_result r;
        double start = now();
        check(perse_watch_run_u8(w, image_at(&all, n), &r, NULL));
        if (o->json) json_open(NULL, '{'), json_result(p, &r, now() - start), json_close('}');
    }
    if (o->json) json_close(']');
    print_watch(o, p, w);
    if (o->json) json_close('}'), puts("");
    perse_watch_end(w);
    perse_close(p);
    return 0;
}

static int run(const options *o) {
    if (o->watch.every > 0) return watch(o);
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    npy file;
    open_npy(&file, need_file(o));
    check_shape(&file, &i, 0, o->file);
    bool u8 = strcmp(file.dtype, "|u1") == 0;
    if (!u8 && strcmp(file.dtype, "<f4") != 0) fail("image is not uint8", o->file, "save pixels 0..255 as uint8, or normalised ones as float32");
    if (o->exit >= (int)i.exits) usage_error("no such exit", "--exit");
    float *image = take_memory(file.count * sizeof *image); /* aligned */
    memcpy(image, file.data, file.count * (u8 ? 1 : 4));
    perse_result r;
    double start = now();
    check(u8 ? perse_run_u8(p, (const uint8_t *)image, o->exit, &r, NULL) : perse_run_f32(p, image, o->exit, &r, NULL));
    double ms = now() - start;
    const char *name = i.class_names[r.label], *exit_name = exit_info(p, (uint32_t)r.exit).name;
    say(o, "class %d (%s), confidence %.3f, %s after %d of %u stages, %.2f ms\n", r.label, name, (double)r.confidence, exit_name, r.stages,
        i.exits, ms);
    if (o->json) {
        json_open(NULL, '{'), json_result(p, &r, ms), json_close('}'), puts("");
    }
    perse_close(p);
    return 0;
}

static int evaluate(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    images all = open_images(o, p);
    perse_result *results = take_memory(i.exits * sizeof *results), r;
    double *right = calloc(i.exits, sizeof *right), *taken = calloc(i.exits, sizeof *taken), *ms = take_memory(all.count * sizeof *ms);
    if (right == NULL || taken == NULL) fail("not enough memory", "this device", "");
    double correct = 0, macs = 0, total_ms = 0;
    uint32_t known = 0;
    for (uint32_t n = 0; n < all.count; n++) {
        show_progress((void *)(uintptr_t)o, "evaluate", n, all.count);
        double start = now();
        check(perse_run_u8(p, image_at(&all, n), PERSE_CASCADE, &r, NULL));
        total_ms += ms[n] = now() - start;
        taken[r.exit]++;
        for (uint32_t e = 0; e < (uint32_t)r.stages; e++) {
            perse_exit_info x = exit_info(p, e);
            macs += (double)x.stage_macs + (x.enabled ? (double)x.head_macs : 0);
        }
        if (all.labels == NULL || all.labels[n] < 0) continue;
        known++;
        correct += r.label == all.labels[n];
        check(perse_observe_u8(p, image_at(&all, n), results, NULL, NULL));
        for (uint32_t e = 0; e < i.exits; e++) right[e] += results[e].label == all.labels[n];
    }
    show_progress((void *)(uintptr_t)o, "evaluate", all.count, all.count);
    end_progress(o);
    double accuracy = known > 0 ? correct / known : NAN, cost = macs / all.count / (double)i.macs;
    if (o->json) {
        json_open(NULL, '{');
        json_whole("samples", all.count), json_whole("labelled", known), json_number("accuracy", accuracy), json_number("cost", cost);
        json_number("ms_mean", total_ms / all.count), json_number("ms_median", median(ms, (int)all.count)), json_open("exits", '[');
    }
    say(o, "%-8s %9s %9s\n", "exit", "accuracy", "share");
    for (uint32_t e = 0; e < i.exits; e++) {
        perse_exit_info x = exit_info(p, e);
        double exact = known > 0 ? right[e] / known : NAN, share = taken[e] / all.count;
        if (known > 0) say(o, "%-8s %8.1f%% ", x.name, 100 * exact);
        else say(o, "%-8s %9s ", x.name, "-");
        say(o, "%8.1f%%%s\n", 100 * share, x.enabled ? "" : "  (disabled)");
        if (!o->json) continue;
        json_open(NULL, '{');
        json_string("name", x.name), json_number("accuracy", exact), json_number("share", share), json_bool("enabled", x.enabled), json_close('}');
    }
    if (known > 0) say(o, "together %.1f%% accurate at ", 100 * accuracy);
    else say(o, "together at ");
    say(o, "%.1f%% of the cost, %.2f ms per image (%u images)\n", 100 * cost, total_ms / all.count, all.count);
    if (o->json) json_close(']'), json_close('}'), puts("");
    perse_close(p);
    return 0;
}

static void json_figures(const char *key, perse_figures f) {
    json_open(key, '{');
    json_number("accuracy", f.accuracy), json_number("cost", f.cost), json_close('}');
}

static void json_exit_report(const perse *p, uint32_t e, const perse_exit_report *x) {
    json_open(NULL, '{');
    json_string("name", exit_info(p, e).name);
    json_number("accuracy_before", x->accuracy_before), json_number("accuracy_after", x->accuracy_after);
    json_number("share_before", x->share_before), json_number("share_after", x->share_after);
    json_bool("new_head", x->new_head), json_bool("enabled", x->enabled);
    json_number("temperature", (double)x->temperature), json_number("threshold", (double)x->threshold);
    json_whole("epochs", x->epochs), json_number("first_loss", x->first_loss), json_number("last_loss", x->last_loss), json_close('}');
}

static void print_report(const options *o, const perse *p, const perse_report *r) {
    perse_info i = perse_get_info(p);
    say(o, "%-8s %19s %19s\n%-8s %9s %9s %9s %9s\n", "", "accuracy", "share", "exit", "before", "after", "before", "after");
    for (uint32_t e = 0; e < i.exits; e++) {
        const perse_exit_report *x = &r->exits[e];
        say(o, "%-8s %8.1f%% %8.1f%% %8.1f%% %8.1f%%%s\n", exit_info(p, e).name, 100 * x->accuracy_before, 100 * x->accuracy_after,
            100 * x->share_before, 100 * x->share_after, x->enabled ? "" : "  (disabled)");
    }
    say(o, "%-8s %8.1f%% %8.1f%%\n%-8s %8.1f%% %8.1f%%\n", "together", 100 * r->before.accuracy, 100 * r->after.accuracy, "cost",
        100 * r->before.cost, 100 * r->after.cost);
    if (!o->json) return;
    json_figures("before", r->before), json_figures("after", r->after);
    json_open("exits", '[');
    for (uint32_t e = 0; e < i.exits; e++) json_exit_report(p, e, &r->exits[e]);
    json_close(']');
}

static perse_samples samples_of(const images *all, const float *features) { return (perse_samples){all->count, features, all->labels}; }

/* The new images go to the cache, and what it then holds is what is learnt from. */
static perse_samples through_cache(const options *o, perse *p, const images *all, const float *features, perse_cache_info *info) {
    size_t each = perse_get_info(p).features, size = perse_cache_size(p, o->budget);
    perse_cache *c;
    void *memory = take_memory(size);
    check(perse_cache_open(p, o->cache_file, o->budget, memory, size, &c));
    for (uint32_t i = 0; i < all->count; i++) check(perse_cache_add(c, features + i * each, all->labels != NULL ? all->labels[i] : -1));
    check(perse_cache_save(c));
    *info = perse_get_cache_info(c);
    float *kept = take_memory(info->samples * each * sizeof *kept);
    int32_t *labels = take_memory(info->samples * sizeof *labels);
    for (uint32_t i = 0; i < info->samples; i++) check(perse_cache_get(c, i, kept + i * each, &labels[i]));
    perse_cache_close(c);
    free(memory);
    return (perse_samples){info->samples, kept, labels};
}

static void print_cache(const options *o, const perse_cache_info *c) {
    if (!o->cache) return;
    say(o, "cache: %u images, %u of them labelled, %.1f of %.1f kB\n", c->samples, c->labelled, (double)c->bytes * 1e-3, (double)o->budget * 1e-3);
    if (!o->json) return;
    json_open("cache", '{');
    json_whole("samples", c->samples), json_whole("room", c->room), json_whole("labelled", c->labelled);
    json_whole("bytes", c->bytes), json_whole("budget", o->budget), json_close('}');
}

static void print_estimate(const options *o, const char *key, const perse_estimate *e) {
    say(o, "%u images to see, %u to learn from: about %.2f s, at most %.2f s (%.2f and %.2f core-seconds), %.1f MB of memory\n", e->images,
        e->samples, e->seconds, e->seconds_at_most, e->core_seconds, e->core_seconds_at_most, (double)e->memory * 1e-6);
    fflush(stdout);
    if (!o->json) return;
    json_open(key, '{');
    json_whole("images", e->images), json_whole("samples", e->samples), json_whole("epochs_at_most", e->epochs_at_most);
    json_number("seconds", e->seconds), json_number("seconds_at_most", e->seconds_at_most);
    json_number("core_seconds", e->core_seconds), json_number("core_seconds_at_most", e->core_seconds_at_most);
    json_whole("memory_bytes", e->memory), json_close('}');
}

/* What came of a fit. */
typedef struct {
    const perse_report *report;
    const camera *camera;
    const perse_estimate *expected;
    const perse_cache_info *cached;
    bool live, alone; /* something changed; it was the camera's correction only */
    double bytes, seconds;
} outcome;

static void print_personalised(const options *o, const perse *p, const outcome *f) {
    perse_info i = perse_get_info(p);
    const perse_report *r = f->report;
    if (o->json) json_open(NULL, '{');
    print_camera(o, p, f->camera, f->camera->taken && f->live);
    print_report(o, p, r);
    say(o, "%s on %u samples, each judged by heads that did not learn from it; %u trained; teacher: %s\n",
        r->labelled ? "accuracy" : "agreement with the teacher", r->judged, r->train, perse_teacher_text(r->teacher));
    print_cache(o, f->cached);
    say(o, "%s%s (%.1f s, %.1f MB of cached features)\n", perse_verdict_text(r->verdict), f->alone ? ", with the camera corrected" : "",
        f->seconds, f->bytes * 1e-6);
    if (!o->json) return;
    print_estimate(o, "estimate", f->expected);
    json_bool("live", f->live), json_string("verdict", perse_verdict_text(r->verdict));
    json_string("teacher", perse_teacher_text(r->teacher)), json_bool("labelled", r->labelled);
    json_whole("generation", i.generation), json_open("samples", '{');
    json_whole("train", r->train), json_whole("judged", r->judged), json_close('}');
    json_open("prior", '[');
    for (uint32_t k = 0; k < i.classes; k++) json_number(NULL, (double)r->prior[k]);
    json_close(']'), json_number("cache_bytes", f->bytes), json_number("seconds", f->seconds), json_close('}'), puts("");
}

/* Samples that the cache will have once these images are in it. */
static uint32_t samples_with_cache(const options *o, perse *p, uint32_t images) {
    if (!o->cache) return images;
    perse_cache_info info = look_in_cache(o, p);
    uint64_t samples = (uint64_t)info.samples + images;
    return samples < info.room ? (uint32_t)samples : info.room;
}

static perse_estimate estimate_fit(const options *o, perse *p, uint32_t images) {
    perse_estimate e;
    size_t size = perse_estimate_size(p);
    void *memory = take_memory(size);
    check(perse_estimate_fit(p, images, samples_with_cache(o, p, images), &o->fit, memory, size, &e));
    free(memory);
    return e;
}

static int estimate(const options *o) {
    perse *p = open_heads(o, PERSE_CREATE);
    perse_estimate e = estimate_fit(o, p, o->images);
    print_estimate(o, NULL, &e);
    if (o->json) puts("");
    perse_close(p);
    return 0;
}

static int personalise(const options *o) {
    perse *p = open_heads(o, PERSE_CREATE);
    perse_info i = perse_get_info(p);
    images all = open_images(o, p);
    perse_estimate expected = estimate_fit(o, p, all.count);
    if (!o->json) print_estimate(o, NULL, &expected);
    double start = now();
    camera c;
    float *features = choose_features(o, p, &all, &c);
    perse_cache_info cached = {0};
    perse_samples samples = o->cache ? through_cache(o, p, &all, features, &cached) : samples_of(&all, features);
    perse_report r = {.exits = take_memory(i.exits * sizeof *r.exits), .prior = take_memory(i.classes * sizeof *r.prior)};
    size_t size = perse_fit_size(p, samples.count);
    void *memory = take_memory(size);
    check(perse_fit(p, &samples, &o->fit, memory, size, &r));
    bool alone = c.taken && r.verdict != PERSE_BETTER && i.generation == 0, live = r.verdict == PERSE_BETTER || alone;
    if (c.taken && !live) undo_camera(p, &c); /* heads that learnt from other pixels */
    double seconds = (now() - start) * 1e-3; /* without the disk's */
    if (live) check(perse_save_pack(p));
    end_progress(o);
    const outcome found = {&r, &c, &expected, &cached, live, alone, (double)samples.count * i.features * sizeof(float), seconds};
    print_personalised(o, p, &found);
    free(features), free(memory);
    perse_close(p);
    return 0;
}

static int calibrate(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    images all = open_images(o, p);
    float *features = extract_features(o, p, &all);
    perse_samples samples = samples_of(&all, features);
    perse_report r = {.exits = take_memory(i.exits * sizeof *r.exits)};
    size_t size = perse_calibrate_size(p, all.count);
    check(perse_calibrate(p, &samples, o->fit.max_drop, take_memory(size), size, &r));
    check(perse_save_pack(p));
    end_progress(o);
    if (o->json) json_open(NULL, '{'), json_bool("labelled", r.labelled), json_whole("samples", r.judged);
    print_report(o, p, &r);
    if (o->json) json_whole("generation", perse_get_info(p).generation), json_close('}'), puts("");
    perse_close(p);
    return 0;
}

/* ---- exits ---- */

static void switch_exit(perse *p, const char *name, bool on) {
    for (uint32_t e = 0; e < perse_get_info(p).exits; e++) {
        perse_exit_info x = exit_info(p, e);
        if (strcmp(x.name, name) != 0) continue;
        check(perse_set_exit(p, (int)e, on, x.temperature, x.threshold));
        return;
    }
    fail("no such exit", name, "`perse exits` lists them");
}

/* Milliseconds of stages and heads, medians over the runs, on the artifact's own probe image. */
static void time_exits(const options *o, perse *p, double *stage, double *head) {
    perse_info i = perse_get_info(p);
    const uint8_t *image;
    const float *unused;
    if (i.probes == 0) fail("no probes in the artifact", "backbone.bin", "build the artifact again");
    check(perse_get_probe(p, 0, &image, &unused));
    double *ms = take_memory((size_t)o->runs * 2 * i.exits * sizeof *ms), input;
    for (int n = -3; n < o->runs; n++) {
        check(perse_profile_u8(p, image, &input, stage, head));
        for (uint32_t e = 0; n >= 0 && e < i.exits; e++) {
            ms[(size_t)(2 * e) * (size_t)o->runs + (size_t)n] = stage[e];
            ms[(size_t)(2 * e + 1) * (size_t)o->runs + (size_t)n] = head[e];
        }
    }
    for (uint32_t e = 0; e < i.exits; e++) {
        stage[e] = median(ms + (size_t)(2 * e) * (size_t)o->runs, o->runs);
        head[e] = median(ms + (size_t)(2 * e + 1) * (size_t)o->runs, o->runs);
    }
    free(ms);
}

/* Who answers what, on images of the person. */
static void count_shares(const options *o, perse *p, double *share) {
    images all = open_images(o, p);
    for (uint32_t e = 0; e < perse_get_info(p).exits; e++) share[e] = 0;
    for (uint32_t n = 0; n < all.count; n++) {
        perse_result r;
        check(perse_run_u8(p, image_at(&all, n), PERSE_CASCADE, &r, NULL));
        share[r.exit] += 1.0 / all.count;
    }
}

static void print_exits(const options *o, const perse *p, const double *stage, const double *head) {
    perse_info i = perse_get_info(p);
    double full = head[i.exits - 1], worst = 0;
    for (uint32_t e = 0; e < i.exits; e++) {
        full += stage[e];
        worst += stage[e] + (exit_info(p, e).enabled ? head[e] : 0);
    }
    if (o->json) json_open(NULL, '{'), json_number("full_ms", full), json_number("worst_ms", worst), json_open("exits", '[');
    for (uint32_t e = 0; e < i.exits; e++) {
        perse_exit_info x = exit_info(p, e);
        say(o, "%-8s %-3s stage %8.3f ms, head %8.3f ms\n", x.name, x.enabled ? "on" : "off", stage[e], head[e]);
        if (!o->json) continue;
        json_open(NULL, '{'), json_string("name", x.name), json_bool("enabled", x.enabled), json_number("stage_ms", stage[e]);
        json_number("head_ms", head[e]), json_close('}');
    }
    say(o, "full network %.3f ms; with these exits at worst %.3f ms\n", full, worst);
    if (o->json) json_close(']'), json_close('}'), puts("");
}

static int exits(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    double *stage = take_memory(i.exits * sizeof *stage), *head = take_memory(i.exits * sizeof *head), *share = take_memory(i.exits * sizeof *share);
    uint32_t off = 0;
    if (o->enable != NULL) switch_exit(p, o->enable, true);
    if (o->disable != NULL) switch_exit(p, o->disable, false);
    time_exits(o, p, stage, head);
    if (o->file != NULL) {
        count_shares(o, p, share);
        check(perse_drop_costly(p, share, stage, head, &off));
    }
    if (o->enable != NULL || o->disable != NULL || off > 0) check(perse_save_pack(p));
    print_exits(o, p, stage, head);
    perse_close(p);
    return 0;
}

/* ---- packs ---- */

static void print_pack(const options *o, const char *name, perse_status status, uint32_t generation) {
    say(o, "%-24s %s", *name ? name : "(the artifact's own)", status != PERSE_OK ? perse_status_text(status) : generation == 0 ? "factory" : "personalised");
    say(o, status == PERSE_OK && generation > 0 ? ", generation %u\n" : "\n", generation);
    if (!o->json) return;
    json_open(NULL, '{'), json_string("name", name), json_bool("sound", status == PERSE_OK), json_whole("generation", generation), json_close('}');
}

static void list_pack(const options *o, perse *p, const char *name, void *memory, size_t size) {
    perse_place *place;
    perse_status status = perse_open_place(p, name, 0, memory, size, &place);
    if (status == PERSE_BAD_NAME || status == PERSE_NO_FILE) return; /* a stray file */
    if (status == PERSE_OK) check(perse_use_place(p, place));
    print_pack(o, name, status, status == PERSE_OK ? perse_get_info(p).generation : 0);
    perse_close_place(place);
}

static int by_text(const void *left, const void *right) { return strcmp(*(char *const *)left, *(char *const *)right); }

/* Names in the folder, in order. */
static char **names_in(DIR *folder, size_t *count) {
    char **names = NULL;
    *count = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char **more = realloc(names, (*count + 1) * sizeof *names);
        if (more == NULL || (more[*count] = strdup(entry->d_name)) == NULL) fail("not enough memory", "this device", "");
        names = more;
        ++*count;
    }
    if (*count > 0) qsort(names, *count, sizeof *names, by_text);
    return names;
}

static int packs(const options *o) {
    char path[4200];
    size_t count = 0;
    perse *p = open_artifact(o, perse_open_factory);
    size_t size = perse_place_size(p);
    void *memory = take_memory(size);
    snprintf(path, sizeof path, "%s/packs", o->artifact);
    DIR *folder = opendir(path);
    if (folder == NULL && errno != ENOENT) fail(strerror(errno), path, "check the folder's permissions");
    char **names = folder == NULL ? NULL : names_in(folder, &count);
    if (o->json) json_open(NULL, '{'), json_open("packs", '[');
    perse_status own = perse_load_pack(p);
    print_pack(o, "", own == PERSE_NO_FILE ? PERSE_OK : own, own == PERSE_OK ? perse_get_info(p).generation : 0);
    for (size_t i = 0; i < count; i++) list_pack(o, p, names[i], memory, size);
    if (o->json) json_close(']'), json_close('}'), puts("");
    if (folder != NULL) closedir(folder);
    perse_close(p);
    return 0;
}

enum { WARM_UP = 3 };

typedef struct {
    double median, low, high; /* of the runs, in ms; half of them lie between low and high */
} timing;

static timing forced_ms(perse *p, const uint8_t *image, int exit, double *ms, int runs) {
    perse_result r;
    for (int n = -WARM_UP; n < runs; n++) {
        double start = now();
        check(perse_run_u8(p, image, exit, &r, NULL));
        if (n >= 0) ms[n] = now() - start;
    }
    double middle = median(ms, runs);
    return (timing){middle, ms[runs / 4], ms[runs - 1 - runs / 4]};
}

static int bench(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    const uint8_t *image;
    const float *unused;
    if (i.probes == 0) fail("no probes in the artifact", "backbone.bin", "build the artifact again");
    check(perse_get_probe(p, 0, &image, &unused));
    double *ms = take_memory((size_t)o->runs * (2 * i.exits + 1) * sizeof *ms); /* a row of runs per input, stage, head */
    double *stage = take_memory(i.exits * sizeof *stage), *head = take_memory(i.exits * sizeof *head), input;
    for (int n = -WARM_UP; n < o->runs; n++) {
        check(perse_profile_u8(p, image, &input, stage, head));
        for (uint32_t e = 0; n >= 0 && e < i.exits; e++) {
            ms[(size_t)(1 + e) * (size_t)o->runs + (size_t)n] = stage[e];
            ms[(size_t)(1 + i.exits + e) * (size_t)o->runs + (size_t)n] = head[e];
        }
        if (n >= 0) ms[n] = input;
    }
    input = median(ms, o->runs);
    for (uint32_t e = 0; e < i.exits; e++) {
        stage[e] = median(ms + (size_t)(1 + e) * (size_t)o->runs, o->runs);
        head[e] = median(ms + (size_t)(1 + i.exits + e) * (size_t)o->runs, o->runs);
    }
    timing *forced = take_memory(i.exits * sizeof *forced);
    for (uint32_t e = 0; e < i.exits; e++) forced[e] = forced_ms(p, image, (int)e, ms, o->runs);
    double full = forced[i.exits - 1].median;
    say(o, "median of %d runs, %u thread%s; ms\n%-8s %9s %9s %9s   half of the runs\n", o->runs, i.threads, i.threads == 1 ? "" : "s", "exit",
        "stage", "head", "until here");
    for (uint32_t e = 0; e < i.exits; e++)
        say(o, "%-8s %9.3f %9.3f %9.3f   %.3f to %.3f\n", exit_info(p, e).name, stage[e], head[e], forced[e].median, forced[e].low, forced[e].high);
    say(o, "full network, early exits disabled: %.3f ms\n", full);
    if (o->json) {
        json_open(NULL, '{');
        json_whole("runs", (uint64_t)o->runs), json_whole("threads", i.threads), json_number("full_ms", full), json_number("input_ms", input);
        const struct { const char *key; const double *values; } rows[] = {{"stages", stage}, {"heads", head}};
        for (size_t row = 0; row < 2; row++) {
            json_open(rows[row].key, '[');
            for (uint32_t e = 0; e < i.exits; e++)
                json_open(NULL, '{'), json_string("name", exit_info(p, e).name), json_number("ms", rows[row].values[e]), json_close('}');
            json_close(']');
        }
        json_open("exits", '[');
        for (uint32_t e = 0; e < i.exits; e++) {
            json_open(NULL, '{'), json_string("name", exit_info(p, e).name), json_number("ms", forced[e].median);
            json_number("low", forced[e].low), json_number("high", forced[e].high), json_close('}');
        }
        json_close(']'), json_close('}'), puts("");
    }
    perse_close(p);
    return 0;
}

static int change_pack(const options *o, perse_status (*change)(perse *), const char *text) {
    perse *p = o->pack != NULL ? open_heads(o, PERSE_FACTORY) : open_artifact(o, perse_open_factory);
    check(change(p));
    uint32_t generation = perse_get_info(p).generation;
    say(o, "%s (generation %u)\n", text, generation);
    if (o->json) json_open(NULL, '{'), json_whole("generation", generation), json_close('}'), puts("");
    perse_close(p);
    return 0;
}

static int rollback(const options *o) { return change_pack(o, perse_rollback_pack, "the previous heads are back"); }
static int reset(const options *o) { return change_pack(o, perse_reset_pack, "the factory heads are back"); }

/* ---- help ---- */

typedef struct {
    const char *name, *arguments, *summary, *help;
    int (*run)(const options *);
} command;

static const command commands[] = {
    {"info", "", "what this artifact is: network, exits, sizes", "", info},
    {"selftest", "", "compare every exit with PyTorch's answers, and count stages",
     "Exit status 0 if every exit's logits are within 1e-3 of PyTorch's (relative to the greatest logit), a forced exit\n"
     "runs its own number of stages, and a confident exit 0 runs stage 0 only. Uses the factory heads.\n"
     "  --probes N   only so many of the images with known answers (all)\n"
     "  --quick      one image, once through all exits: for emulators\n", selftest},
    {"run", "IMAGE.npy", "classify one image",
     "IMAGE.npy: uint8 [H, W, C] pixels, or float32 [H, W, C] already normalised.\n  --exit N   let exit N answer, whatever its confidence\n"
     "  --watch K  IMAGE.npy is a stream [N, H, W, C]; every K-th runs to the end, and exits that disagree with the final one\n"
     "             too often are made stricter or switched off, for this stream\n"
     "  --max-disagreement X   of an exit's confident answers (0.1)\n", run},
    {"evaluate", "IMAGES.npy [--labels LABELS.npy]", "accuracy, share of samples per exit, cost, time",
     "IMAGES.npy: uint8 [N, H, W, C]; LABELS.npy: int32 or int64 [N] class numbers, -1 = unknown.\n", evaluate},
    {"personalise", "IMAGES.npy [--labels LABELS.npy]", "train the heads on a person's images",
     "IMAGES.npy: uint8 [N, H, W, C], at least 20; LABELS.npy: int32 or int64 [N], -1 = unknown. Without labels the network's\n"
     "own final exit teaches the others. heads.pack is replaced only if the new heads are better on images that they did not\n"
     "learn from: the images are dealt into folds, and every fold is judged by heads that learnt from the others.\n"
     "  --progress          lines `progress PHASE DONE TOTAL` on stderr\n"
     "  --epochs N          (40)                  --folds N        (4)\n"
     "  --learning-rate X   (0.5)                 --momentum X     (0.9)\n"
     "  --decay X           towards the old head (0.001)\n"
     "  --temperature T     of the teacher (2)    --label-weight A share of the label in the loss (0.7)\n"
     "  --max-drop X        accuracy that early answers may lose (0.01)\n"
     "  --seed N            (1)\n"
     "  --no-levels         leave brightness, contrast and colours of the camera as they are\n"
     "  --cache             keep the images' features in cache.bin beside the heads, and train on all that is kept there:\n"
     "                      classes of earlier images are then not forgotten\n"
     "  --cache-file FILE   the same in another file       --budget SIZE  of it at most (4MB)\n", personalise},
    {"estimate", "[--images N]", "what personalising would take: seconds, core-seconds, memory",
     "From a short probe on this device. Takes personalise's options, --cache too.\n  --images N   so many new ones (300)\n", estimate},
    {"calibrate", "IMAGES.npy [--labels LABELS.npy]", "refit temperatures and thresholds only",
     "  --max-drop X   accuracy that early answers may lose against the final exit (0.01)\n", calibrate},
    {"bench", "[--runs N]", "time every stage, head and exit", "Medians over N runs (30) on the artifact's own probe image.\n", bench},
    {"exits", "[IMAGES.npy]", "what each exit costs here, which are on; switch one on or off",
     "  --enable NAME   --disable NAME   one of the early exits, in heads.pack; `perse rollback` undoes it\n"
     "  --runs N        to time (30)\n"
     "With images of the person [N, H, W, C]: exits that take more time than they save on them are switched off.\n", exits},
    {"packs", "", "heads for several people or places, and how far each has come",
     "A pack is made by `perse personalise --pack NAME` and chosen by --pack NAME; its files are in packs/NAME.\n", packs},
    {"rollback", "", "back to the heads before the last change (and, again, forward)", "", rollback},
    {"reset", "", "back to the factory heads", "", reset},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(const command *c) {
    if (c != NULL) printf("usage: perse %s %s\n\n%s.\n%s", c->name, c->arguments, c->summary, c->help);
    else puts("usage: perse COMMAND [options]\n\nOne network for one device, with exits it can leave early, and heads that learn their owner.\n");
    for (int i = 0; c == NULL && i < COMMANDS; i++) printf("  %-12s %s\n", commands[i].name, commands[i].summary);
    puts("\n  --json           one JSON object on stdout\n  --threads N      (1); 0 = one per core\n"
         "  --pack NAME      heads in packs/NAME instead of the artifact's own\n"
         "  --artifact DIR   folder of backbone.bin and heads.pack (the executable's own)\n"
         "  --help           also after a command");
}

int main(int argc, char **argv) {
    options o = parse(argc, argv);
    const command *c = NULL;
    for (int i = 0; o.command != NULL && i < COMMANDS; i++)
        if (strcmp(commands[i].name, o.command) == 0) c = &commands[i];
    if (o.help || o.command == NULL) {
        if (o.command != NULL && c == NULL) usage_error("unknown command", o.command);
        print_help(c);
        return o.help ? 0 : 2;
    }
    if (c == NULL) usage_error("unknown command", o.command);
    find_artifact(&o, argv[0]);
    o.fit.progress = show_progress;
    o.fit.user = &o;
    given = &o;
    int status = c->run(&o);
    if (fflush(stdout) != 0) fail("cannot write", "standard output", "is the disk full?");
    return status;
}
