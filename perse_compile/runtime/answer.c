/* answer.c - from logits to an answer and how sure it is.
 *
 * With a thousand classes a thousand exponentials at every exit are felt in the latency of a small network, so they are
 * made such that compilers can take several at once; C libraries' cannot. */
#include "inside.h"

#include <math.h>
#include <string.h>

enum { AT_ONCE = 64, LANES = 8 }; /* exponentials, and sums; so many whatever the processor, that results are the same */

/* exp(x) for x <= 0 and not NaN, to 1e-12: 2^n * exp(r) with |r| <= log(2)/2, and a polynomial for exp(r). */
static inline double exponential(double x) {
    const double shifter = 6755399441055744.0; /* 1.5 * 2^52: what is added to it is rounded to a whole number */
    x = x < -700 ? -700 : x;
    double shifted = x * 1.4426950408889634 + shifter, n = shifted - shifter;
    double r = x - n * 0.69314718055994531;
    double y = 1 + r * (1 + r * (1.0 / 2 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120 + r * (1.0 / 720 + r * (1.0 / 5040 +
               r * (1.0 / 40320 + r * (1.0 / 362880 + r * (1.0 / 3628800))))))))));
    uint64_t bits, power; /* the lowest bits of `shifted` are n, as two's complement */
    memcpy(&bits, &shifted, sizeof bits);
    power = (bits + 1023) << 52;
    double scale;
    memcpy(&scale, &power, sizeof scale);
    return y * scale;
}

double perse_exp_sum(const float *logits, uint32_t classes, double top, double inverse_temperature) {
    double each[AT_ONCE], part[LANES] = {0}, sum = 0;
    uint32_t k = 0;
    for (; k + AT_ONCE <= classes; k += AT_ONCE) {
        for (uint32_t i = 0; i < AT_ONCE; i++) each[i] = exponential((logits[k + i] - top) * inverse_temperature);
        for (uint32_t i = 0; i < AT_ONCE; i++) part[i % LANES] += each[i];
    }
    for (; k < classes; k++) sum += exponential((logits[k] - top) * inverse_temperature);
    for (uint32_t lane = 0; lane < LANES; lane++) sum += part[lane];
    return sum;
}

uint32_t perse_argmax(const float *values, uint32_t count) {
    uint32_t best = 0;
    float top = values[0];
    for (uint32_t k = 1; k < count; k++)
        if (values[k] > top) top = values[k], best = k;
    return best;
}

void perse_probabilities(const float *logits, uint32_t classes, double temperature, float *out) {
    double top = logits[perse_argmax(logits, classes)], inverse = 1 / temperature;
    double share = 1 / perse_exp_sum(logits, classes, top, inverse);
    for (uint32_t k = 0; k < classes; k++) out[k] = (float)(exponential((logits[k] - top) * inverse) * share);
}

bool perse_top(const float *logits, uint32_t classes, float temperature, int *label, float *confidence) {
    uint32_t unfit = 0;
    for (uint32_t k = 0; k < classes; k++) unfit |= !isfinite(logits[k]);
    if (unfit) return false;
    uint32_t best = perse_argmax(logits, classes);
    *label = (int)best;
    *confidence = (float)(1 / perse_exp_sum(logits, classes, logits[best], 1 / (double)temperature));
    return true;
}
