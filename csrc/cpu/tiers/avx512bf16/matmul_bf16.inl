// Linears of bf16 weights with rows rounded to bf16. A column adds its products of a pair of k in
// ascending order to one fp32 sum, whatever the number of rows, so its bits depend on its row
// alone.
#pragma once

// bf16 rows of a tile, with zeros below the last one.
static void round_rows_pairs(const RoundRowsArgs* args, const Work* work) {
  const RoundedRows& out = args->out;
  for (int64_t tile = work->begin; tile < work->end; tile++)
    for (int64_t r = 0; r < out.tile_rows; r++) {
      const int64_t row = tile * out.tile_rows + r;
      const float* x = args->x + row * args->row_stride;
      uint16_t* at = out.values + (tile * out.num_groups * out.tile_rows + r) * 32;
      for (int64_t g = 0; g < out.num_groups; g++, at += out.tile_rows * 32) {
        const bool is_there = row < out.num_rows;
        store_weights(at, is_there ? load(x + g * 32) : zero_f32(),
                      is_there ? load(x + g * 32 + 16) : zero_f32());
      }
    }
}

// R rows of a tile from `row` on against panels p and p + 1, of which the second may be missing.
template <int R>
static void bf16_rows(const MatmulArgs* args, int64_t p, int num_panels, int64_t row) {
  const RoundedRows& x = args->rounded;
  const PackedPanels& weight = args->weight;
  const int64_t tile = row / x.tile_rows, step = x.tile_rows * 32;
  const uint16_t* rows = x.values + tile * x.num_groups * step + row % x.tile_rows * 32;
  const uint16_t* panels[2] = {(const uint16_t*)(weight.base + weight.offsets[p]),
                               (const uint16_t*)(weight.base + weight.offsets[p + num_panels - 1])};
  PairSums<R> sums;
  clear<R>(sums);
  for (int64_t g = 0; g < x.num_groups; g++)
    for (int k = 0; k < 32; k += 2)
      add_products<R>(sums, rows + g * step + k, 32, panels[0] + (g * 32 + k) * 16,
                      panels[1] + (g * 32 + k) * 16);
  for (int panel = 0; panel < num_panels; panel++)
    for (int r = 0; r < R; r++) store_columns(args, p + panel, row + r, sums[panel][r]);
}

static void matmul_bf16(const MatmulArgs* args, const Work* work) {
  const RoundedRows& x = args->rounded;
  for (int64_t p = work->begin; p < work->end; p += 2) {
    const int num_panels = work->end - p < 2 ? 1 : 2;
    for (int64_t tile = 0; tile < x.num_rows; tile += x.tile_rows) {
      const int64_t end = tile + x.tile_rows < x.num_rows ? tile + x.tile_rows : x.num_rows;
      for (int64_t row = tile; row < end; row += kChunkRows)
        with_rows<kChunkRows>((int)(end - row),
                              [&](auto rows) { bf16_rows<rows.count>(args, p, num_panels, row); });
    }
  }
}
