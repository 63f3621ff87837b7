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

}  // namespace headrace
