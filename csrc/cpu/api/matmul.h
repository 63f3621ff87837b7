// Linear layers: quantizing activations, and the product with packed weights.
//
// Arithmetic, the same for every row count and tier (docs/design/0001-canonical-arithmetic.md):
//   a    = rne(x * (127 / amax)), scale = amax / 127               per row and group of 32
//   acc  = sum_k (q[k] - zero) * a[k]                              int32, exact
//   y    = fma(scale * dW, float(acc), y)                          groups ascending
//   z    = fma(mW, scale * float(sum_k a[k]), z)                   formats with a minimum, its own
//   chain out  = (y - z) + bias
// Float weights are multiplied with float32 rows; bf16 weights on the tiers avx512bf16 and amx with
// rows rounded to bf16, pairs of k in ascending order into one float32 sum.
#pragma once

#include "api/activation.h"
#include "api/packed_format.h"
#include "api/work.h"

namespace headrace {

// M rows of K floats as int8 groups. Rows are stored in tiles of R = min(M, 16), the last tile
// padded with zero rows; a tile is contiguous: values [tile][group][R][32]. With g = K / 32 groups:
struct QuantizedRows {
  int64_t num_rows;
  int64_t num_groups;
  int64_t tile_rows;   // R
  int8_t* values;      // [tiles][g][R][32]
  float* scales;       // [tiles][g][R]
  float* scaled_sums;  // [tiles][g][R]   scale * sum of the group
  int32_t* offsets;    // [tiles][g][2][R]  -8 * sum of each half of a group
};

// Groups of a tile that one item of quantizing covers. A share is never a part of a tile's rows:
// their values lie between each other in memory, and two workers would fight for the lines.
constexpr int64_t kQuantizeGroups = 8;

// Items: kQuantizeGroups groups of a tile of rows, tiles first: ceil(g / 8) items for each tile.
struct QuantizeRowsArgs {
  const float* x;
  int64_t row_stride;
  QuantizedRows out;
};

// M rows of K floats rounded to bf16, in tiles as above: values [tile][g][R][32].
struct RoundedRows {
  int64_t num_rows;
  int64_t num_groups;
  int64_t tile_rows;  // R
  uint16_t* values;
};

// Items: tiles.
struct RoundRowsArgs {
  const float* x;
  int64_t row_stride;
  RoundedRows out;
};

// A matrix [N, K] in panels of 16 columns, formats mixed at will among the quantized ones.
struct PackedPanels {
  int64_t num_columns;  // N
  int64_t depth;        // K, a multiple of 32 for quantized formats
  int64_t num_panels;
  const uint8_t* base;
  const int64_t* offsets;  // [num_panels + 1] bytes from base
  const uint8_t* formats;  // [num_panels] PackedFormat
  const float* bias;       // [16 * num_panels] or null
};

// y [M, N] = x w^T + bias, or with a gate y [M, N / 2] = f(gate) * up. Items: panels; with a gate
// a share of the work starts at an even one, and at a multiple of four where `gated` takes its
// groups of 32 columns.
struct MatmulArgs {
  QuantizedRows x;      // quantized formats
  const float* floats;  // float formats: [M, K], row_stride K
  PackedPanels weight;
  float* y;
  int64_t y_stride;
  Gate gate;
  QuantizedRows gated;  // where it has values: the result as int8 groups, in place of y
  RoundedRows rounded;  // bf16 weights, where the tier multiplies those with rounded rows
};

struct MatmulKernels {
  Kernel<QuantizeRowsArgs> quantize_rows;
  Kernel<MatmulArgs> quantized;
  Kernel<MatmulArgs> floating;
  // Where the tier multiplies bf16 with bf16 (K a multiple of 32): the rows, and the product.
  Kernel<RoundRowsArgs> round_rows;
  Kernel<MatmulArgs> rounded;
  // Bytes of Work::scratch that the products need for `num_rows` rows of `depth`.
  size_t (*scratch_bytes)(int64_t num_rows, int64_t depth);
  bool can_quantize_gated;  // whether `quantized` knows MatmulArgs::gated, of tiles of 16 rows
};

}  // namespace headrace
