/* fit.h - what the files of a fit share: fit.c (the whole), teacher.c, frequencies.c, neighbours.c, kinds.c, learn.c,
 * fit_classes.c, gate.c. */
#ifndef PERSE_FIT_H
#define PERSE_FIT_H
#include "inside.h"

typedef struct {
    uint32_t stratum, sample;
    uint64_t random;
} fit_ticket;

enum { FIT_NEAR = 10 }; /* neighbours of a sample */

/* The nearest samples, and the one behind them; how alike they are, then what they count. */
typedef struct {
    uint32_t sample[FIT_NEAR + 1];
    float likeness[FIT_NEAR + 1];
} fit_near;

#define FIT_LEFT_OUT UINT32_MAX

enum { FIT_KNOWN, FIT_FREE, FIT_HELD }; /* a class that changes; is new; that no label shows and that stays */

typedef struct {
    perse *p;
    const perse_samples *samples;
    perse_fit_options o;
    perse_report *report;
    bool plain;          /* without labels: the final exit's answers as they are */
    perse_lab lab;
    perse_pack fresh;    /* being trained */
    float *candidate;    /* [count][classes] logits of another teacher */
    float *weight;       /* [count] trust in the teacher */
    float *soft;         /* [classes] */
    double *prior;       /* [3][classes]: the estimate, another, scratch */
    double *mean;        /* [features of the widest exit] */
    double *deviation;   /* likewise */
    double *share;       /* [exits] */
    perse_answer *before, *after;         /* [exits][count] */
    float *likely_before, *likely_after;  /* [exits][count] probability of what is right */
    fit_ticket *tickets; /* [count] */
    fit_near *near;      /* [count] */
    float *block;        /* [features of the widest exit][PERSE_BLOCK]: samples that are compared */
    uint8_t *change;     /* [classes] of FIT_...: see fit_classes.c */
    bool own_classes;    /* there are some that the network never had */
    uint8_t *kind;       /* [count] 0 or 1: see kinds.c */
    bool two_kinds;
    int32_t *crossing;   /* [2][count] */
    uint32_t *fold;      /* [count] of each sample, or FIT_LEFT_OUT */
    uint32_t *index;     /* [count]: the samples that judge, then the others */
    uint32_t *picked;    /* [2][count]: samples that train, samples that do not; of a teacher, labels */
    uint32_t *who;       /* [count]: the exit that answers a sample which judges */
    perse_slice judges, all; /* all: but those that are left out */
    double factory; /* accuracy of the factory's final exit, where there are labels */
    void *training;      /* memory of one perse_training */
    size_t training_size;
    uint64_t random;
} fit;

perse_status fit_tell(const fit *f, const char *phase, uint32_t done, uint32_t total);
int32_t fit_label(const fit *f, uint32_t i);

/* fit_classes.c */
perse_status fit_check_classes(fit *f);                /* enough samples of the new ones? */
perse_status fit_start_classes(fit *f, uint32_t e, perse_slice slice); /* in fresh.exit[e], where it does not know them */
void fit_settle_classes(const fit *f, const perse_training *t); /* after every step */
perse_verdict fit_judge_classes(const fit *f, perse_verdict verdict); /* also fills report.recognised */

/* teacher.c */
perse_status fit_teach_with_labels(fit *f); /* logits of the cross-fitted final exit are in candidate */
perse_status fit_teach_without_labels(fit *f); /* p->spare is the factory's pack */
#define FIT_EARLY_TELLS_MORE 0.3 /* nats by which an answer of an early exit must tell more, for that exit to teach */
perse_status fit_information(fit *f, uint32_t e, const perse_pack_entry *entry, perse_slice slice, double *found); /* that exit e tells of samples, in nats */
bool fit_final_has_learnt(const fit *f); /* weights that are not the factory's */
bool fit_sees_several(const fit *f); /* classes, in lab.truth */
/* Without labels: the teacher gives few of the answers in use to these samples, or, if it is the factory's final exit, as it is or
 * evened out, those that it does not give tell more than that exit's own. */
perse_status fit_is_contradicted(fit *f, perse_slice slice, bool *contradicted);
void fit_weigh(fit *f);
void fit_count_prior(fit *f);

/* What exit e says with this head and temperature, at temperature 1: lab.teacher; what it takes to be right: lab.truth. The latter alone. */
perse_status fit_ask(fit *f, uint32_t e, const perse_pack_entry *entry);
void fit_believe(fit *f);

/* frequencies.c: of the classes, in prior, by what the factory's final exit says (in lab.teacher; overwritten, as are candidate,
 * lab.logits and picked), and whether to believe them; neighbours are found. Then lab.teacher with them, and what they add to a logit at temperature 1. */
perse_status fit_estimate_frequencies(fit *f, bool *believed);
void fit_correct(fit *f);
float fit_frequency_bias(const fit *f, uint32_t k);

/* neighbours.c: who is alike, and what each counts; then lab.teacher, logits at temperature 1, is drawn towards what it says of each
 * sample's neighbours, which make up a share of it. candidate and lab.logits are overwritten. */
perse_status fit_find_neighbours(fit *f);
void fit_even_out(fit *f, float share);

/* kinds.c: finds neighbours, and whether samples without labels are of two kinds that have next to none in each other: kind, two_kinds.
 * Those of a kind that the network cannot read are left out of `all` before. */
perse_status fit_find_kinds(fit *f);
perse_slice fit_of_kind(const fit *f, uint8_t kind, uint32_t *into);

/* gate.c: thresholds, and the verdict, in report. The exit that answers sample i; [exits][count] answers. */
perse_status fit_gate(fit *f);
uint32_t fit_who_answers(const fit *f, const perse_pack *pack, const perse_answer *answers, uint32_t i);

/* learn.c: trains the head on everything but a fold, fold by fold: lab.logits[i] is what a head says that did not
 * learn from sample i. Then trains fresh.exit[e] on everything. */
perse_status fit_learn(fit *f, uint32_t e, bool labels_only);
/* All samples that are (not) in the fold; of those that are not, with labels_only, the labelled. Fills `into`. */
perse_slice fit_pick(const fit *f, uint32_t fold, bool in, bool labels_only, uint32_t *into);
#endif
