// AMX tiles in memory, for tests of the tile kernels on a CPU that has AVX512-BF16 but no AMX
// (HEADRACE_EMULATE_TILES). An instruction that a CPU would refuse (no configuration, sizes that do
// not fit) ends the process, as there. Integer products have the bits of a CPU; a product of bf16
// pairs adds in the order of vdpbf16ps, which need not be a tile's.
// Included inside namespace headrace::amx, anonymous.

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps

struct EmulatedTiles {
  TileConfig config;  // palette 0: none is loaded
  alignas(64) uint8_t bytes[8][16][64];
};

static thread_local EmulatedTiles emulated;

HR_INLINE void refuse_unless(bool is_valid) {
  if (!is_valid) __builtin_trap();
}

static void _tile_loadconfig(const TileConfig* config) {
  refuse_unless(config->palette == 1);
  for (int tile = 0; tile < 8; tile++)
    refuse_unless(config->rows[tile] <= 16 && config->row_bytes[tile] <= 64);
  memset(&emulated, 0, sizeof emulated);
  emulated.config = *config;
}

static void _tile_release() { memset(&emulated, 0, sizeof emulated); }

static void _tile_zero(int tile) {
  refuse_unless(emulated.config.rows[tile] > 0);
  memset(emulated.bytes[tile], 0, sizeof emulated.bytes[tile]);
}

static void _tile_loadd(int tile, const void* from, int64_t stride) {
  _tile_zero(tile);
  for (int r = 0; r < emulated.config.rows[tile]; r++)
    memcpy(emulated.bytes[tile][r], (const uint8_t*)from + r * stride,
           emulated.config.row_bytes[tile]);
}

static void _tile_stored(int tile, void* to, int64_t stride) {
  refuse_unless(emulated.config.rows[tile] > 0);
  for (int r = 0; r < emulated.config.rows[tile]; r++)
    memcpy((uint8_t*)to + r * stride, emulated.bytes[tile][r], emulated.config.row_bytes[tile]);
}

// Rows of 4 bytes that multiply each row of `a`. The sizes of sums, a and b have to fit.
static int product_steps(int sums, int a, int b) {
  const TileConfig& config = emulated.config;
  refuse_unless(config.rows[sums] > 0 && config.rows[a] == config.rows[sums] &&
                config.row_bytes[a] == 4 * config.rows[b] && config.rows[b] > 0 &&
                config.row_bytes[b] == config.row_bytes[sums]);
  return config.rows[b];
}

HR_INLINE __m512i broadcast_step(int tile, int row, int step) {
  int32_t bytes;
  memcpy(&bytes, emulated.bytes[tile][row] + 4 * step, 4);
  return _mm512_set1_epi32(bytes);
}

// vpdpbusd wants one side unsigned: a + 128, less 128 times the sums of b.
static void _tile_dpbssd(int sums, int a, int b) {
  const int steps = product_steps(sums, a, b);
  const __m512i sign = _mm512_set1_epi8((char)0x80);
  __m512i excess = _mm512_setzero_si512();
  for (int k = 0; k < steps; k++)
    excess = _mm512_dpbusd_epi32(excess, sign, _mm512_load_si512(emulated.bytes[b][k]));
  for (int r = 0; r < emulated.config.rows[sums]; r++) {
    __m512i sum = _mm512_load_si512(emulated.bytes[sums][r]);
    for (int k = 0; k < steps; k++)
      sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(broadcast_step(a, r, k), sign),
                                _mm512_load_si512(emulated.bytes[b][k]));
    _mm512_store_si512(emulated.bytes[sums][r], _mm512_sub_epi32(sum, excess));
  }
}

static void _tile_dpbf16ps(int sums, int a, int b) {
  const int steps = product_steps(sums, a, b);
  for (int r = 0; r < emulated.config.rows[sums]; r++) {
    __m512 sum = _mm512_load_ps((const float*)emulated.bytes[sums][r]);
    for (int k = 0; k < steps; k++)
      sum = _mm512_dpbf16_ps(sum, (__m512bh)broadcast_step(a, r, k),
                             (__m512bh)_mm512_load_si512(emulated.bytes[b][k]));
    _mm512_store_ps((float*)emulated.bytes[sums][r], sum);
  }
}
