// Vectors of 16 lanes in plain C++: the definition that the other tiers' simd.h must match in bits.
//
// The same names exist in every tier. All arithmetic is IEEE binary32, one rounding per call; `fma`
// is always fused. Reductions are fixed trees, so a row's bits do not depend on the tier.
// Included inside namespace headrace::<tier>, anonymous.

#define HR_INLINE static inline __attribute__((always_inline))

struct F32x16 {
  float lane[16];
};
struct I32x16 {
  int32_t lane[16];
};
struct Mask16 {
  uint16_t bits;  // bit i is lane i
};

HR_INLINE float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
HR_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
// Exact, subnormals and special values included.
HR_INLINE float float_of_f16(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {
    float value = (float)magnitude * 0x1p-24f;
    return float_of_bits(sign | bits_of_float(value));
  }
  return float_of_bits(sign | ((magnitude << 13) + (112u << 23)));
}
HR_INLINE float float_of_bf16(uint16_t value) { return float_of_bits((uint32_t)value << 16); }
// Round to nearest even; a NaN stays a NaN.
HR_INLINE uint16_t bf16_of_float(float value) {
  uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define HR_EACH for (int i = 0; i < 16; i++)

// -- memory ---------------------------------------------------------------------------------------
HR_INLINE F32x16 splat(float x) {
  F32x16 r;
  HR_EACH r.lane[i] = x;
  return r;
}
HR_INLINE F32x16 zero_f32() { return splat(0.0f); }
HR_INLINE F32x16 load(const float* p) {
  F32x16 r;
  memcpy(&r, p, 64);
  return r;
}
HR_INLINE void store(float* p, F32x16 x) { memcpy(p, &x, 64); }
// The first n lanes, 0 <= n <= 16; the rest are zero and not touched in memory.
HR_INLINE F32x16 load_first(const float* p, int n) {
  F32x16 r = zero_f32();
  for (int i = 0; i < n; i++) r.lane[i] = p[i];
  return r;
}
HR_INLINE void store_first(float* p, F32x16 x, int n) {
  for (int i = 0; i < n; i++) p[i] = x.lane[i];
}
HR_INLINE F32x16 load_f16(const uint16_t* p) {
  F32x16 r;
  HR_EACH r.lane[i] = float_of_f16(p[i]);
  return r;
}
HR_INLINE F32x16 load_bf16(const uint16_t* p) {
  F32x16 r;
  HR_EACH r.lane[i] = float_of_bf16(p[i]);
  return r;
}
HR_INLINE void store_bf16(uint16_t* p, F32x16 x) { HR_EACH p[i] = bf16_of_float(x.lane[i]); }
HR_INLINE I32x16 splat_i32(int32_t x) {
  I32x16 r;
  HR_EACH r.lane[i] = x;
  return r;
}
HR_INLINE I32x16 load_i32(const int32_t* p) {
  I32x16 r;
  memcpy(&r, p, 64);
  return r;
}
HR_INLINE void store_i32(int32_t* p, I32x16 x) { memcpy(p, &x, 64); }
HR_INLINE I32x16 load_u8(const uint8_t* p) {
  I32x16 r;
  HR_EACH r.lane[i] = p[i];
  return r;
}
HR_INLINE I32x16 load_i8(const int8_t* p) {
  I32x16 r;
  HR_EACH r.lane[i] = p[i];
  return r;
}
HR_INLINE I32x16 lane_ids() {
  I32x16 r;
  HR_EACH r.lane[i] = i;
  return r;
}
// Low bytes of lanes that hold -128..127.
HR_INLINE void store_i8(int8_t* p, I32x16 x) { HR_EACH p[i] = (int8_t)x.lane[i]; }

// -- float ----------------------------------------------------------------------------------------
HR_INLINE F32x16 add(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] += b.lane[i];
  return a;
}
HR_INLINE F32x16 sub(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] -= b.lane[i];
  return a;
}
HR_INLINE F32x16 mul(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] *= b.lane[i];
  return a;
}
HR_INLINE F32x16 div(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] /= b.lane[i];
  return a;
}
HR_INLINE F32x16 sqrt(F32x16 a) {
  HR_EACH a.lane[i] = __builtin_sqrtf(a.lane[i]);
  return a;
}
// a * b + c and c - a * b, rounded once.
HR_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  HR_EACH c.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return c;
}
HR_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  HR_EACH c.lane[i] = __builtin_fmaf(-a.lane[i], b.lane[i], c.lane[i]);
  return c;
}
// b where either is a NaN, as the x86 instructions do.
HR_INLINE F32x16 max(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
HR_INLINE F32x16 min(F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
HR_INLINE F32x16 abs(F32x16 a) {
  HR_EACH a.lane[i] = float_of_bits(bits_of_float(a.lane[i]) & 0x7fffffff);
  return a;
}
HR_INLINE F32x16 neg(F32x16 a) {
  HR_EACH a.lane[i] = float_of_bits(bits_of_float(a.lane[i]) ^ 0x80000000);
  return a;
}
// Nearest, ties to even. |x| must be below 2^31 for round_i32.
HR_INLINE F32x16 round_even(F32x16 a) {
  HR_EACH a.lane[i] = __builtin_rintf(a.lane[i]);
  return a;
}
HR_INLINE I32x16 round_i32(F32x16 a) {
  I32x16 r;
  HR_EACH r.lane[i] = (int32_t)__builtin_rintf(a.lane[i]);
  return r;
}
HR_INLINE F32x16 float_of_i32(I32x16 a) {
  F32x16 r;
  HR_EACH r.lane[i] = (float)a.lane[i];
  return r;
}
HR_INLINE I32x16 as_i32(F32x16 a) {
  I32x16 r;
  memcpy(&r, &a, 64);
  return r;
}
HR_INLINE F32x16 as_f32(I32x16 a) {
  F32x16 r;
  memcpy(&r, &a, 64);
  return r;
}

// -- int32 ----------------------------------------------------------------------------------------
HR_INLINE I32x16 add(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i]);
  return a;
}
HR_INLINE I32x16 sub(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = (int32_t)((uint32_t)a.lane[i] - (uint32_t)b.lane[i]);
  return a;
}
HR_INLINE I32x16 mul(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = (int32_t)((uint32_t)a.lane[i] * (uint32_t)b.lane[i]);
  return a;
}
HR_INLINE I32x16 bit_and(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] &= b.lane[i];
  return a;
}
HR_INLINE I32x16 bit_or(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] |= b.lane[i];
  return a;
}
HR_INLINE I32x16 bit_xor(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] ^= b.lane[i];
  return a;
}
template <int n>
HR_INLINE I32x16 shift_left(I32x16 a) {
  HR_EACH a.lane[i] = (int32_t)((uint32_t)a.lane[i] << n);
  return a;
}
template <int n>
HR_INLINE I32x16 shift_right(I32x16 a) {
  HR_EACH a.lane[i] = (int32_t)((uint32_t)a.lane[i] >> n);
  return a;
}
template <int n>
HR_INLINE I32x16 shift_right_signed(I32x16 a) {
  HR_EACH a.lane[i] >>= n;
  return a;
}
HR_INLINE I32x16 max(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
HR_INLINE I32x16 min(I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}

// -- masks; comparisons with a NaN are false ------------------------------------------------------
HR_INLINE Mask16 mask_first(int n) { return {(uint16_t)((1u << n) - 1)}; }
HR_INLINE Mask16 less(F32x16 a, F32x16 b) {
  unsigned m = 0;
  HR_EACH m |= (unsigned)(a.lane[i] < b.lane[i]) << i;
  return {(uint16_t)m};
}
HR_INLINE Mask16 less_equal(F32x16 a, F32x16 b) {
  unsigned m = 0;
  HR_EACH m |= (unsigned)(a.lane[i] <= b.lane[i]) << i;
  return {(uint16_t)m};
}
HR_INLINE Mask16 equal(F32x16 a, F32x16 b) {
  unsigned m = 0;
  HR_EACH m |= (unsigned)(a.lane[i] == b.lane[i]) << i;
  return {(uint16_t)m};
}
HR_INLINE Mask16 less(I32x16 a, I32x16 b) {
  unsigned m = 0;
  HR_EACH m |= (unsigned)(a.lane[i] < b.lane[i]) << i;
  return {(uint16_t)m};
}
HR_INLINE Mask16 equal(I32x16 a, I32x16 b) {
  unsigned m = 0;
  HR_EACH m |= (unsigned)(a.lane[i] == b.lane[i]) << i;
  return {(uint16_t)m};
}
HR_INLINE uint32_t mask_bits(Mask16 m) { return m.bits; }
// a where the mask is set, else b.
HR_INLINE F32x16 select(Mask16 m, F32x16 a, F32x16 b) {
  HR_EACH a.lane[i] = m.bits >> i & 1 ? a.lane[i] : b.lane[i];
  return a;
}
HR_INLINE I32x16 select(Mask16 m, I32x16 a, I32x16 b) {
  HR_EACH a.lane[i] = m.bits >> i & 1 ? a.lane[i] : b.lane[i];
  return a;
}

// -- reductions: lanes i and i + 8, then + 4, + 2, + 1
// ----------------------------------------------
HR_INLINE float reduce_add(F32x16 a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.lane[i] += a.lane[i + w];
  return a.lane[0];
}
HR_INLINE float reduce_max(F32x16 a) {
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; i++) a.lane[i] = a.lane[i] > a.lane[i + w] ? a.lane[i] : a.lane[i + w];
  return a.lane[0];
}
HR_INLINE int32_t reduce_add(I32x16 a) {
  uint32_t s = 0;
  HR_EACH s += (uint32_t)a.lane[i];
  return (int32_t)s;
}
HR_INLINE int32_t reduce_max(I32x16 a) {
  int32_t m = a.lane[0];
  HR_EACH m = a.lane[i] > m ? a.lane[i] : m;
  return m;
}

#undef HR_EACH
