// Tier amx: AVX-512 and AMX int8, bf16 tiles.
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::amx {
namespace {
#include "tiers/avx512/simd.h"

#include "tiers/amx/simd.h"

#include "kernels/matmul.inl"
}  // namespace
}  // namespace headrace::amx

extern "C" {
extern const headrace::OpTable headrace_ops_amx __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_amx = {
    "amx",
    headrace::amx::kMatmulKernels,
};
}
