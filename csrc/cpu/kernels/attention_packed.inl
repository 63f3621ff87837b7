// Attention of whole sequences, in float32: keys transposed once per item, so that lanes are keys.
//
// A row's scores are all known before its maximum is taken. Every lane sums over d in ascending
// order, every output over keys in ascending order, so a row's bits depend on its sequence alone.
#pragma once

#include "kernels/exact_math.inl"

#ifdef __AVX512F__
constexpr int kPackedRows = 8;  // accumulators that fit the registers
#else
constexpr int kPackedRows = 4;
#endif

HR_INLINE int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }

static size_t packed_scratch_bytes(int64_t max_rows, int32_t head_size) {
  const int64_t keys = whole_vectors(max_rows), dims = whole_vectors(head_size);
  return (size_t)(2 * keys * dims + kPackedRows * (keys + dims)) * sizeof(float);
}

// Where an item's arrays lie in its scratch.
struct PackedScratch {
  float* keys;     // [D][keys]
  float* values;   // [keys][dims]
  float* scores;   // [kPackedRows][keys]
  float* queries;  // [kPackedRows][dims]
  int64_t num_keys, stride, dims;
};

// Keys beyond the last are zero; their scores are never read.
static PackedScratch place_sequence(const AttentionPackedArgs* args, const PackedItem& item,
                                    uint8_t* at) {
  const int64_t n = item.end - item.begin, stride = whole_vectors(n);
  const int64_t size = args->head_size, dims = whole_vectors(size);
  const int64_t width = (int64_t)args->num_heads * size;
  float* memory = (float*)at;
  PackedScratch s = {memory,
                     memory + stride * dims,
                     memory + 2 * stride * dims,
                     memory + 2 * stride * dims + kPackedRows * stride,
                     n,
                     stride,
                     dims};
  for (int64_t j = 0; j < n; j++) {
    const float* key = args->qkv + (item.begin + j) * 3 * width + width + item.head * size;
    for (int64_t d = 0; d < size; d++) s.keys[d * stride + j] = key[d];
    float* value = s.values + j * dims;
    memcpy(value, key + width, (size_t)size * sizeof(float));
    memset(value + size, 0, (size_t)(dims - size) * sizeof(float));
  }
  for (int64_t d = 0; d < size && n < stride; d++)
    memset(s.keys + d * stride + n, 0, (size_t)(stride - n) * sizeof(float));
  return s;
}

template <int R>
HR_INLINE void score_packed(const PackedScratch& s, int64_t size) {
  for (int64_t j = 0; j < s.num_keys; j += 16) {
    F32x16 sums[R];
    HR_UNROLL
    for (int r = 0; r < R; r++) sums[r] = zero_f32();
    for (int64_t d = 0; d < size; d++) {
      const F32x16 keys = load(s.keys + d * s.stride + j);
      HR_UNROLL
      for (int r = 0; r < R; r++) sums[r] = fma(splat(s.queries[r * s.dims + d]), keys, sums[r]);
    }
    HR_UNROLL
    for (int r = 0; r < R; r++) store(s.scores + r * s.stride + j, sums[r]);
  }
}

HR_INLINE F32x16 keep_first(F32x16 x, int64_t n, float other) {
  return n < 16 ? select(mask_first((int)n), x, splat(other)) : x;
}

// Scores to softmax numerators, zero beyond the last key; their sum.
HR_INLINE float weigh_packed(float* scores, int64_t n, float factor) {
  F32x16 top = splat(-__builtin_inff());
  for (int64_t j = 0; j < n; j += 16)
    top = max(top, keep_first(load(scores + j), n - j, -__builtin_inff()));
  const F32x16 scale = splat(factor), shift = splat(-reduce_max(top) * factor);
  F32x16 sum = zero_f32();
  for (int64_t j = 0; j < n; j += 16) {
    const F32x16 e = keep_first(exp2_neg(fma(load(scores + j), scale, shift)), n - j, 0.0f);
    store(scores + j, e);
    sum = add(sum, e);
  }
  return reduce_add(sum);
}

template <int R>
HR_INLINE void mix_packed(const PackedScratch& s, const float* sums, int64_t size, float* out,
                          int64_t width) {
  for (int64_t d = 0; d < s.dims; d += 16) {
    F32x16 mixed[R];
    HR_UNROLL
    for (int r = 0; r < R; r++) mixed[r] = zero_f32();
    for (int64_t j = 0; j < s.num_keys; j++) {
      const F32x16 values = load(s.values + j * s.dims + d);
      HR_UNROLL
      for (int r = 0; r < R; r++)
        mixed[r] = fma(splat(s.scores[r * s.stride + j]), values, mixed[r]);
    }
    const int n = size - d < 16 ? (int)(size - d) : 16;
    HR_UNROLL
    for (int r = 0; r < R; r++) store_first(out + r * width + d, div(mixed[r], splat(sums[r])), n);
  }
}

template <int R>
static void attend_packed(const AttentionPackedArgs* args, const PackedItem& item, int64_t row,
                          const PackedScratch& s) {
  const int64_t size = args->head_size, width = (int64_t)args->num_heads * size;
  for (int r = 0; r < R; r++) {
    const float* query = args->qkv + (row + r) * 3 * width + item.head * size;
    memcpy(s.queries + r * s.dims, query, (size_t)size * sizeof(float));
  }
  score_packed<R>(s, size);
  float sums[R];
  for (int r = 0; r < R; r++)
    sums[r] = weigh_packed(s.scores + r * s.stride, s.num_keys, args->scale * kLog2E);
  mix_packed<R>(s, sums, size, args->out + row * width + item.head * size, width);
}

static void attention_packed(const AttentionPackedArgs* args, const Work* work) {
  for (int64_t i = work->begin; i < work->end; i++) {
    const PackedItem& item = args->items[i];
    const PackedScratch s = place_sequence(args, item, work->scratch);
    int64_t row = item.row_begin;
    for (; row + kPackedRows <= item.row_end; row += kPackedRows)
      attend_packed<kPackedRows>(args, item, row, s);
    for (; row < item.row_end; row++) attend_packed<1>(args, item, row, s);
  }
}

constexpr AttentionPackedKernels kAttentionPackedKernels = {attention_packed, packed_scratch_bytes};
