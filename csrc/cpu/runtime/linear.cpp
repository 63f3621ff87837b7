#include "runtime/linear.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int64_t kFewRows = 8;  // of which a tile has just as many
constexpr int64_t kTileRows = 16;
constexpr int64_t kChunksPerThread = 8;
constexpr int64_t kMinChunkBytes = 64 << 10;  // below, taking a chunk costs more than a late worker
constexpr int64_t kRowsAtOnce = 256;          // activations and sums of a block stay in half of L2
constexpr int64_t kSerialElements = 8192;     // quantizing fewer is cheaper than waking a worker

size_t aligned(int64_t num_bytes) { return (size_t)((num_bytes + 63) / 64 * 64); }

QuantizedRows reserve_rows(Arena& arena, int64_t num_rows, int64_t depth) {
  const int64_t tile_rows = num_rows <= kFewRows ? num_rows : kTileRows;
  const int64_t padded = (num_rows + tile_rows - 1) / tile_rows * tile_rows;
  const int64_t groups = depth / kGroupSize, cells = padded * groups;
  const size_t values = aligned(cells * kGroupSize), scales = aligned(cells * 4);
  uint8_t* at = arena.reserve(values + 2 * scales + 2 * scales);
  QuantizedRows rows{num_rows, groups, tile_rows, nullptr, nullptr, nullptr, nullptr};
  rows.values = reinterpret_cast<int8_t*>(at);
  rows.scales = reinterpret_cast<float*>(at + values);
  rows.scaled_sums = reinterpret_cast<float*>(at + values + scales);
  rows.offsets = reinterpret_cast<int32_t*>(at + values + 2 * scales);
  return rows;
}

int64_t width_of(const PackedLinear& weight, Gate gate) {
  return gate == kNoGate ? weight.num_columns() : weight.num_columns() / 2;
}

void multiply_rows(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight,
                   Gate gate, float* y) {
  const MatmulKernels& kernels = ops.table().matmul;
  MatmulArgs args{{}, x, weight.panels(), y, width_of(weight, gate), gate};
  args.x.num_rows = num_rows;
  if (weight.is_quantized()) {
    args.x = reserve_rows(ops.arena(), num_rows, weight.depth());
    const QuantizeRowsArgs quantize{x, weight.depth(), args.x};
    const int64_t padded = (num_rows + args.x.tile_rows - 1) / args.x.tile_rows * args.x.tile_rows;
    const int64_t grain = std::max<int64_t>(1, kSerialElements / weight.depth());
    ops.parallel(kernels.quantize_rows, quantize, padded, grain);
  }
  ops.parallel(
      weight.is_quantized() ? kernels.quantized : kernels.floating, args,
      weight.split(kChunksPerThread * ops.num_threads(), kMinChunkBytes, gate == kNoGate ? 1 : 2),
      kernels.scratch_bytes(num_rows, weight.depth()));
}

}  // namespace

void linear(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight, Gate gate,
            float* y) {
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce)
    multiply_rows(ops, x + row * weight.depth(), std::min(kRowsAtOnce, num_rows - row), weight,
                  gate, y + row * width_of(weight, gate));
}

}  // namespace headrace
