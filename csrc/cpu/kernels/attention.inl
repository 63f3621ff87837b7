// Paged attention, the frame of every tier: which keys a row sees, its softmax, and how parts
// merge.
//
// Keys are taken in splits of 256 at absolute positions. Inside a split a row's scores are all
// known before its maximum is taken; splits merge in ascending order. A key that a row does not see
// has weight zero, which adds nothing, so a row's bits depend on its own query and keys alone: not
// on the rows beside it, on how the request is cut into steps, or on the number of threads.
//
// A tier brings `load_query`, `score_rows`, `exp2_weight`, `store_weights`, `mix_values`, `Weight`:
// kernels/attention_float.inl or tiers/amx/attention_tiles.inl, which includes this file at its
// end. kFetchesBesideProducts: its products ask for what is read next. kRowsThatWiden: items of so
// many rows read int8 where it lies; more meet a copy as bf16. Source: arXiv 2205.14135 (online
// softmax); arXiv 2311.01282 (splits).
#pragma once

#include "kernels/exact_math.inl"

// Scores or capped scores in units of log 2, as the factor of exp2 needs them.
struct ScoreScale {
  float factor;       // of a raw score
  float soft_cap;     // 0 is off
  float log2_factor;  // of what `largest_score` leaves in memory
  const float* keys;  // of an int8 cache: [kSplitTokens], null otherwise
  const float* values;
};

HR_INLINE F32x16 cap_scores(F32x16 scores, const ScoreScale& scale) {
  F32x16 x = mul(scores, splat(scale.factor / scale.soft_cap));
  return mul(tanh_of(x), splat(scale.soft_cap * kLog2E));
}

// x in the lanes [first, last), which may lie outside 0 .. 16; `other` in the rest.
HR_INLINE F32x16 keep_lanes(F32x16 x, int first, int last, float other) {
  if (last < 16) x = select(mask_first(clamp(last, 0, 16)), x, splat(other));
  if (first > 0) x = select(mask_first(clamp(first, 0, 16)), splat(other), x);
  return x;
}

HR_INLINE void zero_weights(Weight* weights, int begin, int end) {
  for (int i = begin; i < end; i += 32) store_weights(weights + i, zero_f32(), zero_f32());
}

// Largest score of the visible keys [first, last), in log 2; scaled and capped scores replace raw
// ones.
HR_INLINE float largest_score(float* scores, int first, int last, const ScoreScale& scale) {
  F32x16 tops[4];
  for (int v = 0; v < 4; v++) tops[v] = splat(-__builtin_inff());
  for (int i = first / kTileTokens * kTileTokens; i < last; i += kTileTokens) {
    F32x16 x[4];
    for (int v = 0; v < 4; v++) x[v] = load(scores + i + 16 * v);
    if (scale.keys) {
      for (int v = 0; v < 4; v++) x[v] = mul(x[v], load(scale.keys + i + 16 * v));
    }
    if (scale.soft_cap != 0.0f) {
      for (int v = 0; v < 4; v++) x[v] = cap_scores(x[v], scale);
    }
    if (scale.keys || scale.soft_cap != 0.0f) {
      for (int v = 0; v < 4; v++) store(scores + i + 16 * v, x[v]);
    }
    if (i < first || i + kTileTokens > last) {
      for (int v = 0; v < 4; v++) {
        x[v] = keep_lanes(x[v], first - i - 16 * v, last - i - 16 * v, -__builtin_inff());
      }
    }
    for (int v = 0; v < 4; v++) tops[v] = max(tops[v], x[v]);
  }
  return reduce_max(max(max(tops[0], tops[1]), max(tops[2], tops[3]))) * scale.log2_factor;
}

// Softmax numerators of one row over its visible keys [first, last) of the split, times the values'
// scales; zero elsewhere in [begin, end). begin and end are multiples of 64.
HR_INLINE RowSum weigh_row(float* scores, Weight* weights, int begin, int end, int first, int last,
                           const ScoreScale& scale) {
  const float maximum = largest_score(scores, first, last, scale);
  const F32x16 factor = splat(scale.log2_factor), shift = splat(-maximum);
  const int from = first / kTileTokens * kTileTokens;
  const int to = (last + kTileTokens - 1) / kTileTokens * kTileTokens;
  F32x16 sums[4] = {zero_f32(), zero_f32(), zero_f32(), zero_f32()};
  zero_weights(weights, begin, from);
  for (int i = from; i < to; i += kTileTokens) {
    F32x16 x[4];
    for (int v = 0; v < 4; v++) x[v] = exp2_weight(fma(load(scores + i + 16 * v), factor, shift));
    if (i < first || i + kTileTokens > last) {
      for (int v = 0; v < 4; v++) {
        x[v] = keep_lanes(x[v], first - i - 16 * v, last - i - 16 * v, 0.0f);
      }
    }
    for (int v = 0; v < 4; v++) sums[v] = add(sums[v], x[v]);
    if (scale.values) {
      for (int v = 0; v < 4; v++) x[v] = mul(x[v], load(scale.values + i + 16 * v));
    }
    store_weights(weights + i, x[0], x[1]);
    store_weights(weights + i + 32, x[2], x[3]);
  }
  zero_weights(weights, to, end);
  return {maximum, reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])))};
}

// The running result of a row: (maximum, sum, mixed) += part. A part without keys changes nothing.
HR_INLINE void merge_row(RowSum* row, float* mixed, const RowSum& part, const float* part_mixed,
                         int size) {
  if (part.sum == 0.0f) return;
  if (row->sum == 0.0f) {
    *row = part;
    memcpy(mixed, part_mixed, (size_t)size * sizeof(float));
    return;
  }
  const float maximum = row->maximum > part.maximum ? row->maximum : part.maximum;
  F32x16 old_factor = exp2_neg(splat(row->maximum - maximum));
  F32x16 new_factor = exp2_neg(splat(part.maximum - maximum));
  F32x16 sum = fma(splat(part.sum), new_factor, mul(splat(row->sum), old_factor));
  float sums[16];
  store(sums, sum);
  *row = {maximum, sums[0]};
  for (int d = 0; d < size; d += 16) {
    store(mixed + d, fma(load(part_mixed + d), new_factor, mul(load(mixed + d), old_factor)));
  }
}

HR_INLINE VisibleKeys visible_keys(const AttentionArgs* args, int64_t token) {
  const int32_t last = args->positions[token] + 1;
  return {args->window > 0 && last > args->window ? last - args->window : 0, last};
}

// Keys of one split that a block of rows needs, relative to the split: [begin, last) covers what
// any row sees; begin and end are multiples of 64, stored_end of 32.
struct SplitRange {
  int begin, last, end, stored_end;
};

HR_INLINE SplitRange range_in_split(int split_begin, const VisibleKeys* rows, int num_rows) {
  VisibleKeys all = rows[0];
  for (int r = 1; r < num_rows; r++) {
    all.first = all.first < rows[r].first ? all.first : rows[r].first;
    all.last = all.last > rows[r].last ? all.last : rows[r].last;
  }
  const int begin = clamp(all.first - split_begin, 0, kSplitTokens) / kTileTokens * kTileTokens;
  const int last = clamp(all.last - split_begin, 0, kSplitTokens);
  return {begin, last, (last + kTileTokens - 1) / kTileTokens * kTileTokens,
          (last + kValueTokens - 1) / kValueTokens * kValueTokens};
}

// How far the tokens of a split are copied from an int8 cache: -1 before its first rows. Rows come
// in order of position, so a block of rows needs nothing before what the first one needs.
struct Widened {
  int keys, values;
};

// One block of rows against the keys of one split: sums to `parts`, mixed values to scratch.part.
static void attend_split(const AttentionArgs* args, const AttentionPlace& place, int split,
                         int first_row, int num_rows, const AttentionScratch& scratch,
                         RowSum* parts, Widened* widened, ReadNext* ahead) {
  const int split_begin = split * kSplitTokens;
  const VisibleKeys* visible = scratch.visible + first_row;
  const SplitRange range = range_in_split(split_begin, visible, num_rows);
  for (int r = 0; r < num_rows; r++) parts[r] = {0.0f, 0.0f};
  if (range.begin >= range.last) return;
  if (widened->keys < 0) *widened = {range.begin, range.begin};
  const bool has_key_scales = args->layer.keys.format == kInt8KV;
  const bool has_value_scales = args->layer.values.format == kInt8KV;
  for (int t = range.begin; t < range.stored_end; t += kTileTokens) {
    const int end = range.stored_end - t < kTileTokens ? range.stored_end : t + kTileTokens;
    if (has_key_scales && end > widened->keys) {
      widen_keys(place, widened->keys, end, scratch.key_scales);
      widened->keys = end;
    }
    score_rows(place, split_begin, t, end, first_row, num_rows, scratch, *ahead,
               (t - range.begin) / kValueTokens);
  }
  const bool is_capped = args->soft_cap != 0.0f;
  const ScoreScale scale = {args->scale, args->soft_cap, is_capped ? 1.0f : args->scale * kLog2E,
                            has_key_scales ? scratch.key_scales : nullptr,
                            has_value_scales ? scratch.value_scales : nullptr};
  if (has_value_scales && range.stored_end > widened->values) {
    widen_values(place, widened->values, range.stored_end, scratch.value_scales);
    widened->values = range.stored_end;
  }
  if (kFetchesBesideProducts)
    fetch_places(*ahead, (range.stored_end - range.begin) / kValueTokens * 2);
  const int turns = kFetchesBesideProducts ? 0 : turns_per_row(*ahead, num_rows);
  for (int r = 0; r < num_rows; r++) {
    const int first = clamp(visible[r].first - split_begin, range.begin, range.end);
    const int last = clamp(visible[r].last - split_begin, range.begin, range.end);
    Weight* weights = scratch.weights + r * kWeightStride;
    fetch_ahead(ahead, turns);
    if (first < last) {
      parts[r] = weigh_row(scratch.scores + r * kScoreStride, weights, range.begin, range.end,
                           first, last, scale);
    } else {
      zero_weights(weights, range.begin, range.end);
    }
  }
  mix_values(place, split_begin, range.begin, range.stored_end, num_rows, scratch, *ahead);
}

// Keeps the parts of a block of rows for `merge_attention`.
HR_INLINE void keep_parts(float* out, int64_t stride, const RowSum* parts, int num_rows,
                          const AttentionScratch& scratch) {
  const int size = scratch.padded_size;
  for (int r = 0; r < num_rows; r++, out += stride) {
    memcpy(out, parts + r, sizeof(RowSum));
    memcpy(out + kPartHeader, scratch.part + (int64_t)r * size, (size_t)size * sizeof(float));
  }
}

// The values of the last tokens of a request share their lines with slots that hold anything, NaN
// included, and zero times NaN is NaN: a copy with those slots at zero.
static void copy_value_tail(AttentionPlace* place, uint16_t* tail) {
  const int in_group = place->seq_len % kValueTokens;
  if (in_group == 0 || place->layer->values.format != kBf16KV) return;
  const int group = place->seq_len / kValueTokens;
  const uint16_t* stored = values_of_group(*place, group);
  place->tail_group = group;
  place->tail = tail;
  memcpy(tail, stored, (size_t)place->padded_size * kValueTokens * 2);
  for (int d = 0; d < place->padded_size; d += 16) {
    uint16_t* lines = tail + d * kValueTokens;
    for (int i = 0; i < 16 && in_group % 2; i++) lines[in_group / 2 * 32 + i * 2 + 1] = 0;
    const int first_free = (in_group + 1) / 2;
    memset(lines + first_free * 32, 0, (size_t)(16 - first_free) * 64);
  }
}

static void finish_rows(const AttentionArgs* args, const AttentionItem& item,
                        const AttentionScratch& scratch, int padded_size) {
  const int size = args->layer.head_size, group = args->num_heads / args->layer.num_kv_heads;
  for (int i = item.row_begin; i < item.row_end; i++) {
    const int64_t token = args->query_start[item.request] + i / group;
    const int64_t head = (int64_t)item.kv_head * group + i % group;
    float* out = args->out + (token * args->num_heads + head) * size;
    const float* mixed = scratch.mixed + (int64_t)(i - item.row_begin) * padded_size;
    F32x16 sum = splat(scratch.rows[i - item.row_begin].sum);
    for (int d = 0; d < size; d += 16) {
      store_first(out + d, div(load(mixed + d), sum), size - d < 16 ? size - d : 16);
    }
  }
}

// Loads the item's queries and finds what they see. Returns the keys that any row sees.
static VisibleKeys load_rows(const AttentionArgs* args, const AttentionItem& item,
                             const AttentionScratch& scratch) {
  const KVLayer& layer = args->layer;
  const int group = args->num_heads / layer.num_kv_heads;
  const int64_t width = (int64_t)(args->num_heads + 2 * layer.num_kv_heads) * layer.head_size;
  VisibleKeys all = {0x7fffffff, 0};
  for (int row = item.row_begin; row < item.row_end; row++) {
    const int r = row - item.row_begin;
    const int64_t token = args->query_start[item.request] + row / group;
    const int64_t head = (int64_t)item.kv_head * group + row % group;
    const VisibleKeys keys = visible_keys(args, token);
    scratch.visible[r] = keys;
    scratch.rows[r] = {0.0f, 0.0f};
    all.first = keys.first < all.first ? keys.first : all.first;
    all.last = keys.last > all.last ? keys.last : all.last;
    const float* query = args->qkv + token * width + head * layer.head_size;
    load_query(query, layer.head_size, r, scratch);
  }
  return all;
}

static AttentionPlace item_place(const AttentionArgs* args, const AttentionItem& item) {
  return {&args->layer,
          args->block_table + item.request * args->table_width,
          item.kv_head,
          padded_head_size(args->layer.head_size),
          args->seq_lens[item.request],
          -1,
          nullptr,
          0,
          nullptr,
          nullptr};
}

// What an item reads first in its splits [begin, end), or nothing where its rows are so many that
// they compute longer than memory takes.
static ReadNext read_first(const AttentionArgs* args, const AttentionItem& item, int begin,
                           int end) {
  const AttentionPlace place = item_place(args, item);
  const int group = args->num_heads / args->layer.num_kv_heads;
  const int64_t token = args->query_start[item.request] + item.row_begin / group;
  const VisibleKeys keys = visible_keys(args, token);
  if (item.row_end - item.row_begin > kBlockRows || begin >= end) return read_next(place, 0, 0);
  const int from = keys.first > begin * kSplitTokens ? keys.first : begin * kSplitTokens;
  const int to = (begin + 1) * kSplitTokens < keys.last ? (begin + 1) * kSplitTokens : keys.last;
  return read_next(place, from, to);
}

// `next` follows, perhaps in the worker's next chunk. `is_first`: nothing has asked for the item's
// first split, or a chunk before has, which does not show.
static void attend_item(const AttentionArgs* args, const AttentionItem& item,
                        const AttentionItem* next, bool is_first, const AttentionScratch& scratch) {
  const int num_rows = item.row_end - item.row_begin, size = scratch.padded_size;
  const bool is_whole = item.parts < 0;
  AttentionPlace place = item_place(args, item);
  begin_rows(num_rows);
  if (is_first) {
    const int begin = is_whole ? 0 : item.split_begin;
    fetch_places(read_first(args, item, begin, begin + 1), 0);
  }
  const VisibleKeys keys = load_rows(args, item, scratch);
  if (num_rows > kRowsThatWiden) {
    place.split_keys = scratch.keys;
    place.split_values = scratch.values;
  }
  copy_value_tail(&place, scratch.tail);
  const int first = is_whole ? keys.first / kSplitTokens : item.split_begin;
  const int last = is_whole ? (keys.last + kSplitTokens - 1) / kSplitTokens : item.split_end;
  const int64_t stride = part_floats(args->layer.head_size);
  for (int split = first; split < last; split++) {
    ReadNext ahead = read_first(args, item, split + 1, last);
    if (split + 1 == last && next) {
      const int begin = next->parts < 0 ? 0 : next->split_begin;
      ahead = read_first(args, *next, begin, begin + 1);
    }
    place.split_begin = split * kSplitTokens;
    Widened widened = {-1, -1};
    for (int r = 0; r < num_rows; r += kBlockRows) {
      const int block_rows = num_rows - r < kBlockRows ? num_rows - r : kBlockRows;
      RowSum parts[kBlockRows];
      attend_split(args, place, split, r, block_rows, scratch, parts, &widened, &ahead);
      if (!is_whole) {
        const int64_t at = item.parts + (int64_t)(split - first) * num_rows + r;
        keep_parts(args->parts + at * stride, stride, parts, block_rows, scratch);
        continue;
      }
      for (int i = 0; i < block_rows; i++) {
        merge_row(&scratch.rows[r + i], scratch.mixed + (int64_t)(r + i) * size, parts[i],
                  scratch.part + (int64_t)i * size, size);
      }
    }
  }
  if (is_whole) finish_rows(args, item, scratch, size);
}

static void attention(const AttentionArgs* args, const Work* work) {
  const int size = padded_head_size(args->layer.head_size);
  const AttentionScratch scratch = place_scratch(work->scratch, size);
  for (int64_t i = work->begin; i < work->end; i++) {
    const AttentionItem* next = i + 1 < work->next_end ? &args->items[i + 1] : nullptr;
    attend_item(args, args->items[i], next, i == work->begin, scratch);
  }
  end_attention();
}

// The splits of an item, run apart, merged in ascending order as `attend_item` does.
static void merge_attention(const AttentionArgs* args, const Work* work) {
  const int size = padded_head_size(args->layer.head_size);
  const AttentionScratch scratch = place_scratch(work->scratch, size);
  const int64_t stride = part_floats(args->layer.head_size);
  for (int64_t i = work->begin; i < work->end; i++) {
    const AttentionItem& item = args->items[i];
    const int num_rows = item.row_end - item.row_begin;
    for (int r = 0; r < num_rows; r++) scratch.rows[r] = {0.0f, 0.0f};
    const float* at = args->parts + item.parts * stride;
    for (int split = item.split_begin; split < item.split_end; split++) {
      for (int r = 0; r < num_rows; r++, at += stride) {
        RowSum part;
        memcpy(&part, at, sizeof(RowSum));
        merge_row(&scratch.rows[r], scratch.mixed + (int64_t)r * size, part, at + kPartHeader,
                  size);
      }
    }
    finish_rows(args, item, scratch, size);
  }
}

constexpr AttentionKernels kAttentionKernels = {attention, merge_attention, attention_scratch_bytes,
                                                part_floats};
