// What every binding file shares: array types, checks, and running with the GIL released.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "runtime/dispatch.h"
#include "runtime/kv_storage.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {

template <class T, int dims>
using In = nb::ndarray<const T, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;
template <class T, int dims>
using Out = nb::ndarray<T, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;

inline void require(bool is_true, const char* message) {
  if (!is_true) throw std::invalid_argument(message);
}

// Raises IndexError unless low <= value < high for every value.
template <class T>
void require_range(const T* values, int64_t n, int64_t low, int64_t high, const char* what) {
  for (int64_t i = 0; i < n; i++) {
    if (values[i] < low || values[i] >= high)
      throw std::out_of_range(std::string(what) + " " + std::to_string(values[i]) + " is outside " +
                              std::to_string(low) + " .. " + std::to_string(high - 1) + ".");
  }
}

// Where a step's tokens lie in the cache.
struct Sequences {
  const int32_t* positions;
  const int32_t* query_start;
  const int32_t* seq_lens;
  const int32_t* block_table;
  int64_t table_width;
};

// Every key that attention may read lies in a block of the cache; raises IndexError.
void check_sequences(const Sequences& s, int64_t num_blocks, int32_t block_size,
                     int64_t num_requests, int64_t num_rows);

// A row of the table holds `width` weights of a format that embed reads; raises ValueError.
void check_table(const CpuOps& ops, const In<uint8_t, 2>& table, int32_t ggml_type, int64_t width);

// What ops require of their arrays, called one by one or recorded; raises ValueError.
void check_rope(int64_t width, const In<float, 2>& cosines, const In<float, 2>& sines,
                int32_t num_heads, int32_t num_kv_heads, int32_t head_size,
                const std::optional<In<float, 1>>& q_norm,
                const std::optional<In<float, 1>>& k_norm);
void check_heads(int64_t width, const KVStorage& cache, int32_t num_heads);
void check_adapter_rows(const int32_t* rows, int64_t num_rows, int64_t num_all);
void check_key_shift(const KVStorage& cache, const std::optional<In<float, 1>>& key_shift);

// An array over a result's memory.
inline nb::object to_array(std::shared_ptr<Buffer> buffer, size_t num_rows, size_t num_columns) {
  auto* data = reinterpret_cast<float*>(buffer->data());
  nb::capsule owner(new std::shared_ptr<Buffer>(std::move(buffer)),
                    [](void* p) noexcept { delete static_cast<std::shared_ptr<Buffer>*>(p); });
  const size_t shape[] = {num_rows, num_columns};
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, 2, shape, owner));
}

// Holds the ops for one call with the GIL released, once all weights are packed.
class Running {
 public:
  explicit Running(CpuOps& ops) : lock_((ops.packing().finish(), ops.mutex())) {}

 private:
  nb::gil_scoped_release released_;  // before the lock: its holder may need the GIL
  std::scoped_lock<std::mutex> lock_;
};

void bind_forward(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_step_plan(nb::module_& m);

}  // namespace headrace
