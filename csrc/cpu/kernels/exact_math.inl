// exp and log as fixed sequences of IEEE operations, so that every tier gets the same bits.
//
// exp_neg, log and the noise are unfused and have a twin in ops/reference/exact_math.py, bit for
// bit. exp2_neg is fused and faster; attention alone uses it. Source: polynomials of Cephes expf,
// logf and exp2f; mixer constants of hash-prospector.
#pragma once

constexpr float kLowestExp = -87.0f;
constexpr float kLog2E = 1.44269504f;

// e^x for x <= 0, at most 2 units in the last place off; 0 below kLowestExp. A NaN stays a NaN.
HR_INLINE F32x16 exp_neg(F32x16 x) {
  F32x16 clamped = max(splat(-100.0f), x);
  F32x16 n = round_even(mul(clamped, splat(1.44269504f)));
  F32x16 r = sub(clamped, mul(n, splat(0.693359375f)));
  r = sub(r, mul(n, splat(-2.12194440e-4f)));
  F32x16 y = splat(1.9875691500e-4f);
  y = add(mul(y, r), splat(1.3981999507e-3f));
  y = add(mul(y, r), splat(8.3334519073e-3f));
  y = add(mul(y, r), splat(4.1665795894e-2f));
  y = add(mul(y, r), splat(1.6666665459e-1f));
  y = add(mul(y, r), splat(5.0000001201e-1f));
  y = add(mul(y, mul(r, r)), r);
  y = add(y, splat(1.0f));
  I32x16 power = max(add(round_i32(n), splat_i32(127)), splat_i32(0));
  y = mul(y, as_f32(shift_left<23>(power)));
  return select(less(x, splat(kLowestExp)), zero_f32(), y);
}

// 2^x for x <= 0, relative error under 2e-7; 2^-126 below -126. A NaN stays a NaN. 2^0 is 1.
// Coefficients: least largest relative error on -1/2 .. 1/2 with a constant term of 1.
HR_INLINE F32x16 exp2_neg(F32x16 x) {
  const F32x16 magic = splat(0x1.8p23f);  // adding it leaves the nearest integer in the low bits
  F32x16 clamped = max(splat(-126.0f), x);
  F32x16 shifted = add(clamped, magic);
  F32x16 r = sub(clamped, sub(shifted, magic));
  F32x16 y = splat(1.3264714350e-3f);
  y = fma(y, r, splat(9.6715126384e-3f));
  y = fma(y, r, splat(5.5507337738e-2f));
  y = fma(y, r, splat(2.4022242086e-1f));
  y = fma(y, r, splat(6.9314697759e-1f));
  y = fma(y, r, splat(1.0f));
  return as_f32(add(as_i32(y), shift_left<23>(as_i32(shifted))));
}

// 1 / (1 + e^-x), without overflow for any x.
HR_INLINE F32x16 sigmoid(F32x16 x) {
  F32x16 e = exp2_neg(mul(abs(x), splat(-kLog2E)));
  F32x16 top = select(less(x, zero_f32()), e, splat(1.0f));
  return div(top, add(splat(1.0f), e));
}

// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; absolute error about 1e-7.
HR_INLINE F32x16 tanh_of(F32x16 x) {
  F32x16 magnitude = abs(x);
  F32x16 e = exp2_neg(mul(magnitude, splat(-2.0f * kLog2E)));
  F32x16 t = div(sub(splat(1.0f), e), add(splat(1.0f), e));
  return select(less(x, zero_f32()), neg(t), t);
}

// exponent * ln 2 + log(1 + f) for f in sqrt(1/2)-1 .. sqrt(2)-1.
HR_INLINE float log1p_scaled(float f, float exponent) {
  float z = f * f;
  float y = 7.0376836292e-2f;
  y = y * f + -1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f + -1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f + -1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f + -2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = y * (f * z);
  y = y + exponent * -2.12194440e-4f;
  y = y - z * 0.5f;
  return (f + y) + exponent * 0.693359375f;
}

// log(x) of a normal x > 0.
HR_INLINE float log_of(float x) {
  uint32_t bits = bits_of_float(x);
  int32_t exponent = (int32_t)(bits >> 23) - 126;
  float mantissa = float_of_bits((bits & 0x007fffffu) | 0x3f000000u);
  if (mantissa < 0.70710678f) {
    exponent -= 1;
    mantissa = mantissa + mantissa;
  }
  return log1p_scaled(mantissa - 1.0f, (float)exponent);
}

HR_INLINE uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The two 32-bit keys of a row's noise, low half first.
HR_INLINE uint64_t row_key(uint64_t seed, int64_t position) {
  constexpr uint64_t golden = 0x9e3779b97f4a7c15u;
  return mix64(mix64(seed + golden) + ((uint64_t)position + 1) * golden);
}

// 32 uniform bits for each of 16 token ids.
HR_INLINE I32x16 noise_bits(I32x16 token_ids, uint64_t key) {
  I32x16 x = add(mul(token_ids, splat_i32((int32_t)0x9e3779b1u)), splat_i32((int32_t)key));
  x = bit_xor(x, shift_right<16>(x));
  x = mul(x, splat_i32(0x21f0aaad));
  x = bit_xor(x, splat_i32((int32_t)(key >> 32)));
  x = bit_xor(x, shift_right<15>(x));
  x = mul(x, splat_i32(0x735a2d97));
  return bit_xor(x, shift_right<15>(x));
}

// -log(-log(1 - v)) of the uniform v that the bits stand for.
HR_INLINE float gumbel(uint32_t bits) {
  float v = (float)(bits | 1u) * 0x1p-32f;
  float exponential;
  if (v < 0.25f) {
    exponential = -log1p_scaled(-v, 0.0f);  // 1 - v would lose the small v that win draws
  } else {
    exponential = -log_of((float)(~bits | 1u) * 0x1p-32f);
  }
  return -log_of(exponential);
}
