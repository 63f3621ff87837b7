// Writing keys and values of a step into their cache slots.
#pragma once

#include "api/work.h"

namespace headrace {

constexpr int kMaxHeadSize = 512;
constexpr int kBlockTokens = 32;  // block_size is a multiple of it

// How keys and values are stored. Int8 has a float32 scale per token and KV head.
enum KVFormat : int32_t { kBf16KV, kInt8KV };

// Keys or values of a layer; the order inside a block is in kernels/store_kv.inl.
struct KVHalf {
  uint8_t* data;
  KVFormat format;
};

// One layer of the cache.
struct KVLayer {
  KVHalf keys;
  KVHalf values;
  int64_t num_blocks;
  int32_t block_size;
  int32_t num_kv_heads;
  int32_t head_size;
};

// Items: rows of qkv. slot_mapping[t] = block * block_size + offset; -1 skips the row.
// key_shift [K * D], or null, is subtracted from every key.
struct StoreKvArgs {
  const float* qkv;
  const int32_t* slot_mapping;
  int32_t num_heads;
  KVLayer layer;
  const float* key_shift;
};

}  // namespace headrace
