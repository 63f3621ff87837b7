// What attention keeps in its worker's scratch, and where keys and values of a request lie.
// Comes after `Weight`, `Query`, kWeightsInPlace and kWeightStride of the tier.
#pragma once

#include "kernels/store_kv.inl"

constexpr int kSplitTokens = kAttentionSplitTokens;
constexpr int kTileTokens = 64;
constexpr int kBlockRows = 16;
constexpr int kScoreStride = kSplitTokens + 16;

HR_INLINE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

struct AttentionPlace {
  const KVLayer* layer;
  const int32_t* blocks;  // of the request
  int kv_head;
  int padded_size;
  int tail_group;  // group of 32 tokens whose values are in `tail`; -1 for none
  const uint16_t* tail;
};

HR_INLINE const uint16_t* stored_keys(const AttentionPlace& place, int token) {
  const KVLayer& layer = *place.layer;
  const int64_t offset =
      head_block_offset(layer, place.blocks[token / layer.block_size], place.kv_head);
  return layer.keys + offset +
         (int64_t)(token % layer.block_size / kKeyTokens) * place.padded_size * kKeyTokens;
}

HR_INLINE const uint16_t* stored_values(const AttentionPlace& place, int group) {
  const KVLayer& layer = *place.layer;
  const int token = group * kValueTokens;
  const int64_t offset =
      head_block_offset(layer, place.blocks[token / layer.block_size], place.kv_head);
  return layer.values + offset + (int64_t)(token % layer.block_size) * place.padded_size;
}

HR_INLINE const uint16_t* values_of_group(const AttentionPlace& place, int group) {
  return group == place.tail_group ? place.tail : stored_values(place, group);
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
  float* scores;         // [16][kScoreStride]
  Weight* weights;       // [16][kWeightStride]; may be `scores`
  Query* queries;        // [128][Dp], in the order of the tier
  float* mixed;          // [128][Dp]
  float* part;           // [16][Dp]
  uint16_t* tail;        // [Dp][32]
  RowSum* rows;          // [128]
  VisibleKeys* visible;  // [128]
  int padded_size;
};

constexpr size_t kScoreBytes = kBlockRows * kScoreStride * sizeof(float);
constexpr size_t kWeightBytes = kWeightsInPlace ? 0 : kBlockRows * kWeightStride * sizeof(Weight);

static size_t attention_scratch_bytes(int32_t head_size) {
  const size_t row = (size_t)padded_head_size(head_size) * 4;
  return kScoreBytes + kWeightBytes + (2 * kAttentionItemRows + kBlockRows + 16) * row +
         2 * kAttentionItemRows * 8;
}

static AttentionScratch place_scratch(uint8_t* memory, int padded_size) {
  AttentionScratch scratch;
  const size_t row = (size_t)padded_size * 4;
  scratch.padded_size = padded_size;
  scratch.scores = (float*)memory;
  memory += kScoreBytes;
  scratch.weights = kWeightsInPlace ? (Weight*)scratch.scores : (Weight*)memory;
  memory += kWeightBytes;
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
  return scratch;
}
