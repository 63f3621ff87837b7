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

// Scores of R rows against 16 keys; every lane sums over d in ascending order.
template <int R>
HR_INLINE void score_chunk(const float* queries, const uint16_t* keys, int size, float* scores) {
  F32x16 sums[R];
  for (int r = 0; r < R; r++) sums[r] = zero_f32();
  for (int d = 0; d < size; d += 2) {
    F32x16 first = first_of_pairs(keys + d * 16), second = second_of_pairs(keys + d * 16);
    for (int r = 0; r < R; r++) {
      sums[r] = fma(splat(queries[r * size + d]), first, sums[r]);
      sums[r] = fma(splat(queries[r * size + d + 1]), second, sums[r]);
    }
  }
  for (int r = 0; r < R; r++) store(scores + r * kScoreStride, sums[r]);
}

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int num_rows, const AttentionScratch& scratch) {
  const int size = place.padded_size;
  for (int t = begin; t < end; t += kKeyTokens) {
    const uint16_t* keys = keys_of_tile(place, split_begin + t);
    int r = 0;
    for (; r + kChunkRows <= num_rows; r += kChunkRows) {
      score_chunk<kChunkRows>(scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                              scratch.scores + r * kScoreStride + t);
    }
    for (; r + 2 <= num_rows; r += 2) {
      score_chunk<2>(scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                     scratch.scores + r * kScoreStride + t);
    }
    for (; r < num_rows; r++) {
      score_chunk<1>(scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                     scratch.scores + r * kScoreStride + t);
    }
  }
}

// 16 dims of R rows; every lane sums over tokens in ascending order.
template <int R>
HR_INLINE void mix_chunk(const AttentionPlace& place, int first_group, int num_groups, int d,
                         const float* weights, float* out) {
  F32x16 sums[R];
  for (int r = 0; r < R; r++) sums[r] = zero_f32();
  for (int g = 0; g < num_groups; g++, weights += kValueTokens) {
    const uint16_t* lines = values_of_group(place, first_group + g) + d * kValueTokens;
    for (int i = 0; i < kValueTokens; i += 2) {
      F32x16 first = first_of_pairs(lines + i * 16), second = second_of_pairs(lines + i * 16);
      for (int r = 0; r < R; r++) {
        sums[r] = fma(splat(weights[r * kWeightStride + i]), first, sums[r]);
        sums[r] = fma(splat(weights[r * kWeightStride + i + 1]), second, sums[r]);
      }
    }
  }
  for (int r = 0; r < R; r++) store(out + r * place.padded_size, sums[r]);
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end,
                       int num_rows, const AttentionScratch& scratch) {
  const int first_group = (split_begin + begin) / kValueTokens,
            num_groups = (end - begin) / kValueTokens;
  for (int d = 0; d < place.padded_size; d += 16) {
    const float* weights = scratch.weights + begin;
    float* out = scratch.part + d;
    int r = 0;
    for (; r + kChunkRows <= num_rows; r += kChunkRows) {
      mix_chunk<kChunkRows>(place, first_group, num_groups, d, weights + r * kWeightStride,
                            out + r * place.padded_size);
    }
    for (; r + 2 <= num_rows; r += 2) {
      mix_chunk<2>(place, first_group, num_groups, d, weights + r * kWeightStride,
                   out + r * place.padded_size);
    }
    for (; r < num_rows; r++) {
      mix_chunk<1>(place, first_group, num_groups, d, weights + r * kWeightStride,
                   out + r * place.padded_size);
    }
  }
}

#include "kernels/attention.inl"
