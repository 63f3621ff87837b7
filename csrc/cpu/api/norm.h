// RMS norm with the residual addition before it; layer norm.
#pragma once

#include "api/work.h"

namespace headrace {

// h += add where add is not null; out = h / sqrt(mean(h^2) + eps) * weight. Items: rows.
struct RmsNormArgs {
  float* h;
  const float* add;
  const float* weight;
  float eps;
  int64_t width;
  float* out;
};

// out = (x - mean) / sqrt(variance + eps) * weight + bias, with x = h + add where add is not null.
// Items: rows.
struct LayerNormArgs {
  const float* h;
  const float* add;
  const float* weight;
  const float* bias;
  float eps;
  int64_t width;
  float* out;
};

}  // namespace headrace
