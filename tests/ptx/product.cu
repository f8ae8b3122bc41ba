// c (m, n) = a (m, k) b (n, k)ᵀ in blocks of 32 × 32 by four warps: slabs of 16 k's, copied by cp.async one slab ahead.
// BF16: operands of bf16, read by ldmatrix; else of float, multiplied as tf32. m, n multiples of 32, k of 16.
#include <stdint.h>
#ifdef BF16
#include <cuda_bf16.h>
using Element = __nv_bfloat16;
#else
using Element = float;
#endif

constexpr int kTile = 32, kSlab = 16;
constexpr int kPiece = 16 / sizeof(Element);  // elements of one copy
constexpr int kPitch = kSlab + kPiece;        // a row starts at another bank than the one before

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void copy_slab(Element (*to)[kPitch], const Element* from, int k) {
  for (int i = threadIdx.x; i < kTile * kSlab / kPiece; i += blockDim.x) {
    const int row = i / (kSlab / kPiece), column = i % (kSlab / kPiece) * kPiece;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&to[row][column])),
                 "l"(from + row * k + column));
  }
}

__device__ void multiply(float (&c)[2][4], const Element (*a)[kPitch], const Element (*b)[kPitch]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp / 2 * 16, column = warp % 2 * 16;
#ifdef BF16
  uint32_t x[4], y[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(&a[row + lane % 16][lane / 16 * 8])));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
               : "r"(shared_address(&b[column + lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8])));
  for (int j = 0; j < 2; ++j)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[2 * j]), "r"(y[2 * j + 1]));
#else
  const int g = lane / 4, t = lane % 4;
  for (int k = 0; k < kSlab; k += 8)
    for (int j = 0; j < 2; ++j) {
      const Element *x = &a[row + g][k + t], *y = &b[column + 8 * j + g][k + t];
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
          : "r"(__float_as_uint(x[0])), "r"(__float_as_uint(x[8 * kPitch])), "r"(__float_as_uint(x[4])),
            "r"(__float_as_uint(x[8 * kPitch + 4])), "r"(__float_as_uint(y[0])), "r"(__float_as_uint(y[4])));
    }
#endif
}

extern "C" __global__ void product(const Element* a, const Element* b, float* c, int n, int k) {
  __shared__ __align__(16) Element as[2][kTile][kPitch], bs[2][kTile][kPitch];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  a += static_cast<int64_t>(blockIdx.y) * kTile * k;
  b += static_cast<int64_t>(blockIdx.x) * kTile * k;
  float sum[2][4] = {};
  copy_slab(as[0], a, k);
  copy_slab(bs[0], b, k);
  asm volatile("cp.async.commit_group;");
#pragma unroll 1
  for (int k0 = 0, now = 0; k0 < k; k0 += kSlab, now ^= 1) {
    if (k0 + kSlab < k) {
      copy_slab(as[now ^ 1], a + k0 + kSlab, k);
      copy_slab(bs[now ^ 1], b + k0 + kSlab, k);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    multiply(sum, as[now], bs[now]);
    __syncthreads();
  }
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 4; ++i) {
      const int row = blockIdx.y * kTile + warp / 2 * 16 + lane / 4 + i / 2 * 8;
      const int column = blockIdx.x * kTile + warp % 2 * 16 + 8 * j + lane % 4 * 2 + i % 2;
      c[row * n + column] = sum[j][i];
    }
}
