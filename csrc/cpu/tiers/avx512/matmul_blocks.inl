// Quantized linears on AVX512-VNNI for many rows: up to 8 rows at a time, whose sums stay in
// registers, against a panel's block of groups in L1. A group of a row takes 8 products and, on the
// same two ports, a multiplication and an addition (docs/log/2026-11.md): 80 % of the peak.

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

// Rows of a tile, at their first group of a block.
struct RowsCursor {
  const int8_t* values;  // a group further: + 512
  const float* scales;   // + 16
  const int32_t* starts;
  float* sums;  // [rows][16]
};

// acc[m] = start + the products of VNNI rows [0, num), then y[m] = fma(scale * dW, acc, y[m]).
template <bool has_zero, int rows, int num>
HR_INLINE void add_products(const int8_t* a, const int32_t* starts, const int8_t* weights,
                            const float* weight_scales, const float* scales, __m512* y) {
  __m512i sums[rows];
  HR_UNROLL
  for (int m = 0; m < rows; m++)
    sums[m] = has_zero ? _mm512_set1_epi32(starts[m]) : _mm512_setzero_si512();
  HR_UNROLL
  for (int r = 0; r < num; r++) {
    __m512i w = _mm512_load_si512(weights + r * 64);
    HR_UNROLL
    for (int m = 0; m < rows; m++) sums[m] = dot4(sums[m], w, a + m * 32 + 4 * r);
  }
  __m512 weight_scale = _mm512_load_ps(weight_scales);
  HR_UNROLL
  for (int m = 0; m < rows; m++)
    y[m] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(scales[m]), weight_scale),
                           _mm512_cvtepi32_ps(sums[m]), y[m]);
}

template <bool has_zero, bool halves, int rows>
static void multiply_rows(const RowsCursor& at, const TileScratch& t, int groups, bool is_first,
                          Ahead& ahead) {
  __m512 y[rows];
  HR_UNROLL
  for (int m = 0; m < rows; m++)
    y[m] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(at.sums + m * 16);
  for (int g = 0; g < groups; g++) {
    const int8_t *a = at.values + g * 512, *weights = t.weights + g * 512;
    const float* scales = at.scales + g * 16;
    ahead.advance();
    if constexpr (halves) {
      const int32_t* starts = at.starts + g * 32;
      const float* weight_scales = t.scales + g * 32;
      add_products<has_zero, rows, 4>(a, starts, weights, weight_scales, scales, y);
      add_products<has_zero, rows, 4>(a + 16, starts + 16, weights + 256, weight_scales + 16,
                                      scales, y);
    } else {
      add_products<has_zero, rows, 8>(a, at.starts + g * 16, weights, t.scales + g * 16, scales, y);
    }
  }
  HR_UNROLL
  for (int m = 0; m < rows; m++) _mm512_store_ps(at.sums + m * 16, y[m]);
}

using MultiplyRows = void (*)(const RowsCursor&, const TileScratch&, int, bool, Ahead&);

template <bool has_zero, bool halves>
constexpr MultiplyRows kMultiplyRows[kVnniRows + 1] = {
    nullptr,
    multiply_rows<has_zero, halves, 1>,
    multiply_rows<has_zero, halves, 2>,
    multiply_rows<has_zero, halves, 3>,
    multiply_rows<has_zero, halves, 4>,
    multiply_rows<has_zero, halves, 5>,
    multiply_rows<has_zero, halves, 6>,
    multiply_rows<has_zero, halves, 7>,
    multiply_rows<has_zero, halves, 8>,
};

template <uint8_t format>
static void rows_block(const MatmulArgs* args, int64_t p, int64_t start, int groups, Ahead& ahead,
                       int64_t next_bytes, const TileScratch& t, int64_t tiles, Starts& starts) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  constexpr bool halves = format == kP6K;
  const QuantizedRows& x = args->x;
  Block block = {args, p, start, groups, start == 0, start + groups == x.num_groups};
  unpack_block<format, false>(
      args->weight.base + args->weight.offsets[p] + block_bytes(layout, start), groups, t);
  if constexpr (layout.zero != 0) start_sums<format>(x, start, groups, tiles, starts);
  ahead.per_step = next_bytes * 256 / (2 * tiles * groups) + 1;
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t at = tile * x.num_groups + start;
    float* sums = t.sums + tile * kTileFloats;
    own_lines(block, tile);
    if constexpr (layout.has_min)
      add_minimums(groups, t.minimums, x.scaled_sums + at * 16, block.is_first,
                   t.min_sums + tile * kTileFloats);
    const int64_t left = x.num_rows - tile * 16;
    const int rows = left < 16 ? (int)left : 16;
    const int passes = (rows + kVnniRows - 1) / kVnniRows, pass = (rows + passes - 1) / passes;
    for (int m = 0; m < rows; m += pass)
      kMultiplyRows<layout.zero != 0, halves>[rows - m < pass ? rows - m : pass](
          {x.values + at * 512 + m * 32, x.scales + at * 16 + m,
           starts.sums + tile * groups * (halves ? 32 : 16) + m, sums + m * 16},
          t, groups, block.is_first, ahead);
    if (!block.is_last) continue;
    __m512 y[16];
    load_sums(y, sums, false);
    end_tile<layout.has_min>(block, t, tile, y);
  }
}

using RowsBlock = void (*)(const MatmulArgs*, int64_t, int64_t, int, Ahead&, int64_t,
                           const TileScratch&, int64_t, Starts&);
constexpr RowsBlock kRowsBlocks[kNumPackedFormats] = {
    rows_block<kP40>, rows_block<kP50>, rows_block<kP80>, rows_block<kP41>,
    rows_block<kP51>, rows_block<kP4K>, rows_block<kP5K>, rows_block<kP6K>,
};

static void matmul_rows(const MatmulArgs* args, const Work* work) {
  if (args->x.num_rows <= kVnniRows && !args->gated.values) return matmul_vnni(args, work);
  Starts starts = {(int32_t*)(work->scratch + tile_scratch_bytes(args->x.num_rows, 0)), -1, 0};
  for_panel_blocks(args, work,
                   [&](int64_t p, const Batch& batch, Ahead& ahead, int64_t next_bytes,
                       const TileScratch& t, int64_t tiles) {
                     kRowsBlocks[args->weight.formats[p]](args, p, batch.start,
                                                          groups_of(batch, args->x.num_groups),
                                                          ahead, next_bytes, t, tiles, starts);
                   });
}
