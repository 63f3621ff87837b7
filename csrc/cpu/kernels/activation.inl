// Gated activations: gate and up alternate in units of 16 columns, which is one vector each.
#pragma once

#include "kernels/exact_math.inl"

// g * sigmoid(g)
HR_INLINE F32x16 silu(F32x16 g) { return mul(g, sigmoid(g)); }

// g * (1 + tanh(u)) / 2 with u = sqrt(2/pi) (g + 0.044715 g^3), as g * sigmoid(2u).
HR_INLINE F32x16 gelu_tanh(F32x16 g) {
  F32x16 cube = mul(mul(mul(splat(0.044715f), g), g), g);
  return mul(g, sigmoid(mul(splat(1.5957691216f), add(g, cube))));
}

template <F32x16 (*activate)(F32x16)>
static void gated(const GatedArgs* args, const Work* work) {
  const int64_t width = args->width;
  for (int64_t t = work->begin; t < work->end; t++) {
    const float* row = args->gate_up + t * 2 * width;
    float* out = args->out + t * width;
    for (int64_t i = 0; i < width; i += 16) {
      store(out + i, mul(activate(load(row + 2 * i)), load(row + 2 * i + 16)));
    }
  }
}
