#include "runtime/attention_plan.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int64_t kBlockRows = 16;
// Keys times blocks of rows; waking a worker costs about as much as 512 of them.
constexpr int64_t kSerialCost = 1024;

}  // namespace

AttentionPlan plan_attention(const int32_t* query_start, const int32_t* seq_lens,
                             int64_t num_requests, int32_t num_heads, int32_t num_kv_heads) {
  AttentionPlan plan;
  int64_t cost = 0;
  for (int64_t r = 0; r < num_requests; r++) {
    const int32_t rows = (query_start[r + 1] - query_start[r]) * (num_heads / num_kv_heads);
    cost += (rows + kBlockRows - 1) / kBlockRows * num_kv_heads * seq_lens[r];
    // The last rows see the most keys.
    const int32_t last = (rows - 1) / kAttentionItemRows * kAttentionItemRows;
    for (int32_t row = last; rows > 0 && row >= 0; row -= kAttentionItemRows) {
      for (int32_t head = 0; head < num_kv_heads; head++)
        plan.items.push_back({(int32_t)r, head, row, std::min(row + kAttentionItemRows, rows)});
    }
  }
  plan.grain = cost <= kSerialCost ? std::max<int64_t>(1, (int64_t)plan.items.size()) : 1;
  return plan;
}

}  // namespace headrace
