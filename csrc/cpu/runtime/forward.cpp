#include "runtime/forward.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int64_t kSerialElements = 16384;  // fewer are done before a worker is awake

int64_t rows_at_once(int64_t width) {
  return std::max<int64_t>(1, kSerialElements / std::max<int64_t>(1, width));
}

}  // namespace

void embed(CpuOps& ops, const EmbedArgs& args, int64_t num_rows) {
  ops.parallel(ops.table().embed.run, args, num_rows, rows_at_once(args.width));
}

void rms_norm(CpuOps& ops, const RmsNormArgs& args, int64_t num_rows) {
  ops.parallel(ops.table().rms_norm, args, num_rows, rows_at_once(args.width));
}

void layer_norm(CpuOps& ops, const LayerNormArgs& args, int64_t num_rows) {
  ops.parallel(ops.table().layer_norm, args, num_rows, rows_at_once(args.width));
}

void gelu(CpuOps& ops, const GeluArgs& args, int64_t num_rows) {
  ops.parallel(ops.table().gelu, args, num_rows, rows_at_once(args.width));
}

void gate(CpuOps& ops, const GateArgs& args, int64_t num_rows) {
  ops.parallel(ops.table().gate, args, num_rows, rows_at_once(2 * args.width));
}

void rope(CpuOps& ops, const RopeArgs& args, int64_t num_rows) {
  const int64_t width = (int64_t)(args.num_heads + 2 * args.num_kv_heads) * args.head_size;
  ops.parallel(ops.table().rope, args, num_rows, rows_at_once(width));
}

void store_kv(CpuOps& ops, const StoreKvArgs& args, int64_t num_rows) {
  const int64_t width =
      (int64_t)(args.num_heads + 2 * args.layer.num_kv_heads) * args.layer.head_size;
  ops.parallel(ops.table().store_kv, args, num_rows, rows_at_once(width));
}

AttentionPlan plan_attention(const CpuOps& ops, const AttentionArgs& args, int64_t num_requests) {
  return plan_attention(args.query_start, args.seq_lens, num_requests, args.num_heads,
                        args.layer.num_kv_heads, args.window, ops.num_threads());
}

void attention(CpuOps& ops, AttentionArgs args, const AttentionPlan& plan) {
  const AttentionKernels& kernels = ops.table().attention;
  const int64_t part_bytes = plan.num_parts * kernels.part_floats(args.layer.head_size) * 4;
  args.parts = reinterpret_cast<float*>(ops.arena().reserve((size_t)part_bytes));
  args.items = plan.items.data();
  const size_t scratch_bytes = kernels.scratch_bytes(args.layer.head_size);
  ops.parallel(kernels.run, args, (int64_t)plan.items.size(), plan.grain, scratch_bytes);
  args.items = plan.merges.data();
  ops.parallel(kernels.merge, args, (int64_t)plan.merges.size(), 1, scratch_bytes);
}

void attention_packed(CpuOps& ops, AttentionPackedArgs args, const int32_t* query_start,
                      int64_t num_sequences) {
  std::vector<PackedItem> items;
  int64_t max_rows = 0;
  for (int64_t s = 0; s < num_sequences; s++) {
    const int64_t begin = query_start[s], end = query_start[s + 1];
    max_rows = std::max(max_rows, end - begin);
    for (int32_t head = 0; head < args.num_heads; head++)
      for (int64_t row = begin; row < end; row += kPackedItemRows)
        items.push_back({begin, end, row, std::min(row + kPackedItemRows, end), head});
  }
  args.items = items.data();
  const AttentionPackedKernels& kernels = ops.table().attention_packed;
  ops.parallel(kernels.run, args, (int64_t)items.size(), 1,
               kernels.scratch_bytes(max_rows, args.head_size));
}

}  // namespace headrace
