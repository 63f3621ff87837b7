// Vectors of 16 lanes as two AVX2 registers. Names and meaning: tiers/generic/simd.h.
// Included inside namespace headrace::<tier>, anonymous.

#define HR_INLINE static inline __attribute__((always_inline))

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};
struct Mask16 {
  __m256 lo, hi;  // all ones or all zeros in each lane
};

HR_INLINE float float_of_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
HR_INLINE uint32_t bits_of_float(float value) { return __builtin_bit_cast(uint32_t, value); }
HR_INLINE float float_of_f16(uint16_t half) { return _cvtsh_ss(half); }
HR_INLINE float float_of_bf16(uint16_t value) { return float_of_bits((uint32_t)value << 16); }
HR_INLINE uint16_t bf16_of_float(float value) {
  uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define HR_BOTH(type, f) \
  type { f(a.lo, b.lo), f(a.hi, b.hi) }

// -- masks of the first lanes ---------------------------------------------------------------------
HR_INLINE Mask16 mask_first(int n) {
  __m256i count = _mm256_set1_epi32(n);
  __m256i lo = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i hi = _mm256_add_epi32(lo, _mm256_set1_epi32(8));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lo)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, hi))};
}

// -- memory ---------------------------------------------------------------------------------------
HR_INLINE F32x16 splat(float x) {
  __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
HR_INLINE F32x16 zero_f32() { return splat(0.0f); }
HR_INLINE F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HR_INLINE void store(float* p, F32x16 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
HR_INLINE F32x16 load_first(const float* p, int n) {
  Mask16 m = mask_first(n);
  return {_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)),
          _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
}
HR_INLINE void store_first(float* p, F32x16 x, int n) {
  Mask16 m = mask_first(n);
  _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), x.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), x.hi);
}
HR_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
HR_INLINE __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
HR_INLINE F32x16 load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
HR_INLINE __m256i narrow_bf16(__m256 x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
HR_INLINE void store_bf16(uint16_t* p, F32x16 x) {
  __m256i packed = _mm256_packus_epi32(narrow_bf16(x.lo), narrow_bf16(x.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
HR_INLINE I32x16 splat_i32(int32_t x) {
  __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
HR_INLINE I32x16 load_i32(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
HR_INLINE void store_i32(int32_t* p, I32x16 x) {
  _mm256_storeu_si256((__m256i*)p, x.lo);
  _mm256_storeu_si256((__m256i*)(p + 8), x.hi);
}
HR_INLINE I32x16 load_u8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
HR_INLINE I32x16 load_i8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
HR_INLINE I32x16 lane_ids() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
          _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
HR_INLINE void store_i8(int8_t* p, I32x16 x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                _mm256_extracti128_si256(words, 1)));
}

// -- float ----------------------------------------------------------------------------------------
HR_INLINE F32x16 add(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_add_ps); }
HR_INLINE F32x16 sub(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_sub_ps); }
HR_INLINE F32x16 mul(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_mul_ps); }
HR_INLINE F32x16 div(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_div_ps); }
HR_INLINE F32x16 max(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_max_ps); }
HR_INLINE F32x16 min(F32x16 a, F32x16 b) { return HR_BOTH(F32x16, _mm256_min_ps); }
HR_INLINE F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
HR_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
HR_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
HR_INLINE F32x16 abs(F32x16 a) {
  F32x16 b = splat(-0.0f);
  return {_mm256_andnot_ps(b.lo, a.lo), _mm256_andnot_ps(b.hi, a.hi)};
}
HR_INLINE F32x16 neg(F32x16 a) {
  F32x16 b = splat(-0.0f);
  return HR_BOTH(F32x16, _mm256_xor_ps);
}
HR_INLINE F32x16 round_even(F32x16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HR_INLINE I32x16 round_i32(F32x16 a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
HR_INLINE F32x16 float_of_i32(I32x16 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
HR_INLINE I32x16 as_i32(F32x16 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
HR_INLINE F32x16 as_f32(I32x16 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

// -- int32 ----------------------------------------------------------------------------------------
HR_INLINE I32x16 add(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_add_epi32); }
HR_INLINE I32x16 sub(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_sub_epi32); }
HR_INLINE I32x16 mul(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_mullo_epi32); }
HR_INLINE I32x16 bit_and(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_and_si256); }
HR_INLINE I32x16 bit_or(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_or_si256); }
HR_INLINE I32x16 bit_xor(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_xor_si256); }
HR_INLINE I32x16 max(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_max_epi32); }
HR_INLINE I32x16 min(I32x16 a, I32x16 b) { return HR_BOTH(I32x16, _mm256_min_epi32); }
template <int n>
HR_INLINE I32x16 shift_left(I32x16 a) {
  return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}
template <int n>
HR_INLINE I32x16 shift_right(I32x16 a) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}
template <int n>
HR_INLINE I32x16 shift_right_signed(I32x16 a) {
  return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}

// -- masks ----------------------------------------------------------------------------------------
HR_INLINE Mask16 less(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
HR_INLINE Mask16 less_equal(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}
HR_INLINE Mask16 equal(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
HR_INLINE Mask16 less(I32x16 a, I32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.lo, a.lo)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.hi, a.hi))};
}
HR_INLINE Mask16 equal(I32x16 a, I32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.lo, b.lo)),
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.hi, b.hi))};
}
HR_INLINE uint32_t mask_bits(Mask16 m) {
  return (uint32_t)_mm256_movemask_ps(m.lo) | (uint32_t)_mm256_movemask_ps(m.hi) << 8;
}
HR_INLINE F32x16 select(Mask16 m, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
HR_INLINE I32x16 select(Mask16 m, I32x16 a, I32x16 b) {
  return as_i32(select(m, as_f32(a), as_f32(b)));
}

// -- reductions -----------------------------------------------------------------------------------
HR_INLINE float reduce_add(F32x16 a) {
  __m256 h = _mm256_add_ps(a.lo, a.hi);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
HR_INLINE float reduce_max(F32x16 a) {
  __m256 h = _mm256_max_ps(a.lo, a.hi);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
HR_INLINE int32_t reduce_add(I32x16 a) {
  __m256i h = _mm256_add_epi32(a.lo, a.hi);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
HR_INLINE int32_t reduce_max(I32x16 a) {
  __m256i h = _mm256_max_epi32(a.lo, a.hi);
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

#undef HR_BOTH
