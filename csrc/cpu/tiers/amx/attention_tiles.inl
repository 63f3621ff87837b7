// Attention's products as bf16 tiles: 16 rows at a time, for every number of rows. The result of a
// row does not depend on the other rows of its tile.
#pragma once

using Weight = uint16_t;
using Query = uint16_t;
constexpr bool kWeightsInPlace = false;
constexpr int kWeightStride = 512 + 32;
HR_INLINE void store_weights(uint16_t* weights, F32x16 first, F32x16 second) {
  _mm512_storeu_si512(weights, (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v));
}

#include "kernels/attention_memory.inl"

constexpr int kTileElements = 512;  // 16 lines of 32 bf16

alignas(64) static constexpr TileConfig kAttentionTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

HR_INLINE void begin_attention() { load_tile_config(&kAttentionTiles); }
HR_INLINE void end_attention() { _tile_release(); }

// Queries lie as tiles [row / 16][Dp / 32][16][32].
HR_INLINE void load_query(const float* query, int size, int row, const AttentionScratch& scratch) {
  const int padded = scratch.padded_size;
  uint16_t* out = scratch.queries + (int64_t)(row / 16) * 16 * padded + row % 16 * 32;
  for (int d = 0; d < padded; d += 32) {
    F32x16 first = load_first(query + d, clamp(size - d, 0, 16));
    F32x16 second = load_first(query + d + 16, clamp(size - d - 16, 0, 16));
    store_weights(out + d * 16, first, second);
  }
}

// Scores of a block of rows against 32 or 64 keys, whose tiles are at keys[0..3].
template <int num_tiles>
HR_INLINE void score_tiles(const uint16_t* queries, const uint16_t* const* keys, int size,
                           float* scores) {
  _tile_zero(0);
  _tile_zero(1);
  if (num_tiles == 4) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int d = 0; d < size; d += 32) {
    _tile_loadd(6, queries + d * 16, 64);
    _tile_loadd(4, keys[0] + d * 16, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, keys[1] + d * 16, 64);
    _tile_dpbf16ps(1, 6, 5);
    if (num_tiles == 4) {
      _tile_loadd(4, keys[2] + d * 16, 64);
      _tile_dpbf16ps(2, 6, 4);
      _tile_loadd(5, keys[3] + d * 16, 64);
      _tile_dpbf16ps(3, 6, 5);
    }
  }
  _tile_stored(0, scores, kScoreStride * 4);
  _tile_stored(1, scores + 16, kScoreStride * 4);
  if (num_tiles == 4) {
    _tile_stored(2, scores + 32, kScoreStride * 4);
    _tile_stored(3, scores + 48, kScoreStride * 4);
  }
}

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int, const AttentionScratch& scratch) {
  const int size = place.padded_size;
  const uint16_t* queries = scratch.queries + (int64_t)first_row * size;
  for (int t = begin; t < end; t += kTileTokens) {
    const uint16_t* keys[4];
    const int num_tiles = end - t >= kTileTokens ? 4 : 2;
    for (int i = 0; i < num_tiles; i++)
      keys[i] = stored_keys(place, split_begin + t + i * kKeyTokens);
    if (num_tiles == 4) {
      score_tiles<4>(queries, keys, size, scratch.scores + t);
    } else {
      score_tiles<2>(queries, keys, size, scratch.scores + t);
    }
  }
}

// 32 or 64 dims of a block of rows over num_groups groups of 32 tokens.
template <int num_tiles>
HR_INLINE void mix_tiles(const AttentionPlace& place, int first_group, int num_groups, int d,
                         const uint16_t* weights, float* out) {
  const int out_stride = place.padded_size * 4;
  _tile_zero(0);
  _tile_zero(1);
  if (num_tiles == 4) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int g = 0; g < num_groups; g++) {
    const uint16_t* values = values_of_group(place, first_group + g) + d * kValueTokens;
    _tile_loadd(6, weights + g * kValueTokens, kWeightStride * 2);
    _tile_loadd(4, values, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, values + kTileElements, 64);
    _tile_dpbf16ps(1, 6, 5);
    if (num_tiles == 4) {
      _tile_loadd(4, values + 2 * kTileElements, 64);
      _tile_dpbf16ps(2, 6, 4);
      _tile_loadd(5, values + 3 * kTileElements, 64);
      _tile_dpbf16ps(3, 6, 5);
    }
  }
  _tile_stored(0, out, out_stride);
  _tile_stored(1, out + 16, out_stride);
  if (num_tiles == 4) {
    _tile_stored(2, out + 32, out_stride);
    _tile_stored(3, out + 48, out_stride);
  }
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end, int,
                       const AttentionScratch& scratch) {
  const int first_group = (split_begin + begin) / kValueTokens,
            num_groups = (end - begin) / kValueTokens;
  const uint16_t* weights = scratch.weights + begin;
  int d = 0;
  for (; d + 64 <= place.padded_size; d += 64)
    mix_tiles<4>(place, first_group, num_groups, d, weights, scratch.part + d);
  if (d < place.padded_size)
    mix_tiles<2>(place, first_group, num_groups, d, weights, scratch.part + d);
}

#include "kernels/attention.inl"
