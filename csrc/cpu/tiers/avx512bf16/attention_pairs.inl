// Attention's products as dot products of pairs of bf16: keys and values as they lie in the cache,
// queries and weights rounded. Every lane sums in ascending order, so a row's bits depend on its
// own query and keys alone.
#pragma once

constexpr int kBlockRows = 16;
#include "tiers/avx512bf16/attention_weights.inl"

#include "kernels/attention_memory.inl"

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

// Lines of a place that is read soon, asked for with each pair of products.
struct Beside {
  const uint8_t* place;  // null: nothing
  int lines;             // with a pair

  inline __attribute__((always_inline)) void fetch(int pair) const {
    if (!place) return;
    const uint8_t* at = place + pair * lines * 64;
    __builtin_prefetch(at, 0, 2);
    if (lines > 1) __builtin_prefetch(at + 64, 0, 2);
  }
};

// A place has as many lines of bf16 as a head has dims, half as many of int8; the products of a
// group take a pair of steps for two dims.
HR_INLINE Beside beside(const ReadNext& next, int group, int half, int size) {
  return {place_ahead(next, group, half), next.num_lines[half] * 2 / size};
}

// Scores of R rows against 32 keys.
template <int R, class Element>
static void score_pairs(const uint16_t* queries, const Element* const* keys, int size,
                        float* scores, const Beside& next) {
  PairSums<R> sums;
  clear<R>(sums);
  for (int d = 0; d < size; d += 2) {
    next.fetch(d / 2);
    add_products<R>(sums, queries + d, size, keys[0] + d * 16, keys[1] + d * 16);
  }
  store_sums<R>(sums, scores, kScoreStride);
}

// 32 dims of R rows.
template <int R, class Element>
static void mix_pairs(const uint16_t* weights, const Element* const* values, int num_groups, int d,
                      int size, float* out, const ReadNext& next) {
  PairSums<R> sums;
  clear<R>(sums);
  for (int g = 0; g < num_groups; g++, weights += kValueTokens) {
    const Beside place = beside(next, g, 1, size);
    const Element* lines = values[g] + d * kValueTokens;
    for (int i = 0; i < kValueTokens; i += 2) {
      place.fetch((d + i) / 2);
      add_products<R>(sums, weights + i, kWeightStride, lines + i * 16,
                      lines + (kValueTokens + i) * 16);
    }
  }
  store_sums<R>(sums, out, size);
}

// Keys of 16 tokens and values of 32, as bf16 or as int8 where products widen.
template <class Element>
HR_INLINE const Element* keys_at(const AttentionPlace& place, int token) {
  if constexpr (sizeof(Element) == 1)
    return (const Element*)stored_tokens(place, place.layer->keys, token);
  else
    return keys_of_tile(place, token);
}

template <class Element>
HR_INLINE const Element* values_at(const AttentionPlace& place, int group) {
  if constexpr (sizeof(Element) == 1)
    return (const Element*)stored_tokens(place, place.layer->values, group * kValueTokens);
  else
    return values_of_group(place, group);
}

template <class Element>
HR_INLINE void score_elements(const AttentionPlace& place, int split_begin, int begin, int end,
                              int first_row, int num_rows, const AttentionScratch& scratch,
                              const ReadNext& next, int group) {
  const int size = place.padded_size;
  for (int t = begin; t < end; t += 2 * kKeyTokens, group++) {
    const Element* keys[2] = {keys_at<Element>(place, split_begin + t),
                              keys_at<Element>(place, split_begin + t + kKeyTokens)};
    for (int r = 0; r < num_rows; r += kChunkRows)
      with_rows<kChunkRows>(num_rows - r, [&](auto rows) {
        score_pairs<rows.count>(scratch.queries + (int64_t)(first_row + r) * size, keys, size,
                                scratch.scores + r * kScoreStride + t,
                                beside(next, group, 0, size));
      });
  }
}

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int num_rows, const AttentionScratch& scratch,
                       const ReadNext& next, int group) {
  if (place.layer->keys.format == kInt8KV && !place.split_keys)
    score_elements<int8_t>(place, split_begin, begin, end, first_row, num_rows, scratch, next,
                           group);
  else
    score_elements<uint16_t>(place, split_begin, begin, end, first_row, num_rows, scratch, next,
                             group);
}

template <class Element>
HR_INLINE void mix_elements(const AttentionPlace& place, int split_begin, int begin, int end,
                            int num_rows, const AttentionScratch& scratch, const ReadNext& next) {
  const int num_groups = (end - begin) / kValueTokens, size = place.padded_size;
  const Element* values[kSplitTokens / kValueTokens];
  for (int g = 0; g < num_groups; g++)
    values[g] = values_at<Element>(place, (split_begin + begin) / kValueTokens + g);
  for (int d = 0; d < size; d += 32)
    for (int r = 0; r < num_rows; r += kChunkRows)
      with_rows<kChunkRows>(num_rows - r, [&](auto rows) {
        mix_pairs<rows.count>(scratch.weights + begin + r * kWeightStride, values, num_groups, d,
                              size, scratch.part + d + r * size, next);
      });
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end,
                       int num_rows, const AttentionScratch& scratch, const ReadNext& next) {
  if (place.layer->values.format == kInt8KV && !place.split_values)
    mix_elements<int8_t>(place, split_begin, begin, end, num_rows, scratch, next);
  else
    mix_elements<uint16_t>(place, split_begin, begin, end, num_rows, scratch, next);
}

constexpr bool kFetchesBesideProducts = true;
constexpr int kRowsThatWiden = kBlockRows;
#include "kernels/attention.inl"
