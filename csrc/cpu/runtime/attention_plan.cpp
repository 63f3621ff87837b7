#include "runtime/attention_plan.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int32_t kBlockRows = 16;
// Keys times blocks of rows. A worker that waits inside a step begins within the time of some 100.
constexpr int64_t kSerialCost = 256;
constexpr int64_t kItemsPerThread = 2;  // with fewer, a worker may wait for another's long item

// Items of whole rows. Returns their cost.
int64_t add_whole_items(AttentionPlan& plan, const int32_t* query_start, const int32_t* seq_lens,
                        int64_t num_requests, int32_t num_heads, int32_t num_kv_heads) {
  int64_t cost = 0;
  for (int64_t r = 0; r < num_requests; r++) {
    const int32_t rows = (query_start[r + 1] - query_start[r]) * (num_heads / num_kv_heads);
    cost += (int64_t)((rows + kBlockRows - 1) / kBlockRows) * num_kv_heads * seq_lens[r];
    // The last rows see the most keys.
    const int32_t last = (rows - 1) / kAttentionItemRows * kAttentionItemRows;
    for (int32_t row = last; rows > 0 && row >= 0; row -= kAttentionItemRows) {
      for (int32_t head = 0; head < num_kv_heads; head++)
        plan.items.push_back(
            {(int32_t)r, head, row, std::min(row + kAttentionItemRows, rows), 0, 0, -1});
    }
  }
  return cost;
}

// Replaces items over many keys by pieces of their splits, and adds what merges them.
void split_items(AttentionPlan& plan, const int32_t* query_start, const int32_t* seq_lens,
                 int32_t window, int64_t pieces_per_item) {
  std::vector<AttentionItem> pieces;
  for (const AttentionItem& item : plan.items) {
    const int32_t r = item.request, num_queries = query_start[r + 1] - query_start[r];
    const int32_t first_key = window > 0 ? std::max(0, seq_lens[r] - num_queries + 1 - window) : 0;
    const int32_t begin = first_key / kAttentionSplitTokens;
    const int32_t end = (seq_lens[r] + kAttentionSplitTokens - 1) / kAttentionSplitTokens;
    if (end - begin < 2) {
      pieces.push_back(item);
      continue;
    }
    const int32_t rows = item.row_end - item.row_begin;
    AttentionItem merge = item;
    merge.split_begin = begin;
    merge.split_end = end;
    merge.parts = plan.num_parts;
    plan.merges.push_back(merge);
    const auto step = (int32_t)((end - begin + pieces_per_item - 1) / pieces_per_item);
    for (int32_t split = begin; split < end; split += step) {
      AttentionItem piece = merge;
      piece.split_begin = split;
      piece.split_end = std::min(split + step, end);
      piece.parts += (int64_t)(split - begin) * rows;
      pieces.push_back(piece);
    }
    plan.num_parts += (int64_t)(end - begin) * rows;
  }
  plan.items = std::move(pieces);
}

}  // namespace

AttentionPlan plan_attention(const int32_t* query_start, const int32_t* seq_lens,
                             int64_t num_requests, int32_t num_heads, int32_t num_kv_heads,
                             int32_t window, int num_threads) {
  AttentionPlan plan;
  const int64_t cost =
      add_whole_items(plan, query_start, seq_lens, num_requests, num_heads, num_kv_heads);
  const auto num_items = (int64_t)plan.items.size();
  const int64_t wanted = kItemsPerThread * num_threads;
  if (cost <= kSerialCost) {
    plan.grain = std::max<int64_t>(1, num_items);
  } else if (num_threads > 1 && num_items > 0 && num_items < wanted && num_items % num_threads) {
    split_items(plan, query_start, seq_lens, window, (wanted + num_items - 1) / num_items);
  }
  return plan;
}

}  // namespace headrace
