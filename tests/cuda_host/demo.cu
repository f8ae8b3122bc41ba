// The emulation's own test subject: C = A Bᵀ by double-buffered cp.async, ldmatrix and mma.sync, and the sums of C's
// rows by shuffles. Everything that a kernel of the project does, in one page.

namespace {

constexpr int kTile = 32;   // rows of A and of B in a block: four warps of 16 x 16
constexpr int kWords = 16;  // 32-bit words of a row in one stage: 16 tf32 or 32 bf16 values
constexpr int kPitch = 20;  // words from row to row in shared memory
constexpr int kThreads = 128;
constexpr int kOutPitch = 36;

template <class T>
__device__ T load_global(const T* address) {
  cuda_host::count_load(address, sizeof(T));
  return *address;
}

template <class T>
__device__ void store_global(T* address, T value) {
  cuda_host::count_store(address, sizeof(T));
  *address = value;
}

/// Rows first … first + 31 of a (rows, words) matrix, words at … at + 15, zeros outside.
__device__ void stage(uint32_t* shared, const uint32_t* global, int first, int rows, int at, int words) {
  for (int i = threadIdx.x; i < kTile * kWords / 4; i += kThreads) {
    const int row = i / (kWords / 4), word = i % (kWords / 4) * 4;
    const bool inside = first + row < rows && at + word < words;
    const uint32_t* source = global + (inside ? size_t(first + row) * words + at + word : 0);
    cuda_host::cp_async_16(shared + row * kPitch + word, source, inside ? 16 : 0);
  }
}

template <bool kBf16>
__device__ void multiply_warp(float acc[2][4], const uint32_t* a, const uint32_t* b, int lane) {
  for (int k = 0; k < kWords; k += 8) {
    uint32_t a_fragment[4];
    cuda_host::ldmatrix_x4(a_fragment, a + lane % 16 * kPitch + k + lane / 16 * 4);
    for (int n = 0; n < 2; ++n) {
      uint32_t b_fragment[2];
      cuda_host::ldmatrix_x2(b_fragment, b + (8 * n + lane % 8) * kPitch + k + lane / 8 % 2 * 4);
      if constexpr (kBf16)
        cuda_host::mma_m16n8k16_bf16(acc[n], a_fragment, b_fragment);
      else
        cuda_host::mma_m16n8k8_tf32(acc[n], a_fragment, b_fragment);
    }
  }
}

/// a (rows, words), b (columns, words), c (rows, columns), row_sums (rows, blocks of columns).
template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    product(const uint32_t* a, const uint32_t* b, float* c, float* row_sums, int rows, int columns, int words) {
  FFRL_SHARED(uint32_t, stages);
  FFRL_STATIC_SHARED(float, out, [kTile][kOutPitch]);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int first_row = blockIdx.y * kTile, first_column = blockIdx.x * kTile;
  const int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
  const auto fetch = [&](int chunk) {
    uint32_t* shared = stages + chunk % 2 * 2 * kTile * kPitch;
    stage(shared, a, first_row, rows, chunk * kWords, words);
    stage(shared + kTile * kPitch, b, first_column, columns, chunk * kWords, words);
    cuda_host::cp_async_commit();
  };

  float acc[2][4] = {};
  const int chunks = (words + kWords - 1) / kWords;
  fetch(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) {
      fetch(chunk + 1);
      cuda_host::cp_async_wait(1);
    } else {
      cuda_host::cp_async_wait(0);
    }
    __syncthreads();  // the stage has landed
    const uint32_t* shared = stages + chunk % 2 * 2 * kTile * kPitch;
    multiply_warp<kBf16>(acc, shared + warp_row * kPitch, shared + (kTile + warp_column) * kPitch, lane);
    __syncthreads();  // the stage may be filled again
  }

  for (int n = 0; n < 2; ++n)
    for (int i = 0; i < 4; ++i)
      out[warp_row + lane / 4 + i / 2 * 8][warp_column + 8 * n + lane % 4 * 2 + i % 2] = acc[n][i];
  __syncthreads();  // all of the tile is there
  for (int row = warp; row < kTile; row += kThreads / 32) {
    const bool inside = first_row + row < rows && first_column + lane < columns;
    float sum = inside ? out[row][lane] : 0.0f;
    if (inside) store_global(c + size_t(first_row + row) * columns + first_column + lane, sum);
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
    if (lane == 0 && first_row + row < rows)
      store_global(row_sums + size_t(first_row + row) * gridDim.x + blockIdx.x, sum);
  }
}

}  // namespace

extern "C" int demo_product(bool bf16, const uint32_t* a, const uint32_t* b, float* c, float* row_sums, int rows,
                            int columns, int words) {
  const dim3 grid((columns + kTile - 1) / kTile, (rows + kTile - 1) / kTile);
  const size_t shared_bytes = 2 * 2 * kTile * kPitch * sizeof(uint32_t);
  if (bf16)
    FFRL_LAUNCH(product<true>, grid, kThreads, shared_bytes, nullptr, a, b, c, row_sums, rows, columns, words);
  else
    FFRL_LAUNCH(product<false>, grid, kThreads, shared_bytes, nullptr, a, b, c, row_sums, rows, columns, words);
  return cudaGetLastError();
}
