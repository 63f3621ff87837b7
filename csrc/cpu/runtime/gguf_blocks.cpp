// Source of the block layouts: ggml, src/ggml-common.h; of the bit orders: src/ggml-quants.c.
//
// Packing is most of a start, so integers stay in words of four or eight: a byte of a line holds
// the weights k and k + 16 of a group, which is how the blocks of 32 store them already.
#include "runtime/gguf_blocks.h"

#include <array>
#include <cstring>
#include <stdexcept>

namespace headrace {
namespace {

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

uint64_t load64(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

constexpr uint64_t kBytes = 0x0101010101010101;  // one in every byte
constexpr uint32_t kBytes32 = 0x01010101;

// Nibbles of 32 bytes that hold two groups, the first in the low halves.
void two_groups(const uint8_t* p, uint32_t* first, uint32_t* second) {
  for (int i = 0; i < 16; i += 8) {
    const uint64_t low = load64(p + i), high = load64(p + 16 + i);
    const uint64_t a = (low & kBytes * 15) | (high & kBytes * 15) << 4;
    const uint64_t b = (low >> 4 & kBytes * 15) | (high & kBytes * 240);
    std::memcpy(first + i / 4, &a, 8);
    std::memcpy(second + i / 4, &b, 8);
  }
}

// Of a byte, bit i as bit 0 of byte i, and bit 4 + i as bit 1 of it.
constexpr std::array<uint32_t, 256> spread_nibbles() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; byte++)
    for (int i = 0; i < 4; i++)
      table[byte] |= ((byte >> i & 1) | (byte >> (4 + i) & 1) << 1) << (8 * i);
  return table;
}

constexpr std::array<uint32_t, 256> kSpread = spread_nibbles();

// 32 fifth bits in the order of the weights, as a panel has them.
uint32_t fifth_bits(const uint8_t* bits) {
  return kSpread[bits[0]] | kSpread[bits[1]] << 2 | kSpread[bits[2]] << 4 | kSpread[bits[3]] << 6;
}

// Bits [shift, shift + 2) of 16 bytes, as a line of two-bit planes.
uint32_t two_bits(const uint8_t* bits, int shift) {
  uint32_t line = 0;
  for (int r = 0; r < 4; r++) line |= (load32(bits + 4 * r) >> shift & kBytes32 * 3) << (2 * r);
  return line;
}

void read_q4_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  std::memcpy(b.lines[0], p + 2, 16);
}

void read_q4_1(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  std::memcpy(b.lines[0], p + 4, 16);
}

void read_q5_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  std::memcpy(b.lines[0], p + 6, 16);
  b.lines[0][4] = fifth_bits(p + 2);
}

void read_q5_1(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  std::memcpy(b.lines[0], p + 8, 16);
  b.lines[0][4] = fifth_bits(p + 4);
}

void read_q8_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  for (int i = 0; i < 32; i += 8) {
    const uint64_t q = load64(p + 2 + i) ^ kBytes * 0x80;
    std::memcpy(b.lines[0] + i / 4, &q, 8);
  }
}

// The levels are int8 already, so the block is one of q8_0.
void read_iq4_nl(const uint8_t* p, GgufBlock& b) {
  static constexpr int8_t kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
  b.d = load16(p);
  uint8_t q[32];
  for (int i = 0; i < 16; i++) {
    q[i] = (uint8_t)((uint8_t)kLevels[p[2 + i] & 15] ^ 0x80);
    q[16 + i] = (uint8_t)((uint8_t)kLevels[p[2 + i] >> 4] ^ 0x80);
  }
  std::memcpy(b.lines[0], q, 32);
}

// Eight scales and minima of 6 bits in 12 bytes.
void six_bit_pairs(const uint8_t* s, GgufBlock& b) {
  for (int i = 0; i < 4; i++) {
    b.steps[i] = s[i] & 63;
    b.minimums[i] = s[i + 4] & 63;
    b.steps[i + 4] = (uint8_t)((s[i + 8] & 15) | (s[i] >> 6) << 4);
    b.minimums[i + 4] = (uint8_t)(s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
  }
}

void read_q4_k(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  six_bit_pairs(p + 4, b);
  for (int i = 0; i < 4; i++) two_groups(p + 16 + i * 32, b.lines[2 * i], b.lines[2 * i + 1]);
}

void read_q5_k(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  six_bit_pairs(p + 4, b);
  for (int i = 0; i < 4; i++) two_groups(p + 48 + i * 32, b.lines[2 * i], b.lines[2 * i + 1]);
  for (int group = 0; group < 8; group++) {
    uint32_t line = 0;
    for (int r = 0; r < 8; r++) line |= (load32(p + 16 + 4 * r) >> group & kBytes32) << r;
    b.lines[group][4] = line;
  }
}

void read_q6_k(const uint8_t* p, GgufBlock& b) {
  for (int half = 0; half < 2; half++) {
    uint32_t (*lines)[8] = b.lines + 4 * half;
    for (int i = 0; i < 2; i++) two_groups(p + half * 64 + i * 32, lines[i], lines[2 + i]);
    const uint8_t* high = p + 128 + half * 32;
    for (int i = 0; i < 4; i++) {
      lines[i][4] = two_bits(high, 2 * i);
      lines[i][5] = two_bits(high + 16, 2 * i);
    }
  }
  std::memcpy(b.steps, p + 192, 16);
  b.d = load16(p + 208);
}

// Scales of 6 bits biased by 32, q of 3 bits with zero 4: q6_k's formula with q + 28.
void read_q3_k(const uint8_t* p, GgufBlock& b) {
  const uint8_t *hmask = p, *qs = p + 32, *s = p + 96;
  for (int group = 0; group < 8; group++) {
    uint8_t lines[24] = {};
    for (int k = 0; k < 32; k++) {
      const int low = qs[group / 4 * 32 + k] >> (2 * (group % 4)) & 3;
      const int high = hmask[k] >> group & 1;
      const int q = (low | high << 2) + 28;
      const int row = k / 4;
      lines[k % 16] |= (uint8_t)((q & 15) << (k / 16 * 4));
      lines[16 + row / 4 * 4 + k % 4] |= (uint8_t)(q >> 4 << (2 * (row & 3)));
    }
    std::memcpy(b.lines[group], lines, sizeof lines);
  }
  for (int i = 0; i < 16; i++) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    b.steps[i] = (uint8_t)((low | high << 4) - 32);
  }
  b.d = load16(p + 108);
}

}  // namespace

const SourceFormat kSources[] = {
    {"q4_0", kP40, 32, 18, read_q4_0},   {"q5_0", kP50, 32, 22, read_q5_0},
    {"q8_0", kP80, 32, 34, read_q8_0},   {"iq4_nl", kP80, 32, 18, read_iq4_nl},
    {"q4_1", kP41, 32, 20, read_q4_1},   {"q5_1", kP51, 32, 24, read_q5_1},
    {"q4_k", kP4K, 256, 144, read_q4_k}, {"q5_k", kP5K, 256, 176, read_q5_k},
    {"q6_k", kP6K, 256, 210, read_q6_k}, {"q3_k", kP6K, 256, 110, read_q3_k},
    {"f32", kPF32, 1, 4, nullptr},       {"f16", kPF16, 1, 2, nullptr},
    {"bf16", kPBF16, 1, 2, nullptr},
};
const int kNumSources = sizeof kSources / sizeof *kSources;

const SourceFormat& source_format(const std::string& name) {
  for (const SourceFormat& source : kSources)
    if (name == source.name) return source;
  throw std::invalid_argument("weights of format '" + name + "' cannot be packed.");
}

}  // namespace headrace
