/* look.c - info, selftest. */
#include "program.h"

static const double TOLERANCE = 1e-3; /* of selftest, relative to the greatest logit */

int info(const options *o) {
    perse *p = open_heads(o, 0);
    perse_info i = perse_get_info(p);
    say(o, "%s for %s, built by perse-compile %s\n", i.name, i.target, i.version);
    uint32_t classes = i.classes - i.spare;
    say(o, "input %u x %u x %u, %u classes", i.height, i.width, i.channels, classes);
    if (i.spare > 0) say(o, " and room for %u", i.spare);
    say(o, ", %.1f million MACs\n", (double)i.macs * 1e-6);
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
        json_whole("classes", classes), json_whole("spare_classes", i.spare), json_whole("features", i.features), json_whole("train_batch", i.train_batch);
        json_whole("probes", i.probes), json_whole("generation", i.generation), json_whole("macs", i.macs);
        json_whole("backbone_bytes", i.backbone_size), json_whole("memory_bytes", perse_memory_size(o->threads));
        json_open("class_names", '[');
        for (uint32_t k = 0; k < classes; k++) json_string(NULL, i.class_names[k]);
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

/* Logits of the network's own classes; those of spare outputs are what they must be, or nothing is right. */
static void compare(const float *got, const float *expected, const perse_info *i, difference *worst) {
    double greatest = 0, most = 0;
    for (uint32_t k = i->classes - i->spare; k < i->classes; k++)
        if (!(got[k] == expected[k])) most = INFINITY;
    for (uint32_t k = 0; k < i->classes - i->spare; k++) {
        greatest = fmax(greatest, fabs((double)expected[k]));
        double off = fabs((double)got[k] - (double)expected[k]);
        most = isfinite(off) ? fmax(most, off) : INFINITY;
    }
    worst->absolute = fmax(worst->absolute, most);
    worst->relative = fmax(worst->relative, greatest > 0 ? most / greatest : most);
}

/* The first probe leaves at each exit in turn (or, quick, passes all of them once), the others pass all of them. */
int selftest(const options *o) {
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
        for (uint32_t e = 0; e < i.exits; e++) compare(logits + (size_t)e * i.classes, expected + (size_t)e * i.classes, &i, &worst[e]);
    }
    check(perse_get_probe(p, 0, &image, &expected));
    if (o->json) json_open(NULL, '{'), json_whole("probes", probes), json_number("tolerance", TOLERANCE), json_open("exits", '[');
    say(o, "%-8s %14s %14s %8s\n", "exit", "max |diff|", "relative", "stages");
    for (uint32_t e = 0; e < i.exits; e++) {
        if (o->quick) one = results[e];
        else check(perse_run_u8(p, image, (int)e, &one, logits));
        if (!o->quick) compare(logits, expected + (size_t)e * i.classes, &i, &worst[e]);
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
