// Vectors of 16 lanes on AVX-512. Names and meaning: tiers/generic/simd.h. Also used by tier amx.
// Included inside namespace headrace::<tier>, anonymous.

#define HR_INLINE static inline __attribute__((always_inline))

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};
struct Mask16 {
  __mmask16 bits;
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

// -- memory ---------------------------------------------------------------------------------------
HR_INLINE F32x16 splat(float x) { return {_mm512_set1_ps(x)}; }
HR_INLINE F32x16 zero_f32() { return {_mm512_setzero_ps()}; }
HR_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
HR_INLINE void store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
HR_INLINE Mask16 mask_first(int n) { return {(__mmask16)_bzhi_u32(0xffff, (unsigned)n)}; }
HR_INLINE F32x16 load_first(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(mask_first(n).bits, p)};
}
HR_INLINE void store_first(float* p, F32x16 x, int n) {
  _mm512_mask_storeu_ps(p, mask_first(n).bits, x.v);
}
HR_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
}
HR_INLINE F32x16 load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
HR_INLINE void store_bf16(uint16_t* p, F32x16 x) {
  __m512i bits = _mm512_castps_si512(x.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
HR_INLINE I32x16 splat_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
HR_INLINE I32x16 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
HR_INLINE void store_i32(int32_t* p, I32x16 x) { _mm512_storeu_si512(p, x.v); }
HR_INLINE I32x16 load_u8(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))};
}
HR_INLINE I32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))};
}
HR_INLINE I32x16 lane_ids() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
HR_INLINE void store_i8(int8_t* p, I32x16 x) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x.v));
}

// -- float ----------------------------------------------------------------------------------------
HR_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HR_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
HR_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HR_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
HR_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
HR_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HR_INLINE F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
HR_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
HR_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
HR_INLINE F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
HR_INLINE F32x16 neg(F32x16 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
HR_INLINE F32x16 round_even(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HR_INLINE I32x16 round_i32(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
HR_INLINE F32x16 float_of_i32(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
HR_INLINE I32x16 as_i32(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
HR_INLINE F32x16 as_f32(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }

// -- int32 ----------------------------------------------------------------------------------------
HR_INLINE I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
HR_INLINE I32x16 sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
HR_INLINE I32x16 mul(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
HR_INLINE I32x16 bit_and(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
HR_INLINE I32x16 bit_or(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
HR_INLINE I32x16 bit_xor(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int n>
HR_INLINE I32x16 shift_left(I32x16 a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
HR_INLINE I32x16 shift_right(I32x16 a) {
  return {_mm512_srli_epi32(a.v, n)};
}
template <int n>
HR_INLINE I32x16 shift_right_signed(I32x16 a) {
  return {_mm512_srai_epi32(a.v, n)};
}
HR_INLINE I32x16 max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
HR_INLINE I32x16 min(I32x16 a, I32x16 b) { return {_mm512_min_epi32(a.v, b.v)}; }

// -- masks ----------------------------------------------------------------------------------------
HR_INLINE Mask16 less(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
HR_INLINE Mask16 less_equal(F32x16 a, F32x16 b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
HR_INLINE Mask16 equal(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
HR_INLINE Mask16 less(I32x16 a, I32x16 b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
HR_INLINE Mask16 equal(I32x16 a, I32x16 b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
HR_INLINE uint32_t mask_bits(Mask16 m) { return m.bits; }
HR_INLINE F32x16 select(Mask16 m, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(m.bits, b.v, a.v)};
}
HR_INLINE I32x16 select(Mask16 m, I32x16 a, I32x16 b) {
  return {_mm512_mask_blend_epi32(m.bits, b.v, a.v)};
}

// -- reductions -----------------------------------------------------------------------------------
HR_INLINE float reduce_add(F32x16 a) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
HR_INLINE float reduce_max(F32x16 a) {
  __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
HR_INLINE int32_t reduce_add(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
HR_INLINE int32_t reduce_max(I32x16 a) { return _mm512_reduce_max_epi32(a.v); }
