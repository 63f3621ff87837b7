// Probes of the machine's roof: what a thread can read, and multiply in int8.
#pragma once

#include "api/work.h"

namespace headrace {

constexpr int64_t kProbePieceBytes = 64 << 10;

// Items: pieces of kProbePieceBytes. Reads each byte once; adds what keeps the reads alive to
// *sink.
struct ReadProbeArgs {
  const uint8_t* data;
  int32_t* sink;
};

// Items: repetitions of `ops_per_item` operations on registers.
struct PeakProbeArgs {
  int32_t* sink;
};

struct ProbeKernels {
  Kernel<ReadProbeArgs> read;
  Kernel<PeakProbeArgs> int8_peak;
  double ops_per_item;
};

}  // namespace headrace
