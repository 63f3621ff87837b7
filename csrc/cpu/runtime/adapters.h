// Low-rank adapters: what one adds to linears of a base, for some rows of a step.
//
// Rows of one adapter are gathered, multiplied by its two matrices and added to what the base gave
// them. Both products are linears of floats, so that a row's bits depend on nothing but the row.
#pragma once

#include <unordered_map>
#include <vector>

#include "runtime/linear.h"

namespace headrace {

// y[row] += (x[row] a^T) b^T for `num_rows` ascending rows of `num_all`. a [r, in], b [out, r].
void add_lora(CpuOps& ops, const float* x, const PackedLinear& a, const PackedLinear& b,
              const int32_t* rows, int64_t num_rows, int64_t num_all, float* y);

// An adapter's pairs by the linear of the base they go with. Weights are kept alive by Python.
class Adapter {
 public:
  struct Pair {
    const PackedLinear* a;
    const PackedLinear* b;
  };

  void add(const PackedLinear& weight, const PackedLinear& a, const PackedLinear& b) {
    pairs_[&weight] = {&a, &b};
  }
  // nullptr where it leaves the weight as it is.
  const Pair* find(const PackedLinear& weight) const {
    const auto found = pairs_.find(&weight);
    return found == pairs_.end() ? nullptr : &found->second;
  }

 private:
  std::unordered_map<const PackedLinear*, Pair> pairs_;
};

// The rows of a step that are an adapter's: of all T, and of the S that are wanted.
struct AdapterRows {
  const Adapter* adapter;
  const int32_t* token_rows;
  int64_t num_token_rows;
  const int32_t* wanted_rows;
  int64_t num_wanted_rows;
};

}  // namespace headrace
