// What every binding file shares: array types, checks, and running with the GIL released.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "runtime/dispatch.h"

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

// Holds the ops for one call with the GIL released.
class Running {
 public:
  explicit Running(CpuOps& ops) : lock_(ops.mutex()) {}

 private:
  nb::gil_scoped_release released_;  // before the lock: its holder may need the GIL
  std::scoped_lock<std::mutex> lock_;
};

void bind_forward(nb::module_& m);
void bind_sampling(nb::module_& m);

}  // namespace headrace
