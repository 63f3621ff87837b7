// Quantizing 16 rows at a time: their maxima and sums are transposed into one vector each, so that
// the divisions and the stores of scales are done once. Bits are those of kernels/quantize.inl.

// Lane r of the result is the maximum over lanes of v[r].
HR_INLINE __m512i transposed_max(const __m512i v[16]) {
  __m512i pairs[8], fours[4];
  HR_UNROLL
  for (int i = 0; i < 8; i++)
    pairs[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
  HR_UNROLL
  for (int i = 0; i < 4; i++)
    fours[i] = _mm512_max_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  __m512i low = _mm512_max_epi32(_mm512_shuffle_i32x4(fours[0], fours[1], 0x88),
                                 _mm512_shuffle_i32x4(fours[0], fours[1], 0xdd));
  __m512i high = _mm512_max_epi32(_mm512_shuffle_i32x4(fours[2], fours[3], 0x88),
                                  _mm512_shuffle_i32x4(fours[2], fours[3], 0xdd));
  return _mm512_max_epi32(_mm512_shuffle_i32x4(low, high, 0x88),
                          _mm512_shuffle_i32x4(low, high, 0xdd));
}

// Sums of four lanes each: lane 4q + i of the result is the sum of quarter q of v[i].
HR_INLINE __m512i transposed_sums(const __m512i v[4]) {
  __m512i a =
      _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  __m512i b =
      _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// Sums of the halves of 16 rows of 32 values.
HR_INLINE void sum_halves(const int8_t* values, __m512i* low, __m512i* high) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i dots[8];  // of two rows: quarters low, high, low, high
  HR_UNROLL
  for (int i = 0; i < 8; i++)
    dots[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_load_si512(values + i * 64));
  __m512i first = transposed_sums(dots), last = transposed_sums(dots + 4);
  const __m512i lanes = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
  *low = _mm512_permutex2var_epi32(first, lanes, last);
  *high = _mm512_permutex2var_epi32(first, _mm512_add_epi32(lanes, _mm512_set1_epi32(4)), last);
}

static void quantize_16_rows(const float* x, int64_t row_stride, int rows, const QuantizedRows& out,
                             int64_t tile, int64_t g) {
  int64_t first = tile * out.num_groups + g;
  int8_t* values = out.values + first * 512;
  auto row_of = [&](int r) { return x + r * row_stride; };
  __m512i maxima[16];
  HR_UNROLL
  for (int r = 0; r < 16; r++)
    maxima[r] = r < rows ? _mm512_max_epi32(as_i32(abs(load(row_of(r)))).v,
                                            as_i32(abs(load(row_of(r) + 16))).v)
                         : _mm512_setzero_si512();
  __m512i bits = transposed_max(maxima);
  __m512 maximum = _mm512_castsi512_ps(bits);
  __mmask16 is_finite = _mm512_cmplt_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  __mmask16 is_plain =
      _mm512_mask_cmp_ps_mask(is_finite, maximum, _mm512_set1_ps(kSmallestMaximum), _CMP_GE_OQ);
  const __m512 steps = _mm512_set1_ps(127.0f);
  alignas(64) float inverses[16];
  _mm512_store_ps(inverses, _mm512_maskz_div_ps(is_plain, steps, maximum));
  __m512 scale = _mm512_maskz_div_ps(is_plain, maximum, steps);
  scale = _mm512_mask_mov_ps(_mm512_set1_ps(float_of_bits(0x7fc00000)), is_finite, scale);
  HR_UNROLL
  for (int r = 0; r < 16; r++) {
    I32x16 a0 = {_mm512_setzero_si512()}, a1 = a0;
    if (r < rows && (is_plain >> r & 1)) {
      F32x16 inverse = splat(inverses[r]);
      a0 = round_i32(mul(load(row_of(r)), inverse));
      a1 = round_i32(mul(load(row_of(r) + 16), inverse));
    }
    store_i8(values + r * 32, a0);
    store_i8(values + r * 32 + 16, a1);
  }
  __m512i low, high;
  sum_halves(values, &low, &high);
  _mm512_store_ps(out.scales + first * 16, scale);
  _mm512_store_ps(out.scaled_sums + first * 16,
                  _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_add_epi32(low, high))));
  auto offset = [](__m512i sums) {
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 3));
  };
  _mm512_store_si512(out.offsets + first * 32, offset(low));
  _mm512_store_si512(out.offsets + first * 32 + 16, offset(high));
}

static void quantize_rows_avx512(const QuantizeRowsArgs* args, const Work* work) {
  if (args->out.tile_rows == 16)
    quantize_items<quantize_16_rows>(args, work);
  else
    quantize_items<quantize_cells>(args, work);
}
