// A persistent pool. The caller is worker 0; the others spin briefly for the next task, then park.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace headrace {

class ThreadPool {
 public:
  using Task = void (*)(void* context, int worker);

  explicit ThreadPool(int num_threads);  // 1 or more
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return (int)threads_.size() + 1; }

  // Run task(context, worker) on every worker; return when all are done. One caller at a time.
  void run(Task task, void* context);

 private:
  void work(int worker);

  std::vector<std::thread> threads_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  bool is_stopping_ = false;
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int32_t> num_running_{0};
};

}  // namespace headrace
