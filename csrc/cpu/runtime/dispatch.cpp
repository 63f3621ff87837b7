#include "runtime/dispatch.h"

#include <algorithm>
#include <atomic>

#include "runtime/detect.h"

namespace headrace {
namespace {

constexpr int64_t kChunksPerThread = 8;  // the last one to finish is late by an eighth at most

}  // namespace

CpuOps::CpuOps(const std::string& isa, int num_threads)
    : table_(table_of(isa)), pool_(num_threads), scratch_((size_t)num_threads) {}

void CpuOps::run_chunks(ErasedKernel kernel, const void* args, int64_t num_items, int64_t grain,
                        const int64_t* bounds, size_t scratch_bytes) {
  if (num_items <= 0) return;
  if (bounds == nullptr)
    grain = std::max({grain, int64_t{1}, num_items / (kChunksPerThread * num_threads())});
  const int64_t num_chunks = (num_items + grain - 1) / grain;
  for (Arena& arena : scratch_) arena.reserve(scratch_bytes);

  struct Call {
    ErasedKernel kernel;
    const void* args;
    int64_t num_items, grain, num_chunks;
    const int64_t* bounds;
    std::vector<Arena>* scratch;
    std::atomic<int64_t> next;
  } call{kernel, args, num_items, grain, num_chunks, bounds, &scratch_, {0}};

  auto task = [](void* context, int worker) {
    Call& c = *static_cast<Call*>(context);
    uint8_t* scratch = (*c.scratch)[(size_t)worker].reserve(0);
    for (;;) {
      const int64_t i = c.next.fetch_add(1, std::memory_order_relaxed);
      if (i >= c.num_chunks) return;
      Work work{i * c.grain, std::min((i + 1) * c.grain, c.num_items), scratch};
      if (c.bounds) work = {c.bounds[i], c.bounds[i + 1], scratch};
      c.kernel(c.args, &work);
    }
  };
  if (num_chunks == 1) return task(&call, 0);
  pool_.run(task, &call);
}

}  // namespace headrace
