// What this machine can do now: the roof that kernels are measured against.
#pragma once

#include "runtime/dispatch.h"

namespace headrace {

// Bytes per second that all threads together read from `num_bytes` of memory; the best of `rounds`.
double probe_read_bandwidth(CpuOps& ops, size_t num_bytes, int rounds);

// Int8 operations per second of all threads, a multiply-add counted as two; the best of `rounds`.
double probe_int8_peak(CpuOps& ops, double seconds, int rounds);

}  // namespace headrace
