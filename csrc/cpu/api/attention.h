// Paged causal attention.
#pragma once

#include "api/store_kv.h"
#include "api/work.h"

namespace headrace {

// Rows of one request that share a KV head. Row i is head i % G of the group (G = H / K) at the
// request's query token i / G, so all rows of an item read the same keys and values.
constexpr int kAttentionItemRows = 128;
constexpr int kAttentionSplitTokens = 256;
struct AttentionItem {
  int32_t request;
  int32_t kv_head;
  int32_t row_begin;
  int32_t row_end;      // at most kAttentionItemRows after row_begin
  int32_t split_begin;  // splits of kAttentionSplitTokens keys, by absolute position
  int32_t split_end;
  int64_t parts;  // place of the item's parts; -1 when it has all splits and writes `out`
};

// out [T, H * D]. Items: `items`.
struct AttentionArgs {
  const float* qkv;
  KVLayer layer;
  const AttentionItem* items;
  const int32_t* positions;    // [T]
  const int32_t* query_start;  // [R + 1]
  const int32_t* seq_lens;     // [R]
  const int32_t* block_table;  // [R, P]
  int64_t table_width;         // P
  int32_t num_heads;
  float scale;
  int32_t window;  // 0 is all
  float soft_cap;  // 0 is off
  float* parts;    // results of single splits, [split][row] from an item's place
  float* out;
};

struct AttentionKernels {
  Kernel<AttentionArgs> run;
  Kernel<AttentionArgs> merge;  // of items whose splits were run apart
  size_t (*scratch_bytes)(int32_t head_size);
  int64_t (*part_floats)(int32_t head_size);
};

}  // namespace headrace
