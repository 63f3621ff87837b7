// Tier avx512bf16: AVX-512 with VNNI, and BF16 for attention and weights that are bf16.
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::avx512bf16 {
namespace {
#include "tiers/avx512/simd.h"

// Streams of memory are asked for this many bytes ahead, into this cache (3: L1, 2: L2). A core of
// Zen 4 has more lines under way to L2 than to L1 (docs/log/2026-11.md).
constexpr int kStreamAhead = 2048, kStreamLocality = 2;

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

#include "kernels/attention_packed.inl"
#include "kernels/embed.inl"
#include "kernels/norm.inl"
#include "kernels/rope.inl"
#include "kernels/sampling.inl"
#include "kernels/store_kv.inl"
#include "tiers/avx512/probe.inl"

#include "tiers/avx512bf16/pair_products.inl"

#include "tiers/avx512bf16/attention_pairs.inl"
#include "tiers/avx512bf16/matmul_bf16.inl"

constexpr MatmulKernels kMatmulKernels = {
    quantize_rows_avx512, matmul_rows,        matmul_float, round_rows_pairs,
    matmul_bf16,          rows_scratch_bytes, true};
}  // namespace
}  // namespace headrace::avx512bf16

extern "C" {
extern const headrace::OpTable headrace_ops_avx512bf16 __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_avx512bf16 = {
    "avx512bf16",
    headrace::avx512bf16::kMatmulKernels,
    headrace::avx512bf16::kVnniProbes,
    headrace::avx512bf16::kEmbedKernels,
    headrace::avx512bf16::rms_norm,
    headrace::avx512bf16::rope,
    headrace::avx512bf16::store_kv,
    headrace::avx512bf16::kAttentionKernels,
    headrace::avx512bf16::kSamplingKernels,
    headrace::avx512bf16::layer_norm,
    headrace::avx512bf16::gelu,
    headrace::avx512bf16::kAttentionPackedKernels,
    headrace::avx512bf16::gate_rows,
};
}
