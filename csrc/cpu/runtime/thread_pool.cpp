#include "runtime/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the gap between two kernels of a step, short enough to leave the core to the HTTP
// loop.
constexpr int kLinesAtOnce = 4;  // between two looks for a new task
constexpr auto kSpin = std::chrono::microseconds(60);

void relax() {
#if HEADRACE_X86
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Spin until `is_done` or the time is up; the clock is read now and then only.
template <class Predicate, class Idle>
bool spin_until(Predicate is_done, Idle idle) {
  const auto start = Clock::now();
  for (;;) {
    for (int i = 0; i < 64; i++) {
      if (is_done()) return true;
      idle();
    }
    if (Clock::now() - start > kSpin) return false;
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads < 1 || num_threads > 1024)
    throw std::invalid_argument("num_threads is " + std::to_string(num_threads) +
                                "; allowed: 1 to 1024.");
  idle_spans_ = std::vector<IdleSpan>((size_t)num_threads);
  threads_.reserve((size_t)num_threads - 1);
  try {
    for (int worker = 1; worker < num_threads; worker++)
      threads_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error& error) {
    const size_t num_started = threads_.size() + 1;
    stop();
    throw std::runtime_error("only " + std::to_string(num_started) + " of " +
                             std::to_string(num_threads) + " threads could be started (" +
                             error.what() + "). Use fewer, or let this user have more processes.");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
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
  while (!spin_until(is_done, relax)) std::this_thread::yield();
}

void ThreadPool::set_idle_span(int worker, Span span) {
  IdleSpan& idle = idle_spans_[(size_t)worker];
  idle.size.store(span.size, std::memory_order_relaxed);
  idle.data.store(span.data, std::memory_order_relaxed);
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
  IdleSpan& span = idle_spans_[(size_t)worker];
  const uint8_t *begin = nullptr, *at = nullptr;
  size_t left = 0;
  auto prefetch_or_relax = [&] {
    const uint8_t* data = span.data.load(std::memory_order_relaxed);
    if (data != begin) begin = at = data, left = span.size.load(std::memory_order_relaxed);
    if (left == 0) return relax();
    for (int line = 0; line < kLinesAtOnce; line++) __builtin_prefetch(at + 64 * line, 0, 2);
    at += 64 * kLinesAtOnce;
    left -= std::min(left, (size_t)(64 * kLinesAtOnce));
  };
  for (;;) {
    auto is_new = [&] { return round_.load(std::memory_order_acquire) != seen; };
    while (!is_new())
      if (!spin_until(is_new, prefetch_or_relax)) round_.wait(seen, std::memory_order_acquire);
    seen = round_.load(std::memory_order_acquire);  // a late worker skips rounds
    if (is_stopping_.load(std::memory_order_acquire)) return;
    if (!enter()) continue;
    task_(context_, worker);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace headrace
