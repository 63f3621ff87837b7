#include "runtime/kv_storage.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

constexpr int32_t kMaxCount = 1 << 20;  // bytes of a block stay within 2^51

void check(bool is_allowed, const char* what, int64_t value, const std::string& allowed) {
  if (!is_allowed)
    throw std::invalid_argument(std::string(what) + " is " + std::to_string(value) +
                                "; allowed: " + allowed + ".");
}

// Of a block of keys or of values.
size_t half_bytes(int32_t num_kv_heads, int32_t block_size, int32_t head_size, KVFormat format) {
  check(block_size > 0 && block_size % kBlockTokens == 0, "block_size", block_size,
        "multiples of " + std::to_string(kBlockTokens));
  check(head_size > 0 && head_size <= kMaxHeadSize && head_size % 2 == 0, "head_size", head_size,
        "even, to " + std::to_string(kMaxHeadSize));
  check(num_kv_heads > 0 && num_kv_heads <= kMaxCount, "num_kv_heads", num_kv_heads, "1 to 2^20");
  check(block_size <= kMaxCount, "block_size", block_size, "to 2^20");
  const size_t padded = (size_t)(head_size + 31) / 32 * 32;
  const size_t token = format == kInt8KV ? padded + sizeof(float) : padded * sizeof(uint16_t);
  return (size_t)num_kv_heads * (size_t)block_size * token;
}

// Whose bytes have a number.
size_t checked_blocks(int64_t num_blocks, size_t block_bytes) {
  const auto most = (int64_t)((size_t{1} << 62) / block_bytes);
  check(num_blocks >= 0 && num_blocks <= most, "num_blocks", num_blocks,
        "0 to " + std::to_string(most));
  return (size_t)num_blocks;
}

}  // namespace

size_t KVStorage::block_bytes(int32_t num_kv_heads, int32_t block_size, int32_t head_size,
                              KVFormat key_format, KVFormat value_format) {
  return half_bytes(num_kv_heads, block_size, head_size, key_format) +
         half_bytes(num_kv_heads, block_size, head_size, value_format);
}

void KVStorage::copy_block(int64_t source, int64_t block) {
  const size_t key_bytes = key_bytes_ / (size_t)layer_.num_blocks;
  const size_t value_bytes = value_bytes_ / (size_t)layer_.num_blocks;
  std::memcpy(keys_ + (size_t)block * key_bytes, keys_ + (size_t)source * key_bytes, key_bytes);
  std::memcpy(values_ + (size_t)block * value_bytes, values_ + (size_t)source * value_bytes,
              value_bytes);
}

KVStorage::KVStorage(int64_t num_blocks, int32_t num_kv_heads, int32_t block_size,
                     int32_t head_size, KVFormat key_format, KVFormat value_format)
    : key_bytes_(half_bytes(num_kv_heads, block_size, head_size, key_format) *
                 checked_blocks(num_blocks, block_bytes(num_kv_heads, block_size, head_size,
                                                        key_format, value_format))),
      value_bytes_(half_bytes(num_kv_heads, block_size, head_size, value_format) *
                   (size_t)num_blocks),
      key_region_(region_with_small_head(key_bytes_, keys_)),
      value_region_(region_with_small_head(value_bytes_, values_)) {
  layer_ = {{keys_, key_format}, {values_, value_format},
            num_blocks,          block_size,
            num_kv_heads,        head_size};
  // Padding must be zero. Without any, pages stay untouched until tokens come.
  if (head_size % 32 != 0) {
    std::memset(keys_, 0, key_bytes_);
    std::memset(values_, 0, value_bytes_);
  }
}

}  // namespace headrace
