// Four products of 16 x 16 x 64 on full tiles, all operands resident.
static void probe_tiles(const PeakProbeArgs* args, const Work* work) {
  static constexpr TileConfig config = {
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  alignas(64) int8_t values[1024];
  for (int i = 0; i < 1024; i++) values[i] = (int8_t)i;
  load_tile_config(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, values, 64);
  _tile_loadd(5, values, 64);
  _tile_loadd(6, values, 64);
  _tile_loadd(7, values, 64);
  for (int64_t i = work->begin; i < work->end; i++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  alignas(64) int32_t sums[256];
  _tile_stored(0, sums, 64);
  _tile_release();
  __atomic_fetch_add(args->sink, sums[17], __ATOMIC_RELAXED);
}

constexpr ProbeKernels kTileProbes = {probe_read, probe_tiles, 4 * 32768};
