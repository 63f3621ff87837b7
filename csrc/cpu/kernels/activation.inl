// What gates do, for the ends of linear layers, and the gelu without a gate.
#pragma once

#include "kernels/exact_math.inl"

// g * sigmoid(g)
HR_INLINE F32x16 silu(F32x16 g) { return mul(g, sigmoid(g)); }

// g * (1 + tanh(u)) / 2 with u = sqrt(2/pi) (g + 0.044715 g^3), as g * sigmoid(2u).
HR_INLINE F32x16 gelu_tanh(F32x16 g) {
  F32x16 cube = mul(mul(mul(splat(0.044715f), g), g), g);
  return mul(g, sigmoid(mul(splat(1.5957691216f), add(g, cube))));
}

HR_INLINE F32x16 activate(Gate gate, F32x16 g) { return gate == kSilu ? silu(g) : gelu_tanh(g); }

static void gate_rows(const GateArgs* args, const Work* work) {
  const int64_t width = args->width;
  for (int64_t row = work->begin; row < work->end; row++) {
    const float* x = args->x + row * 2 * width;
    float* out = args->out + row * width;
    for (int64_t i = 0; i < width; i += 16)
      store(out + i, mul(activate(args->gate, load(x + 2 * i)), load(x + 2 * i + 16)));
  }
}

// erfc(|z|), absolute error under 2e-7. Source: Abramowitz and Stegun, 7.1.26.
HR_INLINE F32x16 erfc_of_magnitude(F32x16 z) {
  const F32x16 magnitude = abs(z);
  const F32x16 t = div(splat(1.0f), fma(splat(0.3275911f), magnitude, splat(1.0f)));
  F32x16 y = splat(1.061405429f);
  y = fma(y, t, splat(-1.453152027f));
  y = fma(y, t, splat(1.421413741f));
  y = fma(y, t, splat(-0.284496736f));
  y = fma(y, t, splat(0.254829592f));
  return mul(mul(y, t), exp2_neg(mul(mul(magnitude, magnitude), splat(-kLog2E))));
}

// x * erfc(-x / sqrt 2) / 2: for x >= 0 that is x - x * erfc(x / sqrt 2) / 2.
HR_INLINE F32x16 gelu_erf(F32x16 x) {
  const F32x16 tail = mul(mul(x, splat(0.5f)), erfc_of_magnitude(mul(x, splat(0.70710678f))));
  return select(less(x, zero_f32()), tail, sub(x, tail));
}

static void gelu(const GeluArgs* args, const Work* work) {
  const int64_t end = work->end * args->width;
  int64_t i = work->begin * args->width;
  for (; i + 16 <= end; i += 16) store(args->x + i, gelu_erf(load(args->x + i)));
  if (i < end) {
    const int n = (int)(end - i);
    store_first(args->x + i, gelu_erf(load_first(args->x + i, n)), n);
  }
}
