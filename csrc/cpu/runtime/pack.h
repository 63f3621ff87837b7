// Packing GGUF blocks into panels (api/packed_format.h), and taking them out again for tests.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/matmul.h"
#include "runtime/memory.h"

namespace headrace {

class CpuOps;
struct SourceFormat;

// Rows of one weight as its file stores them. `format` is a name of quant/format.py. Pages of a
// mapped file are given back once they are packed: they count as this process's memory.
struct WeightPart {
  std::string format;
  const uint8_t* data;
  int64_t num_rows;
  int64_t row_bytes;
  bool is_mapped = false;
};

// What unpacking gives: q as stored, and the exact scales. Minima are 0 without one.
struct UnpackedWeight {
  std::vector<uint8_t> q;      // [N, K]
  std::vector<int32_t> zero;   // [N]
  std::vector<float> scale;    // [N, K / 16]
  std::vector<float> minimum;  // [N, K / 32]
};

// A matrix [N, K] of fused parts in panels of 16 columns.
class PackedLinear {
 public:
  // Columns are the rows of the parts in order; `interleave` alternates 16 rows of two equal parts.
  // Parts are all quantized, or all of one float format (f32, f16, bf16).
  // Packing goes on in the queue of the ops, which reads the parts until `is_packed`.
  // Throws std::invalid_argument for what cannot be packed so; `can_pack` tells beforehand.
  PackedLinear(CpuOps& ops, const std::vector<WeightPart>& parts, int64_t depth, const float* bias,
               bool interleave);
  ~PackedLinear() { finish(); }
  PackedLinear(const PackedLinear&) = delete;
  PackedLinear& operator=(const PackedLinear&) = delete;

  bool is_packed() const { return *is_packed_; }
  // Waits until it is packed. Kernels need not ask: they run when the queue is empty.
  void finish() const { is_packed_->wait(false); }
  int64_t num_columns() const { return num_columns_; }
  int64_t depth() const { return depth_; }
  int64_t num_panels() const { return (int64_t)formats_.size(); }
  bool is_quantized() const { return formats_.empty() || formats_[0] < kNumPackedFormats; }
  // Whether all of it is bf16 in whole groups of 32 k.
  bool is_bf16() const {
    return !formats_.empty() && formats_[0] == kPBF16 && depth_ % kGroupSize == 0;
  }
  size_t num_bytes() const { return (size_t)offsets_.back(); }
  const std::vector<uint8_t>& formats() const { return formats_; }
  PackedPanels panels() const;
  // Panels [begin, end) in memory.
  Span span(int64_t begin, int64_t end) const;
  // What the linear after this one reads first (CpuOps::announce).
  const std::shared_ptr<std::vector<Span>>& upcoming() const { return upcoming_; }
  // Panel bounds, multiples of `unit`, of about equal bytes, at least `min_bytes` each.
  std::vector<int64_t> split(int64_t max_chunks, int64_t min_bytes, int64_t unit) const;

  // Of a weight that is packed.
  UnpackedWeight unpack() const;             // quantized formats
  std::vector<float> unpack_floats() const;  // float formats: [N, K]

 private:
  struct Column {
    int part;
    int64_t row;
  };
  Column column(int64_t index, const std::vector<WeightPart>& parts, bool interleave) const;
  void pack_panel(int64_t p, const std::vector<WeightPart>& parts,
                  const std::vector<const SourceFormat*>& sources, bool interleave);

  int64_t num_columns_;
  int64_t depth_;
  std::vector<int64_t> offsets_;
  std::vector<uint8_t> formats_;
  std::vector<float> bias_;
  std::shared_ptr<uint8_t[]> memory_;
  std::shared_ptr<std::atomic<bool>> is_packed_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<std::vector<Span>> upcoming_ = std::make_shared<std::vector<Span>>();
};

// Formats that are packed as they are; the others must be dequantized to f32 first.
std::vector<std::string> packable_formats();

}  // namespace headrace
