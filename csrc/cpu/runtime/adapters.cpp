#include "runtime/adapters.h"

#include <algorithm>
#include <cstring>

namespace headrace {
namespace {

constexpr int64_t kGrainElements = 16384;  // as in forward.cpp: fewer cost more than they save

int64_t rows_at_once(int64_t width) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, width));
}

float* floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }

size_t float_bytes(int64_t num_rows, int64_t width) {
  return (size_t)(num_rows * width) * sizeof(float);
}

}  // namespace

void add_lora(CpuOps& ops, const float* x, const PackedLinear& a, const PackedLinear& b,
              const int32_t* rows, int64_t num_rows, int64_t num_all, float* y) {
  if (!num_rows) return;
  const int64_t depth = a.depth(), width = b.num_columns();
  const bool is_whole = num_rows == num_all;  // ascending, so all of them in order
  const Buffer gathered(ops.buffers(), is_whole ? 1 : float_bytes(num_rows, depth));
  if (!is_whole)
    ops.parallel_for(num_rows, rows_at_once(depth), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        memcpy(floats(gathered) + i * depth, x + rows[i] * depth, float_bytes(1, depth));
    });
  const Buffer inner(ops.buffers(), float_bytes(num_rows, a.num_columns()));
  const Buffer delta(ops.buffers(), float_bytes(num_rows, width));
  linear(ops, is_whole ? x : floats(gathered), num_rows, a, kNoGate, floats(inner));
  linear(ops, floats(inner), num_rows, b, kNoGate, floats(delta));
  ops.parallel_for(num_rows, rows_at_once(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* from = floats(delta) + i * width;
      float* to = y + (is_whole ? i : rows[i]) * width;
      for (int64_t c = 0; c < width; c++) to[c] += from[c];
    }
  });
}

}  // namespace headrace
