// What every kernel of every tier receives: its arguments and its share of the work.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Before a loop over an array of registers: without it the array lives in memory.
#if defined(__clang__)
#define HR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HR_UNROLL _Pragma("GCC unroll 16")
#endif

namespace headrace {

struct Span {
  const uint8_t* data;
  size_t size;
};

// Items [begin, end) of a call, and memory that no other worker touches during it.
// What an item is (a row, a head, a panel of columns) is said by the argument struct.
struct Work {
  int64_t begin;
  int64_t end;
  uint8_t* scratch;  // 64-byte aligned, as large as the caller of the kernel asked for
  // What the worker is likely to read next, to ask for it in time: items [end, share_end), of which
  // the next chunk ends at next_end, and when there are none, the span, of the call after this one.
  int64_t share_end;
  int64_t next_end;
  Span after;
};

// Kernels are pure functions of their arguments: no allocation, no locks, no globals. Any partition
// of the items over any number of workers gives the same bits.
template <class Args>
using Kernel = void (*)(const Args* args, const Work* work);

}  // namespace headrace
