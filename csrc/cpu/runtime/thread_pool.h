// A persistent pool. The caller is worker 0; the others spin briefly for the next task, then park.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "runtime/memory.h"

namespace headrace {

class ThreadPool {
 public:
  using Task = void (*)(void* context, int worker);

  explicit ThreadPool(int num_threads);  // 1 or more
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return (int)threads_.size() + 1; }

  // Run task(context, worker) on the caller and on every worker that comes in time; return when
  // those are done. The task takes its work piece by piece, so that a worker which lost its core to
  // another process delays nothing that it has not begun. One caller at a time.
  void run(Task task, void* context);

  // Memory that a worker brings to its L2 when it has nothing else to do. It is never read: it may
  // be gone by then.
  void set_idle_span(int worker, Span span);

 private:
  static constexpr uint32_t kClosed = 1u << 31;

  struct alignas(64) IdleSpan {
    std::atomic<const uint8_t*> data{nullptr};
    std::atomic<size_t> size{0};
  };

  void stop();
  bool enter();
  void work(int worker);

  std::vector<std::thread> threads_;
  std::vector<IdleSpan> idle_spans_;  // one per worker
  Task task_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> gate_{
      kClosed};  // workers inside the round, and whether it ended
};

}  // namespace headrace
