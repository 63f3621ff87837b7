// Attention's products as dot products of pairs of bf16: keys and values as they lie in the cache,
// queries and weights rounded. Every lane sums in ascending order, so a row's bits depend on its
// own query and keys alone.
#pragma once

constexpr int kBlockRows = 16;
#include "tiers/avx512bf16/attention_weights.inl"

#include "kernels/attention_memory.inl"

constexpr int kChunkRows = 8;  // times two tiles: accumulators that fit the registers

HR_INLINE void begin_rows(int) {}
HR_INLINE void end_attention() {}

HR_INLINE void load_query(const float* query, int size, int row, const AttentionScratch& scratch) {
  uint16_t* out = scratch.queries + (int64_t)row * scratch.padded_size;
  for (int d = 0; d < scratch.padded_size; d += 32) {
    F32x16 first = load_first(query + d, clamp(size - d, 0, 16));
    F32x16 second = load_first(query + d + 16, clamp(size - d - 16, 0, 16));
    store_weights(out + d, first, second);
  }
}

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

// Adds the products of a pair of each row, `stride` elements apart, and a line of each tile.
template <int R>
HR_INLINE void add_products(PairSums<R>& sums, const uint16_t* rows, int64_t stride,
                            const uint16_t* first, const uint16_t* second) {
  const __m512i columns[2] = {_mm512_loadu_si512(first), _mm512_loadu_si512(second)};
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

// Scores of R rows against 32 keys.
template <int R>
static void score_pairs(const uint16_t* queries, const uint16_t* const* keys, int size,
                        float* scores) {
  PairSums<R> sums;
  clear<R>(sums);
  for (int d = 0; d < size; d += 2)
    add_products<R>(sums, queries + d, size, keys[0] + d * 16, keys[1] + d * 16);
  store_sums<R>(sums, scores, kScoreStride);
}

// 32 dims of R rows.
template <int R>
static void mix_pairs(const uint16_t* weights, const uint16_t* const* values, int num_groups, int d,
                      int size, float* out) {
  PairSums<R> sums;
  clear<R>(sums);
  for (int g = 0; g < num_groups; g++, weights += kValueTokens) {
    const uint16_t* lines = values[g] + d * kValueTokens;
    for (int i = 0; i < kValueTokens; i += 2)
      add_products<R>(sums, weights + i, kWeightStride, lines + i * 16,
                      lines + (kValueTokens + i) * 16);
  }
  store_sums<R>(sums, out, size);
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

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int num_rows, const AttentionScratch& scratch) {
  const int size = place.padded_size;
  for (int t = begin; t < end; t += 2 * kKeyTokens) {
    const uint16_t* keys[2] = {keys_of_tile(place, split_begin + t),
                               keys_of_tile(place, split_begin + t + kKeyTokens)};
    for (int r = 0; r < num_rows; r += kChunkRows)
      with_rows<kChunkRows>(num_rows - r, [&](auto rows) {
        score_pairs<rows.count>(scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                                scratch.scores + r * kScoreStride + t);
      });
  }
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end,
                       int num_rows, const AttentionScratch& scratch) {
  const int num_groups = (end - begin) / kValueTokens, size = place.padded_size;
  const uint16_t* values[kSplitTokens / kValueTokens];
  for (int g = 0; g < num_groups; g++)
    values[g] = values_of_group(place, (split_begin + begin) / kValueTokens + g);
  for (int d = 0; d < size; d += 32)
    for (int r = 0; r < num_rows; r += kChunkRows)
      with_rows<kChunkRows>(num_rows - r, [&](auto rows) {
        mix_pairs<rows.count>(scratch.weights + begin + r * kWeightStride, values, num_groups, d,
                              size, scratch.part + d + r * size);
      });
}

#include "kernels/attention.inl"
