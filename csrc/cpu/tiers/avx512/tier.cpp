// Tier avx512: AVX-512 with VNNI.
#include <immintrin.h>
#include <string.h>

#include "api/op_table.h"

namespace headrace::avx512 {
namespace {
#include "simd.h"

#include "kernels/matmul.inl"
}  // namespace
}  // namespace headrace::avx512

extern "C" {
extern const headrace::OpTable headrace_ops_avx512 __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_avx512 = {
    "avx512",
    headrace::avx512::kMatmulKernels,
};
}
