// Memory of results, taken again when its array dies. A fresh array of megabytes costs page faults
// that take longer than a norm or an activation over it.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/memory.h"

namespace headrace {

class BufferPool {
 public:
  // Uncleared memory of at least this size.
  Region take(size_t num_bytes);
  void give_back(Region&& region);

 private:
  std::mutex mutex_;
  std::vector<Region> free_;
};

// Memory of one result. It may outlive whoever made the pool.
class Buffer {
 public:
  Buffer(std::shared_ptr<BufferPool> pool, size_t num_bytes)
      : pool_(std::move(pool)), region_(pool_->take(num_bytes)) {}
  ~Buffer() { pool_->give_back(std::move(region_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  uint8_t* data() const { return region_.data(); }

 private:
  std::shared_ptr<BufferPool> pool_;
  Region region_;
};

}  // namespace headrace
