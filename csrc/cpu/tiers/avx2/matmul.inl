// Quantized linears on AVX2: up to 4 rows at a time against half a panel, 8 columns.
// vpmaddubsw adds pairs of u8 x s8 products in 16 bits. How many such sums fit before they must be
// widened follows from the largest weight: 4 for 4 and 5 bits, 2 for 6. Bytes are multiplied as
// |w| times a with w's sign, which fits once. The arithmetic is that of kernels/matmul.inl.

constexpr int kAvx2Rows = 4;

// VNNI rows of columns [8 half, 8 half + 8): as stored, or signed for bytes.
template <uint8_t format>
HR_INLINE void unpack_half_rows(const uint8_t* quants, int half, __m256i w[8]) {
  constexpr int bits = kPanelLayouts[format].bits;
  auto line = [&](int offset) {
    return _mm256_loadu_si256((const __m256i*)(quants + offset + half * 32));
  };
  if constexpr (bits == 8) {
    HR_UNROLL
    for (int r = 0; r < 8; r++) w[r] = _mm256_xor_si256(line(r * 64), _mm256_set1_epi8(-128));
    return;
  }
  const __m256i low = _mm256_set1_epi8(15);
  HR_UNROLL
  for (int l = 0; l < 4; l++) {
    w[l] = _mm256_and_si256(line(l * 64), low);
    w[l + 4] = _mm256_and_si256(_mm256_srli_epi16(line(l * 64), 4), low);
  }
  if constexpr (bits == 5) {
    HR_UNROLL
    for (int r = 0; r < 8; r++) {
      __m256i plane = line(256);
      __m256i moved = r < 4 ? _mm256_slli_epi16(plane, 4 - r) : _mm256_srli_epi16(plane, r - 4);
      w[r] = _mm256_or_si256(w[r], _mm256_and_si256(moved, _mm256_set1_epi8(16)));
    }
  }
  if constexpr (bits == 6) {
    HR_UNROLL
    for (int r = 0; r < 8; r++) {
      __m256i plane = line(256 + r / 4 * 64);
      int shift = 4 - 2 * (r & 3);
      __m256i moved =
          shift >= 0 ? _mm256_slli_epi16(plane, shift) : _mm256_srli_epi16(plane, -shift);
      w[r] = _mm256_or_si256(w[r], _mm256_and_si256(moved, _mm256_set1_epi8(48)));
    }
  }
}

// sum over VNNI rows [first, first + 4) of w * a, exact, without the offset of the zero point.
template <int bits>
HR_INLINE __m256i dot_half_rows(const __m256i* w, const int8_t* a, int first) {
  constexpr int fit = bits == 4 ? 4 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum = _mm256_setzero_si256();
  HR_UNROLL
  for (int r = first; r < first + 4; r += fit) {
    __m256i words = _mm256_setzero_si256();
    HR_UNROLL
    for (int i = r; i < r + fit; i++) {
      int32_t four;
      memcpy(&four, a + 4 * i, 4);
      __m256i x = _mm256_set1_epi32(four);
      __m256i pairs = bits == 8
                          ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(x, w[i]))
                          : _mm256_maddubs_epi16(w[i], x);
      words = _mm256_add_epi16(words, pairs);
    }
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
  }
  return sum;
}

// -zero * sum of half a group, from the stored -8 * sum; bytes are signed already.
template <uint8_t format>
HR_INLINE __m256i zero_offset(int32_t offset) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  return _mm256_set1_epi32(layout.bits == 8 ? 0 : layout.zero / 8 * offset);
}

template <uint8_t format, int rows>
static void avx2_panel(const MatmulArgs* args, int64_t p, int64_t tile, int64_t first) {
  constexpr PanelLayout layout = kPanelLayouts[format];
  const QuantizedRows& x = args->x;
  const uint8_t* panel = args->weight.base + args->weight.offsets[p];
  F32x16 result[rows];
  for (int half = 0; half < 2; half++) {
    __m256 y[rows], z[rows];
    HR_UNROLL
    for (int m = 0; m < rows; m++) y[m] = z[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < x.num_groups; g++) {
      GroupPlace place = group_place(layout, panel, g);
      GroupScales s = group_scales(format, place);
      __m256 scale0 = half ? s.scale[0].hi : s.scale[0].lo,
             scale1 = half ? s.scale[1].hi : s.scale[1].lo;
      __m256 minimum = half ? s.minimum.hi : s.minimum.lo;
      __m256i w[8];
      unpack_half_rows<format>(place.quants, half, w);
      int64_t at = (tile * x.num_groups + g) * x.tile_rows + first;
      const int32_t* offsets = x.offsets + 2 * (tile * x.num_groups + g) * x.tile_rows + first;
      HR_UNROLL
      for (int m = 0; m < rows; m++) {
        const int8_t* a = x.values + (at + m) * 32;
        __m256 scale = _mm256_set1_ps(x.scales[at + m]);
        __m256i low = dot_half_rows<layout.bits>(w, a, 0),
                high = dot_half_rows<layout.bits>(w, a, 4);
        low = _mm256_add_epi32(low, zero_offset<format>(offsets[m]));
        high = _mm256_add_epi32(high, zero_offset<format>(offsets[x.tile_rows + m]));
        if constexpr (format == kP6K) {
          y[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale, scale0), _mm256_cvtepi32_ps(low), y[m]);
          y[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale, scale1), _mm256_cvtepi32_ps(high), y[m]);
        } else {
          __m256 sum = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
          y[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale, scale0), sum, y[m]);
          if constexpr (layout.has_min)
            z[m] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.scaled_sums[at + m]), z[m]);
        }
      }
    }
    for (int m = 0; m < rows; m++) {
      if constexpr (layout.has_min) y[m] = _mm256_sub_ps(y[m], z[m]);
      (half ? result[m].hi : result[m].lo) = y[m];
    }
  }
  for (int m = 0; m < rows; m++) store_columns(args, p, tile * x.tile_rows + first + m, result[m]);
}

template <uint8_t format>
static void avx2_columns(const MatmulArgs* args, int64_t p) {
  const QuantizedRows& x = args->x;
  for (int64_t tile = 0; tile * x.tile_rows < x.num_rows; tile++) {
    int64_t left = x.num_rows - tile * x.tile_rows;
    int rows = (int)(left < x.tile_rows ? left : x.tile_rows);
    for (int first = 0; first < rows; first += kAvx2Rows) switch (rows - first) {
        case 1:
          avx2_panel<format, 1>(args, p, tile, first);
          break;
        case 2:
          avx2_panel<format, 2>(args, p, tile, first);
          break;
        case 3:
          avx2_panel<format, 3>(args, p, tile, first);
          break;
        default:
          avx2_panel<format, 4>(args, p, tile, first);
      }
  }
}

static void matmul_avx2(const MatmulArgs* args, const Work* work) {
  for (int64_t p = work->begin; p < work->end; p++) {
    switch (args->weight.formats[p]) {
      case kP40:
        avx2_columns<kP40>(args, p);
        break;
      case kP50:
        avx2_columns<kP50>(args, p);
        break;
      case kP80:
        avx2_columns<kP80>(args, p);
        break;
      case kP41:
        avx2_columns<kP41>(args, p);
        break;
      case kP51:
        avx2_columns<kP51>(args, p);
        break;
      case kP4K:
        avx2_columns<kP4K>(args, p);
        break;
      case kP5K:
        avx2_columns<kP5K>(args, p);
        break;
      default:
        avx2_columns<kP6K>(args, p);
    }
  }
}
