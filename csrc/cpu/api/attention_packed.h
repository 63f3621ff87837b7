// Attention without a cache: every row of a sequence sees all rows of it.
#pragma once

#include "api/work.h"

namespace headrace {

// Rows [row_begin, row_end) of a sequence [begin, end), for one head.
constexpr int kPackedItemRows = 128;
struct PackedItem {
  int64_t begin;
  int64_t end;
  int64_t row_begin;
  int64_t row_end;  // at most kPackedItemRows after row_begin
  int32_t head;
};

// qkv [T, 3 * H * D], out [T, H * D]. Items: `items`.
struct AttentionPackedArgs {
  const float* qkv;
  const PackedItem* items;
  int32_t num_heads;
  int32_t head_size;
  float scale;
  float* out;
};

struct AttentionPackedKernels {
  Kernel<AttentionPackedArgs> run;
  // Bytes of Work::scratch for sequences of at most `max_rows` rows.
  size_t (*scratch_bytes)(int64_t max_rows, int32_t head_size);
};

}  // namespace headrace
