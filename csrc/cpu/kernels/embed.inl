// Rows of an embedding table, dequantized from their GGUF blocks in the float32 operations of ggml:
// w = (d * sc) * (q - zero) - (dmin * mn)   or   w = d * (q - zero) + m.
// Layouts: ggml, src/ggml-common.h.
#pragma once

HR_INLINE float half_at(const uint8_t* p) {
  uint16_t half;
  memcpy(&half, p, 2);
  return float_of_f16(half);
}
HR_INLINE uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return word;
}

// 32 weights of 4 or 5 bits; `fifth` has their high bits, or is 0.
HR_INLINE void unpack_nibbles(const uint8_t* quants, uint32_t fifth, int zero, float d, float m,
                              float* out) {
  for (int i = 0; i < 16; i++) {
    int low = (int)(quants[i] & 15u) | (int)(fifth >> i & 1u) << 4;
    int high = (int)(quants[i] >> 4) | (int)(fifth >> (i + 16) & 1u) << 4;
    out[i] = d * (float)(low - zero) + m;
    out[i + 16] = d * (float)(high - zero) + m;
  }
}

static void dequantize_q4_0(const uint8_t* block, float* out) {
  unpack_nibbles(block + 2, 0, 8, half_at(block), 0.0f, out);
}
static void dequantize_q4_1(const uint8_t* block, float* out) {
  unpack_nibbles(block + 4, 0, 0, half_at(block), half_at(block + 2), out);
}
static void dequantize_q5_0(const uint8_t* block, float* out) {
  unpack_nibbles(block + 6, word_at(block + 2), 16, half_at(block), 0.0f, out);
}
static void dequantize_q5_1(const uint8_t* block, float* out) {
  unpack_nibbles(block + 8, word_at(block + 4), 0, half_at(block), half_at(block + 2), out);
}
static void dequantize_q8_0(const uint8_t* block, float* out) {
  float d = half_at(block);
  for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)block[2 + i];
}
static void dequantize_iq4_nl(const uint8_t* block, float* out) {
  static const int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};
  float d = half_at(block);
  for (int i = 0; i < 16; i++) {
    out[i] = d * (float)levels[block[2 + i] & 15];
    out[i + 16] = d * (float)levels[block[2 + i] >> 4];
  }
}

// The 6-bit scale and minimum j of a k-quant block, from its 12 bytes.
HR_INLINE void scale_and_min(const uint8_t* packed, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *minimum = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
  }
}

// q4_k and q5_k: 8 groups of 32; `fifth` has bit j of byte i for weight i of group j, or is null.
HR_INLINE void unpack_k(const uint8_t* block, const uint8_t* fifth, const uint8_t* quants,
                        float* out) {
  float d = half_at(block), dmin = half_at(block + 2);
  for (int j = 0; j < 8; j++) {
    int scale, minimum;
    scale_and_min(block + 4, j, &scale, &minimum);
    float ds = d * (float)scale, dm = dmin * (float)minimum;
    const uint8_t* pair = quants + j / 2 * 32;
    for (int i = 0; i < 32; i++) {
      int q = j % 2 ? pair[i] >> 4 : pair[i] & 15;
      if (fifth) q |= (fifth[i] >> j & 1) << 4;
      out[32 * j + i] = ds * (float)q - dm;
    }
  }
}
static void dequantize_q4_k(const uint8_t* block, float* out) {
  unpack_k(block, nullptr, block + 16, out);
}
static void dequantize_q5_k(const uint8_t* block, float* out) {
  unpack_k(block, block + 16, block + 48, out);
}

static void dequantize_q6_k(const uint8_t* block, float* out) {
  float d = half_at(block + 208);
  const int8_t* scales = (const int8_t*)block + 192;
  for (int i = 0; i < 256; i++) {
    int half = i / 128, part = i % 128 / 32, at = i % 32;
    uint8_t low = block[64 * half + 32 * (part % 2) + at];
    uint8_t high = block[128 + 32 * half + at];
    int q = (part < 2 ? low & 15 : low >> 4) | (high >> (2 * part) & 3) << 4;
    out[i] = d * (float)scales[i / 16] * (float)(q - 32);
  }
}

static void dequantize_f32(const uint8_t* block, float* out) { memcpy(out, block, 4); }
static void dequantize_f16(const uint8_t* block, float* out) { *out = half_at(block); }
static void dequantize_bf16(const uint8_t* block, float* out) {
  uint16_t bits;
  memcpy(&bits, block, 2);
  *out = float_of_bf16(bits);
}

struct BlockFormat {
  int32_t ggml_type;
  int block_size, block_bytes;
  void (*dequantize)(const uint8_t* block, float* out);
};

// Null for a type whose rows C++ does not read.
static const BlockFormat* block_format(int32_t ggml_type) {
  static const BlockFormat formats[] = {
      {0, 1, 4, dequantize_f32},       {1, 1, 2, dequantize_f16},
      {30, 1, 2, dequantize_bf16},     {2, 32, 18, dequantize_q4_0},
      {3, 32, 20, dequantize_q4_1},    {6, 32, 22, dequantize_q5_0},
      {7, 32, 24, dequantize_q5_1},    {8, 32, 34, dequantize_q8_0},
      {12, 256, 144, dequantize_q4_k}, {13, 256, 176, dequantize_q5_k},
      {14, 256, 210, dequantize_q6_k}, {20, 32, 18, dequantize_iq4_nl},
  };
  for (const BlockFormat& format : formats) {
    if (format.ggml_type == ggml_type) return &format;
  }
  return nullptr;
}

static void embed(const EmbedArgs* args, const Work* work) {
  const BlockFormat* format = block_format(args->ggml_type);
  for (int64_t t = work->begin; t < work->end; t++) {
    const uint8_t* row = args->table + (int64_t)args->token_ids[t] * args->row_bytes;
    float* out = args->out + t * args->width;
    for (int64_t i = 0; i < args->width; i += format->block_size, row += format->block_bytes) {
      format->dequantize(row, out + i);
    }
    for (int64_t i = 0; i < args->width; i++) out[i] *= args->scale;
  }
}

static int64_t row_bytes(int32_t ggml_type, int64_t width) {
  const BlockFormat* format = block_format(ggml_type);
  if (format == nullptr || width % format->block_size) return -1;
  return width / format->block_size * format->block_bytes;
}

constexpr EmbedKernels kEmbedKernels = {embed, row_bytes};
