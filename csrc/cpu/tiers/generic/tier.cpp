// Tier generic: plain C++, any CPU. It defines the bits of every op.
#include <string.h>

#include "api/op_table.h"

namespace headrace::generic {
namespace {
#include "simd.h"

#include "kernels/matmul.inl"
}  // namespace
}  // namespace headrace::generic

extern "C" {
extern const headrace::OpTable headrace_ops_generic __attribute__((visibility("hidden")));
const headrace::OpTable headrace_ops_generic = {
    "generic",
    headrace::generic::kMatmulKernels,
};
}
