#include "runtime/kv_storage.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

void check(bool is_allowed, const char* what, int64_t value, const std::string& allowed) {
  if (!is_allowed)
    throw std::invalid_argument(std::string(what) + " is " + std::to_string(value) +
                                "; allowed: " + allowed + ".");
}

}  // namespace

size_t KVStorage::block_bytes(int32_t num_kv_heads, int32_t block_size, int32_t head_size) {
  check(block_size > 0 && block_size % kBlockTokens == 0, "block_size", block_size,
        "multiples of " + std::to_string(kBlockTokens));
  check(head_size > 0 && head_size <= kMaxHeadSize && head_size % 2 == 0, "head_size", head_size,
        "even, to " + std::to_string(kMaxHeadSize));
  check(num_kv_heads > 0, "num_kv_heads", num_kv_heads, "from 1");
  const size_t padded = (size_t)(head_size + 31) / 32 * 32;
  return 2 * sizeof(uint16_t) * (size_t)num_kv_heads * (size_t)block_size * padded;
}

KVStorage::KVStorage(int64_t num_blocks, int32_t num_kv_heads, int32_t block_size,
                     int32_t head_size)
    : half_bytes_(block_bytes(num_kv_heads, block_size, head_size) / 2 * (size_t)num_blocks),
      region_(2 * half_bytes_) {
  auto* keys = reinterpret_cast<uint16_t*>(region_.data());
  layer_ = {keys,     keys + half_bytes_ / sizeof(uint16_t), num_blocks, block_size, num_kv_heads,
            head_size};
  // Padding must be zero. Without any, pages stay untouched until tokens come.
  if (head_size % 32 != 0) std::memset(region_.data(), 0, 2 * half_bytes_);
}

}  // namespace headrace
