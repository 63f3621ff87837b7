// Memory of results, taken again when its array dies. A fresh array of megabytes costs page faults
// that take longer than a norm or an activation over it.
#pragma once

#include <mutex>
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

}  // namespace headrace
