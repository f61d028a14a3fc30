/* half.c - features in half precision: every training batch and every answer reads them anew. */
#include "inside.h"

#include <string.h>

uint16_t perse_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
    if (rest >= 0x477FF000u) return (uint16_t)(sign | 0x7BFFu); /* would round beyond the greatest half */
    if (rest >= 0x38800000u) return (uint16_t)(sign | (rest - 0x38000000u + 0xFFFu + (rest >> 13 & 1)) >> 13);
    uint32_t exponent = rest >> 23;
    if (exponent < 102) return (uint16_t)sign; /* below half of the smallest one */
    uint32_t mantissa = (rest & 0x7FFFFFu) | 0x800000u, shift = 126 - exponent, half = mantissa >> shift;
    uint32_t lost = mantissa & ((1u << shift) - 1), middle = 1u << (shift - 1);
    return (uint16_t)(sign | (half + (lost > middle || (lost == middle && (half & 1) != 0))));
}

void perse_to_halves(const float *from, uint16_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = perse_to_half(from[i]);
}

void perse_from_halves(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = perse_from_half(from[i]);
}

void perse_sample_features(const perse_samples *s, size_t at, uint32_t count, float *to) {
    if (s->features != NULL) memcpy(to, s->features + at, count * sizeof *to);
    else perse_from_halves(s->halves + at, to, count);
}
