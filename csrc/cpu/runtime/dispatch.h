// CpuOps: a tier's table, a pool and scratch memory. Two of them live side by side in one process.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/op_table.h"
#include "runtime/buffer_pool.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"
#include "runtime/work_queue.h"

namespace headrace {

// What each worker reads first in a call.
using Upcoming = std::vector<Span>;

class CpuOps {
 public:
  // Throws std::invalid_argument when the isa cannot run here.
  CpuOps(const std::string& isa, int num_threads);

  const OpTable& table() const { return table_; }
  int num_threads() const { return pool_.num_threads(); }
  // Held for the length of a call: the pool and the arena serve one caller at a time.
  std::mutex& mutex() { return mutex_; }
  // Memory shared by the workers of one call.
  Arena& arena() { return arena_; }
  // Memory of results; it outlives the ops while a result does.
  const std::shared_ptr<BufferPool>& buffers() const { return buffers_; }
  WeightStore& weights() { return weights_; }
  // Weights that are not packed yet. Nothing reads them before it is finished.
  WorkQueue& packing() { return packing_; }
  // The first of `num_chunks` chunks that are a worker's own.
  int64_t share_begin(int64_t num_chunks, int worker) const {
    return num_chunks * worker / num_threads();
  }
  // A call begins that reads `spans`, one a worker. `after` is what came after it the last time:
  // idle workers bring it to their caches. Learned, since steps repeat their calls.
  void announce(std::shared_ptr<Upcoming> after, Upcoming&& spans);
  // Of what is likely to come after the announced call; nothing where that is not known.
  Span first_span(int worker) const {
    return last_ && (size_t)worker < last_->size() ? (*last_)[(size_t)worker] : Span{};
  }

  // Items [0, num_items) in chunks of at least `grain`, taken by whoever is free.
  template <class Args>
  void parallel(Kernel<Args> kernel, const Args& args, int64_t num_items, int64_t grain,
                size_t scratch_bytes = 0) {
    run_chunks(reinterpret_cast<ErasedKernel>(kernel), &args, num_items, grain, nullptr,
               scratch_bytes);
  }

  // Chunk i is items [bounds[i], bounds[i + 1]).
  template <class Args>
  void parallel(Kernel<Args> kernel, const Args& args, const std::vector<int64_t>& bounds,
                size_t scratch_bytes = 0) {
    run_chunks(reinterpret_cast<ErasedKernel>(kernel), &args, (int64_t)bounds.size() - 1, 1,
               bounds.data(), scratch_bytes);
  }

  // Any function of the runtime, e.g. packing: f(begin, end) for chunks of items.
  template <class F>
  void parallel_for(int64_t num_items, int64_t grain, const F& f) {
    auto call = [](const void* args, const Work* work) {
      (*static_cast<const F*>(args))(work->begin, work->end);
    };
    run_chunks(call, &f, num_items, grain, nullptr, 0);
  }

 private:
  using ErasedKernel = void (*)(const void* args, const Work* work);

  void run_chunks(ErasedKernel kernel, const void* args, int64_t num_chunks_or_items, int64_t grain,
                  const int64_t* bounds, size_t scratch_bytes);

  const OpTable& table_;
  ThreadPool pool_;
  std::mutex mutex_;
  Arena arena_;
  std::shared_ptr<BufferPool> buffers_ = std::make_shared<BufferPool>();
  WeightStore weights_;
  std::vector<Arena> scratch_;  // one per worker
  struct alignas(64) Share {
    std::atomic<int64_t> next;  // chunk
  };
  std::vector<Share> shares_;  // one per worker
  std::shared_ptr<Upcoming> last_;
  WorkQueue packing_;  // the first to go: its jobs use the others
};

}  // namespace headrace
