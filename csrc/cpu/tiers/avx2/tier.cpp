// Tier avx2: AVX2 with FMA (x86-64-v3).
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::avx2 {
namespace {
#include "simd.h"

#include "kernels/matmul.inl"
}  // namespace
}  // namespace headrace::avx2

extern "C" {
extern const headrace::OpTable headrace_ops_avx2 __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_avx2 = {
    "avx2",
    headrace::avx2::kMatmulKernels,
};
}
