/* main.c - the artifact's executable: what it is asked for, and who does it. */
#include "program.h"

#include <errno.h>

enum { DEFAULT_BUDGET = 4000000 }; /* bytes of the feature cache */


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

static perse_reference reference(const char *text) {
    if (text == NULL) usage_error("option needs a value", "--against");
    if (strcmp(text, "factory") != 0 && strcmp(text, "final") != 0) usage_error("not final or factory", text);
    return text[1] == 'a' ? PERSE_AGAINST_FACTORY : PERSE_AGAINST_FINAL;
}

/* Takes the option at argv[i]; returns how many words it was. */
static int take_option(options *o, char **argv) {
    const char *name = argv[0], *value = argv[1];
    if (strcmp(name, "--json") == 0) return o->json = true, 1;
    if (strcmp(name, "--quick") == 0) return o->quick = true, 1;
    if (strcmp(name, "--progress") == 0) return o->progress = true, 1;
    if (strcmp(name, "--probabilities") == 0) return o->probabilities = true, 1;
    if (strcmp(name, "--no-levels") == 0) return o->no_levels = true, 1;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return o->help = true, 1;
    if (strcmp(name, "--cache") == 0) return o->cache = true, 1;
    if (strcmp(name, "--pack") == 0 || strcmp(name, "--enable") == 0 || strcmp(name, "--disable") == 0) {
        if (value == NULL) usage_error("option needs a value", name);
        *(name[2] == 'p' ? &o->pack : name[2] == 'e' ? &o->enable : &o->disable) = value;
    } else if (strcmp(name, "--new-class") == 0) {
        if (value == NULL) usage_error("option needs a value", name);
        if (o->new_classes == MOST_NEW_CLASSES) usage_error("too many new classes", value);
        o->new_class[o->new_classes++] = value;
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
    else if (strcmp(name, "--neighbours") == 0) o->fit.neighbours = (float)number_in(name, value, 0, 0.99);
    else if (strcmp(name, "--max-drop") == 0) o->fit.max_drop = (float)number_in(name, value, 0, 1);
    else if (strcmp(name, "--max-cost") == 0) o->fit.max_cost = (float)number_in(name, value, 0, 1);
    else if (strcmp(name, "--against") == 0) o->fit.against = reference(value);
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
     "IMAGE.npy: uint8 [H, W, C] pixels, or float32 [H, W, C] already normalised.\n  --exit N   let exit N answer, whatever its confidence\n  --probabilities   of every class, with --json\n"
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
     "  --temperature T     of the teacher (2)    --label-weight A share of the label in the loss (0.9)\n"
     "  --neighbours A      without labels: share of a teacher's answer that those to similar images are (0.8; 0: none)\n"
     "  --max-drop X        accuracy that early answers may lose (0.01)\n"
     "  --against WHOM      final: the person's own final exit; factory: the network as built, where labels tell: then early\n"
     "                      answers are as good as its, and cheaper (final)\n"
     "  --max-cost X        of the mean answer, as a share of the full network, whatever it loses (no such bound)\n"
     "  --seed N            (1)\n"
     "  --new-class NAME    one more class, with the next class number; may be repeated. At least 5 labelled images of each\n"
     "  --no-levels         leave brightness, contrast and colours of the camera as they are\n"
     "  --cache             keep the images' features in cache.bin beside the heads, and train on all that is kept there:\n"
     "                      classes of earlier images are then not forgotten\n"
     "  --cache-file FILE   the same in another file       --budget SIZE  of it at most (4MB)\n", personalise},
    {"estimate", "[--images N]", "what personalising would take: seconds, core-seconds, memory",
     "From a short probe on this device. Takes personalise's options, --cache too.\n  --images N   so many new ones (300)\n", estimate},
    {"calibrate", "IMAGES.npy [--labels LABELS.npy]", "refit temperatures and thresholds only",
     "  --max-drop X   accuracy that early answers may lose against the final exit (0.01)\n"
     "  --max-cost X   of the mean answer, as a share of the full network, whatever it loses (no such bound)\n", calibrate},
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
