// Linears of bf16 weights on AMX bf16 tiles, one kernel for every number of rows: a column adds its
// products of 32 k in ascending order to one fp32 accumulator, so its bits depend on its row alone.
// Four panels share the rows that are in the tiles; a block of their weights stays in L1 while all
// rows pass.

constexpr int kTogether = 4;         // panels: accumulators 0..3
constexpr int kBf16BlockGroups = 8;  // 32 KB of weights
constexpr int kBf16Ahead = 4;        // groups that a stream of weights is fetched ahead

// Accumulators 0..3 [rows][16 columns]; activations 4, 5 [rows][32 k]; weights 6, 7 [k / 2][16][2].
HR_INLINE void load_bf16_config(int rows) {
  TileConfig config = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {}};
  for (int tile = 0; tile < 8; tile++) config.rows[tile] = (uint8_t)(tile < 6 ? rows : 16);
  load_tile_config(&config);
}

// bf16 rows of a tile, with zeros below the last one.
static void round_rows_amx(const RoundRowsArgs* args, const Work* work) {
  const RoundedRows& out = args->out;
  int64_t tile_rows = out.tile_rows;
  for (int64_t tile = work->begin; tile < work->end; tile++)
    for (int64_t r = 0; r < tile_rows; r++) {
      int64_t row = tile * tile_rows + r;
      const float* x = args->x + row * args->row_stride;
      uint16_t* at = out.values + (tile * out.num_groups * tile_rows + r) * 32;
      for (int64_t g = 0; g < out.num_groups; g++, at += tile_rows * 32) {
        __m512bh pair = (__m512bh)_mm512_setzero_si512();
        if (row < out.num_rows)
          pair = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + g * 32 + 16), _mm512_loadu_ps(x + g * 32));
        _mm512_storeu_si512(at, (__m512i)pair);
      }
    }
}

// Groups [start, start + groups) of `panels` panels from p on, for one tile of rows.
struct Bf16Step {
  const uint16_t* a;
  int64_t a_stride;  // values between groups
  const uint8_t* weights;
  int64_t panel_bytes;
  int groups;
  const uint8_t* next;  // what is multiplied after all rows passed; null: the stream itself
  int first_line, last_line;
};

template <int panel>
HR_INLINE void multiply_bf16(const Bf16Step& step, int g) {
  const uint8_t* w = step.weights + panel * step.panel_bytes + g * 1024;
  const uint8_t* ahead =
      step.next ? step.next + panel * step.panel_bytes + g * 1024 : w + kBf16Ahead * 1024;
  for (int line = step.first_line; line < step.last_line; line++)
    _mm_prefetch((const char*)ahead + line * 64, _MM_HINT_T1);
  if constexpr (panel % 2 == 0)
    _tile_loadd(6, w, 64);
  else
    _tile_loadd(7, w, 64);
  if constexpr (panel == 0) _tile_dpbf16ps(0, 4, 6);
  if constexpr (panel == 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (panel == 2) _tile_dpbf16ps(2, 4, 6);
  if constexpr (panel == 3) _tile_dpbf16ps(3, 4, 7);
}

template <int panels>
HR_INLINE void multiply_bf16_groups(const Bf16Step& step) {
  for (int g = 0; g < step.groups; g++) {
    _tile_loadd(4, step.a + g * step.a_stride, 64);
    multiply_bf16<0>(step, g);
    if constexpr (panels > 1) multiply_bf16<1>(step, g);
    if constexpr (panels > 2) multiply_bf16<2>(step, g);
    if constexpr (panels > 3) multiply_bf16<3>(step, g);
  }
}

template <int panels>
HR_INLINE void load_accumulators(const float* sums) {
  _tile_loadd(0, sums, 64);
  if constexpr (panels > 1) _tile_loadd(1, sums + 256, 64);
  if constexpr (panels > 2) _tile_loadd(2, sums + 512, 64);
  if constexpr (panels > 3) _tile_loadd(3, sums + 768, 64);
}

template <int panels>
HR_INLINE void store_accumulators(float* sums) {
  _tile_stored(0, sums, 64);
  if constexpr (panels > 1) _tile_stored(1, sums + 256, 64);
  if constexpr (panels > 2) _tile_stored(2, sums + 512, 64);
  if constexpr (panels > 3) _tile_stored(3, sums + 768, 64);
}

template <int panels>
static void bf16_panels(const MatmulArgs* args, int64_t p, float* sums) {
  const RoundedRows& x = args->rounded;
  const int64_t tiles = (x.num_rows + x.tile_rows - 1) / x.tile_rows, groups = x.num_groups;
  const uint8_t* weights = args->weight.base + args->weight.offsets[p];
  const int64_t panel_bytes = groups * 1024, block = tiles == 1 ? groups : kBf16BlockGroups;
  for (int64_t start = 0; start < groups; start += block) {
    const int count = (int)(groups - start < block ? groups - start : block);
    const bool is_last = start + count == groups;
    for (int64_t tile = 0; tile < tiles; tile++) {
      float* at = sums + tile * kTogether * kTileFloats;
      if (start > 0)
        load_accumulators<panels>(at);
      else
        clear_tiles();
      Bf16Step step = {x.values + (tile * groups + start) * x.tile_rows * 32,
                       x.tile_rows * 32,
                       weights + start * 1024,
                       panel_bytes,
                       count,
                       nullptr,
                       0,
                       16};
      if (tiles > 1) {  // a share of the next block with each tile
        step.next = is_last ? weights + panels * panel_bytes : step.weights + block * 1024;
        step.first_line = (int)(16 * tile / tiles);
        step.last_line = (int)(16 * (tile + 1) / tiles);
      }
      multiply_bf16_groups<panels>(step);
      store_accumulators<panels>(at);
      if (!is_last) continue;
      const int64_t left = x.num_rows - tile * x.tile_rows;
      for (int panel = 0; panel < panels; panel++)
        for (int64_t r = 0; r < (left < x.tile_rows ? left : x.tile_rows); r++)
          store_columns(args, p + panel, tile * x.tile_rows + r,
                        load(at + panel * kTileFloats + r * 16));
    }
  }
}

static void matmul_bf16(const MatmulArgs* args, const Work* work) {
  load_bf16_config((int)args->rounded.tile_rows);
  float* sums = (float*)work->scratch;
  int64_t p = work->begin;
  for (; p + kTogether <= work->end; p += kTogether) bf16_panels<kTogether>(args, p, sums);
  if (work->end - p == 3) bf16_panels<3>(args, p, sums);
  if (work->end - p == 2) bf16_panels<2>(args, p, sums);
  if (work->end - p == 1) bf16_panels<1>(args, p, sums);
  _tile_release();
}
