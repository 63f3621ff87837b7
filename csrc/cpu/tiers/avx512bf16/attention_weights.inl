// What attention rounds to bf16, and how, where products are of bf16: queries and weights.
#pragma once

using Weight = uint16_t;
using Query = uint16_t;
constexpr int kWeightsPerScore = 2;
HR_INLINE void store_weights(uint16_t* weights, F32x16 first, F32x16 second) {
  _mm512_storeu_si512(weights, (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v));
}

// 2^x for x <= 0, relative error under 9e-5: weights are rounded to 2^-9. 2^0 is 1.
// Coefficients: least largest relative error on 0 .. 1 with a constant term of 1.
HR_INLINE F32x16 exp2_weight(F32x16 x) {
  F32x16 r = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  F32x16 y = splat(7.706437402e-2f);
  y = fma(y, r, splat(2.276479034e-1f));
  y = fma(y, r, splat(6.951161345e-1f));
  y = fma(y, r, splat(1.0f));
  return {_mm512_scalef_ps(y.v, x.v)};
}
