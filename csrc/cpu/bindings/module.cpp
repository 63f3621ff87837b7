// headrace._cpu: the only folder that includes Python. Arrays pass without a copy, and the GIL is
// released while kernels run. Shapes are checked here, nowhere below.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "runtime/detect.h"
#include "runtime/linear.h"
#include "runtime/pack.h"
#include "runtime/roof.h"

namespace headrace {
namespace {

template <class T>
nb::object to_array(std::vector<T> values, std::vector<size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), shape.size(), shape.data(), owner));
}

using Part = std::tuple<std::string, In<uint8_t, 2>, bool>;

PackedLinear* pack_linear(CpuOps& ops, const std::vector<Part>& parts, int64_t depth,
                          std::optional<In<float, 1>> bias, bool interleave) {
  std::vector<WeightPart> weights;
  int64_t num_rows = 0;
  for (const auto& [format, data, is_mapped] : parts) {
    const auto rows = (int64_t)data.shape(0), row_bytes = (int64_t)data.shape(1);
    weights.push_back({format, data.data(), rows, row_bytes, is_mapped});
    num_rows += (int64_t)data.shape(0);
  }
  require(!bias || (int64_t)bias->shape(0) == num_rows,
          "bias must have one value per output column");
  nb::gil_scoped_release released;  // the queue may be full
  return new PackedLinear(ops, weights, depth, bias ? bias->data() : nullptr, interleave);
}

nb::tuple unpack(const PackedLinear& weight) {
  weight.finish();
  UnpackedWeight u = weight.unpack();
  const auto n = (size_t)weight.num_columns(), k = (size_t)weight.depth();
  return nb::make_tuple(to_array(std::move(u.q), {n, k}), to_array(std::move(u.zero), {n}),
                        to_array(std::move(u.scale), {n, k / 16}),
                        to_array(std::move(u.minimum), {n, k / 32}));
}

nb::object unpack_floats(const PackedLinear& weight) {
  weight.finish();
  return to_array(weight.unpack_floats(), {(size_t)weight.num_columns(), (size_t)weight.depth()});
}

void bind_linear(nb::module_& m) {
  nb::class_<PackedLinear>(m, "PackedLinear")
      .def_prop_ro("num_columns", &PackedLinear::num_columns)
      .def_prop_ro("depth", &PackedLinear::depth)
      .def_prop_ro("num_bytes", &PackedLinear::num_bytes)
      .def_prop_ro("is_quantized", &PackedLinear::is_quantized)
      .def_prop_ro("is_packed", &PackedLinear::is_packed)
      .def("unpack", &unpack)
      .def("unpack_floats", &unpack_floats);
  m.def("packable_formats", &packable_formats);
  m.def("finish_packing", [](CpuOps& ops) { Running running(ops); }, "ops"_a);
  // Parts are read after the call: no temporary copies of them.
  m.def("pack_linear", &pack_linear, "ops"_a, "parts"_a.noconvert(), "depth"_a,
        "bias"_a = nb::none(), "interleave"_a = false, nb::keep_alive<0, 1>(),
        nb::keep_alive<0, 2>());
  m.def(
      "linear",
      [](CpuOps& ops, In<float, 2> x, const PackedLinear& weight, Out<float, 2> y) {
        require((int64_t)x.shape(1) == weight.depth(), "x must be [T, in]");
        require(y.shape(0) == x.shape(0) && (int64_t)y.shape(1) == weight.num_columns(),
                "y must be [T, out]");
        Running running(ops);
        linear(ops, x.data(), (int64_t)x.shape(0), weight, kNoGate, y.data());
      },
      "ops"_a, "x"_a, "weight"_a, "y"_a.noconvert());
  m.def(
      "linear",
      [](CpuOps& ops, const QuantizedActivation& x, const PackedLinear& weight, Out<float, 2> y) {
        require(weight.is_quantized() && x.depth() == weight.depth(),
                "x must be [T, in] of a quantized weight");
        require((int64_t)y.shape(0) == x.num_rows() && (int64_t)y.shape(1) == weight.num_columns(),
                "y must be [T, out]");
        Running running(ops);
        linear(ops, x, weight, y.data());
      },
      "ops"_a, "x"_a, "weight"_a, "y"_a.noconvert());
  nb::enum_<Gate>(m, "Gate").value("SILU", kSilu).value("GELU_TANH", kGeluTanh);
  m.def(
      "gated_linear",
      [](CpuOps& ops, In<float, 2> x, const PackedLinear& weight, Gate gate, Out<float, 2> y) {
        require((int64_t)x.shape(1) == weight.depth(), "x must be [T, in]");
        require(weight.num_columns() % (2 * kPanelColumns) == 0,
                "gate and up must have a multiple of 16 columns each");
        require(y.shape(0) == x.shape(0) && 2 * (int64_t)y.shape(1) == weight.num_columns(),
                "y must be [T, out / 2]");
        Running running(ops);
        linear(ops, x.data(), (int64_t)x.shape(0), weight, gate, y.data());
      },
      "ops"_a, "x"_a, "weight"_a, "gate"_a, "y"_a.noconvert());
  nb::class_<QuantizedActivation>(m, "QuantizedActivation")
      .def_prop_ro("shape", [](const QuantizedActivation& x) {
        return nb::make_tuple(x.num_rows(), x.depth());
      });
  m.def("can_quantize_gated", &can_quantize_gated, "ops"_a, "num_rows"_a, "weight"_a);
  m.def(
      "gated_linear_quantized",
      [](CpuOps& ops, In<float, 2> x, const PackedLinear& weight, Gate gate) {
        require((int64_t)x.shape(1) == weight.depth(), "x must be [T, in]");
        require(can_quantize_gated(ops, (int64_t)x.shape(0), weight),
                "this gated linear gives floats only");
        auto out = std::make_unique<QuantizedActivation>(ops, (int64_t)x.shape(0),
                                                         weight.num_columns() / 2);
        Running running(ops);
        gated_linear(ops, x.data(), weight, gate, *out);
        return out;
      },
      "ops"_a, "x"_a, "weight"_a, "gate"_a);
}

void bind_roof(nb::module_& m) {
  m.def(
      "probe_read_bandwidth",
      [](CpuOps& ops, size_t num_bytes, int rounds) {
        Running running(ops);
        return probe_read_bandwidth(ops, num_bytes, rounds);
      },
      "ops"_a, "num_bytes"_a, "rounds"_a);
  m.def(
      "probe_int8_peak",
      [](CpuOps& ops, double seconds, int rounds) {
        Running running(ops);
        return probe_int8_peak(ops, seconds, rounds);
      },
      "ops"_a, "seconds"_a, "rounds"_a);
}

}  // namespace
}  // namespace headrace

NB_MODULE(_cpu, m) {
  using namespace headrace;
  nb::set_leak_warnings(false);  // a weight still held when the interpreter ends is no fault
  m.doc() = "CPU kernels of headrace. Used by headrace.ops.cpu and nothing else.";
  nb::class_<CpuOps>(m, "CpuOps")
      .def(nb::init<const std::string&, int>(), "isa"_a, "num_threads"_a)
      .def_prop_ro("isa", [](const CpuOps& ops) { return std::string(ops.table().isa); })
      .def_prop_ro("num_threads", &CpuOps::num_threads);
  m.def("isas", [] {
    std::vector<std::tuple<std::string, bool, std::string>> found;
    for (const IsaStatus& status : isas())
      found.emplace_back(status.name, status.is_available, status.reason);
    return found;
  });
  bind_linear(m);
  bind_roof(m);
  bind_forward(m);
  bind_sampling(m);
  bind_step_plan(m);
}
