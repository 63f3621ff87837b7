// Gated activations, which end a linear layer (matmul.h), and plain addition.
#pragma once

#include "api/work.h"

namespace headrace {

// What a layer does with its columns, which alternate in panels of gate and of up: f(gate) * up.
enum Gate : uint8_t { kNoGate, kSilu, kGeluTanh };

// h += x. Items: elements.
struct AddArgs {
  float* h;
  const float* x;
};

}  // namespace headrace
