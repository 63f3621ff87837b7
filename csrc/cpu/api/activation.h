// Gated activations, which end a linear layer (matmul.h), and one without a gate.
#pragma once

#include "api/work.h"

namespace headrace {

// What a layer does with its columns, which alternate in panels of gate and of up: f(gate) * up.
enum Gate : uint8_t { kNoGate, kSilu, kGeluTanh };

// x = x * (1 + erf(x / sqrt 2)) / 2 in place. Items: rows.
struct GeluArgs {
  float* x;
  int64_t width;
};

// out = f(gate) * up of columns that alternate in panels: x [rows, 2 * width] -> out [rows, width],
// width a multiple of a panel. The end of a gated linear, for sums that are not a linear's alone.
// Items: rows.
struct GateArgs {
  const float* x;
  int64_t width;
  Gate gate;
  float* out;
};

}  // namespace headrace
