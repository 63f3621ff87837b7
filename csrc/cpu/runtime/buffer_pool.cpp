#include "runtime/buffer_pool.h"

#include <algorithm>
#include <utility>

namespace headrace {
namespace {

constexpr size_t kMaxFree = 8;    // more than a layer's results alive at once
constexpr size_t kMaxExcess = 4;  // a region this many times too large waits for a larger result
constexpr size_t kReserve = 4;    // a new region has room for a quarter more: batches vary

}  // namespace

Region BufferPool::take(size_t num_bytes) {
  {
    std::scoped_lock lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->size() < num_bytes || it->size() / kMaxExcess > num_bytes) continue;
      if (best == free_.end() || it->size() < best->size()) best = it;
    }
    if (best != free_.end()) {
      Region region = std::move(*best);
      std::swap(*best, free_.back());
      free_.pop_back();
      return region;
    }
  }
  return Region(num_bytes + num_bytes / kReserve);
}

void BufferPool::give_back(Region&& region) {
  std::scoped_lock lock(mutex_);
  free_.push_back(std::move(region));
  if (free_.size() <= kMaxFree) return;
  auto smallest =
      std::min_element(free_.begin(), free_.end(),
                       [](const Region& a, const Region& b) { return a.size() < b.size(); });
  std::swap(*smallest, free_.back());
  free_.pop_back();
}

}  // namespace headrace
