// Bindings of the ops of a forward pass, the linears apart.
#include "bindings/arrays.h"

#include <algorithm>
#include <memory>

#include "runtime/attention_plan.h"
#include "runtime/buffer_pool.h"
#include "runtime/kv_storage.h"

namespace headrace {
namespace {

constexpr int64_t kSerialElements = 16384;  // fewer are done before a worker is awake

int64_t rows_at_once(int64_t width) { return std::max<int64_t>(1, kSerialElements / width); }

const float* optional_data(const std::optional<In<float, 1>>& array) {
  return array ? array->data() : nullptr;
}

// A result's memory, and the pool it returns to.
struct Buffer {
  std::shared_ptr<BufferPool> pool;
  Region region;
};

// An uncleared array, whose memory is taken again when the array dies.
nb::object take(CpuOps& ops, size_t num_rows, size_t num_columns) {
  // numpy refuses a null pointer, so an empty array has memory too.
  const size_t num_bytes = std::max<size_t>(num_rows * num_columns, 1) * sizeof(float);
  std::unique_ptr<Buffer> buffer(new Buffer{ops.buffers(), ops.buffers()->take(num_bytes)});
  auto* data = reinterpret_cast<float*>(buffer->region.data());
  nb::capsule owner(buffer.release(), [](void* p) noexcept {
    std::unique_ptr<Buffer> dead(static_cast<Buffer*>(p));
    dead->pool->give_back(std::move(dead->region));
  });
  const size_t shape[] = {num_rows, num_columns};
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, 2, shape, owner));
}

bool can_embed(const CpuOps& ops, int32_t ggml_type) {
  return ops.table().embed.can_read(ggml_type);
}

void embed(CpuOps& ops, In<int32_t, 1> token_ids, In<uint8_t, 2> table, int32_t ggml_type,
           float scale, Out<float, 2> out) {
  require(ops.table().embed.can_read(ggml_type), "the table's format is not one that embed reads");
  require(out.shape(0) == token_ids.shape(0), "out must be [T, C]");
  const auto num_rows = (int64_t)token_ids.shape(0), width = (int64_t)out.shape(1);
  require_range(token_ids.data(), num_rows, 0, (int64_t)table.shape(0), "token id");
  const EmbedArgs args{
      token_ids.data(), table.data(), (int64_t)table.shape(1), ggml_type, width, scale, out.data()};
  Running running(ops);
  ops.parallel(ops.table().embed.run, args, num_rows, rows_at_once(width));
}

void rms_norm(CpuOps& ops, Out<float, 2> h, In<float, 1> weight, float eps, Out<float, 2> out,
              std::optional<In<float, 2>> add) {
  const auto num_rows = (int64_t)h.shape(0), width = (int64_t)h.shape(1);
  require((int64_t)weight.shape(0) == width, "weight must be [C]");
  require(out.shape(0) == h.shape(0) && out.shape(1) == h.shape(1), "out must be [T, C]");
  require(!add || (add->shape(0) == h.shape(0) && add->shape(1) == h.shape(1)),
          "add must be [T, C]");
  const RmsNormArgs args{h.data(),  add ? add->data() : nullptr, weight.data(), eps, width,
                         out.data()};
  Running running(ops);
  ops.parallel(ops.table().rms_norm, args, num_rows, rows_at_once(width));
}

void rope(CpuOps& ops, Out<float, 2> qkv, In<int32_t, 1> positions, In<float, 2> cosines,
          In<float, 2> sines, int32_t num_heads, int32_t num_kv_heads, int32_t head_size,
          std::optional<In<float, 1>> q_norm, std::optional<In<float, 1>> k_norm, float eps) {
  const auto num_rows = (int64_t)qkv.shape(0), width = (int64_t)qkv.shape(1);
  require(width == (int64_t)(num_heads + 2 * num_kv_heads) * head_size,
          "qkv must be [T, (H+2K)*D]");
  require((int64_t)positions.shape(0) == num_rows, "positions must be [T]");
  require(cosines.shape(0) == sines.shape(0) && cosines.shape(1) == sines.shape(1),
          "cos and sin must have one shape");
  require(2 * (int64_t)cosines.shape(1) <= head_size, "rotary_size must not exceed the head size");
  require(!q_norm || (int64_t)q_norm->shape(0) == head_size, "q_norm must be [D]");
  require(!k_norm || (int64_t)k_norm->shape(0) == head_size, "k_norm must be [D]");
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
  ops.parallel(ops.table().rope, args, num_rows, rows_at_once(width));
}

void store_kv(CpuOps& ops, In<float, 2> qkv, const KVStorage& cache, In<int32_t, 1> slot_mapping,
              int32_t num_heads) {
  const KVLayer& layer = cache.layer();
  const auto num_rows = (int64_t)qkv.shape(0), width = (int64_t)qkv.shape(1);
  require(width == (int64_t)(num_heads + 2 * layer.num_kv_heads) * layer.head_size,
          "qkv must be [T, (H+2K)*D] of the cache's heads");
  require((int64_t)slot_mapping.shape(0) == num_rows, "slot_mapping must be [T]");
  require_range(slot_mapping.data(), num_rows, -1, layer.num_blocks * layer.block_size, "slot");
  const StoreKvArgs args{qkv.data(), slot_mapping.data(), num_heads, layer};
  Running running(ops);
  ops.parallel(ops.table().store_kv, args, num_rows, rows_at_once(width));
}

// Every key that the kernel may read lies in a block of the cache.
void check_sequences(const AttentionArgs& args, int64_t num_requests, int64_t num_rows) {
  require(args.query_start[0] == 0 && args.query_start[num_requests] == num_rows,
          "query_start must go from 0 to T");
  for (int64_t r = 0; r < num_requests; r++) {
    const int32_t begin = args.query_start[r], end = args.query_start[r + 1];
    require(begin <= end, "query_start must ascend");
    const int64_t num_blocks =
        (args.seq_lens[r] + args.layer.block_size - 1) / args.layer.block_size;
    bool is_held = args.seq_lens[r] >= 0 && num_blocks <= args.table_width;
    for (int64_t b = 0; is_held && b < num_blocks; b++) {
      const int32_t block = args.block_table[r * args.table_width + b];
      is_held = block >= 0 && block < args.layer.num_blocks;
    }
    if (!is_held)
      throw std::out_of_range("the block table does not hold a request's " +
                              std::to_string(args.seq_lens[r]) + " tokens.");
    require_range(args.positions + begin, end - begin, 0, args.seq_lens[r], "position");
  }
}

void attention(CpuOps& ops, In<float, 2> qkv, const KVStorage& cache, In<int32_t, 1> positions,
               In<int32_t, 1> query_start, In<int32_t, 1> seq_lens, In<int32_t, 2> block_table,
               int32_t num_heads, float scale, int32_t window, float soft_cap, Out<float, 2> out) {
  const KVLayer& layer = cache.layer();
  const auto num_rows = (int64_t)qkv.shape(0), num_requests = (int64_t)seq_lens.shape(0);
  require(num_heads > 0 && num_heads % layer.num_kv_heads == 0,
          "num_heads must be a multiple of num_kv_heads");
  require((int64_t)qkv.shape(1) == (int64_t)(num_heads + 2 * layer.num_kv_heads) * layer.head_size,
          "qkv must be [T, (H+2K)*D] of the cache's heads");
  require((int64_t)positions.shape(0) == num_rows, "positions must be [T]");
  require((int64_t)query_start.shape(0) == num_requests + 1, "query_start must be [R+1]");
  require((int64_t)block_table.shape(0) == num_requests, "block_table must be [R, P]");
  require((int64_t)out.shape(0) == num_rows &&
              (int64_t)out.shape(1) == (int64_t)num_heads * layer.head_size,
          "out must be [T, H*D]");
  AttentionArgs args{qkv.data(),
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
  check_sequences(args, num_requests, num_rows);
  Running running(ops);
  const AttentionPlan plan =
      plan_attention(query_start.data(), seq_lens.data(), num_requests, num_heads,
                     layer.num_kv_heads, window, ops.num_threads());
  const AttentionKernels& kernels = ops.table().attention;
  const int64_t part_bytes = plan.num_parts * kernels.part_floats(layer.head_size) * 4;
  args.parts = reinterpret_cast<float*>(ops.arena().reserve((size_t)part_bytes));
  args.items = plan.items.data();
  const size_t scratch_bytes = kernels.scratch_bytes(layer.head_size);
  ops.parallel(kernels.run, args, (int64_t)plan.items.size(), plan.grain, scratch_bytes);
  args.items = plan.merges.data();
  ops.parallel(kernels.merge, args, (int64_t)plan.merges.size(), 1, scratch_bytes);
}

void add(CpuOps& ops, Out<float, 2> h, In<float, 2> x) {
  require(h.shape(0) == x.shape(0) && h.shape(1) == x.shape(1), "h and x must have one shape");
  const AddArgs args{h.data(), x.data()};
  Running running(ops);
  ops.parallel(ops.table().add, args, (int64_t)h.size(), kSerialElements);
}

}  // namespace

void bind_forward(nb::module_& m) {
  m.def("take", &take, "ops"_a, "num_rows"_a, "num_columns"_a);
  nb::enum_<KVFormat>(m, "KVFormat").value("BF16", kBf16KV).value("INT8", kInt8KV);
  nb::class_<KVStorage>(m, "KVLayer")
      .def(nb::init<int64_t, int32_t, int32_t, int32_t, KVFormat, KVFormat>(), "num_blocks"_a,
           "num_kv_heads"_a, "block_size"_a, "head_size"_a, "key_format"_a, "value_format"_a)
      .def_prop_ro("num_bytes", &KVStorage::num_bytes);
  m.def("kv_block_bytes", &KVStorage::block_bytes, "num_kv_heads"_a, "block_size"_a, "head_size"_a,
        "key_format"_a, "value_format"_a);
  m.def("can_embed", &can_embed, "ops"_a, "ggml_type"_a);
  m.def("embed", &embed, "ops"_a, "token_ids"_a, "table"_a, "ggml_type"_a, "scale"_a, "out"_a);
  m.def("rms_norm", &rms_norm, "ops"_a, "h"_a, "weight"_a, "eps"_a, "out"_a, "add"_a = nb::none());
  m.def("rope", &rope, "ops"_a, "qkv"_a, "positions"_a, "cosines"_a, "sines"_a, "num_heads"_a,
        "num_kv_heads"_a, "head_size"_a, "q_norm"_a = nb::none(), "k_norm"_a = nb::none(),
        "eps"_a = 0.0f);
  m.def("store_kv", &store_kv, "ops"_a, "qkv"_a, "layer"_a, "slot_mapping"_a, "num_heads"_a);
  m.def("attention", &attention, "ops"_a, "qkv"_a, "layer"_a, "positions"_a, "query_start"_a,
        "seq_lens"_a, "block_table"_a, "num_heads"_a, "scale"_a, "window"_a, "soft_cap"_a, "out"_a);
  m.def("add", &add, "ops"_a, "h"_a, "x"_a);
}

}  // namespace headrace
