// Bindings of the ops of a forward pass, the linears apart.
#include "bindings/arrays.h"

#include <algorithm>
#include <memory>

#include "runtime/adapters.h"
#include "runtime/forward.h"
#include "runtime/kv_storage.h"

namespace headrace {
namespace {

const float* optional_data(const std::optional<In<float, 1>>& array) {
  return array ? array->data() : nullptr;
}

// An uncleared array, whose memory is taken again when the array dies.
nb::object take(CpuOps& ops, size_t num_rows, size_t num_columns) {
  // numpy refuses a null pointer, so an empty array has memory too.
  const size_t num_bytes = std::max<size_t>(num_rows * num_columns, 1) * sizeof(float);
  return to_array(std::make_shared<Buffer>(ops.buffers(), num_bytes), num_rows, num_columns);
}

bool can_embed(const CpuOps& ops, int32_t ggml_type) {
  return ops.table().embed.row_bytes(ggml_type, 0) == 0;
}

void checked_embed(CpuOps& ops, In<int32_t, 1> token_ids, In<uint8_t, 2> table, int32_t ggml_type,
                   float scale, Out<float, 2> out) {
  require(out.shape(0) == token_ids.shape(0), "out must be [T, C]");
  const auto num_rows = (int64_t)token_ids.shape(0), width = (int64_t)out.shape(1);
  check_table(ops, table, ggml_type, width);
  require_range(token_ids.data(), num_rows, 0, (int64_t)table.shape(0), "token id");
  const EmbedArgs args{
      token_ids.data(), table.data(), (int64_t)table.shape(1), ggml_type, width, scale, out.data()};
  Running running(ops);
  embed(ops, args, num_rows);
}

void checked_rms_norm(CpuOps& ops, Out<float, 2> h, In<float, 1> weight, float eps,
                      Out<float, 2> out, std::optional<In<float, 2>> add) {
  const auto num_rows = (int64_t)h.shape(0), width = (int64_t)h.shape(1);
  require((int64_t)weight.shape(0) == width, "weight must be [C]");
  require(out.shape(0) == h.shape(0) && out.shape(1) == h.shape(1), "out must be [T, C]");
  require(!add || (add->shape(0) == h.shape(0) && add->shape(1) == h.shape(1)),
          "add must be [T, C]");
  const RmsNormArgs args{h.data(),  add ? add->data() : nullptr, weight.data(), eps, width,
                         out.data()};
  Running running(ops);
  rms_norm(ops, args, num_rows);
}

void checked_layer_norm(CpuOps& ops, In<float, 2> h, In<float, 1> weight, In<float, 1> bias,
                        float eps, Out<float, 2> out, std::optional<In<float, 2>> add) {
  const auto num_rows = (int64_t)h.shape(0), width = (int64_t)h.shape(1);
  require((int64_t)weight.shape(0) == width, "weight must be [C]");
  require((int64_t)bias.shape(0) == width, "bias must be [C]");
  require(out.shape(0) == h.shape(0) && out.shape(1) == h.shape(1), "out must be [T, C]");
  require(!add || (add->shape(0) == h.shape(0) && add->shape(1) == h.shape(1)),
          "add must be [T, C]");
  const LayerNormArgs args{
      h.data(), add ? add->data() : nullptr, weight.data(), bias.data(), eps, width, out.data()};
  Running running(ops);
  layer_norm(ops, args, num_rows);
}

void checked_gelu(CpuOps& ops, Out<float, 2> x) {
  const GeluArgs args{x.data(), (int64_t)x.shape(1)};
  Running running(ops);
  gelu(ops, args, (int64_t)x.shape(0));
}

void checked_gate(CpuOps& ops, In<float, 2> x, Gate kind, Out<float, 2> out) {
  const auto num_rows = (int64_t)x.shape(0), width = (int64_t)out.shape(1);
  require((int64_t)out.shape(0) == num_rows && (int64_t)x.shape(1) == 2 * width,
          "out must be [T, F] for x [T, 2F]");
  require(width % kPanelColumns == 0, "F must be a multiple of 16");
  Running running(ops);
  gate(ops, {x.data(), width, kind, out.data()}, num_rows);
}

void checked_add_lora(CpuOps& ops, In<float, 2> x, const PackedLinear& a, const PackedLinear& b,
                      In<int32_t, 1> rows, Out<float, 2> y) {
  require((int64_t)x.shape(1) == a.depth() && a.num_columns() == b.depth() &&
              b.num_columns() == (int64_t)y.shape(1),
          "x must be [T, in] for a [r, in] and b [out, r], y [T, out]");
  require(x.shape(0) == y.shape(0), "x and y must have the same rows");
  const auto num_rows = (int64_t)rows.shape(0);
  check_adapter_rows(rows.data(), num_rows, (int64_t)x.shape(0));
  Running running(ops);
  add_lora(ops, x.data(), a, b, rows.data(), num_rows, (int64_t)x.shape(0), y.data());
}

void checked_attention_packed(CpuOps& ops, In<float, 2> qkv, In<int32_t, 1> query_start,
                              int32_t num_heads, float scale, Out<float, 2> out) {
  const auto num_rows = (int64_t)qkv.shape(0), width = (int64_t)out.shape(1);
  require(num_heads > 0 && width > 0 && width % num_heads == 0, "out must be [T, H*D]");
  require((int64_t)out.shape(0) == num_rows && (int64_t)qkv.shape(1) == 3 * width,
          "qkv must be [T, 3*H*D]");
  require(query_start.shape(0) > 0, "query_start must be [R+1]");
  const auto num_sequences = (int64_t)query_start.shape(0) - 1;
  const int32_t* start = query_start.data();
  require(start[0] == 0 && start[num_sequences] == num_rows, "query_start must go from 0 to T");
  for (int64_t s = 0; s < num_sequences; s++)
    require(start[s] <= start[s + 1], "query_start must not fall");
  const AttentionPackedArgs args{qkv.data(), nullptr,   num_heads, (int32_t)(width / num_heads),
                                 scale,      out.data()};
  Running running(ops);
  attention_packed(ops, args, start, num_sequences);
}

void checked_rope(CpuOps& ops, Out<float, 2> qkv, In<int32_t, 1> positions, In<float, 2> cosines,
                  In<float, 2> sines, int32_t num_heads, int32_t num_kv_heads, int32_t head_size,
                  std::optional<In<float, 1>> q_norm, std::optional<In<float, 1>> k_norm,
                  float eps) {
  const auto num_rows = (int64_t)qkv.shape(0), width = (int64_t)qkv.shape(1);
  check_rope(width, cosines, sines, num_heads, num_kv_heads, head_size, q_norm, k_norm);
  require((int64_t)positions.shape(0) == num_rows, "positions must be [T]");
  require_range(positions.data(), num_rows, 0, (int64_t)cosines.shape(0), "position");
  const RopeArgs args{qkv.data(),
                      positions.data(),
                      cosines.data(),
                      sines.data(),
                      num_heads,
                      num_kv_heads,
                      head_size,
                      2 * (int32_t)cosines.shape(1),
                      optional_data(q_norm),
                      optional_data(k_norm),
                      eps};
  Running running(ops);
  rope(ops, args, num_rows);
}

void checked_store_kv(CpuOps& ops, In<float, 2> qkv, const KVStorage& cache,
                      In<int32_t, 1> slot_mapping, int32_t num_heads,
                      std::optional<In<float, 1>> key_shift) {
  const KVLayer& layer = cache.layer();
  check_key_shift(cache, key_shift);
  const auto num_rows = (int64_t)qkv.shape(0), width = (int64_t)qkv.shape(1);
  check_heads(width, cache, num_heads);
  require((int64_t)slot_mapping.shape(0) == num_rows, "slot_mapping must be [T]");
  require_range(slot_mapping.data(), num_rows, -1, layer.num_blocks * layer.block_size, "slot");
  const StoreKvArgs args{qkv.data(), slot_mapping.data(), num_heads, layer,
                         key_shift ? key_shift->data() : nullptr};
  Running running(ops);
  store_kv(ops, args, num_rows);
}

void copy_blocks(CpuOps& ops, KVStorage& cache, In<int32_t, 2> pairs) {
  require((int64_t)pairs.shape(1) == 2, "pairs must be [n, 2]");
  const auto num_pairs = (int64_t)pairs.shape(0);
  require_range(pairs.data(), 2 * num_pairs, 0, cache.layer().num_blocks, "block");
  Running running(ops);
  for (int64_t i = 0; i < num_pairs; i++)
    if (pairs.data()[2 * i] != pairs.data()[2 * i + 1])
      cache.copy_block(pairs.data()[2 * i], pairs.data()[2 * i + 1]);
}

void checked_attention(CpuOps& ops, In<float, 2> qkv, const KVStorage& cache,
                       In<int32_t, 1> positions, In<int32_t, 1> query_start,
                       In<int32_t, 1> seq_lens, In<int32_t, 2> block_table, int32_t num_heads,
                       float scale, int32_t window, float soft_cap, Out<float, 2> out) {
  const KVLayer& layer = cache.layer();
  const auto num_rows = (int64_t)qkv.shape(0), num_requests = (int64_t)seq_lens.shape(0);
  check_heads((int64_t)qkv.shape(1), cache, num_heads);
  require((int64_t)positions.shape(0) == num_rows, "positions must be [T]");
  require((int64_t)query_start.shape(0) == num_requests + 1, "query_start must be [R+1]");
  require((int64_t)block_table.shape(0) == num_requests, "block_table must be [R, P]");
  require((int64_t)out.shape(0) == num_rows &&
              (int64_t)out.shape(1) == (int64_t)num_heads * layer.head_size,
          "out must be [T, H*D]");
  const AttentionArgs args{qkv.data(),
                           layer,
                           nullptr,
                           positions.data(),
                           query_start.data(),
                           seq_lens.data(),
                           block_table.data(),
                           (int64_t)block_table.shape(1),
                           num_heads,
                           scale,
                           window,
                           soft_cap,
                           nullptr,
                           out.data()};
  check_sequences({positions.data(), query_start.data(), seq_lens.data(), block_table.data(),
                   (int64_t)block_table.shape(1)},
                  layer.num_blocks, layer.block_size, num_requests, num_rows);
  Running running(ops);
  attention(ops, args, plan_attention(ops, args, num_requests));
}

}  // namespace

void bind_forward(nb::module_& m) {
  // What is written to is the caller's array, not a copy in another type or order.
  m.def("take", &take, "ops"_a, "num_rows"_a, "num_columns"_a);
  nb::enum_<KVFormat>(m, "KVFormat").value("BF16", kBf16KV).value("INT8", kInt8KV);
  nb::class_<KVStorage>(m, "KVLayer")
      .def(nb::init<int64_t, int32_t, int32_t, int32_t, KVFormat, KVFormat>(), "num_blocks"_a,
           "num_kv_heads"_a, "block_size"_a, "head_size"_a, "key_format"_a, "value_format"_a)
      .def_prop_ro("num_bytes", &KVStorage::num_bytes);
  m.def("copy_blocks", &copy_blocks, "ops"_a, "layer"_a, "pairs"_a);
  m.def("kv_block_bytes", &KVStorage::block_bytes, "num_kv_heads"_a, "block_size"_a, "head_size"_a,
        "key_format"_a, "value_format"_a);
  m.def("can_embed", &can_embed, "ops"_a, "ggml_type"_a);
  m.def("embed", &checked_embed, "ops"_a, "token_ids"_a, "table"_a, "ggml_type"_a, "scale"_a,
        "out"_a.noconvert());
  m.def("rms_norm", &checked_rms_norm, "ops"_a, "h"_a.noconvert(), "weight"_a, "eps"_a,
        "out"_a.noconvert(), "add"_a = nb::none());
  m.def("layer_norm", &checked_layer_norm, "ops"_a, "h"_a.noconvert(), "weight"_a, "bias"_a,
        "eps"_a, "out"_a.noconvert(), "add"_a = nb::none());
  m.def("gelu", &checked_gelu, "ops"_a, "x"_a.noconvert());
  m.def("gate", &checked_gate, "ops"_a, "x"_a, "gate"_a, "out"_a.noconvert());
  m.def("add_lora", &checked_add_lora, "ops"_a, "x"_a, "a"_a, "b"_a, "rows"_a, "y"_a.noconvert());
  m.def("attention_packed", &checked_attention_packed, "ops"_a, "qkv"_a, "query_start"_a,
        "num_heads"_a, "scale"_a, "out"_a.noconvert());
  m.def("rope", &checked_rope, "ops"_a, "qkv"_a.noconvert(), "positions"_a, "cosines"_a, "sines"_a,
        "num_heads"_a, "num_kv_heads"_a, "head_size"_a, "q_norm"_a = nb::none(),
        "k_norm"_a = nb::none(), "eps"_a = 0.0f);
  m.def("store_kv", &checked_store_kv, "ops"_a, "qkv"_a, "layer"_a, "slot_mapping"_a, "num_heads"_a,
        "key_shift"_a = nb::none());
  m.def("attention", &checked_attention, "ops"_a, "qkv"_a, "layer"_a, "positions"_a,
        "query_start"_a, "seq_lens"_a, "block_table"_a, "num_heads"_a, "scale"_a, "window"_a,
        "soft_cap"_a, "out"_a.noconvert());
}

}  // namespace headrace
