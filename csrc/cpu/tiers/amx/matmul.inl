// Quantized linears on AMX int8 tiles, for more rows than the VNNI kernel likes.
//
// Blocks of panels as in tiers/avx512/panel_blocks.inl. A product of 16 rows x 16 columns x one
// group leaves its tile as int32 and is added to the fp32 sums, which stay in registers. While
// tiles are in flight this CPU runs 512-bit multiplications and conversions on one port only
// (docs/log/2026-11.md), so half of the conversions are done by integer and float additions, which
// have two, and the minimum terms are summed apart from the tiles.

constexpr int kVnniMaxRows = 8;
// Accumulators 0..3 [16 rows][16 columns]; activations 4, 5 [16][k]; weights 6, 7 [k / 4][16][4].
constexpr TileConfig kGroupTiles = {
    1, 0, {}, {64, 64, 64, 64, 32, 32, 64, 64}, {16, 16, 16, 16, 16, 16, 8, 8}};
constexpr TileConfig kHalfGroupTiles = {
    1, 0, {}, {64, 64, 64, 64, 16, 16, 64, 64}, {16, 16, 16, 16, 16, 16, 4, 4}};

// Tile names are part of the instructions, so each accumulator is spelled out.
template <int accumulator>
HR_INLINE void clear_tile() {
  if constexpr (accumulator == 0) _tile_zero(0);
  if constexpr (accumulator == 1) _tile_zero(1);
  if constexpr (accumulator == 2) _tile_zero(2);
  if constexpr (accumulator == 3) _tile_zero(3);
}

// The operands of a product, one step before it: a product that waits for its loads or for the
// clearing of its accumulator holds back everything behind it, above all where the other thread of
// the core leaves half of the reorder buffer and of the tile registers.
template <int accumulator>
HR_INLINE void load_tiles(const int8_t* a, const int8_t* w) {
  if constexpr (accumulator % 2 == 0) {
    _tile_loadd(6, w, 64);
    _tile_loadd(4, a, 32);
  } else {
    _tile_loadd(7, w, 64);
    _tile_loadd(5, a, 32);
  }
}

template <int accumulator>
HR_INLINE void multiply_loaded() {
  if constexpr (accumulator == 0) _tile_dpbssd(0, 4, 6);
  if constexpr (accumulator == 1) _tile_dpbssd(1, 5, 7);
  if constexpr (accumulator == 2) _tile_dpbssd(2, 4, 6);
  if constexpr (accumulator == 3) _tile_dpbssd(3, 5, 7);
}

// Stores a product, and clears its accumulator for the product two steps ahead.
template <int accumulator>
HR_INLINE void take_product(int32_t* buffer) {
  if constexpr (accumulator == 0) _tile_stored(0, buffer, 64);
  if constexpr (accumulator == 1) _tile_stored(1, buffer, 64);
  if constexpr (accumulator == 2) _tile_stored(2, buffer, 64);
  if constexpr (accumulator == 3) _tile_stored(3, buffer, 64);
  clear_tile<accumulator>();
}

// y[r] = fma(scale[r] * dW, float(sum[r]), y[r])
HR_INLINE void add_product(__m512* y, __m512 weight_scale, const int32_t* sums,
                           const float* scales) {
  // A sum below 2^22 added to the bits of 1.5 * 2^23 is the float 1.5 * 2^23 + sum, exactly.
  const __m512i magic_bits = _mm512_set1_epi32(0x4b400000);
  const __m512 magic = _mm512_castsi512_ps(magic_bits);
  HR_UNROLL
  for (int r = 0; r < 16; r++) {
    __m512i sum = _mm512_load_si512(sums + r * 16);
    __m512 value =
        r % 2 ? _mm512_cvtepi32_ps(sum)
              : _mm512_sub_ps(_mm512_castsi512_ps(_mm512_add_epi32(sum, magic_bits)), magic);
    y[r] = _mm512_fmadd_ps(_mm512_mul_ps(weight_scale, _mm512_set1_ps(scales[r])), value, y[r]);
  }
}

// Where the pipeline stands: pointers of product s, s a multiple of 4.
struct TileCursor {
  const int8_t* a;
  const int8_t* weights;
  const float* weight_scales;
  const float* scales;
  int32_t* buffers;

  template <bool halves>
  inline __attribute__((always_inline)) void advance() {  // by four products
    a += halves ? 1024 : 2048;
    weights += halves ? 1024 : 2048;
    weight_scales += 64;
    scales += halves ? 32 : 64;
  }
};

// What a step does beside its product: the epilogue of three before, the store of two before.
// Unless the step is known to be inside, those that fall outside [0, steps) are left out.
template <bool halves, bool is_inside, int u>
HR_INLINE void finish_products(const TileCursor& at, int s, int steps, __m512* y) {
  constexpr int scale_offset = halves ? (u + 1) / 2 - 2 : u - 3;
  auto has = [&](int step) { return is_inside || (step >= 0 && step < steps); };
  if (has(s + u - 3))
    add_product(y, _mm512_load_ps(at.weight_scales + (u - 3) * 16),
                at.buffers + (u + 1) % kBuffers * 256, at.scales + scale_offset * 16);
  if (has(s + u - 2)) take_product<(u + 2) % 4>(at.buffers + (u + 2) % kBuffers * 256);
}

// Where the operands of product u of four lie.
template <bool halves, int u>
HR_INLINE void load_step(const TileCursor& at) {
  load_tiles<u>(at.a + (halves ? u / 2 * 512 + u % 2 * 16 : u * 512),
                at.weights + u * (halves ? 256 : 512));
}

// Four steps inside the pipeline; the operands of the first are loaded, and those of the four to
// come begin to be.
template <bool halves>
HR_INLINE void four_steps(const TileCursor& at, const TileCursor& next, Ahead& ahead, __m512* y) {
  multiply_loaded<0>();
  load_step<halves, 1>(at);
  ahead.advance();
  finish_products<halves, true, 0>(at, 0, 0, y);
  multiply_loaded<1>();
  load_step<halves, 2>(at);
  ahead.advance();
  finish_products<halves, true, 1>(at, 0, 0, y);
  multiply_loaded<2>();
  load_step<halves, 3>(at);
  ahead.advance();
  finish_products<halves, true, 2>(at, 0, 0, y);
  multiply_loaded<3>();
  load_step<halves, 0>(next);
  ahead.advance();
  finish_products<halves, true, 3>(at, 0, 0, y);
}

HR_INLINE void clear_tiles() {
  clear_tile<0>();
  clear_tile<1>();
  clear_tile<2>();
  clear_tile<3>();
}

// The cursor of a tile of rows at its first product.
HR_INLINE TileCursor tile_start(const Block& block, const TileScratch& t, int64_t tile) {
  const QuantizedRows& x = block.args->x;
  int64_t at = tile * x.num_groups + block.start;
  return {x.values + at * 512, t.weights, t.scales, x.scales + at * 16, t.buffers};
}

HR_INLINE void begin_tile(const Block& block, const TileScratch& t, int64_t tile, __m512* y) {
  load_sums(y, t.sums + tile * kTileFloats, block.is_first);
  own_lines(block, tile);
}

template <bool has_min>
HR_INLINE void end_tile(const Block& block, const TileScratch& t, int64_t tile, __m512* y) {
  float* sums = t.sums + tile * kTileFloats;
  if (!block.is_last) return store_sums(sums, y);
  const MatmulArgs* args = block.args;
  const float* min_sums = t.min_sums + tile * kTileFloats;
  int64_t row = tile * 16, left = block.args->x.num_rows - row;
  HR_UNROLL
  for (int r = 0; r < 16; r++) {
    if constexpr (has_min) y[r] = _mm512_sub_ps(y[r], _mm512_load_ps(min_sums + r * 16));
    if (args->gated.values)
      store(sums + r * 16, add_bias(args, block.p, {y[r]}));
    else if (r < left)
      store_columns(args, block.p, row + r, {y[r]});
  }
}

// A step that may lie outside: no operands are loaded ahead.
template <bool halves, int u>
HR_INLINE void single_step(const TileCursor& at, int s, int steps, Ahead& ahead, __m512* y) {
  if (s + u < steps) {
    load_step<halves, u>(at);
    multiply_loaded<u>();
    ahead.advance();
  }
  finish_products<halves, false, u>(at, s, steps, y);
}

// Any number of steps: the pipeline fills and drains with every 16 rows.
template <bool halves, bool has_min>
HR_INLINE void multiply_tiles(const Block& block, int steps, const TileScratch& t, int64_t tiles,
                              Ahead& ahead) {
  for (int64_t tile = 0; tile < tiles; tile++) {
    __m512 y[16];
    begin_tile(block, t, tile, y);
    TileCursor at = tile_start(block, t, tile);
    for (int s = 0; s < steps + 3; s += 4) {
      single_step<halves, 0>(at, s, steps, ahead, y);
      single_step<halves, 1>(at, s, steps, ahead, y);
      single_step<halves, 2>(at, s, steps, ahead, y);
      single_step<halves, 3>(at, s, steps, ahead, y);
      at.advance<halves>();
    }
    end_tile<has_min>(block, t, tile, y);
  }
}

// What is left of the previous tile at step u of the next one: its epilogue, and its last stores.
template <bool halves, int u>
HR_INLINE void finish_step(const TileCursor& previous, __m512* y) {
  constexpr int scale_offset = halves ? (u + 1) / 2 - 2 : u - 3;
  add_product(y, _mm512_load_ps(previous.weight_scales + (u - 3) * 16),
              previous.buffers + (u + 1) % kBuffers * 256, previous.scales + scale_offset * 16);
  if constexpr (u < 2) take_product<(u + 2) % 4>(previous.buffers + (u + 2) % kBuffers * 256);
}

// The first four steps of 16 rows, beside the last epilogues of the 16 rows before.
template <bool halves, bool has_min>
HR_INLINE void first_steps(const Block& block, const TileScratch& t, int64_t tile,
                           const TileCursor& at, const TileCursor& previous, const TileCursor& next,
                           __m512* y) {
  multiply_loaded<0>();
  load_step<halves, 1>(at);
  if (tile > 0) finish_step<halves, 0>(previous, y);
  multiply_loaded<1>();
  load_step<halves, 2>(at);
  if (tile > 0) finish_step<halves, 1>(previous, y);
  multiply_loaded<2>();
  load_step<halves, 3>(at);
  if (tile > 0) {
    finish_step<halves, 2>(previous, y);
    end_tile<has_min>(block, t, tile - 1, y);
  }
  take_product<0>(at.buffers);
  begin_tile(block, t, tile, y);
  multiply_loaded<3>();
  load_step<halves, 0>(next);
  finish_products<halves, true, 3>(at, 0, 0, y);
}

// Steps in a multiple of 4: the first products of 16 rows run beside the last epilogues of the 16
// before, so the pipeline fills once.
template <bool halves, bool has_min>
HR_INLINE void multiply_tiles_in_a_row(const Block& block, int steps, const TileScratch& t,
                                       int64_t tiles, Ahead& ahead) {
  TileCursor previous = {}, at = tile_start(block, t, 0), next = at;
  __m512 y[16];
  load_step<halves, 0>(at);
  for (int64_t tile = 0; tile < tiles; tile++) {
    const TileCursor next_tile = tile_start(block, t, tile + 1 < tiles ? tile + 1 : tile);
    next.advance<halves>();
    if (steps == 4) next = next_tile;
    first_steps<halves, has_min>(block, t, tile, at, previous, next, y);
    at.advance<halves>();
    for (int s = 4; s < steps; s += 4) {
      next.advance<halves>();
      if (s + 4 == steps) next = next_tile;
      four_steps<halves>(at, next, ahead, y);
      at.advance<halves>();
    }
    previous = at;
    at = next_tile;
  }
  finish_step<halves, 0>(previous, y);
  finish_step<halves, 1>(previous, y);
  finish_step<halves, 2>(previous, y);
  end_tile<has_min>(block, t, tiles - 1, y);
}

template <uint8_t format>
static void tile_block(const MatmulArgs* args, int64_t p, int64_t start, int groups, Ahead& ahead,
                       int64_t next_bytes, const TileScratch& t, int64_t tiles) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  constexpr bool halves = format == kP6K;
  const QuantizedRows& x = args->x;
  Block block = {args, p, start, groups, start == 0, start + groups == x.num_groups};
  unpack_block<format, true>(
      args->weight.base + args->weight.offsets[p] + block_bytes(layout, start), groups, t);
  if constexpr (layout.has_min)
    for (int64_t tile = 0; tile < tiles; tile++)
      add_minimums(groups, t.minimums, x.scaled_sums + (tile * x.num_groups + start) * 16,
                   block.is_first, t.min_sums + tile * kTileFloats);
  finish_stores();
  clear_tiles();
  int steps = halves ? 2 * groups : groups;
  ahead.per_step = next_bytes * 256 / (tiles * steps) + 1;
  if (steps % 4 == 0)
    multiply_tiles_in_a_row<halves, layout.has_min>(block, steps, t, tiles, ahead);
  else
    multiply_tiles<halves, layout.has_min>(block, steps, t, tiles, ahead);
}

using TileBlock = void (*)(const MatmulArgs*, int64_t, int64_t, int, Ahead&, int64_t,
                           const TileScratch&, int64_t);
constexpr TileBlock kTileBlocks[kNumPackedFormats] = {
    tile_block<kP40>, tile_block<kP50>, tile_block<kP80>, tile_block<kP41>,
    tile_block<kP51>, tile_block<kP4K>, tile_block<kP5K>, tile_block<kP6K>,
};

static void matmul_tiles(const MatmulArgs* args, const Work* work) {
  const TileConfig* config = nullptr;
  for_panel_blocks(args, work,
                   [&](int64_t p, int, const Batch& batch, Ahead& ahead, int64_t next_bytes,
                       const TileScratch& t, int64_t tiles) {
                     const uint8_t format = args->weight.formats[p];
                     const TileConfig* wanted = format == kP6K ? &kHalfGroupTiles : &kGroupTiles;
                     if (config != wanted) load_tile_config(config = wanted);
                     kTileBlocks[format](args, p, batch.start, groups_of(batch, args->x.num_groups),
                                         ahead, next_bytes, t, tiles);
                   });
  _tile_release();
}

static void matmul_amx(const MatmulArgs* args, const Work* work) {
  if (args->x.num_rows <= kVnniMaxRows && !args->gated.values)
    matmul_vnni(args, work);
  else
    matmul_tiles(args, work);
}
