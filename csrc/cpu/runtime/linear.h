// One linear layer: quantize the rows if the weight wants it, then multiply.
#pragma once

#include "runtime/dispatch.h"
#include "runtime/pack.h"

namespace headrace {

// y [num_rows, N] = x [num_rows, K] w^T + bias; with a gate y [num_rows, N / 2], of interleaved
// panels.
void linear(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight, Gate gate,
            float* y);

}  // namespace headrace
