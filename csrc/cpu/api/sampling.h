// Choosing tokens from logits.
#pragma once

#include "api/work.h"

namespace headrace {

// Items: rows of logits [S, V].
struct SampleArgs {
  const float* logits;
  int64_t vocab_size;
  int32_t* token_ids;
};

}  // namespace headrace
