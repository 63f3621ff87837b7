#include "runtime/dispatch.h"

#include <algorithm>
#include <atomic>

#include "runtime/detect.h"

namespace headrace {
namespace {

constexpr int64_t kChunksPerThread = 8;  // the last one to finish is late by an eighth at most

}  // namespace

CpuOps::CpuOps(const std::string& isa, int num_threads)
    : table_(table_of(isa)),
      pool_(num_threads),
      scratch_((size_t)num_threads),
      shares_((size_t)num_threads) {}

void CpuOps::announce(std::shared_ptr<Upcoming> after, Upcoming&& spans) {
  if (last_) *last_ = std::move(spans);
  last_ = std::move(after);
  for (size_t w = 1; w < last_->size(); w++) pool_.set_idle_span((int)w, (*last_)[w]);
}

void CpuOps::run_chunks(ErasedKernel kernel, const void* args, int64_t num_items, int64_t grain,
                        const int64_t* bounds, size_t scratch_bytes) {
  if (num_items <= 0) return;
  if (bounds == nullptr)
    grain = std::max({grain, int64_t{1}, num_items / (kChunksPerThread * num_threads())});
  const int64_t num_chunks = (num_items + grain - 1) / grain;
  for (Arena& arena : scratch_) arena.reserve(scratch_bytes);
  for (int w = 0; w < num_threads(); w++)
    shares_[(size_t)w].next.store(share_begin(num_chunks, w), std::memory_order_relaxed);

  struct Call {
    ErasedKernel kernel;
    const void* args;
    int64_t num_items, grain, num_chunks;
    const int64_t* bounds;
    CpuOps* ops;

    int64_t begin_of(int64_t chunk) const {
      return bounds ? bounds[chunk] : std::min(chunk * grain, num_items);
    }
  } call{kernel, args, num_items, grain, num_chunks, bounds, this};

  auto task = [](void* context, int worker) {
    Call& c = *static_cast<Call*>(context);
    const int num_threads = c.ops->num_threads();
    uint8_t* scratch = c.ops->scratch_[(size_t)worker].reserve(0);
    // First the own share, from front to back in memory; then what the others have not begun.
    for (int k = 0; k < num_threads; k++) {
      const int owner = (worker + k) % num_threads;
      const int64_t end = c.ops->share_begin(c.num_chunks, owner + 1);
      for (;;) {
        const int64_t i =
            c.ops->shares_[(size_t)owner].next.fetch_add(1, std::memory_order_relaxed);
        if (i >= end) break;
        Work work{};
        work.scratch = scratch;
        work.begin = c.begin_of(i);
        work.end = work.share_end = work.next_end = c.begin_of(i + 1);
        if (owner == worker) {
          if (i + 1 < end) work.next_end = c.begin_of(i + 2);
          work.share_end = c.begin_of(end);
          if (i + 1 == end) work.after = c.ops->first_span(worker);
        }
        c.kernel(c.args, &work);
      }
    }
  };
  if (num_chunks == 1) return task(&call, 0);
  pool_.run(task, &call);
}

}  // namespace headrace
