// Many rows against panels of quantized weights, by blocks: what the vector and the tile kernel
// share. A block of kBlockGroups groups of up to kBlockPanels panels (a tier chooses) is unpacked
// once and meets all rows, 16 at a time; sums of rows stay in scratch between blocks.

constexpr int kPanelsTogether = 8;     // share the activations of a block while they are in L2
constexpr int kPanelsAhead = 4;        // are brought to L2 together, while as many are multiplied
constexpr int kBytesAfter = 48 << 10;  // of the next call
constexpr int kTileFloats = 256;
constexpr int kBuffers = 4;

struct TileScratch {
  int8_t* weights;   // [kBlockPanels][groups][8 rows][64]; unsigned for the vector kernel
  float* scales;     // [kBlockPanels][steps][16]
  float* minimums;   // [kBlockPanels][groups][16]
  int32_t* buffers;  // [kBuffers][16][16]: products of tiles
  float* sums;       // [panels][tiles][16][16]; between blocks of groups
  float* min_sums;   // the same
};

static size_t tile_scratch_bytes(int64_t num_rows, int64_t) {
  int64_t tiles = (num_rows + 15) / 16;
  return kBlockPanels * kBlockGroups * (512 + 128 + 64) + kBuffers * 1024 +
         (size_t)(2 * kPanelsTogether * tiles) * kTileFloats * 4;
}

HR_INLINE TileScratch tile_scratch(uint8_t* at, int64_t tiles) {
  TileScratch s;
  s.weights = (int8_t*)at;
  s.scales = (float*)(at + kBlockPanels * kBlockGroups * 512);
  s.minimums = s.scales + kBlockPanels * kBlockGroups * 32;
  s.buffers = (int32_t*)(s.minimums + kBlockPanels * kBlockGroups * 16);
  s.sums = (float*)(s.buffers + kBuffers * 256);
  s.min_sums = s.sums + kPanelsTogether * tiles * kTileFloats;
  return s;
}

// Weights and exact scales of `groups` groups, from the start of a block of the panel: q - zero
// where they are signed, else q, which is not copied where it has bytes already.
template <uint8_t format, bool is_signed>
static void unpack_block(const uint8_t* block, int groups, const TileScratch& s) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  const __m512i zero = _mm512_set1_epi8((char)layout.zero);
  for (int g = 0; g < groups; g++) {
    int index = g % layout.block_groups;
    if (g > 0 && index == 0)
      block += layout.header_bytes + layout.block_groups * layout.group_bytes;
    GroupPlace place = {block, block + layout.header_bytes + index * layout.group_bytes, index};
    if constexpr (is_signed || layout.bits < 8) {
      __m512i w[8];
      unpack_rows<format>(place.quants, w);
      HR_UNROLL
      for (int r = 0; r < 8; r++)
        _mm512_store_si512(s.weights + g * 512 + r * 64,
                           is_signed && layout.zero ? _mm512_sub_epi8(w[r], zero) : w[r]);
    }
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

// Own the lines of y long before they are written.
HR_INLINE void own_lines(const Block& block, int64_t tile) {
  const MatmulArgs* args = block.args;
  if (!block.is_last || args->gated.values) return;
  int64_t end = tile * 16 + 16 < args->x.num_rows ? tile * 16 + 16 : args->x.num_rows;
  for (int64_t row = tile * 16; row < end; row++)
    __builtin_prefetch(columns_of(args, block.p, row), 1);
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

// The places of the next batch. The batch after the last is the first of what the worker does next.
// Returns its bytes.
static int64_t aim(Ahead* ahead, const Batch& next, const Work& work, const PackedPanels& w,
                   int64_t num_groups) {
  int64_t num_bytes = 0, last = next.last;
  if (next.first == work.end) {
    last = next.first + kPanelsAhead < work.share_end ? next.first + kPanelsAhead : work.share_end;
    if (work.after.size) {
      ahead->at[ahead->count++] = work.after.data;
      return work.after.size < kBytesAfter ? (int64_t)work.after.size : kBytesAfter;
    }
  }
  for (int64_t p = next.first; p < last; p++) {
    const PanelLayout& layout = kPanelLayouts[w.formats[p]];
    ahead->at[ahead->count++] = w.base + w.offsets[p] + block_bytes(layout, next.start);
    num_bytes += block_bytes(layout, groups_of(next, num_groups));
  }
  return num_bytes;
}

// The scratch of the panel `i` panels further on.
HR_INLINE TileScratch panel_scratch(const TileScratch& t, int64_t i, int64_t tiles) {
  TileScratch further = t;
  further.sums += i * tiles * kTileFloats;
  further.min_sums += i * tiles * kTileFloats;
  return further;
}

// f(p, count, batch, ahead, bytes ahead per panel, scratch of panel p, tiles) for each block of
// panels [p, p + count), up to kBlockPanels of them.
template <class F>
HR_INLINE void for_panel_blocks(const MatmulArgs* args, const Work* work, F f) {
  const QuantizedRows& x = args->x;
  const PackedPanels& w = args->weight;
  int64_t tiles = (x.num_rows + 15) / 16;
  TileScratch scratch = tile_scratch(work->scratch, tiles);
  Batch batch = batch_at(*work, work->begin, 0, work->begin);
  while (batch.first < work->end) {
    const Batch next = batch_after(*work, batch, x.num_groups);
    Ahead ahead = {{w.base}, 0, 0, 0, 0};  // nothing comes next: one line now and then
    const int64_t next_bytes =
        aim(&ahead, next, *work, w, x.num_groups) / (batch.last - batch.first);
    for (int64_t p = batch.first; p < batch.last; p += kBlockPanels)
      f(p, batch.last - p < kBlockPanels ? (int)(batch.last - p) : kBlockPanels, batch, ahead,
        next_bytes, panel_scratch(scratch, p - batch.span, tiles), tiles);
    if (args->gated.values && next.span != batch.span)
      quantize_gated(args, batch.span, batch.span_end, scratch, tiles);
    batch = next;
  }
}
