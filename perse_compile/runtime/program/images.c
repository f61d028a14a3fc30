/* images.c - a person's images and labels, and their features. */
#include "program.h"

#include <unistd.h>

const char *need_file(const options *o) {
    if (o->file == NULL) usage_error("needs a .npy file", o->command);
    return o->file;
}

void open_npy(npy *out, const char *path) {
    const char *wrong = npy_open(out, path);
    if (wrong == NULL) return;
    char what[200];
    snprintf(what, sizeof what, "%s", wrong);
    char *advice = strstr(what, ": ");
    if (advice != NULL) *advice = 0, advice += 2;
    fail(what, path, advice != NULL ? advice : "");
}

void check_shape(const npy *file, const perse_info *i, int batch, const char *path) {
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
        if (label < -1 || label >= (int64_t)(info->classes - info->spare)) fail(perse_status_text(PERSE_BAD_LABEL), o->labels, perse_status_advice(PERSE_BAD_LABEL));
        labels[i] = (int32_t)label;
    }
    npy_close(&file);
    return labels;
}

images open_images(const options *o, const perse *p) {
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

const uint8_t *image_at(const images *all, uint32_t i) { return all->file.data + i * all->size; }

int show_progress(void *user, const char *phase, uint32_t done, uint32_t total) {
    const options *o = user;
    if (o->progress) fprintf(stderr, "progress %s %u %u\n", phase, (unsigned)done, (unsigned)total);
    else if (isatty(2)) fprintf(stderr, "\r\033[K%s %u/%u", phase, (unsigned)done, (unsigned)total);
    return 0;
}

void end_progress(const options *o) {
    if (!o->progress && isatty(2)) fputs("\r\033[K", stderr);
}

/* The backbone runs once per image; everything after works on what it left here. */
uint16_t *extract_features(const options *o, perse *p, const images *all) {
    size_t each = perse_get_info(p).features;
    if (each * sizeof(uint16_t) > SIZE_MAX / all->count) fail("not enough memory", o->file, "give fewer images");
    uint16_t *features = take_memory(all->count * each * sizeof *features);
    float *row = take_memory(each * sizeof *row);
    for (uint32_t i = 0; i < all->count; i++) {
        show_progress((void *)(uintptr_t)o, "features", i, all->count);
        check(perse_features_u8(p, image_at(all, i), row));
        perse_to_halves(row, features + i * each, each);
    }
    show_progress((void *)(uintptr_t)o, "features", all->count, all->count);
    free(row);
    return features;
}
