/* perse_jni.c - dev.perse.Perse in C: its native methods, on the artifact that this library is linked with.
 *
 * A handle is an `opened`. Java calls for one handle wait for each other. What fails throws a PerseException. */
#include <jni.h>
#include <perse.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REMEMBERED = 32 << 20 }; /* bytes that remembered images may take */

typedef struct {
    perse *p;
    perse_cache *cache; /* NULL until it is asked for */
    void *memory, *cache_memory;
} opened;

static opened *of(jlong handle) { return (opened *)(intptr_t)handle; }

/* ---- strings and exceptions ---- */

/* NewStringUTF wants its own kind of UTF-8, which class names need not be. */
static jstring string_of(JNIEnv *env, const char *text) {
    jsize length = (jsize)strlen(text);
    jclass type = (*env)->FindClass(env, "java/lang/String");
    jmethodID make = type ? (*env)->GetMethodID(env, type, "<init>", "([BLjava/lang/String;)V") : NULL;
    jstring charset = make ? (*env)->NewStringUTF(env, "UTF-8") : NULL;
    jbyteArray bytes = charset ? (*env)->NewByteArray(env, length) : NULL;
    if (bytes == NULL) return NULL;
    (*env)->SetByteArrayRegion(env, bytes, 0, length, (const jbyte *)text);
    jstring made = (*env)->NewObject(env, type, make, bytes, charset);
    (*env)->DeleteLocalRef(env, bytes);
    (*env)->DeleteLocalRef(env, charset);
    (*env)->DeleteLocalRef(env, type);
    return made;
}

static void throw_text(JNIEnv *env, const char *text) {
    if ((*env)->ExceptionCheck(env)) return; /* Java's own comes first */
    jstring message = string_of(env, text);
    jclass type = message ? (*env)->FindClass(env, "dev/perse/PerseException") : NULL;
    jmethodID make = type ? (*env)->GetMethodID(env, type, "<init>", "(Ljava/lang/String;)V") : NULL;
    jthrowable made = make ? (*env)->NewObject(env, type, make, message) : NULL;
    if (made != NULL) (*env)->Throw(env, made);
}

/* Whether it is fine; if not, an exception is under way. */
static bool fine(JNIEnv *env, perse_status status) {
    if (status == PERSE_OK) return true;
    char text[600];
    const char *detail = perse_detail();
    snprintf(text, sizeof text, "%s%s%s; %s", perse_status_text(status), detail[0] ? ": " : "", detail, perse_status_advice(status));
    throw_text(env, text);
    return false;
}

static bool enough(JNIEnv *env, const void *memory) { return memory != NULL || fine(env, PERSE_OUT_OF_MEMORY); }

static jdoubleArray doubles(JNIEnv *env, const double *values, jsize count) {
    jdoubleArray made = (*env)->NewDoubleArray(env, count);
    if (made != NULL) (*env)->SetDoubleArrayRegion(env, made, 0, count, values);
    return made;
}

/* ---- open, close, look ---- */

static void close_all(opened *o) {
    perse_cache_close(o->cache);
    perse_close(o->p);
    free(o->cache_memory);
    free(o->memory);
    free(o);
}

JNIEXPORT jlong JNICALL Java_dev_perse_Perse_open(JNIEnv *env, jclass type, jstring folder, jint threads) {
    (void)type;
    const char *path = (*env)->GetStringUTFChars(env, folder, NULL);
    opened *o = path ? calloc(1, sizeof *o) : NULL;
    size_t size = perse_memory_size(threads);
    if (o != NULL) o->memory = malloc(size > 0 ? size : 1); /* 0: perse_open says what is wrong with `threads` */
    bool open = path != NULL && enough(env, o) && enough(env, o->memory) && fine(env, perse_open(&o->p, path, threads, o->memory, size));
    if (path != NULL) (*env)->ReleaseStringUTFChars(env, folder, path);
    if (open) return (jlong)(intptr_t)o;
    if (o != NULL) close_all(o);
    return 0;
}

JNIEXPORT void JNICALL Java_dev_perse_Perse_close(JNIEnv *env, jclass type, jlong handle) {
    (void)env, (void)type;
    close_all(of(handle));
}

/* height, width, channels, exits */
JNIEXPORT jintArray JNICALL Java_dev_perse_Perse_shape(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    perse_info info = perse_get_info(of(handle)->p);
    jint found[] = {(jint)info.height, (jint)info.width, (jint)info.channels, (jint)info.exits};
    jintArray made = (*env)->NewIntArray(env, 4);
    if (made != NULL) (*env)->SetIntArrayRegion(env, made, 0, 4, found);
    return made;
}

JNIEXPORT jobjectArray JNICALL Java_dev_perse_Perse_classNames(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    perse_info info = perse_get_info(of(handle)->p);
    jclass string = (*env)->FindClass(env, "java/lang/String");
    jobjectArray made = string ? (*env)->NewObjectArray(env, (jsize)(info.classes - info.spare), string, NULL) : NULL;
    for (jsize i = 0; made != NULL && i < (jsize)(info.classes - info.spare); i++) {
        jstring name = string_of(env, info.class_names[i]);
        if (name == NULL) return NULL;
        (*env)->SetObjectArrayElement(env, made, i, name);
        (*env)->DeleteLocalRef(env, name);
    }
    return made;
}

/* ---- images ---- */

/* A copy of the pixels, for free(); NULL with an exception under way. */
static uint8_t *pixels_of(JNIEnv *env, const perse *p, jbyteArray image) {
    perse_info info = perse_get_info(p);
    jsize size = (jsize)(info.height * info.width * info.channels);
    if (image == NULL || (*env)->GetArrayLength(env, image) != size) {
        throw_text(env, "an image of another size than the network's; see height, width and channels");
        return NULL;
    }
    uint8_t *pixels = malloc((size_t)size);
    if (enough(env, pixels)) (*env)->GetByteArrayRegion(env, image, 0, size, (jbyte *)pixels);
    return pixels;
}

/* label, confidence, exit, stages */
JNIEXPORT jdoubleArray JNICALL Java_dev_perse_Perse_run(JNIEnv *env, jclass type, jlong handle, jbyteArray image) {
    (void)type;
    perse *p = of(handle)->p;
    uint8_t *pixels = pixels_of(env, p, image);
    if (pixels == NULL) return NULL;
    perse_result r;
    bool right = fine(env, perse_run_u8(p, pixels, PERSE_CASCADE, &r, NULL));
    free(pixels);
    return right ? doubles(env, (double[]){r.label, (double)r.confidence, r.exit, r.stages}, 4) : NULL;
}

/* ---- what is remembered ---- */

/* The cache of a handle; NULL with an exception under way. */
static perse_cache *cache_of(JNIEnv *env, opened *o) {
    if (o->cache != NULL) return o->cache;
    size_t size = perse_cache_size(o->p, REMEMBERED);
    if (o->cache_memory == NULL && size != SIZE_MAX) o->cache_memory = malloc(size);
    if (!enough(env, o->cache_memory)) return NULL;
    fine(env, perse_cache_open(o->p, NULL, REMEMBERED, o->cache_memory, size, &o->cache));
    return o->cache;
}

static perse_status keep(perse *p, perse_cache *cache, const uint8_t *pixels, float *features, int32_t label) {
    PERSE_TRY(perse_features_u8(p, pixels, features));
    PERSE_TRY(perse_cache_add(cache, features, label));
    return perse_cache_save(cache);
}

JNIEXPORT jint JNICALL Java_dev_perse_Perse_remember(JNIEnv *env, jclass type, jlong handle, jbyteArray image, jint label) {
    (void)type;
    opened *o = of(handle);
    perse_cache *cache = cache_of(env, o);
    uint8_t *pixels = cache ? pixels_of(env, o->p, image) : NULL;
    if (pixels == NULL) return 0;
    float *features = malloc(perse_get_info(o->p).features * sizeof *features);
    bool right = enough(env, features) && fine(env, keep(o->p, cache, pixels, features, label));
    free(features);
    free(pixels);
    return right ? (jint)perse_get_cache_info(cache).samples : 0;
}

JNIEXPORT jint JNICALL Java_dev_perse_Perse_remembered(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    perse_cache *cache = cache_of(env, of(handle));
    return cache ? (jint)perse_get_cache_info(cache).samples : 0;
}

/* ---- learning ---- */

typedef struct {
    JNIEnv *env;
    jobject listener; /* may be NULL */
    jmethodID go_on;
} listening;

/* Not zero stops: the listener said so, or threw. */
static int tell(void *user, const char *phase, uint32_t done, uint32_t total) {
    listening *l = user;
    if (l->listener == NULL) return 0;
    jstring name = string_of(l->env, phase);
    if (name == NULL) return 1;
    jboolean on = (*l->env)->CallBooleanMethod(l->env, l->listener, l->go_on, name, (jint)done, (jint)total);
    (*l->env)->DeleteLocalRef(l->env, name);
    return (*l->env)->ExceptionCheck(l->env) || !on;
}

typedef struct {
    float *features;
    int32_t *labels;
    perse_exit_report *exits;
    void *memory;
} workspace;

static perse_status learn_from(perse *p, perse_cache *cache, uint32_t count, workspace *w, size_t size, listening *l, perse_report *report) {
    uint32_t features = perse_get_info(p).features;
    for (uint32_t i = 0; i < count; i++) PERSE_TRY(perse_cache_get(cache, i, w->features + (size_t)i * features, w->labels + i));
    perse_samples samples = {.count = count, .features = w->features, .labels = w->labels};
    perse_fit_options options = perse_fit_defaults();
    options.progress = tell;
    options.user = l;
    report->exits = w->exits;
    PERSE_TRY(perse_fit(p, &samples, &options, w->memory, size, report));
    return report->verdict == PERSE_BETTER ? perse_save_pack(p) : PERSE_OK;
}

/* verdict, accuracy before and after, cost before and after; NULL if the listener stopped it */
JNIEXPORT jdoubleArray JNICALL Java_dev_perse_Perse_learn(JNIEnv *env, jclass type, jlong handle, jobject listener) {
    (void)type;
    opened *o = of(handle);
    perse_cache *cache = cache_of(env, o);
    if (cache == NULL) return NULL;
    listening l = {env, listener, NULL};
    if (listener != NULL) {
        jclass own = (*env)->GetObjectClass(env, listener);
        l.go_on = (*env)->GetMethodID(env, own, "goOn", "(Ljava/lang/String;II)Z");
        if (l.go_on == NULL) return NULL;
    }
    perse_info info = perse_get_info(o->p);
    uint32_t count = perse_get_cache_info(cache).samples;
    size_t size = perse_fit_size(o->p, count);
    workspace w = {
        malloc((size_t)count * info.features * sizeof *w.features + 1), malloc(count * sizeof *w.labels + 1),
        malloc(info.exits * sizeof *w.exits), size == SIZE_MAX ? NULL : malloc(size),
    };
    perse_report report = {0};
    perse_status status = PERSE_OUT_OF_MEMORY;
    if (w.features && w.labels && w.exits && w.memory) status = learn_from(o->p, cache, count, &w, size, &l, &report);
    free(w.features);
    free(w.labels);
    free(w.exits);
    free(w.memory);
    if (status == PERSE_ABORTED || !fine(env, status)) return NULL;
    double found[] = {report.verdict, report.before.accuracy, report.after.accuracy, report.before.cost, report.after.cost};
    return doubles(env, found, 5);
}

JNIEXPORT jstring JNICALL Java_dev_perse_Perse_verdict(JNIEnv *env, jclass type, jint verdict) {
    (void)type;
    return string_of(env, perse_verdict_text((perse_verdict)verdict));
}

JNIEXPORT void JNICALL Java_dev_perse_Perse_reload(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    perse_status status = perse_load_pack(of(handle)->p);
    if (status != PERSE_NO_FILE) fine(env, status); /* nothing was learnt yet: the factory heads stay */
}

JNIEXPORT void JNICALL Java_dev_perse_Perse_undo(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    fine(env, perse_rollback_pack(of(handle)->p));
}
