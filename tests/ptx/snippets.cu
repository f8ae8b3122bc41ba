// Small kernels, each for a family of instructions that nvcc makes.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
#include <mma.h>
#include <stdint.h>

namespace cg = cooperative_groups;

// y (rows 7, n): functions of x, whose slow paths take local memory, tables and 64-bit integers.
extern "C" __global__ void functions(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = x[i];
  y[i] = expf(v);
  y[n + i] = tanhf(v);
  y[2 * n + i] = sinf(1000.f * v);
  y[3 * n + i] = powf(fabsf(v), 1.7f);
  y[4 * n + i] = v / 3.7f;
  y[5 * n + i] = __expf(v);
  y[6 * n + i] = erff(v);
}

extern "C" __global__ void doubles(const double* x, double* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  y[i] = exp(x[i]);
  y[n + i] = tanh(x[i]);
  y[2 * n + i] = x[i] / 3.1;
  y[3 * n + i] = sqrt(fabs(x[i]));
}

// out[block] = sum of a block's part of x, by shuffles and shared memory; total += all.
extern "C" __global__ void sums(const float* x, float* out, float* total, int n) {
  __shared__ float of_warp[32];
  float sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0;
    sum = cg::reduce(cg::tiled_partition<32>(cg::this_thread_block()), sum, cg::plus<float>());
    if (threadIdx.x == 0) {
      out[blockIdx.x] = sum;
      atomicAdd(total, sum);
    }
  }
}

// out[block] partials; the last block to finish adds them up: ordered by a fence and an atomic counter.
extern "C" __global__ void last_block(const float* x, float* partial, float* out, unsigned* counter) {
  __shared__ bool last;
  partial[blockIdx.x * blockDim.x + threadIdx.x] = 2 * x[blockIdx.x * blockDim.x + threadIdx.x];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  float sum = 0;
  for (int b = 0; b < gridDim.x; ++b) sum += partial[b * blockDim.x + threadIdx.x];
  out[threadIdx.x] = sum;
}

// Integer collectives of a warp and of a block, out (8, 32).
extern "C" __global__ void votes(const int* x, unsigned* out) {
  const int lane = threadIdx.x, v = x[lane];
  out[lane] = __ballot_sync(~0u, v > 0);
  out[32 + lane] = __any_sync(~0u, v > 90);
  out[64 + lane] = __all_sync(~0u, v > -200);
  out[96 + lane] = __match_any_sync(~0u, v & 3);
  out[128 + lane] = __reduce_add_sync(~0u, v);
  out[160 + lane] = __reduce_max_sync(~0u, v);
  out[192 + lane] = __syncthreads_count(v > 0);
  out[224 + lane] = lane < 20 ? __shfl_xor_sync(0xfffff, v, 3) : __activemask();
}

// Two warps hand a buffer to the other two by named barriers, again and again.
extern "C" __global__ void pipeline(const float* x, float* y, int rounds) {
  __shared__ float slot[64];
  const int half = threadIdx.x / 64, lane = threadIdx.x % 64;
  for (int i = 0; i < rounds; ++i) {
    if (half == 0) {
      if (i > 0) asm volatile("bar.sync 2, 128;" ::: "memory");
      slot[lane] = x[64 * i + lane];
      asm volatile("bar.arrive 1, 128;" ::: "memory");
    } else {
      asm volatile("bar.sync 1, 128;" ::: "memory");
      y[64 * i + lane] = 2 * slot[63 - lane];
      if (i + 1 < rounds) asm volatile("bar.arrive 2, 128;" ::: "memory");
    }
  }
}

// Neighbours of one warp exchange by shared memory.
extern "C" __global__ void within_warp(const float* x, float* y) {
  __shared__ float slot[32];
  slot[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = slot[threadIdx.x ^ 1];
}

// c (16, 16) = a (16, 16) b (16, 16) of half precision.
extern "C" __global__ void wmma_product(const __half* a, const __half* b, float* c) {
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> x;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> y;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, 0.f);
  wmma::load_matrix_sync(x, a, 16);
  wmma::load_matrix_sync(y, b, 16);
  wmma::mma_sync(sum, x, y, sum);
  for (int i = 0; i < sum.num_elements; ++i) sum.x[i] *= 2;
  wmma::store_matrix_sync(c, sum, 16, wmma::mem_row_major);
}

// c (8, 8) = a (8, 4) b (4, 8) of double precision.
extern "C" __global__ void double_product(const double* a, const double* b, double* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  double c0, c1;
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%4, %4};"
               : "=d"(c0), "=d"(c1)
               : "d"(a[4 * g + t]), "d"(b[8 * t + g]), "d"(0.0));
  c[8 * g + 2 * t] = c0;
  c[8 * g + 2 * t + 1] = c1;
}

// y = xᵀ, 16-bit (8, 32) → four transposed 8 × 8 matrices, by ldmatrix.trans and stmatrix.
#if __CUDA_ARCH__ >= 900
extern "C" __global__ void transposed(const uint16_t* x, uint16_t* y) {
  __shared__ __align__(16) uint16_t in[256], out[256];
  for (int i = threadIdx.x; i < 256; i += 32) in[i] = x[i];
  __syncwarp();
  const uint32_t from = __cvta_generic_to_shared(in + 8 * threadIdx.x),
                 to = __cvta_generic_to_shared(out + 8 * threadIdx.x);
  uint32_t r[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3]));
  __syncwarp();
  for (int i = threadIdx.x; i < 256; i += 32) y[i] = out[i];
}
#endif

// A histogram by atomics on shared and global memory; the largest value; a compare-and-swap loop that adds.
extern "C" __global__ void histogram(const int* x, int* counts, int* largest, double* sum, int n) {
  __shared__ int mine[8];
  if (threadIdx.x < 8) mine[threadIdx.x] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    atomicAdd(&mine[x[i] & 7], 1);
    atomicMax(largest, x[i]);
    atomicAdd(sum, static_cast<double>(x[i]));
  }
  __syncthreads();
  if (threadIdx.x < 8) atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}
