// Sums of products of bf16, a pair at a time: rows against two tiles of 16 columns.
#pragma once

constexpr int kChunkRows = 8;  // times two tiles: accumulators that fit the registers

// sum + a[0] * b[0] + a[1] * b[1] in each lane, pairs of bf16. `a` is one pair.
HR_INLINE F32x16 add_pair_products(F32x16 sum, const uint16_t* a, __m512i b) {
  int32_t pair;
  memcpy(&pair, a, sizeof(pair));
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b)};
}

// Sums of R rows and two tiles of 16 columns.
template <int R>
using PairSums = F32x16[2][R];

template <int R>
HR_INLINE void clear(PairSums<R>& sums) {
  HR_UNROLL
  for (int r = 0; r < R; r++) sums[0][r] = sums[1][r] = zero_f32();
}

// A line of 16 pairs, of bf16 or of an int8 cache: widening takes ports that products leave free.
HR_INLINE __m512i load_pairs(const uint16_t* line) { return _mm512_loadu_si512(line); }
HR_INLINE __m512i load_pairs(const int8_t* line) { return widen_line(line).v; }

// Adds the products of a pair of each row, `stride` elements apart, and a line of each tile.
template <int R, class Element>
HR_INLINE void add_products(PairSums<R>& sums, const uint16_t* rows, int64_t stride,
                            const Element* first, const Element* second) {
  const __m512i columns[2] = {load_pairs(first), load_pairs(second)};
  HR_UNROLL
  for (int r = 0; r < R; r++) {
    sums[0][r] = add_pair_products(sums[0][r], rows + r * stride, columns[0]);
    sums[1][r] = add_pair_products(sums[1][r], rows + r * stride, columns[1]);
  }
}

template <int R>
HR_INLINE void store_sums(const PairSums<R>& sums, float* out, int64_t stride) {
  HR_UNROLL
  for (int r = 0; r < R; r++) {
    store(out + r * stride, sums[0][r]);
    store(out + r * stride + 16, sums[1][r]);
  }
}

template <int R>
struct Rows {
  static constexpr int count = R;
};

// Calls `chunk` with as many rows as there are, at most R, as a constant.
template <int R, class Chunk>
HR_INLINE void with_rows(int num_rows, const Chunk& chunk) {
  if (num_rows >= R) {
    chunk(Rows<R>{});
  } else if constexpr (R > 1) {
    with_rows<R - 1>(num_rows, chunk);
  }
}
