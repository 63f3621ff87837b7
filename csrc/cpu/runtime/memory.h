// Memory in huge pages where the system has them. Weights and arenas live in these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "api/work.h"

namespace headrace {

// Gives whole pages of a mapped file back to the system; reading them maps them again.
void release_mapped(const uint8_t* data, size_t num_bytes);

// Owns memory, not cleared, aligned to 2 MB (or to 64 bytes when small).
class Region {
 public:
  Region() = default;
  explicit Region(size_t num_bytes);  // throws std::bad_alloc
  ~Region();
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// A region with `num_bytes` from `data` on, whose first 64 KB lie in small pages: who touches only
// the beginning of many such regions does not wait for 2 MB of each to be cleared.
Region region_with_small_head(size_t num_bytes, uint8_t*& data);  // throws std::bad_alloc

// Hands out pieces of large regions, so that small weights share huge pages. A region is freed when
// its last piece is.
class WeightStore {
 public:
  std::shared_ptr<uint8_t[]> allocate(size_t num_bytes);

 private:
  std::mutex mutex_;
  std::shared_ptr<Region> region_;
  size_t used_ = 0;
};

// Memory that grows on demand and keeps nothing when it does.
class Arena {
 public:
  uint8_t* reserve(size_t num_bytes) {
    if (num_bytes > region_.size()) {
      region_ = Region();
      region_ = Region(num_bytes + num_bytes / 4);
    }
    return region_.data();
  }

 private:
  Region region_;
};

}  // namespace headrace
