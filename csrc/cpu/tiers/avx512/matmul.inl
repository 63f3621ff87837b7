// Quantized linears on AVX512-VNNI: up to 8 rows at a time against four panels, each its own
// stream of weights. Also serves few rows on tier amx. The arithmetic is that of
// kernels/matmul.inl, bit for bit.

constexpr int kVnniRows = 8;
// A core keeps more lines of memory under way when it reads several places in turn: one stream of
// prefetches reached 22 GB/s with two threads, four 31 (docs/log/2026-11.md).
constexpr int kStreams = 4;
constexpr int64_t kFarther = (int64_t)1 << 40;  // than a panel is long

// Asks for a stream's bytes some way ahead: those of the panel at hand, then of the next one.
struct StreamAhead {
  const uint8_t *at, *end, *next;

  template <int num_bytes>
  inline __attribute__((always_inline)) void fetch() {
    if (at >= end) {
      at = next + (at - end);
      end = next + kFarther;
    }
    for (int i = 0; i < num_bytes; i += 64) __builtin_prefetch(at + i, 0, kStreamLocality);
    at += num_bytes;
  }
};

HR_INLINE __m512i load_line(const uint8_t* p) { return _mm512_loadu_si512(p); }

// The eight VNNI rows of a group, as stored (unsigned).
template <uint8_t format>
HR_INLINE void unpack_rows(const uint8_t* quants, __m512i w[8]) {
  constexpr int bits = kPanelLayouts[format].bits;
  if constexpr (bits == 8) {
    HR_UNROLL
    for (int r = 0; r < 8; r++) w[r] = load_line(quants + r * 64);
    return;
  }
  const __m512i low = _mm512_set1_epi8(15);
  HR_UNROLL
  for (int l = 0; l < 4; l++) {
    __m512i line = load_line(quants + l * 64);
    w[l] = _mm512_and_si512(line, low);
    w[l + 4] = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
  }
  constexpr int merge = 0xf8;  // a | (b & c)
  if constexpr (bits == 5) {
    const __m512i fifth = _mm512_set1_epi8(16), plane = load_line(quants + 256);
    HR_UNROLL
    for (int r = 0; r < 8; r++) {
      __m512i moved = r < 4 ? _mm512_slli_epi16(plane, 4 - r) : _mm512_srli_epi16(plane, r - 4);
      w[r] = _mm512_ternarylogic_epi64(w[r], moved, fifth, merge);
    }
  }
  if constexpr (bits == 6) {
    const __m512i pair = _mm512_set1_epi8(48);
    HR_UNROLL
    for (int r = 0; r < 8; r++) {
      __m512i plane = load_line(quants + 256 + r / 4 * 64);
      int shift = 4 - 2 * (r & 3);
      __m512i moved =
          shift >= 0 ? _mm512_slli_epi16(plane, shift) : _mm512_srli_epi16(plane, -shift);
      w[r] = _mm512_ternarylogic_epi64(w[r], moved, pair, merge);
    }
  }
}

// -zero * sum, from the stored -8 * sum.
template <uint8_t format>
HR_INLINE __m512i start_sum(const int32_t* offset) {
  constexpr int zero = kPanelLayouts[format].zero;
  if constexpr (zero == 0) return _mm512_setzero_si512();
  __m512i start = _mm512_set1_epi32(*offset);
  constexpr int shift = zero == 8 ? 0 : zero == 16 ? 1 : zero == 32 ? 2 : 4;
  return shift ? _mm512_slli_epi32(start, shift) : start;
}

HR_INLINE __m512i dot4(__m512i sum, __m512i weights, const int8_t* a) {
  int32_t four;
  memcpy(&four, a, 4);
  return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
}

// Pointers to the activations of a group; rows follow each other.
struct GroupRows {
  const int8_t* values;
  const float* scales;
  const float* scaled_sums;
  const int32_t* offsets;  // [2][stride]
  int64_t stride;
};

template <uint8_t format, int rows>
HR_INLINE void multiply_group(const GroupPlace& place, const GroupScales& s, const GroupRows& x,
                              __m512* y, __m512* z) {
  __m512i w[8];
  unpack_rows<format>(place.quants, w);
  HR_UNROLL
  for (int m = 0; m < rows; m++) {
    const int8_t* a = x.values + m * 32;
    __m512i low = start_sum<format>(x.offsets + m),
            high = start_sum<format>(x.offsets + x.stride + m);
    HR_UNROLL
    for (int r = 0; r < 4; r++) {
      low = dot4(low, w[r], a + 4 * r);
      high = dot4(high, w[r + 4], a + 16 + 4 * r);
    }
    __m512 scale = _mm512_set1_ps(x.scales[m]);
    if constexpr (format == kP6K) {
      y[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, s.scale[0].v), _mm512_cvtepi32_ps(low), y[m]);
      y[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, s.scale[1].v), _mm512_cvtepi32_ps(high), y[m]);
    } else {
      __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
      y[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, s.scale[0].v), sum, y[m]);
      if constexpr (kPanelLayouts[format].has_min)
        z[m] = _mm512_fmadd_ps(s.minimum.v, _mm512_set1_ps(x.scaled_sums[m]), z[m]);
    }
  }
}

// Panels that are multiplied side by side: group g of each in turn, so that the reads of several
// places in memory are under way at once.
struct Streams {
  int count;
  int64_t panels[kStreams];
  int64_t next[kStreams];  // that they go on with
};

template <uint8_t format, int rows>
static void vnni_panels(const MatmulArgs* args, const Streams& streams, int64_t tile,
                        int64_t first) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  const QuantizedRows& x = args->x;
  const int64_t start = tile * x.num_groups * x.tile_rows + first;
  GroupRows at = {x.values + start * 32, x.scales + start, x.scaled_sums + start,
                  x.offsets + 2 * tile * x.num_groups * x.tile_rows + first, x.tile_rows};
  const uint8_t* blocks[kStreams];
  const uint8_t* quants[kStreams];
  __m512 y[kStreams * rows], z[kStreams * rows];
  StreamAhead ahead[kStreams];
  for (int s = 0; s < streams.count; s++) {
    const int64_t* offsets = args->weight.offsets;
    const uint8_t* base = args->weight.base;
    blocks[s] = base + offsets[streams.panels[s]];
    ahead[s] = {blocks[s] + kStreamAhead, base + offsets[streams.panels[s] + 1],
                base + offsets[streams.next[s]]};
  }
  for (int i = 0; i < kStreams * rows; i++) y[i] = z[i] = _mm512_setzero_ps();
  for (int64_t left = x.num_groups; left > 0; left -= layout.block_groups) {
    int groups = left < layout.block_groups ? (int)left : layout.block_groups;
    for (int s = 0; s < streams.count; s++) {
      ahead[s].template fetch<layout.header_bytes>();
      quants[s] = blocks[s] + layout.header_bytes;
    }
    for (int j = 0; j < groups; j++) {
      for (int s = 0; s < streams.count; s++) {
        ahead[s].template fetch<layout.group_bytes>();
        GroupPlace place = {blocks[s], quants[s], j};
        multiply_group<format, rows>(place, group_scales(format, place), at, y + s * rows,
                                     z + s * rows);
        quants[s] += layout.group_bytes;
      }
      at.values += x.tile_rows * 32;
      at.scales += x.tile_rows;
      at.scaled_sums += x.tile_rows;
      at.offsets += 2 * x.tile_rows;
    }
    for (int s = 0; s < streams.count; s++) blocks[s] = quants[s];
  }
  for (int s = 0; s < streams.count; s++)
    for (int m = 0; m < rows; m++) {
      __m512 sum = y[s * rows + m];
      if constexpr (layout.has_min) sum = _mm512_sub_ps(sum, z[s * rows + m]);
      store_columns(args, streams.panels[s], tile * x.tile_rows + first + m, {sum});
    }
}

template <uint8_t format>
static void vnni_rows(const MatmulArgs* args, const Streams& p, int64_t tile, int64_t first,
                      int rows) {
  switch (rows) {
    case 1:
      return vnni_panels<format, 1>(args, p, tile, first);
    case 2:
      return vnni_panels<format, 2>(args, p, tile, first);
    case 3:
      return vnni_panels<format, 3>(args, p, tile, first);
    case 4:
      return vnni_panels<format, 4>(args, p, tile, first);
    case 5:
      return vnni_panels<format, 5>(args, p, tile, first);
    case 6:
      return vnni_panels<format, 6>(args, p, tile, first);
    case 7:
      return vnni_panels<format, 7>(args, p, tile, first);
    default:
      return vnni_panels<format, 8>(args, p, tile, first);
  }
}

// All rows against some panels: passes of equal size within each tile; later passes find them in
// L2.
template <uint8_t format>
static void vnni_columns(const MatmulArgs* args, const Streams& p) {
  const QuantizedRows& x = args->x;
  for (int64_t tile = 0; tile * x.tile_rows < x.num_rows; tile++) {
    int64_t left = x.num_rows - tile * x.tile_rows;
    int rows = (int)(left < x.tile_rows ? left : x.tile_rows);
    int passes = (rows + kVnniRows - 1) / kVnniRows, pass_rows = (rows + passes - 1) / passes;
    for (int first = 0; first < rows; first += pass_rows)
      vnni_rows<format>(args, p, tile, first, rows - first < pass_rows ? rows - first : pass_rows);
  }
}

using VnniColumns = void (*)(const MatmulArgs*, const Streams&);
constexpr VnniColumns kVnniColumns[kNumPackedFormats] = {
    vnni_columns<kP40>, vnni_columns<kP50>, vnni_columns<kP80>, vnni_columns<kP41>,
    vnni_columns<kP51>, vnni_columns<kP4K>, vnni_columns<kP5K>, vnni_columns<kP6K>,
};

// How many of the panels [begin, end) each stream reads.
HR_INLINE int64_t stream_panels(const MatmulArgs* args, int64_t begin, int64_t end) {
  const int64_t unit = args->gate == kNoGate ? 1 : 2;
  return (end - begin + unit * kStreams - 1) / (unit * kStreams) * unit;
}

// The panel that stream s goes on with behind its last one of a chunk: its first of the next chunk.
HR_INLINE int64_t panel_of_next_chunk(const MatmulArgs* args, const Work* work, int s) {
  return work->end + s * stream_panels(args, work->end, work->next_end);
}

// Each stream goes through a part of the panels from front to back. A gate and its up are not torn
// apart: parts are even.
static void matmul_vnni(const MatmulArgs* args, const Work* work) {
  const int64_t part = stream_panels(args, work->begin, work->end);
  for (int64_t i = 0; i < part; i++) {
    Streams streams = {0, {}, {}};
    uint8_t format = 0;
    for (int64_t p = work->begin + i, s = 0; p < work->end; p += part, s++) {
      if (streams.count && args->weight.formats[p] != format) {
        kVnniColumns[format](args, streams);
        streams.count = 0;
      }
      format = args->weight.formats[p];
      const int64_t far = panel_of_next_chunk(args, work, (int)s);
      streams.next[streams.count] = i + 1 == part && far < work->next_end ? far : p + 1;
      streams.panels[streams.count++] = p;
    }
    if (streams.count) kVnniColumns[format](args, streams);
  }
}
