static void probe_vnni(const PeakProbeArgs* args, const Work* work) {
  __m512i sums[8], weights = _mm512_set1_epi8(3), a = _mm512_set1_epi8(5);
  for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
  for (int64_t item = work->begin; item < work->end; item++) {
    for (int i = 0; i < 8; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], weights, a);
    asm volatile("" : "+v"(weights), "+v"(a));
  }
  for (int i = 1; i < 8; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  __atomic_fetch_add(args->sink, reduce_add(I32x16{sums[0]}), __ATOMIC_RELAXED);
}

constexpr ProbeKernels kVnniProbes = {probe_read, probe_vnni, 8 * 128};
