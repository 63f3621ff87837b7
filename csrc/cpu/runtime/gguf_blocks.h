// The formats that weights come in: a GGUF block of one row, read into the order of a panel.
#pragma once

#include <cstdint>
#include <string>

#include "api/packed_format.h"

namespace headrace {

constexpr int kMaxGroups = 8;  // of a block

// The integers of a block, group by group as a panel holds them for one of its 16 columns: word i
// is this column's part of line i of 64 bytes. 4, 5, 6 or 8 words a group for as many bits.
struct GgufBlock {
  uint32_t lines[kMaxGroups][8];
  uint16_t d, m;        // f16; m is the minimum of q4_1, q5_1 or dmin of the k-quants
  uint8_t steps[16];    // sc per 32, or per 16 for kP6K
  uint8_t minimums[8];  // mn per 32
};

struct SourceFormat {
  const char* name;
  PackedFormat packed;
  int block_size;
  int block_bytes;
  void (*read)(const uint8_t*, GgufBlock&);  // null for floats
};

extern const SourceFormat kSources[];
extern const int kNumSources;

// Throws std::invalid_argument for a name that is not among them.
const SourceFormat& source_format(const std::string& name);

}  // namespace headrace
