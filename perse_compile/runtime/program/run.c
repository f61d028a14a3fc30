/* run.c - run, evaluate. */
#include "program.h"

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

/* softmax(logits / temperature) of the exit that answered */
static void json_probabilities(const float *logits, uint32_t classes, double temperature) {
    double greatest = (double)logits[0], sum = 0;
    for (uint32_t k = 1; k < classes; k++) greatest = (double)logits[k] > greatest ? (double)logits[k] : greatest;
    for (uint32_t k = 0; k < classes; k++) sum += exp(((double)logits[k] - greatest) / temperature);
    json_open("probabilities", '[');
    for (uint32_t k = 0; k < classes; k++) json_number(NULL, exp(((double)logits[k] - greatest) / temperature) / sum);
    json_close(']');
}

int run(const options *o) {
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
    float *logits = take_memory(i.classes * sizeof *logits);
    perse_result r;
    double start = now();
    check(u8 ? perse_run_u8(p, (const uint8_t *)image, o->exit, &r, logits) : perse_run_f32(p, image, o->exit, &r, logits));
    double ms = now() - start;
    const char *name = i.class_names[r.label], *exit_name = exit_info(p, (uint32_t)r.exit).name;
    say(o, "class %d (%s), confidence %.3f, %s after %d of %u stages, %.2f ms\n", r.label, name, (double)r.confidence, exit_name, r.stages,
        i.exits, ms);
    if (o->json) {
        json_open(NULL, '{'), json_result(p, &r, ms);
        if (o->probabilities) json_probabilities(logits, i.classes - i.spare, (double)exit_info(p, (uint32_t)r.exit).temperature);
        json_close('}'), puts("");
    }
    perse_close(p);
    return 0;
}

int evaluate(const options *o) {
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
