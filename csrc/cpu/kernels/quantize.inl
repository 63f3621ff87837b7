// Activations as int8 groups (api/matmul.h): the definition, one row after the other.

constexpr float kSmallestMaximum =
    0x1p-110f;  // below, 127 / amax would overflow: the group is zero

// One group of 32: the scale, the rounded values, and the sums of its halves.
struct QuantizedGroup {
  float scale;
  int32_t sums[2];
};

HR_INLINE QuantizedGroup quantize_group(const float* x, int8_t* values) {
  F32x16 x0 = load(x), x1 = load(x + 16);
  // As integers, absolute values order like floats, and infinities and NaNs come out on top.
  int32_t max_bits = reduce_max(max(as_i32(abs(x0)), as_i32(abs(x1))));
  float maximum = float_of_bits((uint32_t)max_bits);
  bool is_finite = max_bits < 0x7f800000;
  if (!is_finite || maximum < kSmallestMaximum) {
    memset(values, 0, 32);
    // A NaN scale carries the fault into every output of the row.
    return {is_finite ? 0.0f : float_of_bits(0x7fc00000), {0, 0}};
  }
  F32x16 inverse = splat(127.0f / maximum);
  I32x16 a0 = round_i32(mul(x0, inverse)), a1 = round_i32(mul(x1, inverse));
  store_i8(values, a0);
  store_i8(values + 16, a1);
  return {maximum / 127.0f, {reduce_add(a0), reduce_add(a1)}};
}

// Group g of a tile: x is its first row there, of `rows`; the tile's other rows are zero.
static void quantize_cells(const float* x, int64_t row_stride, int rows, const QuantizedRows& out,
                           int64_t tile, int64_t g) {
  int64_t first = tile * out.num_groups + g, tile_rows = out.tile_rows;
  for (int64_t r = 0; r < tile_rows; r++) {
    int64_t at = first * tile_rows + r;
    QuantizedGroup q = {0.0f, {0, 0}};
    if (r < rows)
      q = quantize_group(x + r * row_stride, out.values + at * 32);
    else
      memset(out.values + at * 32, 0, 32);
    out.scales[at] = q.scale;
    out.scaled_sums[at] = q.scale * (float)(q.sums[0] + q.sums[1]);
    int32_t* offsets = out.offsets + first * 2 * tile_rows + r;
    offsets[0] = -8 * q.sums[0];
    offsets[tile_rows] = -8 * q.sums[1];
  }
}

using QuantizeCells = void (*)(const float*, int64_t, int, const QuantizedRows&, int64_t, int64_t);

template <QuantizeCells cells>
HR_INLINE void quantize_items(const QuantizeRowsArgs* args, const Work* work) {
  const QuantizedRows& out = args->out;
  int64_t chunks = (out.num_groups + kQuantizeGroups - 1) / kQuantizeGroups;
  for (int64_t item = work->begin; item < work->end; item++) {
    int64_t tile = item / chunks, begin = item % chunks * kQuantizeGroups;
    int64_t end =
        begin + kQuantizeGroups < out.num_groups ? begin + kQuantizeGroups : out.num_groups;
    int64_t row = tile * out.tile_rows, left = out.num_rows - row;
    for (int64_t g = begin; g < end; g++)
      cells(args->x + row * args->row_stride + g * 32, args->row_stride,
            (int)(left < out.tile_rows ? left : out.tile_rows), out, tile, g);
  }
}

static void quantize_rows(const QuantizeRowsArgs* args, const Work* work) {
  quantize_items<quantize_cells>(args, work);
}
