// Matmul family: the generic product, which defines its bits.
// Vectors run over the 16 columns of a panel or over k, never across a row's chain of additions.

// Where group g of a panel lies.
struct GroupPlace {
  const uint8_t* header;
  const uint8_t* quants;
  int index;  // in its block
};

HR_INLINE GroupPlace group_place(const PanelLayout& layout, const uint8_t* panel, int64_t g) {
  int64_t block = g / layout.block_groups;
  int index = (int)(g % layout.block_groups);
  const uint8_t* header =
      panel + block * (layout.header_bytes + (int64_t)layout.block_groups * layout.group_bytes);
  return {header, header + layout.header_bytes + (int64_t)index * layout.group_bytes, index};
}

HR_INLINE F32x16 load_f16_bytes(const uint8_t* p) { return load_f16((const uint16_t*)p); }

// Scales of a group: [half][16]; both halves are equal except for kP6K.
struct GroupScales {
  F32x16 scale[2];
  F32x16 minimum;
};

HR_INLINE GroupScales group_scales(uint8_t format, const GroupPlace& at) {
  GroupScales s;
  s.minimum = zero_f32();
  if (format == kP4K || format == kP5K) {
    const uint8_t* steps = at.header + 64 + at.index * 32;
    s.scale[0] = s.scale[1] = mul(load_f16_bytes(at.header), float_of_i32(load_u8(steps)));
    s.minimum = mul(load_f16_bytes(at.header + 32), float_of_i32(load_u8(steps + 16)));
  } else if (format == kP6K) {
    F32x16 d = load_f16_bytes(at.header);
    const int8_t* steps = (const int8_t*)at.header + 64 + at.index * 32;
    s.scale[0] = mul(d, float_of_i32(load_i8(steps)));
    s.scale[1] = mul(d, float_of_i32(load_i8(steps + 16)));
  } else {
    s.scale[0] = s.scale[1] = load_f16_bytes(at.header + at.index * 32);
    if (format == kP41 || format == kP51)
      s.minimum = neg(load_f16_bytes(at.header + 128 + at.index * 32));
  }
  return s;
}

// q - zero of a group as [8 rows][16 columns][4 k], signed.
HR_INLINE void unpack_group(const PanelLayout& layout, const uint8_t* quants, int8_t* out) {
  for (int r = 0; r < 8; r++)
    for (int i = 0; i < 64; i++) {
      int q;
      if (layout.bits == 8) {
        q = quants[r * 64 + i];
      } else {
        int byte = quants[(r & 3) * 64 + i];
        q = r < 4 ? byte & 15 : byte >> 4;
        if (layout.bits == 5) q |= (quants[256 + i] >> r & 1) << 4;
        if (layout.bits == 6) q |= (quants[256 + (r >> 2) * 64 + i] >> (2 * (r & 3)) & 3) << 4;
      }
      out[r * 64 + i] = (int8_t)(q - layout.zero);
    }
}

// Exact dot products of 16 columns with one row, over rows [first, first + 4) of a group.
HR_INLINE I32x16 dot_half(const int8_t* weights, const int8_t* a, int first) {
  int32_t sums[16] = {0};
  for (int r = first; r < first + 4; r++)
    for (int c = 0; c < 16; c++)
      for (int j = 0; j < 4; j++) sums[c] += weights[r * 64 + c * 4 + j] * a[r * 4 + j];
  return load_i32(sums);
}

constexpr int kGenericRows = 8;

// Up to kGenericRows rows of one tile against one panel. y: [16] per row.
static void multiply_panel(const MatmulArgs* args, int64_t p, int64_t tile, int first, int rows,
                           F32x16* y) {
  F32x16 z[kGenericRows];
  for (int m = 0; m < rows; m++) y[m] = z[m] = zero_f32();
  const QuantizedRows& x = args->x;
  uint8_t format = args->weight.formats[p];
  const PanelLayout& layout = kPanelLayouts[format];
  const uint8_t* panel = args->weight.base + args->weight.offsets[p];
  alignas(64) int8_t weights[512];
  for (int64_t g = 0; g < x.num_groups; g++) {
    GroupPlace place = group_place(layout, panel, g);
    GroupScales s = group_scales(format, place);
    unpack_group(layout, place.quants, weights);
    int64_t at = (tile * x.num_groups + g) * x.tile_rows + first;
    for (int m = 0; m < rows; m++) {
      const int8_t* a = x.values + (at + m) * 32;
      F32x16 scale = splat(x.scales[at + m]);
      I32x16 low = dot_half(weights, a, 0), high = dot_half(weights, a, 4);
      if (format == kP6K) {
        y[m] = fma(mul(scale, s.scale[0]), float_of_i32(low), y[m]);
        y[m] = fma(mul(scale, s.scale[1]), float_of_i32(high), y[m]);
      } else {
        y[m] = fma(mul(scale, s.scale[0]), float_of_i32(add(low, high)), y[m]);
        if (layout.has_min) z[m] = fma(s.minimum, splat(x.scaled_sums[at + m]), z[m]);
      }
    }
  }
  if (layout.has_min)
    for (int m = 0; m < rows; m++) y[m] = sub(y[m], z[m]);
}

HR_INLINE int panel_width(const PackedPanels& w, int64_t p) {
  int64_t left = w.num_columns - p * kPanelColumns;
  return left < kPanelColumns ? (int)left : kPanelColumns;
}

// Where the columns of a panel go. Both panels of a gate and its up go to one place.
HR_INLINE float* columns_of(const MatmulArgs* args, int64_t p, int64_t row) {
  int64_t place = args->gate == kNoGate ? p : p / 2;
  return args->y + row * args->y_stride + place * kPanelColumns;
}

// The gate waits in y for the panel that follows it. Not inlined: the registers of the callers are
// full.
static __attribute__((noinline)) void store_gated(Gate gate, bool is_up, float* at,
                                                  const float* y) {
  store(at, is_up ? mul(activate(gate, load(at)), load(y)) : load(y));
}

// The bias is added last, in one rounding.
HR_INLINE F32x16 add_bias(const MatmulArgs* args, int64_t p, F32x16 y) {
  return args->weight.bias ? add(y, load(args->weight.bias + p * kPanelColumns)) : y;
}

HR_INLINE void store_columns(const MatmulArgs* args, int64_t p, int64_t row, F32x16 y) {
  y = add_bias(args, p, y);
  if (args->gate == kNoGate)
    return store_first(columns_of(args, p, row), y, panel_width(args->weight, p));
  alignas(64) float columns[kPanelColumns];
  store(columns, y);
  store_gated(args->gate, p % 2, columns_of(args, p, row), columns);
}

static void matmul_generic(const MatmulArgs* args, const Work* work) {
  const QuantizedRows& x = args->x;
  for (int64_t p = work->begin; p < work->end; p++)
    for (int64_t row = 0; row < x.num_rows; row += kGenericRows) {
      int64_t tile = row / x.tile_rows;
      int64_t left = x.num_rows - row < x.tile_rows * (tile + 1) - row
                         ? x.num_rows - row
                         : x.tile_rows * (tile + 1) - row;
      int rows = left < kGenericRows ? (int)left : kGenericRows;
      F32x16 y[kGenericRows];
      multiply_panel(args, p, tile, (int)(row - tile * x.tile_rows), rows, y);
      for (int m = 0; m < rows; m++) store_columns(args, p, row + m, y[m]);
    }
}

// -- float weights --------------------------------------------------------------------------------
// Four chains over k mod 4, then (c0 + c1) + (c2 + c3): the same bits on every tier and row count.

constexpr int kFloatRows = 4;

template <uint8_t format>
HR_INLINE void load_quad(const uint8_t* panel, int64_t k, F32x16 w[4]) {
  if (format == kPBF16) {
    HR_UNROLL
    for (int i = 0; i < 4; i += 2) {
      I32x16 pair = load_i32((const int32_t*)(panel + (k + i) * 32));
      w[i] = as_f32(shift_left<16>(pair));
      w[i + 1] = as_f32(bit_and(pair, splat_i32((int32_t)0xffff0000)));
    }
  } else {
    HR_UNROLL
    for (int i = 0; i < 4; i++)
      w[i] = format == kPF16 ? load_f16((const uint16_t*)panel + (k + i) * 16)
                             : load((const float*)panel + (k + i) * 16);
  }
}

template <uint8_t format>
HR_INLINE F32x16 load_single(const uint8_t* panel, int64_t k) {
  if (format == kPF32) return load((const float*)panel + k * 16);
  if (format == kPF16) return load_f16((const uint16_t*)panel + k * 16);
  I32x16 pair = load_i32((const int32_t*)(panel + (k & ~(int64_t)1) * 32));
  return k & 1 ? as_f32(bit_and(pair, splat_i32((int32_t)0xffff0000)))
               : as_f32(shift_left<16>(pair));
}

template <uint8_t format, int rows>
static void float_panel(const MatmulArgs* args, int64_t p, int64_t row) {
  const uint8_t* panel = args->weight.base + args->weight.offsets[p];
  int64_t depth = args->weight.depth;
  const float* x = args->floats + row * depth;
  F32x16 chain[rows][4];
  HR_UNROLL
  for (int m = 0; m < rows; m++)
    for (int i = 0; i < 4; i++) chain[m][i] = zero_f32();
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    F32x16 w[4];
    load_quad<format>(panel, k, w);
    HR_UNROLL
    for (int m = 0; m < rows; m++) {
      HR_UNROLL
      for (int i = 0; i < 4; i++) chain[m][i] = fma(splat(x[m * depth + k + i]), w[i], chain[m][i]);
    }
  }
  // The last one to three; an index known only at run time would put the chains in memory.
  HR_UNROLL
  for (int i = 0; i < 3; i++)
    if (k + i < depth) {
      F32x16 w = load_single<format>(panel, k + i);
      HR_UNROLL
      for (int m = 0; m < rows; m++) chain[m][i] = fma(splat(x[m * depth + k + i]), w, chain[m][i]);
    }
  HR_UNROLL
  for (int m = 0; m < rows; m++)
    store_columns(args, p, row + m,
                  add(add(chain[m][0], chain[m][1]), add(chain[m][2], chain[m][3])));
}

template <uint8_t format>
HR_INLINE void float_panel_rows(const MatmulArgs* args, int64_t p) {
  int64_t num_rows = args->x.num_rows, row = 0;
  for (; row + kFloatRows <= num_rows; row += kFloatRows)
    float_panel<format, kFloatRows>(args, p, row);
  for (; row < num_rows; row++) float_panel<format, 1>(args, p, row);
}

static void matmul_float(const MatmulArgs* args, const Work* work) {
  for (int64_t p = work->begin; p < work->end; p++) {
    switch (args->weight.formats[p]) {
      case kPF32:
        float_panel_rows<kPF32>(args, p);
        break;
      case kPF16:
        float_panel_rows<kPF16>(args, p);
        break;
      default:
        float_panel_rows<kPBF16>(args, p);
    }
  }
}

static size_t no_scratch(int64_t, int64_t) { return 0; }
