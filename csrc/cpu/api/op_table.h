// OpTable: what a tier offers. One C symbol per tier, headrace_ops_<tier>, is such a table.
#pragma once

#include "api/attention.h"
#include "api/attention_packed.h"
#include "api/embed.h"
#include "api/matmul.h"
#include "api/norm.h"
#include "api/probe.h"
#include "api/rope.h"
#include "api/sampling.h"
#include "api/store_kv.h"
#include "api/work.h"

namespace headrace {

struct OpTable {
  const char* isa;
  MatmulKernels matmul;
  ProbeKernels probe;
  EmbedKernels embed;
  Kernel<RmsNormArgs> rms_norm;
  Kernel<RopeArgs> rope;
  Kernel<StoreKvArgs> store_kv;
  AttentionKernels attention;
  SamplingKernels sampling;
  Kernel<LayerNormArgs> layer_norm;
  Kernel<GeluArgs> gelu;
  AttentionPackedKernels attention_packed;
  Kernel<GateArgs> gate;
};

}  // namespace headrace

extern "C" {
extern const headrace::OpTable headrace_ops_generic;
extern const headrace::OpTable headrace_ops_avx2;
extern const headrace::OpTable headrace_ops_avx512;
extern const headrace::OpTable headrace_ops_avx512bf16;
extern const headrace::OpTable headrace_ops_amx;
}
