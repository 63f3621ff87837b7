// How packed weights lie in memory. Lossless: the exact integers and scales of the GGUF blocks.
//
// A panel is 16 output columns. Inside it k runs in groups of 32, and a group is 8 "VNNI rows" of
// 64 bytes: row r holds, for each of the 16 columns, the four weights k = 4r .. 4r+3. The same row
// is one operand of vpdpbusd and one row of an AMX tile.
// Groups are gathered in blocks (4 groups, or 8 for the k-quants), scales first:
//
//   panel  = block, block, ..               the last block may have fewer groups
//   block  = header (scales of its groups), group, group, ..
//   group  = 256 B low nibbles [+ 64 B fifth bits | + 128 B sixth and fifth bits], or 512 B of
//   bytes
//
// Low nibbles: byte i of line l is row l (low half) and row l + 4 (high half).
// Fifth bits: bit r of byte i belongs to row r.  Two-bit plane: bits 2r, 2r+1 of byte i of line 0
// belong to row r, of line 1 to row r + 4.
// All weights are stored unsigned, as q; the weight is scale * (q - zero) [- minimum].
#pragma once

#include <stdint.h>

namespace headrace {

constexpr int kPanelColumns = 16;
constexpr int kGroupSize = 32;

enum PackedFormat : uint8_t {
  // header: d f16[4][16]                             w = d (q - zero)
  kP40 = 0,  // q4_0, zero 8
  kP50 = 1,  // q5_0, zero 16
  kP80 = 2,  // q8_0 and iq4_nl, zero 128
  // header: d f16[4][16], m f16[4][16]               w = d q + m
  kP41 = 3,  // q4_1
  kP51 = 4,  // q5_1
  // header: d f16[16], dmin f16[16], {sc u8[16], mn u8[16]}[8]    w = d sc q - dmin mn
  kP4K = 5,  // q4_k
  kP5K = 6,  // q5_k
  // header: d f16[16], 32 B unused, sc s8[8][2][16]  w = d sc (q - 32), a scale per 16
  kP6K = 7,  // q6_k; q3_k with q + 28
  kNumPackedFormats = 8,
  // Float panels: [k][16] of the element, no groups.
  kPF32 = 8,
  kPF16 = 9,
  kPBF16 = 10,  // [k/2][16][2], the row of an AMX bf16 tile; an odd last k is padded with zero
};

struct PanelLayout {
  int block_groups;
  int header_bytes;
  int group_bytes;
  int zero;
  int bits;
  bool has_min;
};

constexpr PanelLayout kPanelLayouts[kNumPackedFormats] = {
    {4, 128, 256, 8, 4, false}, {4, 128, 320, 16, 5, false}, {4, 128, 512, 128, 8, false},
    {4, 256, 256, 0, 4, true},  {4, 256, 320, 0, 5, true},   {8, 320, 256, 0, 4, true},
    {8, 320, 320, 0, 5, true},  {8, 320, 384, 32, 6, false},
};

}  // namespace headrace
