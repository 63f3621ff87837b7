// What gates do, for the ends of linear layers.
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
