#include "runtime/roof.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace headrace {
namespace {

template <class F>
double seconds_of(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double probe_read_bandwidth(CpuOps& ops, size_t num_bytes, int rounds) {
  const int64_t pieces = std::max<int64_t>(1, (int64_t)num_bytes / kProbePieceBytes);
  Region memory((size_t)(pieces * kProbePieceBytes));
  ops.parallel_for(pieces, 16, [&](int64_t begin, int64_t end) {
    std::memset(memory.data() + begin * kProbePieceBytes, 1,
                (size_t)((end - begin) * kProbePieceBytes));
  });
  int32_t sink = 0;
  const ReadProbeArgs args{memory.data(), &sink};
  double best = 0;
  for (int round = 0; round < rounds; round++) {
    const double seconds =
        seconds_of([&] { ops.parallel(ops.table().probe.read, args, pieces, 16); });
    best = std::max(best, (double)(pieces * kProbePieceBytes) / seconds);
  }
  return best;
}

double probe_int8_peak(CpuOps& ops, double seconds, int rounds) {
  const ProbeKernels& probe = ops.table().probe;
  int32_t sink = 0;
  const PeakProbeArgs args{&sink};
  auto run = [&](int64_t items) {
    return seconds_of([&] { ops.parallel(probe.int8_peak, args, items, 1); });
  };
  int64_t items = 1000;
  while (run(items) < seconds / 10) items *= 2;
  double best = 0;
  items = (int64_t)((double)items * std::max(1.0, seconds / run(items)));
  for (int round = 0; round < rounds; round++)
    best = std::max(best, (double)items * probe.ops_per_item / run(items));
  return best;
}

}  // namespace headrace
