// Bindings of recorded steps.
#include "runtime/step_plan.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "runtime/kv_storage.h"

namespace headrace {

void check_sequences(const Sequences& s, int64_t num_blocks, int32_t block_size,
                     int64_t num_requests, int64_t num_rows) {
  require(s.query_start[0] == 0 && s.query_start[num_requests] == num_rows,
          "query_start must go from 0 to T");
  for (int64_t r = 0; r < num_requests; r++) {
    const int32_t begin = s.query_start[r], end = s.query_start[r + 1];
    require(begin <= end && end <= num_rows, "query_start must ascend");
    const int64_t used = ((int64_t)s.seq_lens[r] + block_size - 1) / block_size;
    bool is_held = s.seq_lens[r] >= 0 && used <= s.table_width;
    for (int64_t b = 0; is_held && b < used; b++) {
      const int32_t block = s.block_table[r * s.table_width + b];
      is_held = block >= 0 && block < num_blocks;
    }
    if (!is_held)
      throw std::out_of_range("the block table does not hold a request's " +
                              std::to_string(s.seq_lens[r]) + " tokens.");
    require_range(s.positions + begin, end - begin, 0, s.seq_lens[r], "position");
  }
}

void check_table(const CpuOps& ops, const In<uint8_t, 2>& table, int32_t ggml_type, int64_t width) {
  const int64_t row_bytes = ops.table().embed.row_bytes(ggml_type, width);
  require(row_bytes >= 0, "the table's format is not one that embed reads in rows of this width");
  require((int64_t)table.shape(1) == row_bytes, "the table's rows must have the width of out");
}

void check_rope(int64_t width, const In<float, 2>& cosines, const In<float, 2>& sines,
                int32_t num_heads, int32_t num_kv_heads, int32_t head_size,
                const std::optional<In<float, 1>>& q_norm,
                const std::optional<In<float, 1>>& k_norm) {
  require(num_heads > 0 && num_kv_heads > 0 && head_size > 0, "H, K and D must be positive");
  require(width == ((int64_t)num_heads + 2 * (int64_t)num_kv_heads) * head_size,
          "qkv must be [T, (H+2K)*D]");
  require(cosines.shape(0) == sines.shape(0) && cosines.shape(1) == sines.shape(1),
          "cos and sin must have one shape");
  require(2 * (int64_t)cosines.shape(1) <= head_size, "rotary_size must not exceed the head size");
  require(!q_norm || (int64_t)q_norm->shape(0) == head_size, "q_norm must be [D]");
  require(!k_norm || (int64_t)k_norm->shape(0) == head_size, "k_norm must be [D]");
}

void check_heads(int64_t width, const KVStorage& cache, int32_t num_heads) {
  const KVLayer& layer = cache.layer();
  require(num_heads > 0 && num_heads % layer.num_kv_heads == 0,
          "num_heads must be a multiple of num_kv_heads");
  require(width == ((int64_t)num_heads + 2 * (int64_t)layer.num_kv_heads) * layer.head_size,
          "qkv must be [T, (H+2K)*D] of the cache's heads");
}

void check_adapter_rows(const int32_t* rows, int64_t num_rows, int64_t num_all) {
  for (int64_t i = 0; i < num_rows; i++)
    require_range(rows + i, 1, i ? rows[i - 1] + 1 : 0, num_all, "ascending adapter row");
}

void check_key_shift(const KVStorage& cache, const std::optional<In<float, 1>>& key_shift) {
  const KVLayer& layer = cache.layer();
  require(
      !key_shift || (int64_t)key_shift->shape(0) == (int64_t)layer.num_kv_heads * layer.head_size,
      "key_shift must be [K*D]");
}

namespace {

using AdapterOfRows = std::tuple<const Adapter*, In<int32_t, 1>, In<int32_t, 1>>;

// The rows of a step by adapter, checked.
std::vector<AdapterRows> to_rows(const std::vector<AdapterOfRows>& adapters, int64_t num_tokens,
                                 int64_t num_wanted) {
  std::vector<AdapterRows> found;
  for (const auto& [adapter, token_rows, wanted_rows] : adapters) {
    require(adapter != nullptr, "an adapter may not be None");
    found.push_back({adapter, token_rows.data(), (int64_t)token_rows.shape(0), wanted_rows.data(),
                     (int64_t)wanted_rows.shape(0)});
    check_adapter_rows(found.back().token_rows, found.back().num_token_rows, num_tokens);
    check_adapter_rows(found.back().wanted_rows, found.back().num_wanted_rows, num_wanted);
  }
  return found;
}

// A plan, and the arrays whose memory its ops read. Weights and caches are kept alive by Python.
class RecordedPlan {
  template <class Array>
  auto keep(const Array& array) {
    kept_.push_back(std::make_shared<Array>(array));
    return array.data();
  }

 public:
  explicit RecordedPlan(CpuOps& ops) : plan_(ops) {}

  int embed(In<uint8_t, 2> table, int32_t ggml_type, int64_t width, float scale) {
    require(width > 0, "width must be positive");
    check_table(plan_.ops(), table, ggml_type, width);
    const auto* data = keep(table);
    return plan_.embed({nullptr, data, (int64_t)table.shape(1), ggml_type, width, scale, nullptr},
                       (int64_t)table.shape(0));
  }

  int rms_norm(int h, In<float, 1> weight, float eps, std::optional<int> add) {
    require((int64_t)weight.shape(0) == plan_.width(h), "weight must be [C]");
    require(!add || (plan_.width(*add) == plan_.width(h) &&
                     plan_.is_wanted(*add) == plan_.is_wanted(h)),
            "add must be [T, C]");
    return plan_.rms_norm(h, {nullptr, nullptr, keep(weight), eps, plan_.width(h), nullptr},
                          add.value_or(-1));
  }

  int linear(int x, const PackedLinear& weight) {
    require(plan_.width(x) == weight.depth(), "x must be [T, in]");
    return plan_.linear(x, weight);
  }

  int gated_linear(int x, const PackedLinear& weight, Gate gate, bool is_read_quantized) {
    require(plan_.width(x) == weight.depth(), "x must be [T, in]");
    require(weight.num_columns() % (2 * kPanelColumns) == 0,
            "gate and up must have a multiple of 16 columns each");
    return plan_.gated_linear(x, weight, gate, is_read_quantized);
  }

  void rope(int qkv, In<float, 2> cosines, In<float, 2> sines, int32_t num_heads,
            int32_t num_kv_heads, int32_t head_size, std::optional<In<float, 1>> q_norm,
            std::optional<In<float, 1>> k_norm, float eps) {
    check_rope(plan_.width(qkv), cosines, sines, num_heads, num_kv_heads, head_size, q_norm,
               k_norm);
    plan_.rope(qkv,
               {nullptr, nullptr, keep(cosines), keep(sines), num_heads, num_kv_heads, head_size,
                2 * (int32_t)cosines.shape(1), q_norm ? keep(*q_norm) : nullptr,
                k_norm ? keep(*k_norm) : nullptr, eps},
               (int64_t)cosines.shape(0));
  }

  void store_kv(int qkv, const KVStorage& cache, int32_t num_heads,
                std::optional<In<float, 1>> key_shift) {
    check_heads(plan_.width(qkv), cache, num_heads);
    check_key_shift(cache, key_shift);
    plan_.store_kv(qkv, cache.layer(), num_heads, key_shift ? keep(*key_shift) : nullptr);
  }

  int attention(int qkv, const KVStorage& cache, int32_t num_heads, float scale, int32_t window,
                float soft_cap) {
    check_heads(plan_.width(qkv), cache, num_heads);
    require(!plan_.is_wanted(qkv), "qkv must have a row for every token");
    return plan_.attention(qkv, cache.layer(), num_heads, scale, window, soft_cap);
  }

  int take_wanted(int x) { return plan_.take_wanted(x); }
  void finish(std::vector<int> outputs) {
    for (const int value : outputs) plan_.width(value);  // throws for one that there is not
    plan_.finish(std::move(outputs));
    is_finished_ = true;
  }

  nb::list run(In<int32_t, 1> token_ids, In<int32_t, 1> positions, In<int32_t, 1> slot_mapping,
               In<int32_t, 1> query_start, In<int32_t, 1> seq_lens, In<int32_t, 2> block_table,
               In<int32_t, 1> logit_rows) const {
    return run_adapted(token_ids, positions, slot_mapping, query_start, seq_lens, block_table,
                       logit_rows, {});
  }

  nb::list run_adapted(In<int32_t, 1> token_ids, In<int32_t, 1> positions,
                       In<int32_t, 1> slot_mapping, In<int32_t, 1> query_start,
                       In<int32_t, 1> seq_lens, In<int32_t, 2> block_table,
                       In<int32_t, 1> logit_rows,
                       const std::vector<AdapterOfRows>& adapters) const {
    const StepArrays step{
        (int64_t)token_ids.shape(0),
        (int64_t)seq_lens.shape(0),
        (int64_t)logit_rows.shape(0),
        token_ids.data(),
        positions.data(),
        slot_mapping.data(),
        query_start.data(),
        seq_lens.data(),
        block_table.data(),
        (int64_t)block_table.shape(1),
        logit_rows.data(),
        to_rows(adapters, (int64_t)token_ids.shape(0), (int64_t)logit_rows.shape(0))};
    require(is_finished_, "a plan must be finished before it runs");
    const StepLimits& limits = plan_.limits();
    require(positions.shape(0) == token_ids.shape(0), "positions must be [T]");
    require(slot_mapping.shape(0) == token_ids.shape(0), "slot_mapping must be [T]");
    require(query_start.shape(0) == seq_lens.shape(0) + 1, "query_start must be [R+1]");
    require(block_table.shape(0) == seq_lens.shape(0), "block_table must be [R, P]");
    require(step.num_wanted <= step.num_tokens, "logit_rows must be rows of the batch");
    require_range(step.token_ids, step.num_tokens, 0, limits.vocab_size, "token id");
    require_range(step.positions, step.num_tokens, 0, limits.num_positions, "position");
    require_range(step.slot_mapping, step.num_tokens, -1, limits.num_slots, "slot");
    check_sequences(
        {step.positions, step.query_start, step.seq_lens, step.block_table, step.table_width},
        limits.num_blocks, (int32_t)limits.block_size, step.num_requests, step.num_tokens);
    for (int64_t i = 0; i < step.num_wanted; i++)
      require_range(step.logit_rows + i, 1, i ? step.logit_rows[i - 1] + 1 : 0, step.num_tokens,
                    "ascending logit row");
    nb::list arrays;
    for (StepPlan::Result& result : run_alone(step))
      arrays.append(to_array(result.buffer, (size_t)result.num_rows, (size_t)result.width));
    return arrays;
  }

 private:
  std::vector<StepPlan::Result> run_alone(const StepArrays& step) const {
    Running running(plan_.ops());
    return plan_.run(step);
  }

  StepPlan plan_;
  bool is_finished_ = false;
  std::vector<std::shared_ptr<void>> kept_;
};

}  // namespace

void bind_step_plan(nb::module_& m) {
  nb::class_<Adapter>(m, "Adapter")
      .def(nb::init<>())
      .def(
          "add",
          [](Adapter& adapter, const PackedLinear& weight, const PackedLinear& a,
             const PackedLinear& b) {
            require(a.depth() == weight.depth() && b.num_columns() == weight.num_columns() &&
                        a.num_columns() == b.depth(),
                    "a must be [r, in] and b [out, r] of the weight [out, in]");
            adapter.add(weight, a, b);
          },
          "weight"_a, "a"_a, "b"_a, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
          nb::keep_alive<1, 4>());
  nb::class_<RecordedPlan>(m, "StepPlan")
      .def(nb::init<CpuOps&>(), "ops"_a, nb::keep_alive<1, 2>())
      .def("embed", &RecordedPlan::embed, "table"_a, "ggml_type"_a, "width"_a, "scale"_a)
      .def("rms_norm", &RecordedPlan::rms_norm, "h"_a, "weight"_a, "eps"_a, "add"_a.none())
      .def("linear", &RecordedPlan::linear, "x"_a, "weight"_a, nb::keep_alive<1, 3>())
      .def("gated_linear", &RecordedPlan::gated_linear, "x"_a, "weight"_a, "gate"_a,
           "is_read_quantized"_a, nb::keep_alive<1, 3>())
      .def("rope", &RecordedPlan::rope, "qkv"_a, "cosines"_a, "sines"_a, "num_heads"_a,
           "num_kv_heads"_a, "head_size"_a, "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a)
      .def("store_kv", &RecordedPlan::store_kv, "qkv"_a, "layer"_a, "num_heads"_a,
           "key_shift"_a.none(), nb::keep_alive<1, 3>())
      .def("attention", &RecordedPlan::attention, "qkv"_a, "layer"_a, "num_heads"_a, "scale"_a,
           "window"_a, "soft_cap"_a, nb::keep_alive<1, 3>())
      .def("take_wanted", &RecordedPlan::take_wanted, "x"_a)
      .def("finish", &RecordedPlan::finish, "outputs"_a)
      .def("run", &RecordedPlan::run, "token_ids"_a, "positions"_a, "slot_mapping"_a,
           "query_start"_a, "seq_lens"_a, "block_table"_a, "logit_rows"_a)
      .def("run_adapted", &RecordedPlan::run_adapted, "token_ids"_a, "positions"_a,
           "slot_mapping"_a, "query_start"_a, "seq_lens"_a, "block_table"_a, "logit_rows"_a,
           "adapters"_a);
}

}  // namespace headrace
