// Tier avx2: AVX2 with FMA (x86-64-v3).
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::avx2 {
namespace {
#include "simd.h"

// Streams of memory are asked for this many bytes ahead, into this cache (3: L1, 2: L2).
constexpr int kStreamAhead = 4096, kStreamLocality = 3;

#include "kernels/activation.inl"
#include "kernels/matmul.inl"
#include "kernels/probe.inl"
#include "kernels/quantize.inl"

#include "tiers/avx2/matmul.inl"
#include "tiers/avx2/probe.inl"

#include "kernels/attention_float.inl"
#include "kernels/attention_packed.inl"
#include "kernels/embed.inl"
#include "kernels/norm.inl"
#include "kernels/rope.inl"
#include "kernels/sampling.inl"
#include "kernels/store_kv.inl"

constexpr MatmulKernels kMatmulKernels = {quantize_rows, matmul_avx2, matmul_float, nullptr,
                                          nullptr,       no_scratch,  false};
}  // namespace
}  // namespace headrace::avx2

extern "C" {
extern const headrace::OpTable headrace_ops_avx2 __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_avx2 = {
    "avx2",
    headrace::avx2::kMatmulKernels,
    headrace::avx2::kAvx2Probes,
    headrace::avx2::kEmbedKernels,
    headrace::avx2::rms_norm,
    headrace::avx2::rope,
    headrace::avx2::store_kv,
    headrace::avx2::kAttentionKernels,
    headrace::avx2::kSamplingKernels,
    headrace::avx2::layer_norm,
    headrace::avx2::gelu,
    headrace::avx2::kAttentionPackedKernels,
    headrace::avx2::gate_rows,
};
}
