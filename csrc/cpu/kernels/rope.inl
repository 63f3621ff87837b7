// Rotary embedding: pairs (i, i + rotary_size/2) of every q and k head, after an optional head
// norm.
#pragma once

#include "kernels/norm.inl"

// x[i], x[i + half] rotated by the angle i of the row.
HR_INLINE void rotate_head(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; i += 16) {
    int n = half - i < 16 ? half - i : 16;
    F32x16 first = load_first(x + i, n), second = load_first(x + i + half, n);
    F32x16 c = load_first(cosines + i, n), s = load_first(sines + i, n);
    store_first(x + i, sub(mul(first, c), mul(second, s)), n);
    store_first(x + i + half, add(mul(second, c), mul(first, s)), n);
  }
}

static void rope(const RopeArgs* args, const Work* work) {
  const int size = args->head_size, half = args->rotary_size / 2;
  const int num_rotated = args->num_heads + args->num_kv_heads;
  const int64_t width = (int64_t)(num_rotated + args->num_kv_heads) * size;
  for (int64_t t = work->begin; t < work->end; t++) {
    const int64_t angle = (int64_t)args->positions[t] * half;
    for (int head = 0; head < num_rotated; head++) {
      float* x = args->qkv + t * width + (int64_t)head * size;
      const float* norm = head < args->num_heads ? args->q_norm : args->k_norm;
      if (norm) rms_norm_row(x, norm, args->eps, size, x);
      rotate_head(x, args->cosines + angle, args->sines + angle, half);
    }
  }
}
