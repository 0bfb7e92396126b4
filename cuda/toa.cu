// Top-of-atmosphere reflectance -> surface reflectance. The only kernel in floating point: single steps, each rounded
// to 32 bits (no contraction: --fmad=false), so that they are those of the host but for denormal numbers.
#include "common.cuh"

// `coefficients`: xap, xbp, xcp, `bands` of each. 4 B read and 4 B written per pixel. Registers on sm_90: correct_toa
// 18; no spills, 8 blocks = 64 warps an SM.
extern "C" __global__ void __launch_bounds__(256) correct_toa(
    const float *toa, const float *coefficients, i64 bands, i64 pixels, float *out) {
  const i64 i = thread_index();
  if (i >= bands * pixels) return;
  const i64 band = i / pixels;
  const float t = toa[i];
  const float y = coefficients[band] * t - coefficients[bands + band];
  const float corrected = y / (1.0f + coefficients[2 * bands + band] * y);
  const float nothing = t - t;             // 0, but not a number where t is not finite
  out[i] = nothing != nothing ? nothing : corrected <= 0.0f ? 0.0f : corrected;
}
EMU_EXPORT(correct_toa)
