// The KV cache and the writing of it. Both halves of a block are tiles that attention reads as they
// are: 64-byte lines of 16 pairs of bf16, the pair being what one multiply-add step consumes.
//
//   keys    [N][K][B / 16][Dp / 2][16 tokens][2 of D]    line: 16 tokens, dims 2i and 2i + 1
//   values  [N][K][B / 32][Dp / 16][16][16 of D][2]      line: 16 dims of tokens 2j and 2j + 1
//
// Dp is D rounded up to 32; the padding stays zero.
#pragma once

constexpr int kKeyTokens = 16;
constexpr int kValueTokens = 32;

HR_INLINE int padded_head_size(int head_size) { return (head_size + 31) / 32 * 32; }

// Elements of the block of one KV head, keys or values.
HR_INLINE int64_t head_block_elements(const KVLayer& layer) {
  return (int64_t)layer.block_size * padded_head_size(layer.head_size);
}
HR_INLINE int64_t head_block_offset(const KVLayer& layer, int64_t block, int kv_head) {
  return (block * layer.num_kv_heads + kv_head) * head_block_elements(layer);
}

HR_INLINE void round_to_bf16(const float* x, int n, uint16_t* out) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store_bf16(out + i, load(x + i));
  for (; i < n; i++) out[i] = bf16_of_float(x[i]);
}

HR_INLINE void store_key(const float* x, int head_size, int token, uint16_t* block) {
  uint16_t rounded[kMaxHeadSize + 1];
  round_to_bf16(x, head_size, rounded);
  rounded[head_size] = 0;
  uint16_t* out = block + (int64_t)(token / kKeyTokens) * padded_head_size(head_size) * kKeyTokens;
  out += token % kKeyTokens * 2;
  for (int d = 0; d < head_size; d += 2) memcpy(out + d * kKeyTokens, rounded + d, 4);
}

HR_INLINE void store_value(const float* x, int head_size, int token, uint16_t* block) {
  uint16_t rounded[kMaxHeadSize];
  round_to_bf16(x, head_size, rounded);
  uint16_t* out =
      block + (int64_t)(token / kValueTokens) * padded_head_size(head_size) * kValueTokens;
  out += token % kValueTokens / 2 * 32 + token % 2;
  for (int d = 0; d < head_size; d++) out[d / 16 * 512 + d % 16 * 2] = rounded[d];
}

static void store_kv(const StoreKvArgs* args, const Work* work) {
  const KVLayer& layer = args->layer;
  const int size = layer.head_size;
  const int64_t width = (int64_t)(args->num_heads + 2 * layer.num_kv_heads) * size;
  for (int64_t t = work->begin; t < work->end; t++) {
    const int32_t slot = args->slot_mapping[t];
    if (slot < 0) continue;
    const int64_t block = slot / layer.block_size;
    const int token = slot % layer.block_size;
    const float* keys = args->qkv + t * width + (int64_t)args->num_heads * size;
    for (int head = 0; head < layer.num_kv_heads; head++) {
      const int64_t offset = head_block_offset(layer, block, head);
      store_key(keys + (int64_t)head * size, size, token, layer.keys + offset);
      store_value(keys + (int64_t)(layer.num_kv_heads + head) * size, size, token,
                  layer.values + offset);
    }
  }
}
