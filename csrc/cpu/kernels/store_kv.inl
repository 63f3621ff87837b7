// The KV cache and the writing of it. Both halves of a block are tiles that attention reads as they
// are: 64-byte lines of 16 pairs of bf16, the pair being what one multiply-add step consumes.
//
//   keys    [N][K][B / 16][Dp / 2][16 tokens][2 of D]    line: 16 tokens, dims 2i and 2i + 1
//   values  [N][K][B / 32][Dp / 16][16][16 of D][2]      line: 16 dims of tokens 2j and 2j + 1
//
// Dp is D rounded up to 32; the padding stays zero. Int8 has the same lines with the pairs apart,
// 16 first and 16 second bytes, and after the B tokens of a head their scales [B] float32.
#pragma once

constexpr int kKeyTokens = 16;
constexpr int kValueTokens = 32;

HR_INLINE int padded_head_size(int head_size) { return (head_size + 31) / 32 * 32; }

// Bytes of `num_tokens` keys or values of one head, without scales.
HR_INLINE int64_t stored_bytes(const KVLayer& layer, KVFormat format, int num_tokens) {
  const int element = format == kInt8KV ? 1 : 2;
  return (int64_t)num_tokens * padded_head_size(layer.head_size) * element;
}

// The block of one KV head.
HR_INLINE uint8_t* head_block(const KVLayer& layer, const KVHalf& half, int64_t block,
                              int kv_head) {
  const int64_t scale_bytes = half.format == kInt8KV ? layer.block_size * 4 : 0;
  const int64_t bytes = stored_bytes(layer, half.format, layer.block_size) + scale_bytes;
  return half.data + (block * layer.num_kv_heads + kv_head) * bytes;
}
// Scales of an int8 block, one per token.
HR_INLINE float* block_scales(const KVLayer& layer, uint8_t* block) {
  return (float*)(block + stored_bytes(layer, kInt8KV, layer.block_size));
}

// A line of int8 as pairs of bf16. Small integers are exact in the upper half of a float32.
HR_INLINE I32x16 widen_line(const int8_t* line) {
  const I32x16 first = as_i32(float_of_i32(load_i8(line)));
  const I32x16 second = as_i32(float_of_i32(load_i8(line + 16)));
  return bit_or(shift_right<16>(first), second);
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

// x as integers of -127 .. 127 in units of the result, the largest magnitude over 127. The unit is
// a NaN where x has a value that is not finite, so that damage is seen and not rounded away.
HR_INLINE float quantize_head(const float* x, int n, int8_t* out) {
  F32x16 largest = zero_f32(), damage = zero_f32();
  for (int i = 0; i < n; i += 16) {
    F32x16 v = load_first(x + i, n - i < 16 ? n - i : 16);
    largest = max(largest, abs(v));
    damage = fma(v, zero_f32(), damage);
  }
  const float top = reduce_max(largest);
  const F32x16 factor = splat(top > 0x1p-100f ? 127.0f / top : 0.0f);  // no infinity for tiny heads
  for (int i = 0; i < n; i += 16)
    store_i8(out + i, round_i32(mul(load_first(x + i, n - i < 16 ? n - i : 16), factor)));
  return top / 127.0f + reduce_add(damage);
}

HR_INLINE void store_key_i8(const float* x, const KVLayer& layer, int token, uint8_t* block) {
  const int size = layer.head_size;
  int8_t rounded[kMaxHeadSize + 16];
  block_scales(layer, block)[token] = quantize_head(x, size, rounded);
  uint8_t* out =
      block + stored_bytes(layer, kInt8KV, token / kKeyTokens * kKeyTokens) + token % kKeyTokens;
  for (int d = 0; d < size; d++) out[d * 16] = (uint8_t)rounded[d];
}

HR_INLINE void store_value_i8(const float* x, const KVLayer& layer, int token, uint8_t* block) {
  const int size = layer.head_size;
  int8_t rounded[kMaxHeadSize + 16];
  block_scales(layer, block)[token] = quantize_head(x, size, rounded);
  uint8_t* out = block + stored_bytes(layer, kInt8KV, token / kValueTokens * kValueTokens);
  out += token % kValueTokens * 16;
  for (int d = 0; d < size; d += 16)
    memcpy(out + d * kValueTokens, rounded + d, size - d < 16 ? (size_t)(size - d) : 16);
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
    for (int head = 0; head < layer.num_kv_heads; head++) {
      const float* key = args->qkv + t * width + (int64_t)(args->num_heads + head) * size;
      const float* value = key + (int64_t)layer.num_kv_heads * size;
      float shifted[kMaxHeadSize];
      if (args->key_shift) {
        const float* shift = args->key_shift + (int64_t)head * size;
        for (int d = 0; d < size; d++) shifted[d] = key[d] - shift[d];
        key = shifted;
      }
      uint8_t* keys = head_block(layer, layer.keys, block, head);
      uint8_t* values = head_block(layer, layer.values, block, head);
      if (layer.keys.format == kInt8KV) {
        store_key_i8(key, layer, token, keys);
      } else {
        store_key(key, size, token, (uint16_t*)keys);
      }
      if (layer.values.format == kInt8KV) {
        store_value_i8(value, layer, token, values);
      } else {
        store_value(value, size, token, (uint16_t*)values);
      }
    }
  }
}
