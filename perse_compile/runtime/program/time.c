/* time.c - bench, exits. */
#include "program.h"

#include <time.h>

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
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

int bench(const options *o) {
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

int exits(const options *o) {
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
