// Jobs that run beside the caller, one after the other: packing, while Python loads what it needs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace headrace {

class WorkQueue {
 public:
  WorkQueue() = default;
  ~WorkQueue();  // does what is left
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // `num_bytes` are read by the job. Waits while those before it hold a gigabyte.
  void add(size_t num_bytes, std::function<void()> job);
  // Waits until nothing is left.
  void finish();

 private:
  struct Job {
    size_t num_bytes;
    std::function<void()> run;
  };
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // the one that runs stays in front
  size_t num_bytes_ = 0;
  std::atomic<bool> is_busy_ = false;
  std::thread thread_;  // ends when nothing is left
};

}  // namespace headrace
