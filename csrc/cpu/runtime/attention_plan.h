// How the attention of a step is cut into items that workers take.
#pragma once

#include <cstdint>
#include <vector>

#include "api/attention.h"

namespace headrace {

struct AttentionPlan {
  std::vector<AttentionItem> items;  // the long ones first
  int64_t grain;                     // items per chunk: all of them when there is little to do
};

// Shapes: query_start [R + 1], seq_lens [R]. Items do not change any row's bits.
AttentionPlan plan_attention(const int32_t* query_start, const int32_t* seq_lens,
                             int64_t num_requests, int32_t num_heads, int32_t num_kv_heads);

}  // namespace headrace
