// What attention keeps in its worker's scratch, and where keys and values of a request lie.
// Comes after `Weight`, `Query`, kBlockRows and kWeightsPerScore of the tier.
#pragma once

#include "kernels/store_kv.inl"

constexpr int kSplitTokens = kAttentionSplitTokens;
constexpr int kTileTokens = 64;
constexpr int kScoreStride = kSplitTokens + 16;
constexpr int kWeightStride = kScoreStride * kWeightsPerScore;

HR_INLINE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

// Where the keys and values of a request's KV head are, and for int8 the copies of the split at
// hand as bf16 tiles, which hold the integers without rounding; null where the products widen.
struct AttentionPlace {
  const KVLayer* layer;
  const int32_t* blocks;  // of the request
  int kv_head;
  int padded_size;
  int seq_len;
  int tail_group;  // group of 32 tokens whose values are in `tail`; -1 for none
  const uint16_t* tail;
  int split_begin;
  uint16_t* split_keys;
  uint16_t* split_values;
};

HR_INLINE uint8_t* block_of_token(const AttentionPlace& place, const KVHalf& half, int token) {
  const KVLayer& layer = *place.layer;
  return head_block(layer, half, place.blocks[token / layer.block_size], place.kv_head);
}

// Tokens from a multiple of 16 for keys, of 32 for values.
HR_INLINE const uint8_t* stored_tokens(const AttentionPlace& place, const KVHalf& half, int token) {
  const int in_block = token % place.layer->block_size;
  return block_of_token(place, half, token) + stored_bytes(*place.layer, half.format, in_block);
}

HR_INLINE const uint16_t* keys_of_tile(const AttentionPlace& place, int token) {
  if (place.layer->keys.format == kInt8KV)
    return place.split_keys + (int64_t)(token - place.split_begin) * place.padded_size;
  return (const uint16_t*)stored_tokens(place, place.layer->keys, token);
}

HR_INLINE const uint16_t* values_of_group(const AttentionPlace& place, int group) {
  const int token = group * kValueTokens;
  if (place.layer->values.format == kInt8KV)
    return place.split_values + (int64_t)(token - place.split_begin) * place.padded_size;
  if (group == place.tail_group) return place.tail;
  return (const uint16_t*)stored_tokens(place, place.layer->values, token);
}

HR_INLINE void widen_lines(const int8_t* lines, int num_elements, uint16_t* out) {
  for (int i = 0; i < num_elements; i += 32) store_i32((int32_t*)(out + i), widen_line(lines + i));
}

// Scales of 16 tokens; zero for what lies behind the sequence, which may be anything.
HR_INLINE void copy_scales(const AttentionPlace& place, const KVHalf& half, int token,
                           float* scales) {
  const float* stored = block_scales(*place.layer, block_of_token(place, half, token));
  const F32x16 x = load(stored + token % place.layer->block_size);
  store(scales, select(mask_first(clamp(place.seq_len - token, 0, 16)), x, zero_f32()));
}

// Copies tokens [begin, end) of an int8 cache, relative to the split, as bf16 and scales.
HR_INLINE void widen_keys(const AttentionPlace& place, int begin, int end, float* scales) {
  for (int t = begin; t < end; t += kKeyTokens) {
    const int token = place.split_begin + t;
    const int8_t* lines = (const int8_t*)stored_tokens(place, place.layer->keys, token);
    if (place.split_keys)
      widen_lines(lines, place.padded_size * kKeyTokens, place.split_keys + t * place.padded_size);
    copy_scales(place, place.layer->keys, token, scales + t);
  }
}

HR_INLINE void widen_values(const AttentionPlace& place, int begin, int end, float* scales) {
  for (int t = begin; t < end; t += kValueTokens) {
    const int token = place.split_begin + t;
    const int8_t* lines = (const int8_t*)stored_tokens(place, place.layer->values, token);
    if (place.split_values)
      widen_lines(lines, place.padded_size * kValueTokens,
                  place.split_values + t * place.padded_size);
    copy_scales(place, place.layer->values, token, scales + t);
    copy_scales(place, place.layer->values, token + 16, scales + t + 16);
  }
}

// Keys and values of up to a split that will be read soon. Few rows wait for memory, and a core
// has the more of it under way the more places it reads in turn: the lines of all groups of 32
// tokens, of keys and of values, are asked for side by side.
constexpr int kFetchLines = 4;  // of a place before it is the next one's turn

struct ReadNext {
  const uint8_t* places[2 * kSplitTokens / kValueTokens];  // keys and values take turns
  int num_lines[2];                                        // of a place of keys, of values
  int count;                                               // of places
  int place, line;                                         // what comes next
};

// Scales are few lines, of a place of their own: asked for at once.
HR_INLINE void fetch_scales(const AttentionPlace& place, const KVHalf& half, int token) {
  if (half.format != kInt8KV) return;
  for (int t = token; t < token + kValueTokens; t += 16) {
    const float* stored = block_scales(*place.layer, block_of_token(place, half, token));
    __builtin_prefetch(stored + t % place.layer->block_size, 0, 3);
  }
}

HR_INLINE ReadNext read_next(const AttentionPlace& place, int token, int end) {
  const KVLayer& layer = *place.layer;
  ReadNext next;
  next.num_lines[0] = (int)(stored_bytes(layer, layer.keys.format, kValueTokens) / 64);
  next.num_lines[1] = (int)(stored_bytes(layer, layer.values.format, kValueTokens) / 64);
  next.count = next.place = next.line = 0;
  for (token = token / kValueTokens * kValueTokens; token < end; token += kValueTokens) {
    next.places[next.count++] = stored_tokens(place, layer.keys, token);
    next.places[next.count++] = stored_tokens(place, layer.values, token);
    fetch_scales(place, layer.keys, token);
    fetch_scales(place, layer.values, token);
  }
  return next;
}

HR_INLINE int longest_place(const ReadNext& next) {
  return next.num_lines[0] > next.num_lines[1] ? next.num_lines[0] : next.num_lines[1];
}

// How many turns a row has to take so that `num_rows` rows ask for everything.
HR_INLINE int turns_per_row(const ReadNext& next, int num_rows) {
  const int rounds = (longest_place(next) + kFetchLines - 1) / kFetchLines;
  return (rounds * next.count + num_rows - 1) / num_rows;
}

HR_INLINE void fetch_ahead(ReadNext* next, int num_turns) {
  const int last = next->count ? longest_place(*next) : 0;
  for (; num_turns > 0 && next->line < last; num_turns--) {
    const uint8_t* at = next->places[next->place];
    const int num_lines = next->num_lines[next->place % 2];
    for (int i = next->line; i < next->line + kFetchLines && i < num_lines; i++)
      __builtin_prefetch(at + i * 64, 0, 2);
    if (++next->place == next->count) {
      next->place = 0;
      next->line += kFetchLines;
    }
  }
}

// The other way, where products leave room for it (kFetchesBesideProducts): the products of a group
// of 32 tokens ask for the lines of the group in its place.
HR_INLINE const uint8_t* place_ahead(const ReadNext& next, int group, int half) {
  const int place = 2 * group + half;
  return place < next.count ? next.places[place] : nullptr;
}

// Places from `first` on, which no products stand beside.
HR_INLINE void fetch_places(const ReadNext& next, int first) {
  for (int place = first; place < next.count; place++)
    for (int i = 0; i < next.num_lines[place % 2]; i++)
      __builtin_prefetch(next.places[place] + i * 64, 0, 2);
}

// A row's softmax so far: the largest score, in units of log 2, and the sum of weights over it.
struct RowSum {
  float maximum;
  float sum;
};

// A part in memory: its RowSum in a line of its own, then its mixed values.
constexpr int kPartHeader = 16;

HR_INLINE int64_t part_floats(int32_t head_size) {
  return padded_head_size(head_size) + kPartHeader;
}

// Absolute positions [first, last).
struct VisibleKeys {
  int32_t first, last;
};

// All 64-byte aligned. Dp is the padded head size.
struct AttentionScratch {
  float* scores;         // [kBlockRows][kScoreStride]
  Weight* weights;       // [kBlockRows][kWeightStride], over the scores: a weight is written behind
                         // the last score that was read
  Query* queries;        // [128][Dp], in the order of the tier
  float* mixed;          // [128][Dp]
  float* part;           // [kBlockRows][Dp]
  uint16_t* tail;        // [Dp][32]
  uint16_t* keys;        // [kSplitTokens][Dp], like the rest of what follows for int8 alone
  uint16_t* values;      // [kSplitTokens][Dp]
  float* key_scales;     // [kSplitTokens]
  float* value_scales;   // [kSplitTokens]
  RowSum* rows;          // [128]
  VisibleKeys* visible;  // [128]
  int padded_size;
};

constexpr size_t kScoreBytes = kBlockRows * kScoreStride * sizeof(float);

static size_t attention_scratch_bytes(int32_t head_size) {
  const size_t row = (size_t)padded_head_size(head_size) * 4;
  return kScoreBytes + (2 * kAttentionItemRows + kBlockRows + 16) * row +
         2 * kAttentionItemRows * 8 + kSplitTokens * (row + 8);
}

static AttentionScratch place_scratch(uint8_t* memory, int padded_size) {
  AttentionScratch scratch;
  const size_t row = (size_t)padded_size * 4;
  scratch.padded_size = padded_size;
  scratch.scores = (float*)memory;
  memory += kScoreBytes;
  scratch.weights = (Weight*)scratch.scores;
  scratch.queries = (Query*)memory;
  memory += kAttentionItemRows * row;
  scratch.mixed = (float*)memory;
  memory += kAttentionItemRows * row;
  scratch.part = (float*)memory;
  memory += kBlockRows * row;
  scratch.tail = (uint16_t*)memory;
  memory += 16 * row;
  scratch.rows = (RowSum*)memory;
  memory += kAttentionItemRows * 8;
  scratch.visible = (VisibleKeys*)memory;
  memory += kAttentionItemRows * 8;
  scratch.key_scales = (float*)memory;
  scratch.value_scales = scratch.key_scales + kSplitTokens;
  scratch.keys = (uint16_t*)(scratch.value_scales + kSplitTokens);
  scratch.values = scratch.keys + kSplitTokens * padded_size;
  return scratch;
}
