static void probe_maddubs(const PeakProbeArgs* args, const Work* work) {
  __m256i sums[4], weights = _mm256_set1_epi8(3), a = _mm256_set1_epi8(5);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < 4; i++) sums[i] = _mm256_setzero_si256();
  for (int64_t item = work->begin; item < work->end; item++) {
    HR_UNROLL
    for (int i = 0; i < 4; i++) {
      __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, a), ones);
      sums[i] = _mm256_add_epi32(sums[i], pairs);
      asm volatile("" : "+x"(weights), "+x"(a));
    }
  }
  I32x16 total = {_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3])};
  __atomic_fetch_add(args->sink, reduce_add(total), __ATOMIC_RELAXED);
}

constexpr ProbeKernels kAvx2Probes = {probe_read, probe_maddubs, 4 * 64};
