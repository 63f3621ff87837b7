// The ops of a forward pass, the linears apart: each is one call over the pool.
// Arguments were checked.
#pragma once

#include "runtime/attention_plan.h"
#include "runtime/dispatch.h"

namespace headrace {

void embed(CpuOps& ops, const EmbedArgs& args, int64_t num_rows);
void rms_norm(CpuOps& ops, const RmsNormArgs& args, int64_t num_rows);
void layer_norm(CpuOps& ops, const LayerNormArgs& args, int64_t num_rows);
void gelu(CpuOps& ops, const GeluArgs& args, int64_t num_rows);
void gate(CpuOps& ops, const GateArgs& args, int64_t num_rows);
void rope(CpuOps& ops, const RopeArgs& args, int64_t num_rows);
void store_kv(CpuOps& ops, const StoreKvArgs& args, int64_t num_rows);

// The plan of a step's attention; layers of one shape share it.
AttentionPlan plan_attention(const CpuOps& ops, const AttentionArgs& args, int64_t num_requests);
// `args` without items and parts, which are the plan's.
void attention(CpuOps& ops, AttentionArgs args, const AttentionPlan& plan);

// `args` without items; query_start [num_sequences + 1].
void attention_packed(CpuOps& ops, AttentionPackedArgs args, const int32_t* query_start,
                      int64_t num_sequences);

}  // namespace headrace
