#include "runtime/thread_pool.h"

#include <chrono>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the gap between two kernels of a step, short enough to leave the core to the HTTP
// loop.
constexpr auto kSpin = std::chrono::microseconds(60);

void relax() {
#if HEADRACE_X86
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Spin until `is_done` or the time is up; the clock is read now and then only.
template <class Predicate>
bool spin_until(Predicate is_done) {
  const auto start = Clock::now();
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (is_done()) return true;
      relax();
    }
    if (Clock::now() - start > kSpin) return false;
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads < 1 || num_threads > 1024)
    throw std::invalid_argument("num_threads is " + std::to_string(num_threads) +
                                "; allowed: 1 to 1024.");
  threads_.reserve((size_t)num_threads - 1);
  for (int worker = 1; worker < num_threads; worker++)
    threads_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  is_stopping_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(Task task, void* context) {
  if (threads_.empty()) return task(context, 0);
  task_ = task;
  context_ = context;
  gate_.store(0, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  task(context, 0);
  // Nothing is left to take: who has not begun by now need not, and is not waited for.
  gate_.fetch_or(kClosed, std::memory_order_acq_rel);
  auto is_done = [this] { return gate_.load(std::memory_order_acquire) == kClosed; };
  // A worker may have lost its core to another process: give ours up rather than burn it.
  while (!spin_until(is_done)) std::this_thread::yield();
}

// Enter the round that is open, if one is. Its task is visible: the gate opens after it is set.
bool ThreadPool::enter() {
  uint32_t gate = gate_.load(std::memory_order_acquire);
  while (!(gate & kClosed))
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    auto is_new = [&] { return round_.load(std::memory_order_acquire) != seen; };
    while (!is_new())
      if (!spin_until(is_new)) round_.wait(seen, std::memory_order_acquire);
    seen = round_.load(std::memory_order_acquire);  // a late worker skips rounds
    if (is_stopping_.load(std::memory_order_acquire)) return;
    if (!enter()) continue;
    task_(context_, worker);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace headrace
