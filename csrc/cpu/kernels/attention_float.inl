// Attention's products in float32: keys and values widened from bf16, queries and weights kept
// whole.
#pragma once

using Weight = float;
using Query = float;
constexpr int kBlockRows = 16;
constexpr int kWeightsPerScore = 1;
HR_INLINE void store_weights(float* weights, F32x16 first, F32x16 second) {
  store(weights, first);
  store(weights + 16, second);
}
HR_INLINE F32x16 exp2_weight(F32x16 x) { return exp2_neg(x); }

#include "kernels/attention_memory.inl"

#ifdef __AVX512F__
constexpr int kChunkRows = 8;  // accumulators that fit the registers
#else
constexpr int kChunkRows = 4;
#endif

HR_INLINE void begin_rows(int) {}
HR_INLINE void end_attention() {}

HR_INLINE void load_query(const float* query, int size, int row, const AttentionScratch& scratch) {
  float* out = scratch.queries + (int64_t)row * scratch.padded_size;
  memcpy(out, query, (size_t)size * sizeof(float));
  memset(out + size, 0, (size_t)(scratch.padded_size - size) * sizeof(float));
}

// The two halves of 16 pairs of bf16.
HR_INLINE F32x16 first_of_pairs(const uint16_t* line) {
  return as_f32(shift_left<16>(load_i32((const int32_t*)line)));
}
HR_INLINE F32x16 second_of_pairs(const uint16_t* line) {
  return as_f32(bit_and(load_i32((const int32_t*)line), splat_i32((int32_t)0xffff0000u)));
}

// A chunk of few rows takes two tiles of keys or of dims at a time: one row after the other would
// wait for its own sum.
template <int R>
constexpr int kTilesTogether = 2 * R <= kChunkRows ? 2 : 1;

// Scores of R rows against T tiles of 16 keys; every lane sums over d in ascending order.
template <int R, int T>
HR_INLINE void score_chunk(const float* queries, const uint16_t* const* keys, int size,
                           float* scores) {
  F32x16 sums[T][R];
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) sums[t][r] = zero_f32();
  for (int d = 0; d < size; d += 2)
    for (int t = 0; t < T; t++) {
      F32x16 first = first_of_pairs(keys[t] + d * 16), second = second_of_pairs(keys[t] + d * 16);
      for (int r = 0; r < R; r++) {
        sums[t][r] = fma(splat(queries[r * size + d]), first, sums[t][r]);
        sums[t][r] = fma(splat(queries[r * size + d + 1]), second, sums[t][r]);
      }
    }
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) store(scores + r * kScoreStride + t * kKeyTokens, sums[t][r]);
}

// Scores of `num_rows` rows, at most R, against 32 keys.
template <int R>
HR_INLINE void score_chunks(int num_rows, const float* queries, const uint16_t* const* keys,
                            int size, float* scores) {
  constexpr int T = kTilesTogether<R>;
  if (num_rows == R) {
    for (int t = 0; t < 2; t += T)
      score_chunk<R, T>(queries, keys + t, size, scores + t * kKeyTokens);
  } else if constexpr (R > 1) {
    score_chunks<R - 1>(num_rows, queries, keys, size, scores);
  }
}

HR_INLINE int rows_of_chunk(int num_rows, int row) {
  return num_rows - row < kChunkRows ? num_rows - row : kChunkRows;
}

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int num_rows, const AttentionScratch& scratch,
                       const ReadNext&, int) {
  const int size = place.padded_size;
  for (int t = begin; t < end; t += 2 * kKeyTokens) {
    const uint16_t* keys[2] = {keys_of_tile(place, split_begin + t),
                               keys_of_tile(place, split_begin + t + kKeyTokens)};
    for (int r = 0; r < num_rows; r += kChunkRows)
      score_chunks<kChunkRows>(rows_of_chunk(num_rows, r),
                               scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                               scratch.scores + r * kScoreStride + t);
  }
}

// T times 16 dims of R rows; every lane sums over tokens in ascending order.
template <int R, int T>
HR_INLINE void mix_chunk(const AttentionPlace& place, int first_group, int num_groups, int d,
                         const float* weights, float* out) {
  F32x16 sums[T][R];
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) sums[t][r] = zero_f32();
  for (int g = 0; g < num_groups; g++, weights += kValueTokens) {
    const uint16_t* lines = values_of_group(place, first_group + g) + d * kValueTokens;
    for (int i = 0; i < kValueTokens; i += 2)
      for (int t = 0; t < T; t++) {
        const uint16_t* pairs = lines + (t * kValueTokens + i) * 16;
        F32x16 first = first_of_pairs(pairs), second = second_of_pairs(pairs);
        for (int r = 0; r < R; r++) {
          sums[t][r] = fma(splat(weights[r * kWeightStride + i]), first, sums[t][r]);
          sums[t][r] = fma(splat(weights[r * kWeightStride + i + 1]), second, sums[t][r]);
        }
      }
  }
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) store(out + r * place.padded_size + t * 16, sums[t][r]);
}

// 32 dims of `num_rows` rows, at most R.
template <int R>
HR_INLINE void mix_chunks(int num_rows, const AttentionPlace& place, int first_group,
                          int num_groups, int d, const float* weights, float* out) {
  constexpr int T = kTilesTogether<R>;
  if (num_rows == R) {
    for (int t = 0; t < 2; t += T)
      mix_chunk<R, T>(place, first_group, num_groups, d + t * 16, weights, out + t * 16);
  } else if constexpr (R > 1) {
    mix_chunks<R - 1>(num_rows, place, first_group, num_groups, d, weights, out);
  }
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end,
                       int num_rows, const AttentionScratch& scratch, const ReadNext&) {
  const int first_group = (split_begin + begin) / kValueTokens,
            num_groups = (end - begin) / kValueTokens;
  for (int d = 0; d < place.padded_size; d += 32)
    for (int r = 0; r < num_rows; r += kChunkRows)
      mix_chunks<kChunkRows>(rows_of_chunk(num_rows, r), place, first_group, num_groups, d,
                             scratch.weights + begin + r * kWeightStride,
                             scratch.part + d + r * place.padded_size);
}

constexpr bool kFetchesBesideProducts = false;
constexpr int kRowsThatWiden = 0;
#include "kernels/attention.inl"
