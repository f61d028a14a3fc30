/* say.c - what is said: errors in one line, JSON as one object on stdout, text. */
#include "program.h"

#include <stdarg.h>

_Noreturn void fail(const char *what, const char *where, const char *advice) {
    fprintf(stderr, "perse: %s: %s%s%s\n", what, where, *where && *advice ? ": " : "", advice);
    exit(1);
}

_Noreturn void usage_error(const char *what, const char *word) {
    fprintf(stderr, "perse: %s: %s: see perse --help\n", what, word);
    exit(2);
}

void *take_memory(size_t size) {
    void *memory = size == SIZE_MAX ? NULL : malloc(size > 0 ? size : 1);
    if (memory == NULL) fail("not enough memory", "this device", "give fewer images");
    return memory;
}

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

void json_open(const char *key, char bracket) {
    if (key != NULL || !first_in_json) json_key(key);
    putchar(bracket);
    first_in_json = true;
}

void json_close(char bracket) {
    putchar(bracket);
    first_in_json = false;
}

void json_string(const char *key, const char *text) { json_key(key), json_text(text); }
void json_bool(const char *key, bool value) { json_key(key), fputs(value ? "true" : "false", stdout); }
void json_whole(const char *key, uint64_t value) { json_key(key), printf("%llu", (unsigned long long)value); }

void json_number(const char *key, double value) {
    json_key(key);
    if (isfinite(value)) printf("%.9g", value);
    else fputs("null", stdout);
}

/* [[low, high], ...] */
void json_levels(const char *key, const float *levels, uint32_t channels) {
    json_open(key, '[');
    for (uint32_t c = 0; c < channels; c++) {
        json_open(NULL, '[');
        json_number(NULL, (double)levels[2 * c]), json_number(NULL, (double)levels[2 * c + 1]), json_close(']');
    }
    json_close(']');
}

void say(const options *o, const char *format, ...) {
    if (o->json) return;
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}
