// Rows of an embedding table, kept in their GGUF blocks.
#pragma once

#include "api/work.h"

namespace headrace {

// out[t] = table[token_ids[t]] * scale. Items: tokens.
struct EmbedArgs {
  const int32_t* token_ids;
  const uint8_t* table;
  int64_t row_bytes;
  int32_t ggml_type;
  int64_t width;
  float scale;
  float* out;
};

struct EmbedKernels {
  Kernel<EmbedArgs> run;
  // Of a row of `width` weights; -1 for a type that is not read, or for no whole blocks.
  int64_t (*row_bytes)(int32_t ggml_type, int64_t width);
};

}  // namespace headrace
