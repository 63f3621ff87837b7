// One linear layer: quantize the rows if the weight wants it, then multiply.
#pragma once

#include "runtime/dispatch.h"
#include "runtime/pack.h"

namespace headrace {

// Activations as int8 groups, which a gated linear leaves for the linear after it.
class QuantizedActivation {
 public:
  QuantizedActivation(CpuOps& ops, int64_t num_rows, int64_t depth);
  int64_t num_rows() const { return rows_.num_rows; }
  int64_t depth() const { return rows_.num_groups * kGroupSize; }
  const QuantizedRows& rows() const { return rows_; }

 private:
  Buffer buffer_;
  QuantizedRows rows_;
};

// y [num_rows, N] = x [num_rows, K] w^T + bias; with a gate y [num_rows, N / 2], of interleaved
// panels.
void linear(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight, Gate gate,
            float* y);

// The same of quantized rows; the weight is quantized.
void linear(CpuOps& ops, const QuantizedActivation& x, const PackedLinear& weight, float* y);

// Whether the gated linear below can run: it pays from some rows on.
bool can_quantize_gated(const CpuOps& ops, int64_t num_rows, const PackedLinear& weight);

// out [num_rows, N / 2] = f(gate) * up, as int8 groups.
void gated_linear(CpuOps& ops, const float* x, const PackedLinear& weight, Gate gate,
                  const QuantizedActivation& out);

}  // namespace headrace
