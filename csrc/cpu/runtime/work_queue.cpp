#include "runtime/work_queue.h"

#include <system_error>
#include <utility>

namespace headrace {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 30;  // whole small models; of large ones some layers

}  // namespace

WorkQueue::~WorkQueue() {
  finish();
  if (thread_.joinable()) thread_.join();
}

void WorkQueue::add(size_t num_bytes, std::function<void()> job) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return num_bytes_ < kMaxBytes; });
  jobs_.push_back({num_bytes, std::move(job)});
  num_bytes_ += num_bytes;
  if (is_busy_) return;
  if (thread_.joinable()) thread_.join();
  is_busy_ = true;
  try {
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error&) {  // no thread is left to this process: not beside, then
    lock.unlock();
    work();
  }
}

void WorkQueue::finish() {
  if (!is_busy_) return;  // asked before every call of a kernel
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !is_busy_; });
}

void WorkQueue::work() {
  std::unique_lock lock(mutex_);
  while (!jobs_.empty()) {
    Job& job = jobs_.front();  // stays where it is: others only append
    lock.unlock();
    job.run();
    lock.lock();
    num_bytes_ -= jobs_.front().num_bytes;
    jobs_.pop_front();
    changed_.notify_all();
  }
  is_busy_ = false;
  changed_.notify_all();
}

}  // namespace headrace
