/* training.c - one exit's training step, around the plan's compiled one. */
#include "inside.h"

#include <math.h>
#include <string.h>

enum { FEWEST_STEPS = 4 }; /* of an epoch */

perse_training *perse_training_carve(perse_carver *c, const perse_plan *plan, uint32_t exit) {
    const perse_exit_plan *x = &plan->exit[exit];
    uint32_t batch = plan->train_batch, k = plan->classes;
    perse_training *t = perse_carve(c, 1, sizeof *t), all = {.plan = x};
    perse_head_carve(c, x->features, k, &all.anchor);
    all.velocity_weight = perse_carve(c, (uint64_t)x->features * k, sizeof(float));
    all.velocity_bias = perse_carve(c, k, sizeof(float));
    all.features = perse_carve(c, (uint64_t)batch * x->features, sizeof(float));
    all.hard = perse_carve(c, (uint64_t)batch * k, sizeof(float));
    all.soft = perse_carve(c, (uint64_t)batch * k, sizeof(float));
    all.loss = perse_carve(c, 1, sizeof(float));
    all.arena = perse_carve(c, x->train_arena_size, 1);
    if (c->base != NULL && c->used != SIZE_MAX) *t = all;
    return t;
}

/* The head as it is now becomes what decay pulls towards; the velocity is zero. */
void perse_training_begin(perse_training *t, perse *p, uint32_t exit, const perse_head *head) {
    uint32_t f = p->plan->exit[exit].features, k = p->plan->classes;
    t->p = p;
    t->head = head;
    perse_head_copy(&t->anchor, head, f, k);
    memset(t->velocity_weight, 0, (size_t)f * k * sizeof(float));
    memset(t->velocity_bias, 0, k * sizeof(float));
}

perse_status perse_training_step(perse_training *t, float inverse_temperature, float learning_rate, float momentum, float decay) {
    perse_step step = {t->features, t->hard, t->soft, inverse_temperature, learning_rate, momentum, decay, t->head,
                       &t->anchor, t->velocity_weight, t->velocity_bias, t->loss};
    perse_pool_enter(t->p->pool);
    int code = t->plan->train(t->arena, &step);
    perse_pool_leave();
    if (code != 0) return PERSE_KERNEL_FAILED;
    return isfinite(*t->loss) ? PERSE_OK : perse_fail(PERSE_DIVERGED, t->plan->name);
}

size_t perse_training_size(const perse *p, int exit) {
    if (p == NULL || exit < 0 || (uint32_t)exit >= p->plan->exits) return 0;
    perse_carver c = {NULL, 0, 0};
    perse_training_carve(&c, p->plan, (uint32_t)exit);
    return perse_carved_size(&c);
}

perse_status perse_train_begin(perse *p, int exit, void *memory, size_t size, perse_training **out) {
    if (p == NULL || exit < 0 || (uint32_t)exit >= p->plan->exits || memory == NULL || out == NULL)
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    perse_carver c = perse_carve_in(memory, size);
    perse_training *t = perse_training_carve(&c, p->plan, (uint32_t)exit);
    if (c.used == SIZE_MAX) return perse_fail(PERSE_OUT_OF_MEMORY, "perse_training_size");
    perse_training_begin(t, p, (uint32_t)exit, &p->live.exit[exit].head);
    *out = t;
    return PERSE_OK;
}

uint32_t perse_passes(uint32_t count, uint32_t batch) {
    uint32_t steps = (count + batch - 1) / batch;
    return steps > 0 && steps < FEWEST_STEPS ? (FEWEST_STEPS + steps - 1) / steps : 1;
}

perse_status perse_train_batch(perse_training *t, const perse_batch *batch, float *loss) {
    if (t == NULL || batch == NULL || batch->features == NULL || batch->hard == NULL || batch->soft == NULL)
        return perse_fail(PERSE_BAD_ARGUMENT, "");
    size_t rows = t->p->plan->train_batch, targets = rows * t->p->plan->classes, values = rows * t->plan->features;
    for (size_t i = 0; i < values; i++)
        if (!isfinite(batch->features[i])) return perse_fail(PERSE_NAN_INPUT, "features");
    for (size_t i = 0; i < targets; i++)
        if (!isfinite(batch->hard[i]) || !isfinite(batch->soft[i])) return perse_fail(PERSE_NAN_INPUT, "targets");
    memcpy(t->features, batch->features, values * sizeof(float));
    memcpy(t->hard, batch->hard, targets * sizeof(float));
    memcpy(t->soft, batch->soft, targets * sizeof(float));
    perse_status status = perse_training_step(t, batch->inverse_temperature, batch->learning_rate, batch->momentum, batch->decay);
    if (loss != NULL) *loss = *t->loss;
    return status;
}
