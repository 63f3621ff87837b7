// Source of the block layouts: ggml, src/ggml-common.h; of the bit orders: src/ggml-quants.c.
#include "runtime/pack.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "runtime/dispatch.h"

namespace headrace {

constexpr int kMaxBlock = 256;

// One GGUF block of one row: the stored integers, and its scales as the panel's header wants them.
struct GgufBlock {
  uint8_t q[kMaxBlock];
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

namespace {

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

uint64_t load64(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

void store64(uint8_t* p, uint64_t value) { std::memcpy(p, &value, 8); }

constexpr uint64_t kBytes = 0x0101010101010101;  // one in every byte

// Eight bytes at a time: packing is most of a start.
void nibbles(const uint8_t* packed, int run, uint8_t* q) {
  for (int i = 0; i < run; i += 8) {
    const uint64_t pairs = load64(packed + i);
    store64(q + i, pairs & kBytes * 15);
    store64(q + run + i, pairs >> 4 & kBytes * 15);
  }
}

// Bit i of a byte as 16 in byte i of a word.
uint64_t spread_fifth_bits(uint8_t bits) {
  const uint64_t own = bits * kBytes & 0x8040201008040201;
  return ((own + kBytes * 0x7f) | own) >> 3 & kBytes * 16;
}

void fifth_bits(const uint8_t* bits, uint8_t* q) {
  for (int i = 0; i < 4; i++) store64(q + 8 * i, load64(q + 8 * i) | spread_fifth_bits(bits[i]));
}

// Bits [shift, shift + 2) of 32 bytes as the fifth and sixth.
void two_bits(const uint8_t* bits, int shift, uint8_t* q) {
  for (int i = 0; i < 32; i += 8)
    store64(q + i, load64(q + i) | (load64(bits + i) >> shift & kBytes * 3) << 4);
}

void read_q4_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  nibbles(p + 2, 16, b.q);
}

void read_q4_1(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  nibbles(p + 4, 16, b.q);
}

void read_q5_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  nibbles(p + 6, 16, b.q);
  fifth_bits(p + 2, b.q);
}

void read_q5_1(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  nibbles(p + 8, 16, b.q);
  fifth_bits(p + 4, b.q);
}

void read_q8_0(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  for (int i = 0; i < 32; i++) b.q[i] = p[2 + i] ^ 0x80;
}

// The levels are int8 already, so the block is one of q8_0.
void read_iq4_nl(const uint8_t* p, GgufBlock& b) {
  static constexpr int8_t kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
  b.d = load16(p);
  nibbles(p + 2, 16, b.q);
  for (int i = 0; i < 32; i++) b.q[i] = (uint8_t)((uint8_t)kLevels[b.q[i]] ^ 0x80);
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
  for (int i = 0; i < 4; i++) nibbles(p + 16 + i * 32, 32, b.q + i * 64);
}

void read_q5_k(const uint8_t* p, GgufBlock& b) {
  b.d = load16(p);
  b.m = load16(p + 2);
  six_bit_pairs(p + 4, b);
  for (int i = 0; i < 4; i++) nibbles(p + 48 + i * 32, 32, b.q + i * 64);
  for (int group = 0; group < 8; group++)
    for (int i = 0; i < 32; i += 8) {
      uint8_t* q = b.q + group * 32 + i;
      store64(q, load64(q) | (load64(p + 16 + i) >> group & kBytes) << 4);
    }
}

void read_q6_k(const uint8_t* p, GgufBlock& b) {
  for (int half = 0; half < 2; half++) {
    nibbles(p + half * 64, 64, b.q + half * 128);
    for (int i = 0; i < 4; i++) two_bits(p + 128 + half * 32, 2 * i, b.q + half * 128 + i * 32);
  }
  std::memcpy(b.steps, p + 192, 16);
  b.d = load16(p + 208);
}

// Scales of 6 bits biased by 32, q of 3 bits with zero 4: q6_k's formula with q + 28.
void read_q3_k(const uint8_t* p, GgufBlock& b) {
  const uint8_t *hmask = p, *qs = p + 32, *s = p + 96;
  for (int i = 0; i < 256; i++) {
    const int low = qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
    const int high = hmask[i % 32] >> (i / 32) & 1;
    b.q[i] = (uint8_t)((low | high << 2) + 28);
  }
  for (int i = 0; i < 16; i++) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    b.steps[i] = (uint8_t)((low | high << 4) - 32);
  }
  b.d = load16(p + 108);
}

constexpr SourceFormat kSources[] = {
    {"q4_0", kP40, 32, 18, read_q4_0},   {"q5_0", kP50, 32, 22, read_q5_0},
    {"q8_0", kP80, 32, 34, read_q8_0},   {"iq4_nl", kP80, 32, 18, read_iq4_nl},
    {"q4_1", kP41, 32, 20, read_q4_1},   {"q5_1", kP51, 32, 24, read_q5_1},
    {"q4_k", kP4K, 256, 144, read_q4_k}, {"q5_k", kP5K, 256, 176, read_q5_k},
    {"q6_k", kP6K, 256, 210, read_q6_k}, {"q3_k", kP6K, 256, 110, read_q3_k},
    {"f32", kPF32, 1, 4, nullptr},       {"f16", kPF16, 1, 2, nullptr},
    {"bf16", kPBF16, 1, 2, nullptr},
};

const SourceFormat& source_format(const std::string& name) {
  for (const SourceFormat& source : kSources)
    if (name == source.name) return source;
  throw std::invalid_argument("weights of format '" + name + "' cannot be packed.");
}

int64_t panel_bytes(uint8_t format, int64_t depth) {
  if (format == kPF32) return depth * 64;
  if (format == kPF16) return depth * 32;
  if (format == kPBF16) return (depth + 1) / 2 * 64;
  const PanelLayout& layout = kPanelLayouts[format];
  const int64_t groups = depth / kGroupSize;
  const int64_t blocks = (groups + layout.block_groups - 1) / layout.block_groups;
  return blocks * layout.header_bytes + groups * layout.group_bytes;
}

struct GroupPlace {
  uint8_t* header;
  uint8_t* quants;
  int index;
};

GroupPlace group_place(const PanelLayout& layout, uint8_t* panel, int64_t g) {
  const int64_t block = g / layout.block_groups;
  const int index = (int)(g % layout.block_groups);
  uint8_t* header =
      panel + block * (layout.header_bytes + (int64_t)layout.block_groups * layout.group_bytes);
  return {header, header + layout.header_bytes + (int64_t)index * layout.group_bytes, index};
}

uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

// Write a group: q[c] points to the 32 integers of column c. Four weights move as one word.
template <int bits>
void put_quants(const uint8_t* const q[kPanelColumns], uint8_t* group) {
  uint32_t rows[8][kPanelColumns];
  for (int c = 0; c < kPanelColumns; c++)
    for (int r = 0; r < 8; r++) rows[r][c] = load32(q[c] + 4 * r);
  if constexpr (bits == 8) {
    std::memcpy(group, rows, sizeof rows);
  } else {
    constexpr uint32_t kNibbles = 0x0f0f0f0f, kBits = 0x01010101, kPairs = 0x03030303;
    constexpr int kLines = bits == 4 ? 4 : bits == 5 ? 5 : 6;
    uint32_t lines[kLines][kPanelColumns] = {};
    for (int r = 0; r < 4; r++)
      for (int c = 0; c < kPanelColumns; c++)
        lines[r][c] = (rows[r][c] & kNibbles) | (rows[r + 4][c] & kNibbles) << 4;
    for (int r = 0; r < 8; r++)
      for (int c = 0; c < kPanelColumns; c++) {
        const uint32_t high = rows[r][c] >> 4;
        if constexpr (bits == 5) lines[4][c] |= (high & kBits) << r;
        if constexpr (bits == 6) lines[4 + r / 4][c] |= (high & kPairs) << (2 * (r & 3));
      }
    std::memcpy(group, lines, sizeof lines);
  }
}

using PutQuants = void (*)(const uint8_t* const q[kPanelColumns], uint8_t* group);

PutQuants put_quants_of(const PanelLayout& layout) {
  switch (layout.bits) {
    case 4:
      return put_quants<4>;
    case 5:
      return put_quants<5>;
    case 6:
      return put_quants<6>;
    default:
      return put_quants<8>;
  }
}

void put_scales(uint8_t format, int column, int group_in_block, const GgufBlock& b,
                const GroupPlace& at) {
  auto put16 = [&](int offset, uint16_t value) {
    std::memcpy(at.header + offset + column * 2, &value, 2);
  };
  switch (format) {
    case kP4K:
    case kP5K:
      put16(0, b.d);
      put16(32, b.m);
      at.header[64 + at.index * 32 + column] = b.steps[group_in_block];
      at.header[64 + at.index * 32 + 16 + column] = b.minimums[group_in_block];
      break;
    case kP6K:
      put16(0, b.d);
      at.header[64 + at.index * 32 + column] = b.steps[2 * group_in_block];
      at.header[64 + at.index * 32 + 16 + column] = b.steps[2 * group_in_block + 1];
      break;
    default:
      put16(at.index * 32, b.d);
      if (kPanelLayouts[format].has_min) put16(128 + at.index * 32, b.m);
  }
}

// Rows of 16 columns, null where the panel has none.
void pack_quantized_panel(const SourceFormat* const sources[kPanelColumns],
                          const uint8_t* const rows[kPanelColumns], PackedFormat format,
                          int64_t depth, uint8_t* panel) {
  const PanelLayout& layout = kPanelLayouts[format];
  const PutQuants put = put_quants_of(layout);
  GgufBlock blocks[kPanelColumns] = {};  // an absent column has zero scales
  const uint8_t* q[kPanelColumns];
  for (int64_t g = 0; g < depth / kGroupSize; g++) {
    const GroupPlace at = group_place(layout, panel, g);
    for (int c = 0; c < kPanelColumns; c++) {
      q[c] = blocks[c].q;
      if (rows[c] == nullptr) continue;
      const int groups_per_block = sources[c]->block_size / kGroupSize;
      const int in_block = (int)(g % groups_per_block);
      if (in_block == 0)
        sources[c]->read(rows[c] + g / groups_per_block * sources[c]->block_bytes, blocks[c]);
      q[c] += in_block * kGroupSize;
      put_scales(format, c, in_block, blocks[c], at);
    }
    put(q, at.quants);
  }
}

void pack_float_column(const SourceFormat& source, const uint8_t* row, int64_t depth, int column,
                       uint8_t* panel) {
  const int size = source.block_bytes;
  for (int64_t k = 0; k < depth; k++) {
    const int64_t at = source.packed == kPBF16 ? k / 2 * 32 + column * 2 + k % 2 : k * 16 + column;
    std::memcpy(panel + at * size, row + k * size, (size_t)size);
  }
}

float float_of_f16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) {
    bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
  } else if (magnitude < 0x400) {
    const float small = (float)magnitude * 0x1p-24f;
    std::memcpy(&bits, &small, 4);
  } else {
    bits = (magnitude << 13) + (112u << 23);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace

std::vector<std::string> packable_formats() {
  std::vector<std::string> names;
  for (const SourceFormat& source : kSources) names.push_back(source.name);
  return names;
}

PackedLinear::Column PackedLinear::column(int64_t index, const std::vector<WeightPart>& parts,
                                          bool interleave) const {
  if (interleave) {
    const int64_t pair = index / (2 * kPanelColumns), in_pair = index % (2 * kPanelColumns);
    const int64_t width =
        std::min<int64_t>(kPanelColumns, parts[0].num_rows - pair * kPanelColumns);
    const int part = in_pair >= width;
    return {part, pair * kPanelColumns + in_pair - part * width};
  }
  int part = 0;
  while (index >= parts[(size_t)part].num_rows) index -= parts[(size_t)part++].num_rows;
  return {part, index};
}

PackedLinear::PackedLinear(CpuOps& ops, const std::vector<WeightPart>& parts, int64_t depth,
                           const float* bias, bool interleave)
    : num_columns_(0), depth_(depth) {
  std::vector<const SourceFormat*> sources;
  for (const WeightPart& part : parts) {
    const SourceFormat& source = source_format(part.format);
    if (depth % source.block_size ||
        part.row_bytes != depth / source.block_size * source.block_bytes)
      throw std::invalid_argument("a row of " + std::to_string(depth) + " weights of format '" +
                                  part.format + "' cannot have " + std::to_string(part.row_bytes) +
                                  " bytes.");
    const bool has_float =
        source.read == nullptr || (!sources.empty() && sources[0]->read == nullptr);
    if (has_float && !sources.empty() && sources[0] != &source)
      throw std::invalid_argument(
          "quantized and float parts, or two float formats, in one matrix.");
    sources.push_back(&source);
    num_columns_ += part.num_rows;
  }
  if (interleave && (parts.size() != 2 || parts[0].num_rows != parts[1].num_rows))
    throw std::invalid_argument("interleaving takes two parts of equal size.");

  const int64_t num_panels = (num_columns_ + kPanelColumns - 1) / kPanelColumns;
  offsets_.assign(1, 0);
  for (int64_t p = 0; p < num_panels; p++) {
    const int64_t end = std::min(num_columns_, (p + 1) * kPanelColumns);
    const PackedFormat format = sources[(size_t)column(p * 16, parts, interleave).part]->packed;
    for (int64_t c = p * kPanelColumns; c < end; c++)
      if (sources[(size_t)column(c, parts, interleave).part]->packed != format)
        throw std::invalid_argument("a panel of 16 columns would mix two formats.");
    formats_.push_back(format);
    offsets_.push_back(offsets_.back() + panel_bytes(format, depth));
  }
  bias_.assign(bias ? (size_t)num_panels * kPanelColumns : 0, 0.0f);
  if (bias)
    for (int64_t c = 0; c < num_columns_; c++) {
      const Column at = column(c, parts, interleave);
      int64_t first = 0;
      for (int part = 0; part < at.part; part++) first += parts[(size_t)part].num_rows;
      bias_[(size_t)c] = bias[first + at.row];
    }

  memory_ = ops.weights().allocate((size_t)offsets_.back());
  ops.parallel_for(num_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) pack_panel(p, parts, sources, interleave);
  });
}

void PackedLinear::pack_panel(int64_t p, const std::vector<WeightPart>& parts,
                              const std::vector<const SourceFormat*>& sources, bool interleave) {
  const SourceFormat* formats[kPanelColumns] = {};
  const uint8_t* rows[kPanelColumns] = {};
  const int width = (int)std::min<int64_t>(kPanelColumns, num_columns_ - p * kPanelColumns);
  for (int c = 0; c < width; c++) {
    const Column from = column(p * kPanelColumns + c, parts, interleave);
    const WeightPart& part = parts[(size_t)from.part];
    formats[c] = sources[(size_t)from.part];
    rows[c] = part.data + from.row * part.row_bytes;
  }
  uint8_t* panel = memory_.get() + offsets_[(size_t)p];
  std::memset(panel, 0, (size_t)(offsets_[(size_t)p + 1] - offsets_[(size_t)p]));
  if (formats[0]->read)
    return pack_quantized_panel(formats, rows, formats[0]->packed, depth_, panel);
  for (int c = 0; c < width; c++) pack_float_column(*formats[c], rows[c], depth_, c, panel);
}

PackedPanels PackedLinear::panels() const {
  return {num_columns_,
          depth_,
          num_panels(),
          memory_.get(),
          offsets_.data(),
          formats_.data(),
          bias_.empty() ? nullptr : bias_.data()};
}

Span PackedLinear::span(int64_t begin, int64_t end) const {
  const int64_t* offsets = offsets_.data();
  return {memory_.get() + offsets[begin], (size_t)(offsets[end] - offsets[begin])};
}

std::vector<int64_t> PackedLinear::split(int64_t max_chunks, int64_t min_bytes,
                                         int64_t unit) const {
  const int64_t total = offsets_.back();
  const int64_t num_chunks = std::max<int64_t>(
      1, std::min({max_chunks, total / std::max<int64_t>(1, min_bytes), num_panels()}));
  std::vector<int64_t> bounds = {0};
  for (int64_t i = 1; i <= num_chunks; i++) {
    const auto at = std::lower_bound(offsets_.begin(), offsets_.end(), total / num_chunks * i);
    const int64_t panel = i == num_chunks ? num_panels() : (at - offsets_.begin()) / unit * unit;
    if (panel > bounds.back()) bounds.push_back(panel);
  }
  return bounds;
}

UnpackedWeight PackedLinear::unpack() const {
  if (!is_quantized()) throw std::invalid_argument("float weights have no integers.");
  UnpackedWeight out;
  out.q.resize((size_t)(num_columns_ * depth_));
  out.zero.resize((size_t)num_columns_);
  out.scale.resize((size_t)(num_columns_ * depth_ / 16));
  out.minimum.resize((size_t)(num_columns_ * depth_ / 32));
  for (int64_t c = 0; c < num_columns_; c++) {
    const uint8_t format = formats_[(size_t)(c / kPanelColumns)];
    const PanelLayout& layout = kPanelLayouts[format];
    const int column = (int)(c % kPanelColumns);
    out.zero[(size_t)c] = layout.zero;
    for (int64_t g = 0; g < depth_ / kGroupSize; g++) {
      const GroupPlace at =
          group_place(layout, memory_.get() + offsets_[(size_t)(c / kPanelColumns)], g);
      for (int k = 0; k < kGroupSize; k++) {
        const int row = k / 4, i = column * 4 + k % 4;
        int q = layout.bits == 8 ? at.quants[row * 64 + i]
                                 : at.quants[(row & 3) * 64 + i] >> (row < 4 ? 0 : 4) & 15;
        if (layout.bits == 5) q |= (at.quants[256 + i] >> row & 1) << 4;
        if (layout.bits == 6) q |= (at.quants[256 + row / 4 * 64 + i] >> (2 * (row & 3)) & 3) << 4;
        out.q[(size_t)(c * depth_ + g * kGroupSize + k)] = (uint8_t)q;
      }
      auto half = [&](int offset) {
        uint16_t value;
        std::memcpy(&value, at.header + offset + column * 2, 2);
        return float_of_f16(value);
      };
      const uint8_t* steps = at.header + 64 + at.index * 32 + column;
      float scale[2], minimum = 0.0f;
      if (format == kP4K || format == kP5K) {
        scale[0] = scale[1] = half(0) * (float)steps[0];
        minimum = half(32) * (float)steps[16];
      } else if (format == kP6K) {
        scale[0] = half(0) * (float)(int8_t)steps[0];
        scale[1] = half(0) * (float)(int8_t)steps[16];
      } else {
        scale[0] = scale[1] = half(at.index * 32);
        if (layout.has_min) minimum = -half(128 + at.index * 32);
      }
      out.scale[(size_t)(c * depth_ / 16 + 2 * g)] = scale[0];
      out.scale[(size_t)(c * depth_ / 16 + 2 * g + 1)] = scale[1];
      out.minimum[(size_t)(c * depth_ / 32 + g)] = minimum;
    }
  }
  return out;
}

std::vector<float> PackedLinear::unpack_floats() const {
  if (is_quantized()) throw std::invalid_argument("quantized weights: use unpack().");
  std::vector<float> out((size_t)(num_columns_ * depth_));
  for (int64_t c = 0; c < num_columns_; c++) {
    const uint8_t* panel = memory_.get() + offsets_[(size_t)(c / kPanelColumns)];
    const int column = (int)(c % kPanelColumns);
    for (int64_t k = 0; k < depth_; k++) {
      float& value = out[(size_t)(c * depth_ + k)];
      uint16_t half;
      switch (formats_[0]) {
        case kPF32:
          std::memcpy(&value, panel + (k * 16 + column) * 4, 4);
          break;
        case kPF16:
          std::memcpy(&half, panel + (k * 16 + column) * 2, 2);
          value = float_of_f16(half);
          break;
        default:
          std::memcpy(&half, panel + (k / 2 * 32 + column * 2 + k % 2) * 2, 2);
          const uint32_t bits = (uint32_t)half << 16;
          std::memcpy(&value, &bits, 4);
      }
    }
  }
  return out;
}

}  // namespace headrace
