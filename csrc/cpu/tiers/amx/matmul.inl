// Quantized linears on AMX int8 tiles, for more rows than the VNNI kernel likes.
//
// A panel's block of 32 groups is unpacked to L1 once and meets all rows, 16 at a time. A product
// of 16 rows x 16 columns x one group leaves its tile as int32 and is added to the fp32 sums, which
// stay in registers. While tiles are in flight this CPU runs 512-bit multiplications and
// conversions on one port only (docs/log/2026-11.md), so half of the conversions are done by
// integer and float additions, which have two, and the minimum terms are summed apart from the
// tiles.

constexpr int kVnniMaxRows = 8;
constexpr int kBlockGroups = 32;    // 16 KB of unpacked weights
constexpr int kPanelsTogether = 8;  // share the activations of a block while they are in L2
constexpr int kPanelsAhead = 4;     // are brought to L2 together, while as many are multiplied
constexpr int kTileFloats = 256;
constexpr int kBuffers = 4;

struct TileScratch {
  int8_t* weights;   // [groups][8 rows][64]
  float* scales;     // [steps][16]
  float* minimums;   // [groups][16]
  int32_t* buffers;  // [kBuffers][16][16]
  float* sums;       // [panels][tiles][16][16]; between blocks of groups
  float* min_sums;   // the same
};

static size_t tile_scratch_bytes(int64_t num_rows, int64_t) {
  int64_t tiles = (num_rows + 15) / 16;
  return kBlockGroups * (512 + 128 + 64) + kBuffers * 1024 +
         (size_t)(2 * kPanelsTogether * tiles) * kTileFloats * 4;
}

HR_INLINE TileScratch tile_scratch(uint8_t* at, int64_t tiles) {
  TileScratch s;
  s.weights = (int8_t*)at;
  s.scales = (float*)(at + kBlockGroups * 512);
  s.minimums = s.scales + kBlockGroups * 32;
  s.buffers = (int32_t*)(s.minimums + kBlockGroups * 16);
  s.sums = (float*)(s.buffers + kBuffers * 256);
  s.min_sums = s.sums + kPanelsTogether * tiles * kTileFloats;
  return s;
}

// Accumulators 0..3 [16 rows][16 columns]; activations 4, 5 [16][k]; weights 6, 7 [k / 4][16][4].
constexpr TileConfig kGroupTiles = {
    1, 0, {}, {64, 64, 64, 64, 32, 32, 64, 64}, {16, 16, 16, 16, 16, 16, 8, 8}};
constexpr TileConfig kHalfGroupTiles = {
    1, 0, {}, {64, 64, 64, 64, 16, 16, 64, 64}, {16, 16, 16, 16, 16, 16, 4, 4}};

// Signed weights and exact scales of `groups` groups, from the start of a block of the panel.
template <uint8_t format>
static void unpack_block(const uint8_t* block, int groups, const TileScratch& s) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  const __m512i zero = _mm512_set1_epi8((char)layout.zero);
  for (int g = 0; g < groups; g++) {
    int index = g % layout.block_groups;
    if (g > 0 && index == 0)
      block += layout.header_bytes + layout.block_groups * layout.group_bytes;
    GroupPlace place = {block, block + layout.header_bytes + index * layout.group_bytes, index};
    __m512i w[8];
    unpack_rows<format>(place.quants, w);
    HR_UNROLL
    for (int r = 0; r < 8; r++)
      _mm512_store_si512(s.weights + g * 512 + r * 64,
                         layout.zero ? _mm512_sub_epi8(w[r], zero) : w[r]);
    GroupScales scales = group_scales(format, place);
    if constexpr (format == kP6K) {
      store(s.scales + g * 32, scales.scale[0]);
      store(s.scales + g * 32 + 16, scales.scale[1]);
    } else {
      store(s.scales + g * 16, scales.scale[0]);
      if constexpr (layout.has_min) store(s.minimums + g * 16, scales.minimum);
    }
  }
}

// Bytes of the first `groups` groups from the start of a block.
HR_INLINE int64_t block_bytes(const PanelLayout& layout, int64_t groups) {
  return (groups + layout.block_groups - 1) / layout.block_groups * layout.header_bytes +
         groups * layout.group_bytes;
}

// Brings the next blocks of weights to L2, a little with each product: a burst would fill the line
// buffers and stall the tiles. The lines of several panels are asked for side by side, since a core
// has more under way when it reads several places.
struct Ahead {
  const uint8_t* at[kPanelsAhead];
  int count;         // of places
  int place;         // whose turn it is
  int64_t per_step;  // 1/256 bytes, over all places
  int64_t owed;

  inline __attribute__((always_inline)) void advance() {
    for (owed += per_step; owed >= 64 * 256; owed -= 64 * 256) {
      _mm_prefetch((const char*)at[place], _MM_HINT_T1);
      at[place] += 64;
      place = place + 1 < count ? place + 1 : 0;
    }
  }
};

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

HR_INLINE void load_sums(__m512* y, const float* from, bool is_first) {
  HR_UNROLL
  for (int r = 0; r < 16; r++)
    y[r] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(from + r * 16);
}

HR_INLINE void store_sums(float* to, const __m512* y) {
  HR_UNROLL
  for (int r = 0; r < 16; r++) _mm512_store_ps(to + r * 16, y[r]);
}

// z[r] = fma(mW, scaled_sum[r], z[r])
HR_INLINE void add_minimums(int groups, const float* minimums, const float* scaled_sums,
                            bool is_first, float* sums) {
  __m512 z[16];
  load_sums(z, sums, is_first);
  for (int g = 0; g < groups; g++) {
    __m512 minimum = _mm512_load_ps(minimums + g * 16);
    HR_UNROLL
    for (int r = 0; r < 16; r++)
      z[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(scaled_sums[g * 16 + r]), z[r]);
  }
  store_sums(sums, z);
}

// Groups [start, start + groups) of panel p, for all rows.
struct Block {
  const MatmulArgs* args;
  int64_t p;
  int64_t start;
  int groups;
  bool is_first;
  bool is_last;
};

// The cursor of a tile of rows at its first product.
HR_INLINE TileCursor tile_start(const Block& block, const TileScratch& t, int64_t tile) {
  const QuantizedRows& x = block.args->x;
  int64_t at = tile * x.num_groups + block.start;
  return {x.values + at * 512, t.weights, t.scales, x.scales + at * 16, t.buffers};
}

HR_INLINE void begin_tile(const Block& block, const TileScratch& t, int64_t tile, __m512* y) {
  load_sums(y, t.sums + tile * kTileFloats, block.is_first);
  if (!block.is_last) return;
  const MatmulArgs* args = block.args;
  if (args->gated.values) return;
  // Own the lines of y long before they are written.
  int64_t end = tile * 16 + 16 < args->x.num_rows ? tile * 16 + 16 : args->x.num_rows;
  for (int64_t row = tile * 16; row < end; row++)
    __builtin_prefetch(columns_of(args, block.p, row), 1);
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

// f(gate) * up of panels [first, last), which wait in the sums, as int8 groups: four panels make a
// group of 32 columns.
static void quantize_gated(const MatmulArgs* args, int64_t first, int64_t last,
                           const TileScratch& t, int64_t tiles) {
  alignas(64) float columns[16 * kGroupSize];
  const int64_t panel = tiles * kTileFloats;
  for (int64_t tile = 0; tile < tiles; tile++) {
    int64_t left = args->x.num_rows - tile * 16;
    int rows = (int)(left < 16 ? left : 16);
    for (int64_t p = first; p < last; p += 4) {
      const float* gate = t.sums + (p - first) * panel + tile * kTileFloats;
      for (int i = 0; i < 2 * rows; i++) {
        const float* at = gate + i % 2 * 2 * panel + i / 2 * 16;
        store(columns + i * 16, mul(activate(args->gate, load(at)), load(at + panel)));
      }
      quantize_16_rows(columns, kGroupSize, rows, args->gated, tile, p / 4);
    }
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
  unpack_block<format>(args->weight.base + args->weight.offsets[p] + block_bytes(layout, start),
                       groups, t);
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

// Panels [first, last) of a span of kPanelsTogether, groups from `start` on: multiplied one after
// the other. All groups of a span come before the next span, a block of groups at a time.
struct Batch {
  int64_t span, span_end, start, first, last;
};

HR_INLINE Batch batch_at(const Work& work, int64_t span, int64_t start, int64_t first) {
  const int64_t span_end = span + kPanelsTogether < work.end ? span + kPanelsTogether : work.end;
  const int64_t last = first + kPanelsAhead < span_end ? first + kPanelsAhead : span_end;
  return {span, span_end, start, first, last};
}

HR_INLINE Batch batch_after(const Work& work, const Batch& batch, int64_t num_groups) {
  if (batch.last < batch.span_end) return batch_at(work, batch.span, batch.start, batch.last);
  const int64_t start = batch.start + kBlockGroups;
  if (start < num_groups) return batch_at(work, batch.span, start, batch.span);
  return batch_at(work, batch.span_end, 0, batch.span_end);
}

HR_INLINE int groups_of(const Batch& batch, int64_t num_groups) {
  const int64_t left = num_groups - batch.start;
  return left < kBlockGroups ? (int)left : kBlockGroups;
}

// The places of a batch. Returns its bytes.
static int64_t aim(Ahead* ahead, const Batch& next, const PackedPanels& w, int64_t num_groups) {
  int64_t num_bytes = 0;
  for (int64_t p = next.first; p < next.last; p++) {
    const PanelLayout& layout = kPanelLayouts[w.formats[p]];
    ahead->at[ahead->count++] = w.base + w.offsets[p] + block_bytes(layout, next.start);
    num_bytes += block_bytes(layout, groups_of(next, num_groups));
  }
  return num_bytes;
}

static void matmul_tiles(const MatmulArgs* args, const Work* work) {
  const QuantizedRows& x = args->x;
  const PackedPanels& w = args->weight;
  int64_t tiles = (x.num_rows + 15) / 16;
  TileScratch scratch = tile_scratch(work->scratch, tiles);
  const TileConfig* config = nullptr;
  Batch batch = batch_at(*work, work->begin, 0, work->begin);
  while (batch.first < work->end) {
    const Batch next = batch_after(*work, batch, x.num_groups);
    Ahead ahead = {{w.base}, 0, 0, 0, 0};  // after the last batch: one line now and then
    const int64_t next_bytes = aim(&ahead, next, w, x.num_groups) / (batch.last - batch.first);
    for (int64_t p = batch.first; p < batch.last; p++) {
      TileScratch t = scratch;
      t.sums += (p - batch.span) * tiles * kTileFloats;
      t.min_sums += (p - batch.span) * tiles * kTileFloats;
      const TileConfig* wanted = w.formats[p] == kP6K ? &kHalfGroupTiles : &kGroupTiles;
      if (config != wanted) load_tile_config(config = wanted);
      kTileBlocks[w.formats[p]](args, p, batch.start, groups_of(batch, x.num_groups), ahead,
                                next_bytes, t, tiles);
    }
    if (args->gated.values && next.span != batch.span)
      quantize_gated(args, batch.span, batch.span_end, scratch, tiles);
    batch = next;
  }
  _tile_release();
}

static void matmul_amx(const MatmulArgs* args, const Work* work) {
  if (args->x.num_rows <= kVnniMaxRows && !args->gated.values)
    matmul_vnni(args, work);
  else
    matmul_tiles(args, work);
}
