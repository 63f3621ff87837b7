// A step's ops, written down once and then run by one call, whatever the batch.
//
// Recording gives every result a number. A plan holds constants (weights, tables, sizes) and which
// result an op reads; rows and arrays come with the step. Memory of a result is taken when it is
// computed and given back after the last op that reads it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "runtime/adapters.h"
#include "runtime/forward.h"
#include "runtime/linear.h"

namespace headrace {

// The arrays of a step (ops/step_inputs.py): T tokens of R requests, S rows wanted.
struct StepArrays {
  int64_t num_tokens;    // T
  int64_t num_requests;  // R
  int64_t num_wanted;    // S
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* slot_mapping;
  const int32_t* query_start;
  const int32_t* seq_lens;
  const int32_t* block_table;
  int64_t table_width;
  const int32_t* logit_rows;
  std::vector<AdapterRows> adapters;  // none: the base alone
};

// What a step's values must stay below, over all ops of a plan.
struct StepLimits {
  int64_t vocab_size = INT64_MAX;
  int64_t num_positions = INT64_MAX;
  int64_t num_slots = INT64_MAX;
  int64_t num_blocks = INT64_MAX;
  int64_t block_size = 1;
};

class StepPlan {
 public:
  using Value = int;

  // One of the plan's results after a run.
  struct Result {
    std::shared_ptr<Buffer> buffer;
    int64_t num_rows;
    int64_t width;

    float* data() const { return reinterpret_cast<float*>(buffer->data()); }
  };

  explicit StepPlan(CpuOps& ops) : ops_(ops) {}

  // Recording. Row pointers and counts in the arguments are filled in by a run.
  Value embed(const EmbedArgs& args, int64_t vocab_size);
  Value rms_norm(Value h, const RmsNormArgs& args, Value add);  // add -1: none
  Value linear(Value x, const PackedLinear& weight);
  // For a reader that is quantized the result may be int8 groups.
  Value gated_linear(Value x, const PackedLinear& weight, Gate gate, bool is_read_quantized);
  void rope(Value qkv, const RopeArgs& args, int64_t num_positions);
  void store_kv(Value qkv, const KVLayer& layer, int32_t num_heads, const float* key_shift);
  Value attention(Value qkv, const KVLayer& layer, int32_t num_heads, float scale, int32_t window,
                  float soft_cap);
  Value take_wanted(Value x);  // the rows of logit_rows
  void finish(std::vector<Value> outputs);

  int64_t width(Value value) const { return shapes_.at((size_t)value).width; }
  bool is_wanted(Value value) const { return shapes_.at((size_t)value).is_wanted; }
  const StepLimits& limits() const { return limits_; }
  CpuOps& ops() const { return ops_; }
  // Checked arrays; the caller holds the ops.
  std::vector<Result> run(const StepArrays& step) const;

 private:
  struct Shape {
    int64_t width;
    bool is_wanted;  // has S rows, not T
  };
  struct Running;
  using Call = std::function<void(Running&)>;

  Value define(int64_t width, bool is_wanted);
  void record(std::vector<Value> reads, Call call);

  CpuOps& ops_;
  std::vector<Shape> shapes_;
  std::vector<Call> calls_;
  std::vector<std::vector<Value>> reads_;  // of each call, with what it defines
  std::vector<std::vector<Value>> dead_;   // after each call
  std::vector<Value> outputs_;
  StepLimits limits_;
};

}  // namespace headrace
