#include "runtime/step_plan.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <tuple>

namespace headrace {

// What a run holds.
struct StepPlan::Running {
  const StepPlan& plan;
  const StepArrays& step;
  std::vector<std::shared_ptr<Buffer>> floats;
  std::vector<std::unique_ptr<QuantizedActivation>> quantized;  // where a result is int8 groups
  std::map<std::tuple<int32_t, int32_t, int32_t>, AttentionPlan> attention_plans;

  int64_t num_rows(Value value) const {
    return plan.shapes_[(size_t)value].is_wanted ? step.num_wanted : step.num_tokens;
  }
  float* data(Value value) const {
    const auto& buffer = floats[(size_t)value];
    if (!buffer) throw std::logic_error("an op reads floats where a plan has int8 groups.");
    return reinterpret_cast<float*>(buffer->data());
  }
  float* take(Value value) {
    const auto elements = (size_t)std::max<int64_t>(num_rows(value) * plan.width(value), 1);
    floats[(size_t)value] = std::make_shared<Buffer>(plan.ops_.buffers(), elements * sizeof(float));
    return data(value);
  }
  void drop(Value value) {
    floats[(size_t)value].reset();
    quantized[(size_t)value].reset();
  }
  // Whether the weight gives other sums than the base's in this step.
  bool is_adapted(const PackedLinear& weight) const {
    for (const AdapterRows& each : step.adapters)
      if (each.adapter->find(weight)) return true;
    return false;
  }
  // What the adapters of the step add to y = x weight^T, rows of `x`. Mutates: y.
  void adapt(Value x, const PackedLinear& weight, float* y) {
    const bool is_wanted = plan.shapes_[(size_t)x].is_wanted;
    for (const AdapterRows& each : step.adapters)
      if (const Adapter::Pair* pair = each.adapter->find(weight))
        add_lora(plan.ops_, data(x), *pair->a, *pair->b,
                 is_wanted ? each.wanted_rows : each.token_rows,
                 is_wanted ? each.num_wanted_rows : each.num_token_rows, num_rows(x), y);
  }
  // Layers of one shape share a plan.
  const AttentionPlan& attention_plan(const AttentionArgs& args) {
    const auto key = std::make_tuple(args.num_heads, args.layer.num_kv_heads, args.window);
    auto found = attention_plans.find(key);
    if (found == attention_plans.end())
      found =
          attention_plans.emplace(key, plan_attention(plan.ops_, args, step.num_requests)).first;
    return found->second;
  }
};

StepPlan::Value StepPlan::define(int64_t width, bool is_wanted) {
  shapes_.push_back({width, is_wanted});
  return (Value)shapes_.size() - 1;
}

void StepPlan::record(std::vector<Value> reads, Call call) {
  reads_.push_back(std::move(reads));
  calls_.push_back(std::move(call));
}

StepPlan::Value StepPlan::embed(const EmbedArgs& args, int64_t vocab_size) {
  limits_.vocab_size = std::min(limits_.vocab_size, vocab_size);
  const Value out = define(args.width, false);
  record({out}, [this, args, out](Running& r) {
    EmbedArgs now = args;
    now.token_ids = r.step.token_ids;
    now.out = r.take(out);
    headrace::embed(ops_, now, r.num_rows(out));
  });
  return out;
}

StepPlan::Value StepPlan::rms_norm(Value h, const RmsNormArgs& args, Value add) {
  const Value out = define(args.width, shapes_.at((size_t)h).is_wanted);
  std::vector<Value> reads = {h, out};
  if (add >= 0) reads.push_back(add);
  record(std::move(reads), [this, h, args, add, out](Running& r) {
    RmsNormArgs now = args;
    now.h = r.data(h);
    now.add = add >= 0 ? r.data(add) : nullptr;
    now.out = r.take(out);
    headrace::rms_norm(ops_, now, r.num_rows(out));
  });
  return out;
}

StepPlan::Value StepPlan::linear(Value x, const PackedLinear& weight) {
  const Value out = define(weight.num_columns(), shapes_.at((size_t)x).is_wanted);
  record({x, out}, [this, x, &weight, out](Running& r) {
    float* y = r.take(out);
    if (r.quantized[(size_t)x])
      headrace::linear(ops_, *r.quantized[(size_t)x], weight, y);
    else
      headrace::linear(ops_, r.data(x), r.num_rows(x), weight, kNoGate, y);
    r.adapt(x, weight, y);
  });
  return out;
}

StepPlan::Value StepPlan::gated_linear(Value x, const PackedLinear& weight, Gate gate,
                                       bool is_read_quantized) {
  const Value out = define(weight.num_columns() / 2, shapes_.at((size_t)x).is_wanted);
  record({x, out}, [this, x, &weight, gate, is_read_quantized, out](Running& r) {
    const int64_t rows = r.num_rows(x);
    if (r.is_adapted(weight)) {
      const Buffer sums(ops_.buffers(), (size_t)(rows * weight.num_columns()) * sizeof(float));
      auto* y = reinterpret_cast<float*>(sums.data());
      headrace::linear(ops_, r.data(x), rows, weight, kNoGate, y);
      r.adapt(x, weight, y);
      headrace::gate(ops_, {y, width(out), gate, r.take(out)}, rows);
    } else if (is_read_quantized && r.step.adapters.empty() &&
               can_quantize_gated(ops_, rows, weight)) {
      r.quantized[(size_t)out] = std::make_unique<QuantizedActivation>(ops_, rows, width(out));
      headrace::gated_linear(ops_, r.data(x), weight, gate, *r.quantized[(size_t)out]);
    } else {
      headrace::linear(ops_, r.data(x), rows, weight, gate, r.take(out));
    }
  });
  return out;
}

void StepPlan::rope(Value qkv, const RopeArgs& args, int64_t num_positions) {
  limits_.num_positions = std::min(limits_.num_positions, num_positions);
  record({qkv}, [this, qkv, args](Running& r) {
    RopeArgs now = args;
    now.qkv = r.data(qkv);
    now.positions = r.step.positions;
    headrace::rope(ops_, now, r.num_rows(qkv));
  });
}

void StepPlan::store_kv(Value qkv, const KVLayer& layer, int32_t num_heads,
                        const float* key_shift) {
  limits_.num_slots = std::min(limits_.num_slots, layer.num_blocks * layer.block_size);
  record({qkv}, [this, qkv, layer, num_heads, key_shift](Running& r) {
    headrace::store_kv(ops_, {r.data(qkv), r.step.slot_mapping, num_heads, layer, key_shift},
                       r.num_rows(qkv));
  });
}

StepPlan::Value StepPlan::attention(Value qkv, const KVLayer& layer, int32_t num_heads, float scale,
                                    int32_t window, float soft_cap) {
  limits_.num_blocks = std::min(limits_.num_blocks, layer.num_blocks);
  limits_.block_size = layer.block_size;
  const Value out = define((int64_t)num_heads * layer.head_size, false);
  record({qkv, out}, [this, qkv, layer, num_heads, scale, window, soft_cap, out](Running& r) {
    const StepArrays& s = r.step;
    const AttentionArgs args{r.data(qkv), layer,         nullptr,       s.positions, s.query_start,
                             s.seq_lens,  s.block_table, s.table_width, num_heads,   scale,
                             window,      soft_cap,      nullptr,       r.take(out)};
    headrace::attention(ops_, args, r.attention_plan(args));
  });
  return out;
}

StepPlan::Value StepPlan::take_wanted(Value x) {
  const Value out = define(width(x), true);
  record({x, out}, [x, out](Running& r) {
    if (r.step.num_wanted == r.step.num_tokens) {  // all rows, in order
      r.floats[(size_t)out] = r.floats[(size_t)x];
      return;
    }
    const auto width = (size_t)r.plan.width(x);
    float* to = r.take(out);
    for (int64_t row = 0; row < r.step.num_wanted; row++)
      memcpy(to + (size_t)row * width, r.data(x) + (size_t)r.step.logit_rows[row] * width,
             width * sizeof(float));
  });
  return out;
}

void StepPlan::finish(std::vector<Value> outputs) {
  outputs_ = std::move(outputs);
  dead_.assign(calls_.size(), {});
  std::vector<size_t> last(shapes_.size(), 0);
  for (size_t call = 0; call < reads_.size(); call++)
    for (const Value value : reads_[call]) last[(size_t)value] = call;
  for (Value value = 0; value < (Value)shapes_.size(); value++)
    if (std::find(outputs_.begin(), outputs_.end(), value) == outputs_.end())
      dead_[last[(size_t)value]].push_back(value);
}

std::vector<StepPlan::Result> StepPlan::run(const StepArrays& step) const {
  Running running{*this, step, {}, {}, {}};
  running.floats.resize(shapes_.size());
  running.quantized.resize(shapes_.size());
  for (size_t call = 0; call < calls_.size(); call++) {
    calls_[call](running);
    for (const Value value : dead_[call]) running.drop(value);
  }
  std::vector<Result> results;
  for (const Value value : outputs_)
    results.push_back({running.floats[(size_t)value], running.num_rows(value), width(value)});
  return results;
}

}  // namespace headrace
