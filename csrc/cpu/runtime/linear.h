// One linear layer: quantize the rows if the weight wants it, then multiply.
#pragma once

#include "runtime/dispatch.h"
#include "runtime/pack.h"

namespace headrace {

// y [num_rows, N] = x [num_rows, K] w^T + bias.
void linear(CpuOps& ops, const float* x, int64_t num_rows, const PackedLinear& weight, float* y);

}  // namespace headrace
