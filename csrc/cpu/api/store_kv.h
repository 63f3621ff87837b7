// Writing keys and values of a step into their cache slots.
#pragma once

#include "api/work.h"

namespace headrace {

constexpr int kMaxHeadSize = 512;
constexpr int kBlockTokens = 32;  // block_size is a multiple of it

// One layer of the cache, bf16; the order inside a block is in kernels/store_kv.inl.
struct KVLayer {
  uint16_t* keys;
  uint16_t* values;
  int64_t num_blocks;
  int32_t block_size;
  int32_t num_kv_heads;
  int32_t head_size;
};

// Items: rows of qkv. slot_mapping[t] = block * block_size + offset; -1 skips the row.
struct StoreKvArgs {
  const float* qkv;
  const int32_t* slot_mapping;
  int32_t num_heads;
  KVLayer layer;
};

}  // namespace headrace
