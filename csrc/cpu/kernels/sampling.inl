// Choosing a token from a row of logits, without sorting the vocabulary.
//
// Every decision is made on float32 operations in a fixed order and on exact integer sums, so the
// token depends on the row alone. ops/reference/sampling.py is the same algorithm with sorts.
#pragma once

#include "kernels/exact_math.inl"

constexpr float kGreedyTemperature = 1e-5f;
constexpr float kMassUnit = 0x1p30f;      // of exp(distance)
constexpr float kDistanceUnit = 0x1p20f;  // fixed point of the mean of typical_p
constexpr float kLargestFloat = 0x1.fffffep127f;
constexpr float kLowestMassDistance = -21.6f;  // below, exp(d) * 2^30 rounds to zero
constexpr int kMaximaVectors = 64;             // vectors that share one vector of maxima

struct SampleScratch {
  float* distances;     // [V + 16]
  int32_t* token_ids;   // [V + 16]
  float* weights;       // [V + 16]
  int32_t* masses;      // [V + 16]
  uint32_t* keys;       // [V + 16]
  uint64_t* histogram;  // [2048]
};

static size_t sample_scratch_bytes(int64_t vocab_size) {
  return 5 * (size_t)(vocab_size + 15 + 16) / 16 * 64 + 2048 * 8 + 64 * 8;
}

static SampleScratch place_sample_scratch(uint8_t* memory, int64_t vocab_size) {
  const size_t array = (size_t)(vocab_size + 15 + 16) / 16 * 64;
  SampleScratch scratch;
  scratch.histogram = (uint64_t*)memory;
  memory += 2048 * 8;
  scratch.distances = (float*)memory;
  scratch.token_ids = (int32_t*)(memory + array);
  scratch.weights = (float*)(memory + 2 * array);
  scratch.masses = (int32_t*)(memory + 3 * array);
  scratch.keys = (uint32_t*)(memory + 4 * array);
  return scratch;
}

HR_INLINE F32x16 load_logits(const float* row, int64_t i, int64_t n) {
  if (i + 16 <= n) return load(row + i);
  const int rest = (int)(n - i);
  return select(mask_first(rest), load_first(row + i, rest), splat(-__builtin_inff()));
}

// -- adjust_logits --------------------------------------------------------------------------------

HR_INLINE void mask_row(float* row, int64_t n, const uint32_t* mask) {
  for (int64_t i = 0; i < n; i += 32) {
    const uint32_t allowed = mask[i / 32];
    if (allowed == 0xffffffffu) continue;
    const int64_t last = n - i < 32 ? n - i : 32;
    for (int64_t j = 0; j < last; j++) {
      if (!(allowed >> j & 1)) row[i + j] = -__builtin_inff();
    }
  }
}

HR_INLINE void penalize(float* logit, float penalty) {
  *logit = *logit > 0.0f ? *logit / penalty : *logit * penalty;
}

// Tokens of the prompt, then those of the output that the prompt does not have.
HR_INLINE void penalize_repetition(float* row, int64_t s, float penalty,
                                   const TokenListArgs& prompt, const TokenListArgs& output,
                                   uint32_t* seen) {
  if (prompt.start) {
    for (int32_t i = prompt.start[s]; i < prompt.start[s + 1]; i++) {
      const int32_t id = prompt.token_ids[i];
      seen[id / 32] |= 1u << id % 32;
      penalize(row + id, penalty);
    }
  }
  if (output.start) {
    for (int32_t i = output.start[s]; i < output.start[s + 1]; i++) {
      const int32_t id = output.token_ids[i];
      if (!(seen[id / 32] >> id % 32 & 1)) penalize(row + id, penalty);
    }
  }
  if (prompt.start) {
    for (int32_t i = prompt.start[s]; i < prompt.start[s + 1]; i++)
      seen[prompt.token_ids[i] / 32] = 0;
  }
}

static void adjust_logits(const AdjustArgs* args, const Work* work) {
  const int64_t n = args->vocab_size, words = (n + 31) / 32;
  uint32_t* seen = (uint32_t*)work->scratch;
  memset(seen, 0, (size_t)words * 4);
  for (int64_t s = work->begin; s < work->end; s++) {
    float* row = args->logits + s * n;
    if (args->token_mask) mask_row(row, n, args->token_mask + s * words);
    const TokenListArgs& bias = args->bias;
    if (bias.start) {
      for (int32_t i = bias.start[s]; i < bias.start[s + 1]; i++)
        row[bias.token_ids[i]] += bias.values[i];
    }
    if (args->repetition_penalty[s] != 1.0f) {
      penalize_repetition(row, s, args->repetition_penalty[s], args->prompt_counts,
                          args->output_counts, seen);
    }
    const TokenListArgs& output = args->output_counts;
    if (!output.start) continue;
    for (int32_t i = output.start[s]; i < output.start[s + 1]; i++) {
      float* logit = row + output.token_ids[i];
      *logit = *logit - args->frequency_penalty[s] * output.values[i];
      *logit = *logit - args->presence_penalty[s];
    }
  }
}

// -- the best logit -------------------------------------------------------------------------------

// Largest logit; a NaN if any is a NaN. Lane maxima of every kMaximaVectors vectors go to `maxima`.
HR_INLINE float best_logit(const float* row, int64_t n, float* maxima) {
  F32x16 best = splat(-__builtin_inff());
  I32x16 magnitude = splat_i32(0);
  for (int64_t i = 0; i < n; i += 16 * kMaximaVectors) {
    F32x16 top = splat(-__builtin_inff());
    const int64_t end = n - i < 16 * kMaximaVectors ? n : i + 16 * kMaximaVectors;
    for (int64_t j = i; j < end; j += 16) {
      F32x16 x = load_logits(row, j, n);
      top = max(x, top);
      magnitude = max(magnitude, as_i32(abs(x)));
    }
    store(maxima + i / kMaximaVectors, top);
    best = max(top, best);
  }
  if (reduce_max(magnitude) > 0x7f800000) return float_of_bits(0x7fc00000);
  return reduce_max(best);
}

HR_INLINE bool is_finite(float x) { return (bits_of_float(x) & 0x7fffffff) < 0x7f800000; }

HR_INLINE int32_t first_equal(const float* row, int64_t n, float x) {
  for (int64_t i = 0; i < n; i += 16) {
    const uint32_t found = mask_bits(equal(load_logits(row, i, n), splat(x)));
    if (found) return (int32_t)i + __builtin_ctz(found);
  }
  return -1;
}

// -- the draw -------------------------------------------------------------------------------------

struct Draw {
  float score;
  int32_t token_id;
};

// An upper bound of gumbel(bits): -log v, with the logarithm of 2 taken from the exponent bits.
HR_INLINE F32x16 noise_bound(I32x16 bits) {
  constexpr float ln2 = 0.693147180f;
  F32x16 half = float_of_i32(shift_right<1>(bits));
  return add(mul(float_of_i32(as_i32(half)), splat(-ln2 * 0x1p-23f)), splat(158.0f * ln2 + 1e-3f));
}

// Gumbel-max of 16 tokens: exact noise only for those that could win.
HR_INLINE void draw_16(F32x16 distances, I32x16 token_ids, uint64_t key, Draw* draw) {
  I32x16 bits = noise_bits(token_ids, key);
  uint32_t could_win = mask_bits(less(splat(draw->score), add(distances, noise_bound(bits))));
  if (!could_win) return;
  float distance[16];
  int32_t ids[16], noise[16];
  store(distance, distances);
  store_i32(ids, token_ids);
  store_i32(noise, bits);
  for (; could_win; could_win &= could_win - 1) {
    const int lane = __builtin_ctz(could_win);
    const float score = distance[lane] + gumbel((uint32_t)noise[lane]);
    if (score > draw->score) *draw = {score, ids[lane]};
  }
}

// How far below the best a logit is, over temperature.
struct RowScale {
  float best, inverse_temperature;
};
HR_INLINE F32x16 distances_of(F32x16 logits, const RowScale& scale) {
  return mul(sub(logits, splat(scale.best)), splat(scale.inverse_temperature));
}

static int32_t draw_from_row(const float* row, int64_t n, const RowScale& scale, uint64_t key) {
  Draw draw = {-__builtin_inff(), -1};
  I32x16 ids = lane_ids();
  for (int64_t i = 0; i < n; i += 16) {
    draw_16(distances_of(load_logits(row, i, n), scale), ids, key, &draw);
    ids = add(ids, splat_i32(16));
  }
  return draw.token_id;
}

// -- candidates and filters -----------------------------------------------------------------------

HR_INLINE int append(const SampleScratch& scratch, int64_t at, F32x16 distances, I32x16 ids,
                     uint32_t wanted) {
#ifdef __AVX512F__
  _mm512_storeu_ps(scratch.distances + at,
                   _mm512_maskz_compress_ps((__mmask16)wanted, distances.v));
  _mm512_storeu_si512(scratch.token_ids + at,
                      _mm512_maskz_compress_epi32((__mmask16)wanted, ids.v));
#else
  float distance[16];
  int32_t id[16];
  store(distance, distances);
  store_i32(id, ids);
  for (uint32_t rest = wanted; rest; rest &= rest - 1, at++) {
    scratch.distances[at] = distance[__builtin_ctz(rest)];
    scratch.token_ids[at] = id[__builtin_ctz(rest)];
  }
#endif
  return __builtin_popcount(wanted);
}

// Weights and integer masses of 16 tokens.
HR_INLINE I32x16 masses_of(F32x16 weights) { return round_i32(mul(weights, splat(kMassUnit))); }

HR_INLINE void weigh_candidates(int64_t n, const SampleScratch& scratch) {
  for (int64_t i = 0; i < n; i += 16) {
    F32x16 weights = exp_neg(load(scratch.distances + i));
    store(scratch.weights + i, weights);
    store_i32(scratch.masses + i, masses_of(weights));
  }
}

// Tokens at distance `center` +- `reach` and those at distance 0, in ascending order of id,
// weighed. Returns how many.
static int64_t gather_candidates(const float* row, int64_t n, const RowScale& scale, float center,
                                 float reach, const SampleScratch& scratch) {
  int64_t count = 0;
  I32x16 ids = lane_ids();
  for (int64_t i = 0; i < n; i += 16) {
    F32x16 distances = distances_of(load_logits(row, i, n), scale);
    const uint32_t wanted =
        mask_bits(less_equal(abs(sub(distances, splat(center))), splat(reach))) |
        mask_bits(equal(distances, zero_f32()));
    if (wanted) count += append(scratch, count, distances, ids, wanted);
    ids = add(ids, splat_i32(16));
  }
  weigh_candidates(count, scratch);
  return count;
}

// Exact sums over a set of tokens: mass, and mass times the fixed-point distance in two halves.
struct MassSums {
  uint64_t mass, low, high;
};

template <bool with_distances>
HR_INLINE void add_masses(const int32_t* masses, const int32_t* distances, int64_t n,
                          MassSums* sums) {
  uint64_t mass = 0, low = 0, high = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t m = (uint32_t)masses[i];
    mass += m;
    if (!with_distances) continue;
    low += (uint64_t)m * ((uint32_t)distances[i] & 0x1fff);
    high += (uint64_t)m * ((uint32_t)distances[i] >> 13);
  }
  sums->mass += mass;
  sums->low += low;
  sums->high += high;
}

// Fixed point, for distances that have mass; those beyond are cut, as their mass is 0.
HR_INLINE I32x16 fixed_distance(F32x16 distances) {
  return round_i32(mul(min(neg(distances), splat(64.0f)), splat(kDistanceUnit)));
}

constexpr int kSumVectors = 32;  // weighed before they are added

template <bool with_distances>
static MassSums sums_of_row(const float* row, int64_t n, const RowScale& scale) {
  MassSums sums = {0, 0, 0};
  alignas(64) int32_t masses[16 * kSumVectors], distances[16 * kSumVectors];
  for (int64_t i = 0; i < n; i += 16 * kSumVectors) {
    const int64_t end = n - i < 16 * kSumVectors ? n : i + 16 * kSumVectors;
    int64_t count = 0;
    for (int64_t j = i; j < end; j += 16) {
      F32x16 d = distances_of(load_logits(row, j, n), scale);
      if (!mask_bits(less_equal(splat(kLowestMassDistance), d))) continue;
      store_i32(masses + count, masses_of(exp_neg(d)));
      if (with_distances) store_i32(distances + count, fixed_distance(d));
      count += 16;
    }
    add_masses<with_distances>(masses, distances, count, &sums);
  }
  return sums;
}

static MassSums sums_of_candidates(int64_t n, const SampleScratch& scratch) {
  MassSums sums = {0, 0, 0};
  for (int64_t i = 0; i < n; i += 16) {
    store_i32((int32_t*)scratch.keys + i, fixed_distance(load(scratch.distances + i)));
  }
  add_masses<true>(scratch.masses, (const int32_t*)scratch.keys, n, &sums);
  return sums;
}

HR_INLINE double mean_distance(const MassSums& sums) {
  return ((double)sums.high * 8192.0 + (double)sums.low) /
         ((double)sums.mass * (double)kDistanceUnit);
}

// The least integer mass that is not below share of the whole; tokens before it stay.
HR_INLINE uint64_t mass_limit(float share, uint64_t mass) {
  const double limit = (double)share * (double)mass;
  return (uint64_t)limit + ((double)(uint64_t)limit < limit ? 1u : 0u);
}

// The key at which the masses of keys in ascending order reach `limit` >= 1, which they do.
static uint32_t select_key(const uint32_t* keys, const int32_t* masses, int64_t n, uint64_t limit,
                           uint64_t* histogram) {
  uint32_t prefix = 0;
  static const int shifts[3] = {21, 10, 0};
  static const int bits[3] = {11, 11, 10};
  for (int level = 0; level < 3; level++) {
    const int shift = shifts[level];
    const uint32_t bins = 1u << bits[level];
    memset(histogram, 0, bins * sizeof(uint64_t));
    for (int64_t i = 0; i < n; i++) {
      if (level && keys[i] >> (shift + bits[level]) != prefix) continue;
      histogram[keys[i] >> shift & (bins - 1)] += masses ? (uint64_t)masses[i] : 1u;
    }
    uint32_t bin = 0;
    while (histogram[bin] < limit) limit -= histogram[bin++];
    prefix = prefix << bits[level] | bin;
  }
  return prefix;
}

// Drop candidates whose key is above `last`, but never one at distance zero.
HR_INLINE int64_t keep_keys(int64_t n, uint32_t last, const SampleScratch& scratch) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i++) {
    const bool stays = scratch.keys[i] <= last || scratch.distances[i] == 0.0f;
    scratch.distances[kept] = scratch.distances[i];
    scratch.token_ids[kept] = scratch.token_ids[i];
    scratch.weights[kept] = scratch.weights[i];
    scratch.masses[kept] = scratch.masses[i];
    kept += stays;
  }
  return kept;
}

// Larger for larger distances: the bits of a float that is not negative order like the float.
HR_INLINE void distance_keys(int64_t n, const SampleScratch& scratch) {
  for (int64_t i = 0; i < n; i += 16)
    store_i32((int32_t*)scratch.keys + i, as_i32(abs(load(scratch.distances + i))));
}

HR_INLINE void oddness_keys(int64_t n, double mean, const SampleScratch& scratch) {
  for (int64_t i = 0; i < n; i++) {
    scratch.keys[i] = bits_of_float((float)__builtin_fabs(-(double)scratch.distances[i] - mean));
  }
}

// Keep tokens, smallest key first, while the mass before them is below `limit`.
static int64_t keep_mass(int64_t n, uint64_t limit, const SampleScratch& scratch) {
  if (limit == 0) {
    for (int64_t i = 0; i < n; i++) scratch.keys[i] = 1;
    return keep_keys(n, 0, scratch);
  }
  const uint32_t last = select_key(scratch.keys, scratch.masses, n, limit, scratch.histogram);
  return keep_keys(n, last, scratch);
}

HR_INLINE uint64_t mass_of_candidates(int64_t n, const SampleScratch& scratch) {
  uint64_t mass = 0;
  for (int64_t i = 0; i < n; i++) mass += (uint32_t)scratch.masses[i];
  return mass;
}

HR_INLINE int64_t drop_massless(int64_t n, const SampleScratch& scratch) {
  for (int64_t i = 0; i < n; i++) scratch.keys[i] = scratch.masses[i] == 0;
  return keep_keys(n, 0, scratch);
}

static int64_t keep_top_p(int64_t n, float share, const SampleScratch& scratch) {
  distance_keys(n, scratch);
  return keep_mass(n, mass_limit(share, mass_of_candidates(n, scratch)), scratch);
}

static int64_t keep_typical(int64_t n, float share, const SampleScratch& scratch) {
  const MassSums sums = sums_of_candidates(n, scratch);
  oddness_keys(n, mean_distance(sums), scratch);
  return keep_mass(n, mass_limit(share, sums.mass), scratch);
}

// top_p over a whole row: the tokens near the best hold nearly all mass, so look at those first.
static int64_t top_p_of_row(const float* row, int64_t n, const RowScale& scale, float share,
                            const SampleScratch& scratch) {
  const uint64_t limit = mass_limit(share, sums_of_row<false>(row, n, scale).mass);
  static const float reaches[] = {5.0f, 12.0f, -kLowestMassDistance};
  for (const float reach : reaches) {
    const int64_t count = gather_candidates(row, n, scale, 0.0f, reach, scratch);
    if (mass_of_candidates(count, scratch) < limit) continue;
    distance_keys(count, scratch);
    return keep_mass(count, limit, scratch);
  }
  return 0;  // the last reach has all mass
}

// typical_p over a whole row: tokens near the mean first, in the same way.
static int64_t typical_p_of_row(const float* row, int64_t n, const RowScale& scale, float share,
                                const SampleScratch& scratch) {
  const MassSums sums = sums_of_row<true>(row, n, scale);
  const uint64_t limit = mass_limit(share, sums.mass);
  const double mean = mean_distance(sums);
  constexpr float margin = 1e-3f;  // of the window's float32 against oddness
  static const float reaches[] = {1.0f, 4.0f, -2 * kLowestMassDistance};
  for (const float reach : reaches) {
    int64_t count = gather_candidates(row, n, scale, -(float)mean, reach + margin, scratch);
    count = drop_massless(count, scratch);
    if (mass_of_candidates(count, scratch) < limit) continue;
    oddness_keys(count, mean, scratch);
    if (limit && float_of_bits(select_key(scratch.keys, scratch.masses, count, limit,
                                          scratch.histogram)) > reach)
      continue;
    return keep_mass(count, limit, scratch);
  }
  return 0;
}

struct SampleRow {
  float temperature;
  int32_t top_k;
  float top_p, min_p, typical_p;
  uint64_t key;
};

// A distance that at least top_k tokens reach: the top_k-th of the lane maxima, each another token.
static float top_k_reach(int64_t n, int32_t top_k, const RowScale& scale, const float* maxima,
                         const SampleScratch& scratch) {
  const int64_t num_maxima = (n + 16 * kMaximaVectors - 1) / (16 * kMaximaVectors) * 16;
  if (top_k > num_maxima) return kLargestFloat;
  for (int64_t i = 0; i < num_maxima; i += 16) {
    store_i32((int32_t*)scratch.keys + i, as_i32(abs(distances_of(load(maxima + i), scale))));
  }
  const float reach = float_of_bits(
      select_key(scratch.keys, nullptr, num_maxima, (uint64_t)top_k, scratch.histogram));
  return reach < kLargestFloat ? reach : kLargestFloat;
}

static int64_t top_k_of_row(const float* row, int64_t n, const RowScale& scale, int32_t top_k,
                            const float* maxima, const SampleScratch& scratch) {
  const float reach = top_k_reach(n, top_k, scale, maxima, scratch);
  const int64_t count = gather_candidates(row, n, scale, 0.0f, reach, scratch);
  if (count <= top_k) return count;
  distance_keys(count, scratch);
  const uint32_t last =
      select_key(scratch.keys, nullptr, count, (uint64_t)top_k, scratch.histogram);
  return keep_keys(count, last, scratch);
}

// Distance of the least likely token that min_p can keep, and a little more.
HR_INLINE float min_p_reach(float min_p) {
  if (min_p < 1e-36f) return kLargestFloat;
  return 0.01f - log_of(min_p < 1.0f ? min_p : 1.0f);
}

HR_INLINE int64_t keep_min_p(int64_t n, float min_p, const SampleScratch& scratch) {
  for (int64_t i = 0; i < n; i++) scratch.keys[i] = !(scratch.weights[i] >= min_p);
  return keep_keys(n, 0, scratch);
}

// The candidates that all filters leave. The first filter reads the row, the rest the candidates.
static int64_t filter_row(const float* row, int64_t n, const RowScale& scale, const SampleRow& how,
                          const float* maxima, const SampleScratch& scratch) {
  const bool by_k = how.top_k > 0 && how.top_k < n;
  int64_t count = -1;
  if (by_k) {
    count = top_k_of_row(row, n, scale, how.top_k, maxima, scratch);
    if (how.top_p < 1.0f || how.typical_p < 1.0f) count = drop_massless(count, scratch);
  }
  if (how.top_p < 1.0f) {
    count = count < 0 ? top_p_of_row(row, n, scale, how.top_p, scratch)
                      : keep_top_p(count, how.top_p, scratch);
  }
  if (how.min_p > 0.0f) {
    if (count < 0) count = gather_candidates(row, n, scale, 0.0f, min_p_reach(how.min_p), scratch);
    count = keep_min_p(count, how.min_p, scratch);
  }
  if (how.typical_p < 1.0f) {
    if (count < 0) return typical_p_of_row(row, n, scale, how.typical_p, scratch);
    count = drop_massless(count, scratch);
    count = keep_typical(count, how.typical_p, scratch);
  }
  return count;
}

static int32_t draw_from_candidates(int64_t count, uint64_t key, const SampleScratch& scratch) {
  Draw draw = {-__builtin_inff(), -1};
  for (int64_t i = 0; i < count; i += 16) {
    F32x16 distances = load_logits(scratch.distances, i, count);
    draw_16(distances, load_i32(scratch.token_ids + i), key, &draw);
  }
  return draw.token_id;
}

static void sample(const SampleArgs* args, const Work* work) {
  const int64_t n = args->vocab_size;
  const SampleScratch scratch = place_sample_scratch(work->scratch, n);
  for (int64_t s = work->begin; s < work->end; s++) {
    const float* row = args->logits + s * n;
    float* maxima = scratch.weights;  // used before the weights are
    const float best = best_logit(row, n, maxima);
    const SampleRow how = {args->temperature[s], args->top_k[s],
                           args->top_p[s],       args->min_p[s],
                           args->typical_p[s],   row_key(args->seeds[s], args->positions[s])};
    const bool is_filtered = (how.top_k > 0 && how.top_k < n) || how.top_p < 1.0f ||
                             how.min_p > 0.0f || how.typical_p < 1.0f;
    if (!is_finite(best)) {
      args->token_ids[s] = -1;
    } else if (how.temperature < kGreedyTemperature) {
      args->token_ids[s] = first_equal(row, n, best);
    } else {
      const RowScale scale = {best, 1.0f / how.temperature};
      args->token_ids[s] =
          is_filtered ? draw_from_candidates(filter_row(row, n, scale, how, maxima, scratch),
                                             how.key, scratch)
                      : draw_from_row(row, n, scale, how.key);
    }
  }
}

// -- logprobs -------------------------------------------------------------------------------------

// log of the sum of exp(x - best): float64 sums in 16 lanes, lane j taking every 16th token from j.
static float log_sum(const float* row, int64_t n, float best) {
  double sums[16] = {};
  for (int64_t i = 0; i < n; i += 16) {
    float weights[16];
    store(weights, exp_neg(sub(load_logits(row, i, n), splat(best))));
    for (int lane = 0; lane < 16; lane++) sums[lane] += (double)weights[lane];
  }
  for (int half = 8; half; half /= 2) {
    for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
  }
  return log_of((float)sums[0]);
}

static int32_t rank_of(const float* row, int64_t n, float logit) {
  int32_t rank = 1;
  for (int64_t i = 0; i < n; i += 16)
    rank += __builtin_popcount(mask_bits(less(splat(logit), load_logits(row, i, n))));
  return rank;
}

// The num_top largest, best first; of equals the lowest id first.
static void top_logits(const float* row, int64_t n, int num_top, int32_t* ids, float* logits) {
  int count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    F32x16 x = load_logits(row, i, n);
    uint32_t better = count < num_top ? (n - i < 16 ? (1u << (n - i)) - 1 : 0xffffu)
                                      : mask_bits(less(splat(logits[num_top - 1]), x));
    for (; better; better &= better - 1) {
      const int64_t id = i + __builtin_ctz(better);
      if (count == num_top && !(row[id] > logits[num_top - 1])) continue;
      int at = count < num_top ? count++ : num_top - 1;
      for (; at > 0 && row[id] > logits[at - 1]; at--) {
        logits[at] = logits[at - 1];
        ids[at] = ids[at - 1];
      }
      logits[at] = row[id];
      ids[at] = (int32_t)id;
    }
  }
}

static void logprobs(const LogprobsArgs* args, const Work* work) {
  const int64_t n = args->vocab_size;
  for (int64_t s = work->begin; s < work->end; s++) {
    const float* row = args->logits + s * n;
    const float best = best_logit(row, n, (float*)work->scratch);
    if (!is_finite(best)) {
      args->ranks[s] = -1;
      continue;
    }
    const float sum = log_sum(row, n, best), chosen = row[args->token_ids[s]];
    args->logprobs[s] = (chosen - best) - sum;
    args->ranks[s] = rank_of(row, n, chosen);
    if (args->num_top == 0) continue;
    float* top = args->top_logprobs + s * args->num_top;
    top_logits(row, n, args->num_top, args->top_ids + s * args->num_top, top);
    for (int i = 0; i < args->num_top; i++) top[i] = (top[i] - best) - sum;
  }
}

constexpr SamplingKernels kSamplingKernels = {adjust_logits, sample, logprobs,
                                              sample_scratch_bytes};
