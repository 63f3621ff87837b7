#include "runtime/pack.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "runtime/dispatch.h"
#include "runtime/gguf_blocks.h"

namespace headrace {
namespace {

// 16 rows at once are more streams than hardware follows. Measured: 10 to 20 % over none.
constexpr int64_t kAhead = 2048;

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

// Four lines of a group of 16 blocks, from line `first` on.
void put_four_lines(const GgufBlock* blocks, int index, int first, uint8_t* group) {
  typedef uint32_t Words __attribute__((vector_size(16)));
  for (int c = 0; c < kPanelColumns; c += 4) {
    Words in[4];
    for (int i = 0; i < 4; i++) std::memcpy(&in[i], blocks[c + i].lines[index] + first, 16);
    const Words low[] = {__builtin_shufflevector(in[0], in[1], 0, 4, 1, 5),
                         __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5)};
    const Words high[] = {__builtin_shufflevector(in[0], in[1], 2, 6, 3, 7),
                          __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7)};
    const Words out[] = {__builtin_shufflevector(low[0], low[1], 0, 1, 4, 5),
                         __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7),
                         __builtin_shufflevector(high[0], high[1], 0, 1, 4, 5),
                         __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) std::memcpy(group + (first + i) * 64 + c * 4, &out[i], 16);
  }
}

template <int bits>
void put_group(const GgufBlock* blocks, int index, uint8_t* group) {
  put_four_lines(blocks, index, 0, group);
  if (bits == 8) return put_four_lines(blocks, index, 4, group);
  for (int line = 4; line < bits; line++)
    for (int c = 0; c < kPanelColumns; c++)
      std::memcpy(group + line * 64 + c * 4, &blocks[c].lines[index][line], 4);
}

using PutGroup = void (*)(const GgufBlock* blocks, int index, uint8_t* group);

PutGroup put_group_of(const PanelLayout& layout) {
  switch (layout.bits) {
    case 4:
      return put_group<4>;
    case 5:
      return put_group<5>;
    case 6:
      return put_group<6>;
    default:
      return put_group<8>;
  }
}

void put16(uint8_t* header, int index, int column, uint16_t value) {
  std::memcpy(header + index * 32 + column * 2, &value, 2);
}

// Scales of a block of 32, group `index` of the panel's block.
void put_scale(const PanelLayout& layout, int column, int index, const GgufBlock& b,
               uint8_t* header) {
  put16(header, index, column, b.d);
  if (layout.has_min) put16(header, layout.block_groups + index, column, b.m);
}

// Scales of a block of 256, which is the panel's block.
void put_steps(PackedFormat format, int column, const GgufBlock& b, uint8_t* header) {
  put16(header, 0, column, b.d);
  if (format == kP6K) {
    for (int i = 0; i < 16; i++) header[64 + i * 16 + column] = b.steps[i];
    return;
  }
  put16(header, 1, column, b.m);
  for (int i = 0; i < 8; i++) {
    header[64 + i * 32 + column] = b.steps[i];
    header[80 + i * 32 + column] = b.minimums[i];
  }
}

// Rows of 16 columns, null where the panel has none. Sources of one packed format have blocks of
// one size: 256 weights, which are a block of the panel, or 32, a group of it.
void pack_quantized_panel(const SourceFormat* const sources[kPanelColumns],
                          const uint8_t* const rows[kPanelColumns], PackedFormat format,
                          int64_t depth, uint8_t* panel) {
  const PanelLayout& layout = kPanelLayouts[format];
  const PutGroup put = put_group_of(layout);
  const bool is_wide = sources[0]->block_size > kGroupSize;
  GgufBlock blocks[kPanelColumns] = {};  // an absent column has zero scales
  const uint8_t* next[kPanelColumns];
  std::copy_n(rows, kPanelColumns, next);
  auto read_blocks = [&] {
    for (int c = 0; c < kPanelColumns; c++) {
      if (next[c] == nullptr) continue;
      __builtin_prefetch(next[c] + kAhead);
      sources[c]->read(next[c], blocks[c]);
      next[c] += sources[c]->block_bytes;
    }
  };
  for (int64_t left = depth / kGroupSize; left > 0; left -= layout.block_groups) {
    const int num_groups = (int)std::min<int64_t>(left, layout.block_groups);
    uint8_t* header = panel;
    std::memset(header, 0, (size_t)layout.header_bytes);
    panel += layout.header_bytes;
    if (is_wide) {
      read_blocks();
      for (int c = 0; c < kPanelColumns; c++) put_steps(format, c, blocks[c], header);
    }
    for (int i = 0; i < num_groups; i++, panel += layout.group_bytes) {
      if (!is_wide) {
        read_blocks();
        for (int c = 0; c < kPanelColumns; c++) put_scale(layout, c, i, blocks[c], header);
      }
      put(blocks, is_wide ? i : 0, panel);
    }
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
  for (int i = 0; i < kNumSources; i++) names.push_back(kSources[i].name);
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
  if (depth < 1) throw std::invalid_argument("a matrix must have rows of at least one weight.");
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
  size_t num_bytes = 0;
  for (const WeightPart& part : parts) num_bytes += (size_t)(part.num_rows * part.row_bytes);
  ops.packing().add(num_bytes, [this, &ops, parts, sources, interleave, is_packed = is_packed_] {
    std::scoped_lock lock(ops.mutex());
    ops.parallel_for(this->num_panels(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) pack_panel(p, parts, sources, interleave);
    });
    for (const WeightPart& part : parts)
      if (part.is_mapped) release_mapped(part.data, (size_t)(part.num_rows * part.row_bytes));
    *is_packed = true;  // from here on this weight may be gone
    is_packed->notify_all();
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
  if (formats[0]->read)
    return pack_quantized_panel(formats, rows, formats[0]->packed, depth_, panel);
  std::memset(panel, 0, (size_t)(offsets_[(size_t)p + 1] - offsets_[(size_t)p]));
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
