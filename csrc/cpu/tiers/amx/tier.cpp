// Tier amx: AVX-512 and AMX int8, bf16 tiles.
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::amx {
namespace {
#include "tiers/avx512/simd.h"

#include "tiers/amx/simd.h"

// Streams of memory are asked for this many bytes ahead, into this cache (3: L1, 2: L2).
constexpr int kStreamAhead = 4096, kStreamLocality = 3;

#include "kernels/activation.inl"
#include "kernels/matmul.inl"
#include "kernels/probe.inl"
#include "kernels/quantize.inl"

#include "tiers/avx512/matmul.inl"
#include "tiers/avx512/quantize.inl"

// 16 KB of unpacked weights: L1.
constexpr int kBlockGroups = 32, kBlockPanels = 1;
#include "tiers/avx512/panel_blocks.inl"

#include "tiers/amx/matmul.inl"
#include "tiers/amx/matmul_bf16.inl"

#include "kernels/attention_packed.inl"
#include "kernels/embed.inl"
#include "kernels/norm.inl"
#include "kernels/rope.inl"
#include "kernels/sampling.inl"
#include "kernels/store_kv.inl"
#include "tiers/amx/attention_tiles.inl"
#include "tiers/amx/probe.inl"

constexpr MatmulKernels kMatmulKernels = {
    quantize_rows_avx512, matmul_amx,         matmul_float, round_rows_amx,
    matmul_bf16,          tile_scratch_bytes, true};
}  // namespace
}  // namespace headrace::amx

extern "C" {
extern const headrace::OpTable headrace_ops_amx __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_amx = {
    "amx",
    headrace::amx::kMatmulKernels,
    headrace::amx::kTileProbes,
    headrace::amx::kEmbedKernels,
    headrace::amx::rms_norm,
    headrace::amx::rope,
    headrace::amx::store_kv,
    headrace::amx::kAttentionKernels,
    headrace::amx::kSamplingKernels,
    headrace::amx::layer_norm,
    headrace::amx::gelu,
    headrace::amx::kAttentionPackedKernels,
    headrace::amx::gate_rows,
};
}
