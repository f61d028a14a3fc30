/* batch.h - the candidates of one batch, and what it takes to measure one.
 *
 * A candidate is one way to compute one task: a few kernels in a row. Python writes batch.c, the table below, and
 * batch.data: constants, packed as the candidates' kernels read them, and inputs. */
#ifndef PERSE_BATCH_H
#define PERSE_BATCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t from;  /* in batch.data; PERSE_ANY: any values do */
    uint64_t to;    /* in the arena */
    uint64_t bytes;
} perse_piece;
#define PERSE_ANY UINT64_MAX

typedef struct {
    uint32_t number; /* in the batch; those that do not compile are left out */
    int (*run)(uint8_t *arena, const uint8_t *data);
    uint64_t arena; /* bytes */
    const perse_piece *input;
    uint32_t inputs;
    uint64_t result, floats; /* where the result lies in the arena, and how much it is */
    const uint32_t *launches; /* iterations of the parallel loops in the order in which they run; then 0 */
} perse_candidate;

extern const perse_candidate perse_candidates[];
extern const uint32_t perse_candidate_count;

typedef struct {
    int threads;
    int repeats;    /* at least; 0: run once, to check the result, and take no time */
    double seconds; /* all repeats together at least */
    double limit;   /* seconds that the candidate may take with everything */
    uint64_t sweep; /* bytes that each thread writes before every repeat: more than its L2 */
} perse_effort;

enum { PERSE_LINE = 16384, PERSE_SLICES = 64, PERSE_MOST_REPEATS = 512 };

/* Runs one candidate here, in this process. Leaves one line of JSON without its end in `line`. */
void perse_measure(const perse_candidate *c, const uint8_t *data, const perse_effort *effort, char line[PERSE_LINE]);

/* The same in a forked child, killed at the limit: whatever the candidate does, this process goes on. */
void perse_measure_apart(const perse_candidate *c, const uint8_t *data, const perse_effort *effort, char line[PERSE_LINE]);

/* Runs some pieces of each parallel loop, and a block of code at the mark before the run, before and after every piece,
 * and after the run. Prints [[pieces, run], ...], one for each loop. Not 0: a kernel failed. */
int perse_run_marked(const perse_candidate *c, const uint8_t *data);
uintptr_t perse_mark_address(void);

/* The whole file; NULL where it cannot be read. */
const uint8_t *perse_map(const char *path);
#endif
