// Bindings of the ops that choose tokens.
#include "bindings/arrays.h"

namespace headrace {
namespace {

using Tokens = In<int32_t, 1>;
using Floats = In<float, 1>;
using OptionalTokens = std::optional<Tokens>;
using OptionalFloats = std::optional<Floats>;

// A ragged list of token ids with a number each; all three arrays or none.
TokenListArgs token_list(const OptionalTokens& start, const OptionalTokens& token_ids,
                         const OptionalFloats& values, int64_t num_rows, int64_t vocab_size) {
  if (!start) return {nullptr, nullptr, nullptr};
  require(token_ids && values && token_ids->shape(0) == values->shape(0),
          "a token list needs as many values as token ids");
  require((int64_t)start->shape(0) == num_rows + 1, "start of a token list must be [S+1]");
  const int64_t size = (int64_t)token_ids->shape(0);
  for (int64_t s = 0; s < num_rows; s++)
    require(start->data()[s] <= start->data()[s + 1], "start of a token list must ascend");
  require(start->data()[0] == 0 && start->data()[num_rows] == size,
          "start of a token list must go from 0 to its size");
  require_range(token_ids->data(), size, 0, vocab_size, "token id");
  return {start->data(), token_ids->data(), values->data()};
}

void adjust_logits(CpuOps& ops, Out<float, 2> logits, std::optional<In<uint32_t, 2>> token_mask,
                   OptionalTokens bias_start, OptionalTokens bias_ids, OptionalFloats bias_values,
                   OptionalTokens prompt_start, OptionalTokens prompt_ids,
                   OptionalFloats prompt_values, OptionalTokens output_start,
                   OptionalTokens output_ids, OptionalFloats output_values, Floats repetition,
                   Floats presence, Floats frequency) {
  const auto rows = (int64_t)logits.shape(0), vocab = (int64_t)logits.shape(1);
  for (const Floats* penalty : {&repetition, &presence, &frequency})
    require((int64_t)penalty->shape(0) == rows, "penalties must be [S]");
  require(!token_mask || ((int64_t)token_mask->shape(0) == rows &&
                          (int64_t)token_mask->shape(1) == (vocab + 31) / 32),
          "token_mask must be [S, ceil(V/32)]");
  const AdjustArgs args{logits.data(),
                        vocab,
                        token_mask ? token_mask->data() : nullptr,
                        token_list(bias_start, bias_ids, bias_values, rows, vocab),
                        token_list(prompt_start, prompt_ids, prompt_values, rows, vocab),
                        token_list(output_start, output_ids, output_values, rows, vocab),
                        repetition.data(),
                        presence.data(),
                        frequency.data()};
  Running running(ops);
  const SamplingKernels& kernels = ops.table().sampling;
  ops.parallel(kernels.adjust_logits, args, rows, 1, kernels.scratch_bytes(vocab));
}

void sample(CpuOps& ops, In<float, 2> logits, Floats temperature, Tokens top_k, Floats top_p,
            Floats min_p, Floats typical_p, In<uint64_t, 1> seeds, In<int64_t, 1> positions,
            Out<int32_t, 1> token_ids) {
  const auto rows = (int64_t)logits.shape(0), vocab = (int64_t)logits.shape(1);
  for (const Floats* parameter : {&temperature, &top_p, &min_p, &typical_p})
    require((int64_t)parameter->shape(0) == rows, "sampling parameters must be [S]");
  require((int64_t)top_k.shape(0) == rows && (int64_t)seeds.shape(0) == rows &&
              (int64_t)positions.shape(0) == rows && (int64_t)token_ids.shape(0) == rows,
          "top_k, seeds, positions and token_ids must be [S]");
  for (int64_t s = 0; s < rows; s++)
    require(!(top_p.data()[s] < 0) && !(typical_p.data()[s] < 0),
            "top_p and typical_p must not be negative");
  const SampleArgs args{logits.data(),    vocab,           temperature.data(), top_k.data(),
                        top_p.data(),     min_p.data(),    typical_p.data(),   seeds.data(),
                        positions.data(), token_ids.data()};
  Running running(ops);
  const SamplingKernels& kernels = ops.table().sampling;
  ops.parallel(kernels.sample, args, rows, 1, kernels.scratch_bytes(vocab));
}

void logprobs(CpuOps& ops, In<float, 2> logits, Tokens token_ids, Out<float, 1> out,
              Out<int32_t, 1> ranks, Out<int32_t, 2> top_ids, Out<float, 2> top_logprobs) {
  const auto rows = (int64_t)logits.shape(0), vocab = (int64_t)logits.shape(1);
  const auto num_top = (int64_t)top_ids.shape(1);
  require((int64_t)token_ids.shape(0) == rows && (int64_t)out.shape(0) == rows &&
              (int64_t)ranks.shape(0) == rows && (int64_t)top_ids.shape(0) == rows &&
              (int64_t)top_logprobs.shape(0) == rows && (int64_t)top_logprobs.shape(1) == num_top,
          "logprobs: arrays must be [S] and [S, k]");
  require(num_top <= kMaxTopLogprobs && num_top <= vocab, "logprobs: at most 32 and V per row");
  require_range(token_ids.data(), rows, 0, vocab, "token id");
  const LogprobsArgs args{logits.data(), vocab,        token_ids.data(), (int32_t)num_top,
                          out.data(),    ranks.data(), top_ids.data(),   top_logprobs.data()};
  Running running(ops);
  const SamplingKernels& kernels = ops.table().sampling;
  ops.parallel(kernels.logprobs, args, rows, 1, kernels.scratch_bytes(vocab));
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("adjust_logits", &adjust_logits, "ops"_a, "logits"_a.noconvert(), "token_mask"_a.none(),
        "bias_start"_a.none(), "bias_ids"_a.none(), "bias_values"_a.none(), "prompt_start"_a.none(),
        "prompt_ids"_a.none(), "prompt_values"_a.none(), "output_start"_a.none(),
        "output_ids"_a.none(), "output_values"_a.none(), "repetition"_a, "presence"_a,
        "frequency"_a);
  m.def("sample", &sample, "ops"_a, "logits"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a,
        "typical_p"_a, "seeds"_a, "positions"_a, "token_ids"_a.noconvert());
  m.def("logprobs", &logprobs, "ops"_a, "logits"_a, "token_ids"_a, "out"_a.noconvert(),
        "ranks"_a.noconvert(), "top_ids"_a.noconvert(), "top_logprobs"_a.noconvert());
}

}  // namespace headrace
