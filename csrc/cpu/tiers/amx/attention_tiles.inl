// Attention's products as bf16 tiles: 32 rows at a time where there are as many, so that a tile of
// keys or values that comes from L2 serves two products, else 16. The result of a row does not
// depend on the other rows of its tile, or on their number.
#pragma once

constexpr int kBlockRows = 32;
#include "tiers/avx512bf16/attention_weights.inl"

#include "kernels/attention_memory.inl"

constexpr int kTileElements = 512;  // 16 lines of 32 bf16

// Tiles 4 and 5 hold columns. The others hold as many rows as there are, up to 16: a decode step
// has the 4 to 8 heads of a group.
HR_INLINE void begin_rows(int num_rows) {
  const uint8_t rows = num_rows < 16 ? (uint8_t)num_rows : 16;
  const TileConfig tiles = {
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {rows, rows, rows, rows, 16, 16, rows, rows}};
  load_tile_config(&tiles);
}
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

// Where the operands of a product lie: rows of a step, `stride` bytes apart, and columns of a step.
struct RowTiles {
  const uint16_t* first;
  int64_t step;    // elements from one step's tile to the next
  int64_t second;  // elements from the first 16 rows to the other 16
  int stride;
};

// 32 rows x 32 columns. `columns(i, step)` is tile i of a step. Operands are loaded a product
// ahead.
template <class Columns>
HR_INLINE void multiply_rows_32(const RowTiles& rows, const Columns& columns, int num_steps,
                                float* out, int out_stride) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, columns(0, 0), 64);
  _tile_loadd(6, rows.first, rows.stride);
  _tile_loadd(5, columns(1, 0), 64);
  for (int s = 0; s < num_steps; s++) {
    const uint16_t* a = rows.first + s * rows.step;
    const bool is_last = s + 1 == num_steps;
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(7, a + rows.second, rows.stride);
    _tile_dpbf16ps(1, 6, 5);
    if (!is_last) _tile_loadd(6, a + rows.step, rows.stride);
    _tile_dpbf16ps(2, 7, 4);
    if (!is_last) _tile_loadd(4, columns(0, s + 1), 64);
    _tile_dpbf16ps(3, 7, 5);
    if (!is_last) _tile_loadd(5, columns(1, s + 1), 64);
  }
  _tile_stored(0, out, out_stride * 4);
  _tile_stored(1, out + 16, out_stride * 4);
  _tile_stored(2, out + 16 * out_stride, out_stride * 4);
  _tile_stored(3, out + 16 * out_stride + 16, out_stride * 4);
}

// 16 rows x 32 or 64 columns.
template <int num_tiles, class Columns>
HR_INLINE void multiply_rows_16(const RowTiles& rows, const Columns& columns, int num_steps,
                                float* out, int out_stride) {
  _tile_zero(0);
  _tile_zero(1);
  if (num_tiles == 4) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int s = 0; s < num_steps; s++) {
    _tile_loadd(6, rows.first + s * rows.step, rows.stride);
    _tile_loadd(4, columns(0, s), 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, columns(1, s), 64);
    _tile_dpbf16ps(1, 6, 5);
    if (num_tiles == 4) {
      _tile_loadd(4, columns(2, s), 64);
      _tile_dpbf16ps(2, 6, 4);
      _tile_loadd(5, columns(3, s), 64);
      _tile_dpbf16ps(3, 6, 5);
    }
  }
  _tile_stored(0, out, out_stride * 4);
  _tile_stored(1, out + 16, out_stride * 4);
  if (num_tiles == 4) {
    _tile_stored(2, out + 32, out_stride * 4);
    _tile_stored(3, out + 48, out_stride * 4);
  }
}

// The products of 16 or 32 rows with `width` columns, a multiple of 32. `columns(i, step)` is the
// tile of columns 16i of a step.
template <class Columns>
HR_INLINE void multiply_rows(const RowTiles& rows, int num_rows, const Columns& columns, int width,
                             int num_steps, float* out, int out_stride) {
  int c = 0;
  if (num_rows > 16) {
    for (; c < width; c += 32) {
      auto from = [&](int i, int s) { return columns(c / 16 + i, s); };
      multiply_rows_32(rows, from, num_steps, out + c, out_stride);
    }
    return;
  }
  auto from = [&](int i, int s) { return columns(c / 16 + i, s); };
  for (; c + 64 <= width; c += 64) multiply_rows_16<4>(rows, from, num_steps, out + c, out_stride);
  if (c < width) multiply_rows_16<2>(rows, from, num_steps, out + c, out_stride);
}

static void score_rows(const AttentionPlace& place, int split_begin, int begin, int end,
                       int first_row, int num_rows, const AttentionScratch& scratch,
                       const ReadNext&, int) {
  const int size = place.padded_size;
  const uint16_t* queries = scratch.queries + (int64_t)first_row * size;
  const RowTiles rows = {queries, kTileElements, 16 * size, 64};
  finish_stores();
  for (int t = begin; t < end; t += kTileTokens) {
    const uint16_t* keys[4];
    const int num_keys = end - t < kTileTokens ? end - t : kTileTokens;
    for (int i = 0; i < num_keys / kKeyTokens; i++)
      keys[i] = keys_of_tile(place, split_begin + t + i * kKeyTokens);
    auto columns = [&](int i, int s) { return keys[i] + s * kTileElements; };
    multiply_rows(rows, num_rows, columns, num_keys, size / 32, scratch.scores + t, kScoreStride);
  }
}

static void mix_values(const AttentionPlace& place, int split_begin, int begin, int end,
                       int num_rows, const AttentionScratch& scratch, const ReadNext&) {
  const int num_groups = (end - begin) / kValueTokens;
  const RowTiles rows = {scratch.weights + begin, kValueTokens, 16 * kWeightStride,
                         kWeightStride * 2};
  const uint16_t* values[kSplitTokens / kValueTokens];
  finish_stores();
  for (int g = 0; g < num_groups; g++)
    values[g] = values_of_group(place, (split_begin + begin) / kValueTokens + g);
  auto columns = [&](int i, int s) { return values[s] + i * kTileElements; };
  multiply_rows(rows, num_rows, columns, place.padded_size, num_groups, scratch.part,
                place.padded_size);
}

constexpr bool kFetchesBesideProducts = false;
constexpr int kRowsThatWiden = 0;
#include "kernels/attention.inl"
