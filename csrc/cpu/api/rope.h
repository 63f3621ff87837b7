// Rotary embedding of q and k inside fused qkv rows, after an optional norm of each head.
#pragma once

#include "api/work.h"

namespace headrace {

// Items: rows of qkv [T, (H + 2K) * D].
struct RopeArgs {
  float* qkv;
  const int32_t* positions;
  const float* cosines;  // [max_positions, rotary_size / 2]
  const float* sines;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_size;
  int32_t rotary_size;
  const float* q_norm;  // [D] or null
  const float* k_norm;
  float eps;
};

}  // namespace headrace
