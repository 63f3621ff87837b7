// Gated activations, which end a linear layer (matmul.h).
#pragma once

#include <cstdint>

namespace headrace {

// What a layer does with its columns, which alternate in panels of gate and of up: f(gate) * up.
enum Gate : uint8_t { kNoGate, kSilu, kGeluTanh };

}  // namespace headrace
