// Quantized linears on AVX512-VNNI for many rows: up to 4 rows at a time against two panels' block
// of groups, sums in registers. A group of a row takes 8 products and, on the same two ports, a
// multiplication and an addition: 80 % of the peak. One panel with 8 rows is bound by its 11 loads
// instead; two share what a row brings (docs/log/2026-11.md).

constexpr int kRowsTogether = 4;
constexpr int kBlockBytes = kBlockGroups * 512;

// Where the int32 sums of a block's groups start, -zero * sum(a): [tiles][groups][16], or by halves
// [tiles][groups][2][16]. Kept from panel to panel.
struct Starts {
  int32_t* sums;
  int64_t block;  // they are of the block that begins here
  int zero;       // and of formats with this zero
};

template <uint8_t format>
static void start_sums(const QuantizedRows& x, int64_t start, int groups, int64_t tiles,
                       Starts& kept) {
  constexpr int zero = kPanelLayouts[format].zero;
  constexpr int shift = zero == 8 ? 0 : zero == 16 ? 1 : zero == 32 ? 2 : 4;  // of -8 * sum
  if (kept.block == start && kept.zero == zero) return;
  kept.block = start;
  kept.zero = zero;
  int32_t* sums = kept.sums;
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int32_t* offsets = x.offsets + (tile * x.num_groups + start) * 32;
    for (int g = 0; g < groups; g++, offsets += 32) {
      __m512i low = _mm512_slli_epi32(_mm512_load_si512(offsets), shift);
      __m512i high = _mm512_slli_epi32(_mm512_load_si512(offsets + 16), shift);
      if constexpr (format == kP6K) {
        _mm512_store_si512(sums, low);
        _mm512_store_si512(sums += 16, high);
      } else {
        _mm512_store_si512(sums, _mm512_add_epi32(low, high));
      }
      sums += 16;
    }
  }
}

static size_t rows_scratch_bytes(int64_t num_rows, int64_t depth) {
  return tile_scratch_bytes(num_rows, depth) + (size_t)((num_rows + 15) / 16) * kBlockGroups * 128;
}

// Rows of a tile, at the first group of a block.
struct RowsCursor {
  const int8_t* values;  // a group further: + 512
  const float* scales;   // + 16
  const int32_t* starts;
  float* sums;            // [rows][16]; of the next panel: + panel_sums
  const float* min_sums;  // the same
  int64_t panel_sums;
  int64_t row;
};

// A block's weights of each panel as bytes, a group after the other.
struct WeightBytes {
  const int8_t* at[kBlockPanels];
};

// acc[p][m] = start + the products of VNNI rows [0, num), then y[p][m] = fma(scale * dW, acc,
// y[p][m]).
template <bool has_zero, int rows, int panels, int num>
HR_INLINE void add_products(const int8_t* a, const int32_t* starts, const WeightBytes& weights,
                            int64_t place, const float* weight_scales, const float* scales,
                            __m512 y[panels][rows]) {
  __m512i sums[panels][rows];
  HR_UNROLL
  for (int m = 0; m < rows; m++) {
    __m512i start = has_zero ? _mm512_set1_epi32(starts[m]) : _mm512_setzero_si512();
    HR_UNROLL
    for (int p = 0; p < panels; p++) sums[p][m] = start;
  }
  HR_UNROLL
  for (int r = 0; r < num; r++) {
    __m512i w[panels];
    HR_UNROLL
    for (int p = 0; p < panels; p++) w[p] = _mm512_load_si512(weights.at[p] + place + r * 64);
    HR_UNROLL
    for (int m = 0; m < rows; m++) {
      int32_t four;
      memcpy(&four, a + m * 32 + 4 * r, 4);
      __m512i fours = _mm512_set1_epi32(four);
      HR_UNROLL
      for (int p = 0; p < panels; p++) sums[p][m] = _mm512_dpbusd_epi32(sums[p][m], w[p], fours);
    }
  }
  __m512 weight_scale[panels];
  HR_UNROLL
  for (int p = 0; p < panels; p++)
    weight_scale[p] = _mm512_load_ps(weight_scales + p * kBlockGroups * 32);
  HR_UNROLL
  for (int m = 0; m < rows; m++) {
    __m512 scale = _mm512_set1_ps(scales[m]);
    HR_UNROLL
    for (int p = 0; p < panels; p++)
      y[p][m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, weight_scale[p]),
                                _mm512_cvtepi32_ps(sums[p][m]), y[p][m]);
  }
}

// Formats have a zero or minimums. Between every four groups of weights are `gap` bytes.
template <bool has_zero, bool halves, int64_t gap, int rows, int panels>
static void multiply_rows(const Block& block, const RowsCursor& at, const WeightBytes& weights,
                          const TileScratch& t, Ahead& ahead) {
  __m512 y[panels][rows];
  HR_UNROLL
  for (int p = 0; p < panels; p++) HR_UNROLL
  for (int m = 0; m < rows; m++)
    y[p][m] =
        block.is_first ? _mm512_setzero_ps() : _mm512_load_ps(at.sums + p * at.panel_sums + m * 16);
  for (int g = 0; g < block.groups; g++) {
    const int8_t* a = at.values + g * 512;
    const int64_t place = g * 512 + (gap ? (unsigned)g / 4 * gap : 0);
    const float* scales = at.scales + g * 16;
    ahead.advance();
    if constexpr (halves) {
      const int32_t* starts = at.starts + g * 32;
      const float* weight_scales = t.scales + g * 32;
      add_products<has_zero, rows, panels, 4>(a, starts, weights, place, weight_scales, scales, y);
      add_products<has_zero, rows, panels, 4>(a + 16, starts + 16, weights, place + 256,
                                              weight_scales + 16, scales, y);
    } else {
      add_products<has_zero, rows, panels, 8>(a, at.starts + g * 16, weights, place,
                                              t.scales + g * 16, scales, y);
    }
  }
  HR_UNROLL
  for (int p = 0; p < panels; p++) HR_UNROLL
  for (int m = 0; m < rows; m++) {
    const int64_t place = p * at.panel_sums + m * 16;
    if (block.is_last && !has_zero)
      y[p][m] = _mm512_sub_ps(y[p][m], _mm512_load_ps(at.min_sums + place));
    if (block.is_last && !block.args->gated.values)
      store_columns(block.args, block.p + p, at.row + m, {y[p][m]});
    else
      store(at.sums + place,
            block.is_last ? add_bias(block.args, block.p + p, {y[p][m]}) : F32x16{y[p][m]});
  }
}

using MultiplyRows = void (*)(const Block&, const RowsCursor&, const WeightBytes&,
                              const TileScratch&, Ahead&);

template <bool has_zero, bool halves, int64_t gap, int panels>
constexpr MultiplyRows kMultiplyRows[kRowsTogether + 1] = {
    nullptr,
    multiply_rows<has_zero, halves, gap, 1, panels>,
    multiply_rows<has_zero, halves, gap, 2, panels>,
    multiply_rows<has_zero, halves, gap, 3, panels>,
    multiply_rows<has_zero, halves, gap, 4, panels>,
};

// The scratch of panel p of those multiplied together.
HR_INLINE TileScratch own_scratch(const TileScratch& t, int p, int64_t tiles) {
  TileScratch own = panel_scratch(t, p, tiles);
  own.weights += p * kBlockBytes;
  own.scales += p * kBlockGroups * 32;
  own.minimums += p * kBlockGroups * 16;
  return own;
}

// A block of panels [p, p + panels), which have the same format.
template <uint8_t format, int panels>
static void rows_block(const MatmulArgs* args, int64_t p, const Batch& batch, Ahead& ahead,
                       const TileScratch& t, int64_t tiles, Starts& starts) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  constexpr bool halves = format == kP6K;
  const QuantizedRows& x = args->x;
  const int groups = groups_of(batch, x.num_groups);
  const Block block = {
      args, p, batch.start, groups, batch.start == 0, batch.start + groups == x.num_groups};
  constexpr int64_t gap = layout.bits == 8 ? layout.header_bytes : 0;  // as they lie in memory
  static_assert(!gap || layout.block_groups == 4, "multiply_rows steps over a gap every four");
  WeightBytes weights;
  for (int i = 0; i < panels; i++) {
    const TileScratch own = own_scratch(t, i, tiles);
    const uint8_t* packed =
        args->weight.base + args->weight.offsets[p + i] + block_bytes(layout, batch.start);
    unpack_block<format, false>(packed, groups, own);
    weights.at[i] = gap ? (const int8_t*)packed + gap : own.weights;
  }
  if constexpr (layout.zero != 0) start_sums<format>(x, batch.start, groups, tiles, starts);
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t at = tile * x.num_groups + batch.start;
    for (int i = 0; i < panels; i++) {
      Block one = block;
      one.p += i;
      own_lines(one, tile);
      const TileScratch own = own_scratch(t, i, tiles);
      if constexpr (layout.has_min)
        add_minimums(groups, own.minimums, x.scaled_sums + at * 16, block.is_first,
                     own.min_sums + tile * kTileFloats);
    }
    const int64_t left = x.num_rows - tile * 16;
    const int rows = left < 16 ? (int)left : 16;
    const int passes = (rows + kRowsTogether - 1) / kRowsTogether;
    const int pass = (rows + passes - 1) / passes;
    const int64_t sums = tile * kTileFloats;
    for (int m = 0; m < rows; m += pass)
      kMultiplyRows<layout.zero != 0, halves, gap, panels>[rows - m < pass ? rows - m : pass](
          block,
          {x.values + at * 512 + m * 32, x.scales + at * 16 + m,
           starts.sums + tile * groups * (halves ? 32 : 16) + m, t.sums + sums + m * 16,
           t.min_sums + sums + m * 16, tiles * kTileFloats, tile * 16 + m},
          weights, t, ahead);
  }
}

using RowsBlock = void (*)(const MatmulArgs*, int64_t, const Batch&, Ahead&, const TileScratch&,
                           int64_t, Starts&);
template <int panels>
constexpr RowsBlock kRowsBlocks[kNumPackedFormats] = {
    rows_block<kP40, panels>, rows_block<kP50, panels>, rows_block<kP80, panels>,
    rows_block<kP41, panels>, rows_block<kP51, panels>, rows_block<kP4K, panels>,
    rows_block<kP5K, panels>, rows_block<kP6K, panels>,
};

static void matmul_rows(const MatmulArgs* args, const Work* work) {
  if (args->x.num_rows <= kVnniRows && !args->gated.values) return matmul_vnni(args, work);
  Starts starts = {(int32_t*)(work->scratch + tile_scratch_bytes(args->x.num_rows, 0)), -1, 0};
  const uint8_t* formats = args->weight.formats;
  const int64_t passes = (args->x.num_rows + kRowsTogether - 1) / kRowsTogether;
  for_panel_blocks(args, work,
                   [&](int64_t p, int count, const Batch& batch, Ahead& ahead, int64_t next_bytes,
                       const TileScratch& t, int64_t tiles) {
                     const int64_t steps = passes * groups_of(batch, args->x.num_groups);
                     if (count == 2 && formats[p] == formats[p + 1]) {
                       ahead.per_step = 2 * next_bytes * 256 / steps + 1;
                       return kRowsBlocks<2>[formats[p]](args, p, batch, ahead, t, tiles, starts);
                     }
                     ahead.per_step = next_bytes * 256 / steps + 1;
                     for (int i = 0; i < count; i++)
                       kRowsBlocks<1>[formats[p + i]](args, p + i, batch, ahead,
                                                      panel_scratch(t, i, tiles), tiles, starts);
                   });
}
