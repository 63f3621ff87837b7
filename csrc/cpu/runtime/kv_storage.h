// The memory of one layer's KV cache.
#pragma once

#include "api/store_kv.h"
#include "runtime/memory.h"

namespace headrace {

class KVStorage {
 public:
  // Throws std::invalid_argument for sizes that the kernels do not read.
  KVStorage(int64_t num_blocks, int32_t num_kv_heads, int32_t block_size, int32_t head_size,
            KVFormat key_format, KVFormat value_format);

  const KVLayer& layer() const { return layer_; }
  size_t num_bytes() const { return key_bytes_ + value_bytes_; }

  // Copies a block over another one. Both are there.
  void copy_block(int64_t source, int64_t block);

  // Bytes of a block: keys and values, head size padded to 32, and scales of int8.
  static size_t block_bytes(int32_t num_kv_heads, int32_t block_size, int32_t head_size,
                            KVFormat key_format, KVFormat value_format);

 private:
  size_t key_bytes_, value_bytes_;
  uint8_t *keys_ = nullptr, *values_ = nullptr;  // in the regions
  Region key_region_, value_region_;
  KVLayer layer_;
};

}  // namespace headrace
