#include "runtime/linear.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int64_t kFewRows = 8;  // of which a tile has just as many
constexpr int64_t kTileRows = 16;
constexpr int64_t kChunksPerThread = 8;
constexpr int64_t kMinChunkBytes = 64 << 10;  // below, taking a chunk costs more than a late worker
constexpr int64_t kRowsAtOnce = 256;          // activations and sums of a block stay in half of L2
constexpr size_t kIdleBytes = 512 << 10;      // a quarter of L2 for what comes next
constexpr int64_t kSerialElements = 8192;     // quantizing fewer is cheaper than waking a worker

size_t aligned(int64_t num_bytes) { return (size_t)((num_bytes + 63) / 64 * 64); }

int64_t num_tiles(const QuantizedRows& rows) {
  return (rows.num_rows + rows.tile_rows - 1) / rows.tile_rows;
}

// What the arrays of some rows take, one after the other, and where they lie in such memory.
size_t rows_bytes(int64_t num_rows, int64_t depth, int64_t tile_rows) {
  const int64_t cells = (num_rows + tile_rows - 1) / tile_rows * tile_rows * (depth / kGroupSize);
  return aligned(cells * kGroupSize) + 4 * aligned(cells * 4);
}

QuantizedRows place_rows(uint8_t* at, int64_t num_rows, int64_t depth, int64_t tile_rows) {
  QuantizedRows rows{num_rows, depth / kGroupSize, tile_rows, nullptr, nullptr, nullptr, nullptr};
  const int64_t cells = num_tiles(rows) * tile_rows * rows.num_groups;
  const size_t values = aligned(cells * kGroupSize), scales = aligned(cells * 4);
  rows.values = reinterpret_cast<int8_t*>(at);
  rows.scales = reinterpret_cast<float*>(at + values);
  rows.scaled_sums = reinterpret_cast<float*>(at + values + scales);
  rows.offsets = reinterpret_cast<int32_t*>(at + values + 2 * scales);
  return rows;
}

// Rows [begin, begin + num_rows), begin the first of a tile.
QuantizedRows slice(const QuantizedRows& rows, int64_t begin, int64_t num_rows) {
  const int64_t cells = begin * rows.num_groups;
  return {num_rows,
          rows.num_groups,
          rows.tile_rows,
          rows.values + cells * kGroupSize,
          rows.scales + cells,
          rows.scaled_sums + cells,
          rows.offsets + 2 * cells};
}

// In the arena, until the next call.
QuantizedRows quantize(CpuOps& ops, const float* x, int64_t num_rows, int64_t depth,
                       int64_t tile_rows) {
  uint8_t* at = ops.arena().reserve(rows_bytes(num_rows, depth, tile_rows));
  const QuantizeRowsArgs args{x, depth, place_rows(at, num_rows, depth, tile_rows)};
  const int64_t chunks = (args.out.num_groups + kQuantizeGroups - 1) / kQuantizeGroups;
  ops.parallel(ops.table().matmul.quantize_rows, args, num_tiles(args.out) * chunks,
               std::max<int64_t>(1, kSerialElements / (tile_rows * kQuantizeGroups * kGroupSize)));
  return args.out;
}

// The same as bf16.
RoundedRows round_rows(CpuOps& ops, const float* x, int64_t num_rows, int64_t depth,
                       int64_t tile_rows) {
  const int64_t tiles = (num_rows + tile_rows - 1) / tile_rows;
  uint8_t* at = ops.arena().reserve(aligned(tiles * tile_rows * depth * 2));
  const RoundRowsArgs args{
      x, depth, {num_rows, depth / kGroupSize, tile_rows, reinterpret_cast<uint16_t*>(at)}};
  ops.parallel(ops.table().matmul.round_rows, args, tiles,
               std::max<int64_t>(1, kSerialElements / (tile_rows * depth)));
  return args.out;
}

int64_t tile_rows_of(int64_t num_rows) { return num_rows <= kFewRows ? num_rows : kTileRows; }

int64_t width_of(const PackedLinear& weight, Gate gate) {
  return gate == kNoGate ? weight.num_columns() : weight.num_columns() / 2;
}

void multiply(CpuOps& ops, const MatmulArgs& args, const PackedLinear& weight) {
  const MatmulKernels& kernels = ops.table().matmul;
  // Many rows meet two panels at a time, few rows four, or four pairs of a gate and its up.
  const bool is_few = args.x.num_rows <= kFewRows;
  const int64_t unit = args.gated.values ? 4 : is_few ? args.gate ? 8 : 4 : 2;
  const auto bounds = weight.split(kChunksPerThread * ops.num_threads(), kMinChunkBytes, unit);
  const auto num_chunks = (int64_t)bounds.size() - 1;
  Upcoming spans;
  for (int w = 0; w < ops.num_threads(); w++) {
    const auto begin = (size_t)ops.share_begin(num_chunks, w);
    const auto end = (size_t)ops.share_begin(num_chunks, w + 1);
    spans.push_back(weight.span(bounds[begin], bounds[end]));
    spans.back().size = std::min(spans.back().size, kIdleBytes);
  }
  ops.announce(weight.upcoming(), std::move(spans));
  const Kernel<MatmulArgs> kernel = weight.is_quantized() ? kernels.quantized
                                    : args.rounded.values ? kernels.rounded
                                                          : kernels.floating;
  ops.parallel(kernel, args, bounds, kernels.scratch_bytes(args.x.num_rows, weight.depth()));
}

// f(begin, count) for some rows after the other.
template <class F>
void for_rows(int64_t num_rows, F f) {
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce)
    f(row, std::min(kRowsAtOnce, num_rows - row));
}

}  // namespace

QuantizedActivation::QuantizedActivation(CpuOps& ops, int64_t num_rows, int64_t depth)
    : buffer_(ops.buffers(), rows_bytes(num_rows, depth, kTileRows)),
      rows_(place_rows(buffer_.data(), num_rows, depth, kTileRows)) {}

void linear(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight, Gate gate,
            float* y) {
  const int64_t depth = weight.depth(), width = width_of(weight, gate);
  for_rows(num_rows, [&](int64_t row, int64_t count) {
    MatmulArgs args{{}, x + row * depth, weight.panels(), y + row * width, width, gate, {}, {}};
    args.x.num_rows = count;
    if (weight.is_quantized())
      args.x = quantize(ops, args.floats, count, depth, tile_rows_of(count));
    else if (weight.is_bf16() && ops.table().matmul.rounded)
      args.rounded = round_rows(ops, args.floats, count, depth, tile_rows_of(count));
    multiply(ops, args, weight);
  });
}

void linear(CpuOps& ops, const QuantizedActivation& x, const PackedLinear& weight, float* y) {
  const int64_t width = weight.num_columns();
  for_rows(x.num_rows(), [&](int64_t row, int64_t count) {
    multiply(ops,
             {slice(x.rows(), row, count),
              nullptr,
              weight.panels(),
              y + row * width,
              width,
              kNoGate,
              {},
              {}},
             weight);
  });
}

bool can_quantize_gated(const CpuOps& ops, int64_t num_rows, const PackedLinear& weight) {
  return ops.table().matmul.can_quantize_gated && num_rows > kFewRows && weight.is_quantized() &&
         weight.num_columns() % (2 * kGroupSize) == 0;
}

void gated_linear(CpuOps& ops, const float* x, const PackedLinear& weight, Gate gate,
                  const QuantizedActivation& out) {
  const int64_t depth = weight.depth();
  for_rows(out.num_rows(), [&](int64_t row, int64_t count) {
    const float* rows = x + row * depth;
    multiply(ops,
             {quantize(ops, rows, count, depth, kTileRows),
              rows,
              weight.panels(),
              nullptr,
              0,
              gate,
              slice(out.rows(), row, count),
              {}},
             weight);
  });
}

}  // namespace headrace
