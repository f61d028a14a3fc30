/* main.c - measures the candidates of a batch and prints one line of JSON for each, as soon as it is known.
 *
 *   batch DATA --threads N --repeats N --seconds S --limit S --sweep BYTES
 *   batch DATA --mark              where the mark is that tells an emulator's log apart
 *   batch DATA --marked NUMBER     runs one candidate with marks
 */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int complain(const char *what, const char *which) {
    fprintf(stderr, "batch: %s %s\n", what, which);
    return 2;
}

static int run_marked(uint32_t number, const uint8_t *data) {
    for (uint32_t i = 0; i < perse_candidate_count; i++)
        if (perse_candidates[i].number == number) return perse_run_marked(&perse_candidates[i], data) == 0 ? 0 : 1;
    return complain("no candidate", "of that number");
}

int main(int argc, char **argv) {
    static char line[PERSE_LINE];
    perse_effort effort = {1, 5, 0.05, 10, 1 << 20};
    long long marked = -1;
    if (argc < 2) return complain("which", "DATA?");
    const uint8_t *data = perse_map(argv[1]);
    if (data == NULL) return complain(errno != 0 ? strerror(errno) : "empty file", argv[1]);
    if (argc == 3 && strcmp(argv[2], "--mark") == 0) return printf("%llu\n", (unsigned long long)perse_mark_address()) < 0;
    for (int i = 2; i + 1 < argc; i += 2) {
        double value = atof(argv[i + 1]);
        if (strcmp(argv[i], "--threads") == 0) effort.threads = (int)value;
        else if (strcmp(argv[i], "--repeats") == 0) effort.repeats = (int)value;
        else if (strcmp(argv[i], "--seconds") == 0) effort.seconds = value;
        else if (strcmp(argv[i], "--limit") == 0) effort.limit = value;
        else if (strcmp(argv[i], "--sweep") == 0) effort.sweep = (uint64_t)value;
        else if (strcmp(argv[i], "--marked") == 0) marked = (long long)value;
        else return complain("unknown option", argv[i]);
    }
    if (marked >= 0) return run_marked((uint32_t)marked, data);
    for (uint32_t i = 0; i < perse_candidate_count; i++) {
        perse_measure_apart(&perse_candidates[i], data, &effort, line);
        if (puts(line) < 0 || fflush(stdout) != 0) return complain("cannot print:", strerror(errno));
    }
    return 0;
}
