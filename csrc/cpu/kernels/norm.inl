// RMS norm and layer norm. Every sum is a fixed tree: 4 accumulators of 16 lanes, then lanes.
#pragma once

HR_INLINE float sum_of_squares(const float* x, int64_t n) {
  F32x16 sums[4] = {zero_f32(), zero_f32(), zero_f32(), zero_f32()};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int a = 0; a < 4; a++) {
      F32x16 v = load(x + i + 16 * a);
      sums[a] = add(sums[a], mul(v, v));
    }
  }
  for (int a = 0; i < n; a++, i += 16) {
    F32x16 v = load_first(x + i, n - i < 16 ? (int)(n - i) : 16);
    sums[a] = add(sums[a], mul(v, v));
  }
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

HR_INLINE void add_row(float* h, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(h + i, add(load(h + i), load(x + i)));
  if (i < n) {
    int rest = (int)(n - i);
    store_first(h + i, add(load_first(h + i, rest), load_first(x + i, rest)), rest);
  }
}

// out = x / sqrt(mean(x^2) + eps) * weight; out may be x.
HR_INLINE void rms_norm_row(const float* x, const float* weight, float eps, int64_t n, float* out) {
  float mean = sum_of_squares(x, n) / (float)n;
  F32x16 factor = splat(1.0f / __builtin_sqrtf(mean + eps));
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, mul(mul(load(x + i), factor), load(weight + i)));
  if (i < n) {
    int rest = (int)(n - i);
    F32x16 y = mul(mul(load_first(x + i, rest), factor), load_first(weight + i, rest));
    store_first(out + i, y, rest);
  }
}

static void rms_norm(const RmsNormArgs* args, const Work* work) {
  const int64_t width = args->width;
  for (int64_t t = work->begin; t < work->end; t++) {
    float* row = args->h + t * width;
    if (args->add) add_row(row, args->add + t * width, width);
    rms_norm_row(row, args->weight, args->eps, width, args->out + t * width);
  }
}

HR_INLINE float sum_of_row(const float* x, int64_t n) {
  F32x16 sums[4] = {zero_f32(), zero_f32(), zero_f32(), zero_f32()};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int a = 0; a < 4; a++) sums[a] = add(sums[a], load(x + i + 16 * a));
  for (int a = 0; i < n; a++, i += 16)
    sums[a] = add(sums[a], load_first(x + i, n - i < 16 ? (int)(n - i) : 16));
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// out = x - mean(x); out may be x.
HR_INLINE void center_row(const float* x, int64_t n, float* out) {
  const F32x16 mean = splat(sum_of_row(x, n) / (float)n);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, sub(load(x + i), mean));
  if (i < n) store_first(out + i, sub(load_first(x + i, (int)(n - i)), mean), (int)(n - i));
}

static void layer_norm(const LayerNormArgs* args, const Work* work) {
  const int64_t width = args->width;
  for (int64_t t = work->begin; t < work->end; t++) {
    float* out = args->out + t * width;
    const float* row = args->h + t * width;
    if (args->add) {
      memcpy(out, row, (size_t)width * sizeof(float));
      add_row(out, args->add + t * width, width);
      row = out;
    }
    center_row(row, width, out);
    const float variance = sum_of_squares(out, width) / (float)width;
    const F32x16 factor = splat(1.0f / __builtin_sqrtf(variance + args->eps));
    for (int64_t i = 0; i < width; i += 16) {
      const int n = width - i < 16 ? (int)(width - i) : 16;
      F32x16 y = mul(mul(load_first(out + i, n), factor), load_first(args->weight + i, n));
      store_first(out + i, add(y, load_first(args->bias + i, n)), n);
    }
  }
}
