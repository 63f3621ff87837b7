#include "runtime/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace headrace {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallHead = size_t{64} << 10;
constexpr size_t kLine = 64;
constexpr size_t kStoreRegion = size_t{64} << 20;  // untouched pages of the last one cost nothing

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

void release_mapped(const uint8_t* data, size_t num_bytes) {
  const auto page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
  const uintptr_t end = ((uintptr_t)data + num_bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Region::Region(size_t num_bytes) {
  if (num_bytes == 0) return;
  const size_t unit = num_bytes >= kHugePage ? kHugePage : kLine;
  size_ = round_up(num_bytes, unit);
  data_ = static_cast<uint8_t*>(std::aligned_alloc(unit, size_));
  if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (unit == kHugePage) madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

Region::~Region() { std::free(data_); }

Region::Region(Region&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Region region_with_small_head(size_t num_bytes, uint8_t*& data) {
  const bool has_head = num_bytes >= kHugePage;
  Region region(has_head ? num_bytes + kHugePage - kSmallHead : num_bytes);
  data = region.data();
  if (has_head) {
#if defined(MADV_NOHUGEPAGE)
    madvise(data, kHugePage, MADV_NOHUGEPAGE);
#endif
    data += kHugePage - kSmallHead;  // what is before it is never touched
  }
  return region;
}

std::shared_ptr<uint8_t[]> WeightStore::allocate(size_t num_bytes) {
  const size_t wanted = round_up(num_bytes, kLine);
  std::scoped_lock lock(mutex_);
  if (region_ == nullptr || used_ + wanted > region_->size()) {
    region_ = std::make_shared<Region>(wanted > kStoreRegion ? wanted : kStoreRegion);
    used_ = 0;
  }
  std::shared_ptr<uint8_t[]> piece(region_, region_->data() + used_);
  used_ += wanted;
  return piece;
}

}  // namespace headrace
