// Tier generic: plain C++, any CPU. It defines the bits of every op.
#include <string.h>

#include "api/op_table.h"

namespace headrace::generic {
namespace {
#include "simd.h"

// Streams of memory are asked for this many bytes ahead, into this cache (3: L1, 2: L2).
constexpr int kStreamAhead = 4096, kStreamLocality = 3;

#include "kernels/activation.inl"
#include "kernels/matmul.inl"
#include "kernels/probe.inl"
#include "kernels/quantize.inl"

#include "kernels/attention_float.inl"
#include "kernels/attention_packed.inl"
#include "kernels/embed.inl"
#include "kernels/norm.inl"
#include "kernels/rope.inl"
#include "kernels/sampling.inl"
#include "kernels/store_kv.inl"

constexpr MatmulKernels kMatmulKernels = {quantize_rows, matmul_generic, matmul_float, nullptr,
                                          nullptr,       no_scratch,     false};
}  // namespace
}  // namespace headrace::generic

extern "C" {
extern const headrace::OpTable headrace_ops_generic __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_generic = {
    "generic",
    headrace::generic::kMatmulKernels,
    headrace::generic::kDotProbes,
    headrace::generic::kEmbedKernels,
    headrace::generic::rms_norm,
    headrace::generic::rope,
    headrace::generic::store_kv,
    headrace::generic::kAttentionKernels,
    headrace::generic::kSamplingKernels,
    headrace::generic::layer_norm,
    headrace::generic::gelu,
    headrace::generic::kAttentionPackedKernels,
    headrace::generic::gate_rows,
};
}
