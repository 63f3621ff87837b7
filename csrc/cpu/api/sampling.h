// Choosing tokens from logits.
#pragma once

#include "api/work.h"

namespace headrace {

// Row s owns [start[s], start[s + 1]); null where there is none.
struct TokenListArgs {
  const int32_t* start;
  const int32_t* token_ids;
  const float* values;
};

// Mask, bias, penalties. Items: rows of logits [S, V].
struct AdjustArgs {
  float* logits;
  int64_t vocab_size;
  const uint32_t* token_mask;  // [S, ceil(V / 32)] or null
  TokenListArgs bias;
  TokenListArgs prompt_counts;
  TokenListArgs output_counts;
  const float* repetition_penalty;  // [S], like the next two
  const float* presence_penalty;
  const float* frequency_penalty;
};

// Items: rows of logits [S, V]. All parameters are [S].
struct SampleArgs {
  const float* logits;
  int64_t vocab_size;
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* typical_p;
  const uint64_t* seeds;
  const int64_t* positions;
  int32_t* token_ids;  // -1 for a row from which nothing can be chosen
};

// Items: rows of logits [S, V].
constexpr int kMaxTopLogprobs = 32;
struct LogprobsArgs {
  const float* logits;
  int64_t vocab_size;
  const int32_t* token_ids;  // [S]
  int32_t num_top;           // at most kMaxTopLogprobs and V
  float* logprobs;           // [S]
  int32_t* ranks;            // [S], -1 for a row from which nothing can be chosen
  int32_t* top_ids;          // [S, num_top]
  float* top_logprobs;       // [S, num_top]
};

struct SamplingKernels {
  Kernel<AdjustArgs> adjust_logits;
  Kernel<SampleArgs> sample;
  Kernel<LogprobsArgs> logprobs;
  size_t (*scratch_bytes)(int64_t vocab_size);
};

}  // namespace headrace
