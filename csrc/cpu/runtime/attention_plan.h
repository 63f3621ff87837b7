// How the attention of a step is cut into items that workers take.
#pragma once

#include <cstdint>
#include <vector>

#include "api/attention.h"

namespace headrace {

struct AttentionPlan {
  std::vector<AttentionItem> items;   // the long ones first
  std::vector<AttentionItem> merges;  // of items whose splits are apart, afterwards
  int64_t num_parts = 0;              // single splits of single rows that wait for a merge
  int64_t grain = 1;                  // items per chunk: all of them when there is little to do
};

// Shapes: query_start [R + 1], seq_lens [R]. window 0 is all. The plan does not change any row's
// bits.
AttentionPlan plan_attention(const int32_t* query_start, const int32_t* seq_lens,
                             int64_t num_requests, int32_t num_heads, int32_t num_kv_heads,
                             int32_t window, int num_threads);

}  // namespace headrace
