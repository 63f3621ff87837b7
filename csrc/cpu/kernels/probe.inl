// Probes of the roof. `read` goes through four places in memory in turn, which is the fastest way
// known (docs/log/2026-11.md), with prefetch as the linears do.

static void probe_read(const ReadProbeArgs* args, const Work* work) {
  I32x16 sums[4] = {splat_i32(0), splat_i32(0), splat_i32(0), splat_i32(0)};
  int64_t pieces = work->end - work->begin, streams = pieces % 4 ? 1 : 4;
  int64_t part = pieces / streams * kProbePieceBytes;
  const uint8_t* data = args->data + work->begin * kProbePieceBytes;
  for (int64_t at = 0; at < part; at += 512)
    for (int64_t s = 0; s < streams; s++)
      for (int i = 0; i < 8; i++) {
        const uint8_t* p = data + s * part + at + i * 64;
        __builtin_prefetch(p + kStreamAhead, 0, kStreamLocality);
        sums[i % 4] = add(sums[i % 4], load_i32((const int32_t*)p));
      }
  int32_t total = reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  __atomic_fetch_add(args->sink, total, __ATOMIC_RELAXED);
}

// Dot products of 8 rows of 64 weights with 4 activations, as the generic linear does them.
static void probe_int8_dots(const PeakProbeArgs* args, const Work* work) {
  alignas(64) int8_t weights[512], a[32];
  for (int i = 0; i < 512; i++) weights[i] = (int8_t)i;
  for (int i = 0; i < 32; i++) a[i] = (int8_t)i;
  I32x16 sum = splat_i32(0);
  for (int64_t i = work->begin; i < work->end; i++) {
    a[0] = (int8_t)i;
    sum = add(sum, add(dot_half(weights, a, 0), dot_half(weights, a, 4)));
  }
  __atomic_fetch_add(args->sink, reduce_add(sum), __ATOMIC_RELAXED);
}

constexpr ProbeKernels kDotProbes = {probe_read, probe_int8_dots, 1024};
