// Gated activations over interleaved gate and up columns, and plain addition.
#pragma once

#include "api/work.h"

namespace headrace {

// out [T, F] = f(gate) * up; gate_up [T, 2F] alternates 16 gate and 16 up columns. Items: rows.
struct GatedArgs {
  const float* gate_up;
  int64_t width;  // F
  float* out;
};

// h += x. Items: elements.
struct AddArgs {
  float* h;
  const float* x;
};

}  // namespace headrace
