// Tile configuration for AMX; vectors are those of tiers/avx512/simd.h.
// Included inside namespace headrace::amx, anonymous.

// The 64 bytes that ldtilecfg reads.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

#if HEADRACE_EMULATE_TILES
#include "tiers/amx/emulated_tiles.h"
#endif

// The only door to _tile_loadconfig. GCC 12 does not know that the intrinsic reads the whole struct
// and may drop the stores that fill it; the tile instructions then die with SIGILL.
HR_INLINE void load_tile_config(const TileConfig* config) {
  asm volatile("" ::"r"(config) : "memory");
  _tile_loadconfig(config);
}

// Before tiles are loaded from memory that was just written: GCC's _tile_loadd does not say that it
// reads memory, so stores could be moved behind it.
HR_INLINE void finish_stores() { asm volatile("" ::: "memory"); }
