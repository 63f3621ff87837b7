// Tier avx512: AVX-512 with VNNI.
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::avx512 {
namespace {
#include "simd.h"

// Streams of memory are asked for this many bytes ahead, into this cache (3: L1, 2: L2).
constexpr int kStreamAhead = 4096, kStreamLocality = 3;

#include "kernels/activation.inl"
#include "kernels/matmul.inl"
#include "kernels/probe.inl"
#include "kernels/quantize.inl"

#include "tiers/avx512/matmul.inl"
#include "tiers/avx512/quantize.inl"

// Two panels' unpacked weights, 64 KB, stay in L2.
constexpr int kBlockGroups = 64, kBlockPanels = 2;
#include "tiers/avx512/panel_blocks.inl"

#include "tiers/avx512/matmul_blocks.inl"

#include "kernels/attention_float.inl"
#include "kernels/attention_packed.inl"
#include "kernels/embed.inl"
#include "kernels/norm.inl"
#include "kernels/rope.inl"
#include "kernels/sampling.inl"
#include "kernels/store_kv.inl"
#include "tiers/avx512/probe.inl"

constexpr MatmulKernels kMatmulKernels = {
    quantize_rows_avx512, matmul_rows, matmul_float, nullptr, nullptr, rows_scratch_bytes, true};
}  // namespace
}  // namespace headrace::avx512

extern "C" {
extern const headrace::OpTable headrace_ops_avx512 __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_avx512 = {
    "avx512",
    headrace::avx512::kMatmulKernels,
    headrace::avx512::kVnniProbes,
    headrace::avx512::kEmbedKernels,
    headrace::avx512::rms_norm,
    headrace::avx512::rope,
    headrace::avx512::store_kv,
    headrace::avx512::kAttentionKernels,
    headrace::avx512::kSamplingKernels,
    headrace::avx512::layer_norm,
    headrace::avx512::gelu,
    headrace::avx512::kAttentionPackedKernels,
    headrace::avx512::gate_rows,
};
}
