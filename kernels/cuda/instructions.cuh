// Everything in the kernels that is not plain CUDA C++: inline PTX, shared memory, launches, reads and writes of global
// memory. On the host (FFRL_CUDA_HOST) each has a twin in the emulation that the tests compile these sources with.
#pragma once

#include <cstdint>

#ifndef FFRL_CUDA_HOST
#include <cuda_runtime.h>

#define FFRL_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define FFRL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#endif

namespace ffrl::cuda {

/// d (16, 8) += a (16, 8) b (8, 8). Lane 4g + t holds a[g | g+8, t | t+4], b[t | t+4, g] and d[g | g+8, 2t | 2t+1].
__device__ __forceinline__ void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#ifdef FFRL_CUDA_HOST
  cuda_host::mma_m16n8k8_tf32(d, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// d (16, 8) += a (16, 16) b (16, 8). Lane 4g + t holds pairs a[g | g+8, 2t… | 2t+8…] and b[2t… | 2t+8…, g].
__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#ifdef FFRL_CUDA_HOST
  cuda_host::mma_m16n8k16_bf16(d, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// The nearest tf32 number, in the bits of a float.
__device__ __forceinline__ std::uint32_t round_tf32(float x) {
#ifdef FFRL_CUDA_HOST
  return cuda_host::round_tf32(x);
#else
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0,%1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

/// Two numbers rounded to bfloat16, the first in the low half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
#ifdef FFRL_CUDA_HOST
  return cuda_host::pack_bf16(low, high);
#else
  std::uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#endif
}

/// Two 8 × 8 matrices of 16-bit numbers, transposed: lane i < 16 names row i of them, behind each other.
__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&d)[2], const void* shared) {
#ifdef FFRL_CUDA_HOST
  cuda_host::ldmatrix_x2_trans(d, shared);
#else
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(from));
#endif
}

/// Copies 16 bytes into shared memory; they are there after a wait for the group that the copy was committed with.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
#ifdef FFRL_CUDA_HOST
  cuda_host::cp_async_16(shared, global, 16);
#else
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to), "l"(global) : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#ifdef FFRL_CUDA_HOST
  cuda_host::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `kGroups` of this thread's groups are still under way.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
#ifdef FFRL_CUDA_HOST
  cuda_host::cp_async_wait(kGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

/// Inputs and outputs of a call go through these two, so that the emulation can count what a kernel reads and writes.
template <class T>
__device__ __forceinline__ T load_global(const T* from) {
#ifdef FFRL_CUDA_HOST
  cuda_host::count_load(from, sizeof(T));
#endif
  return *from;
}

template <class T>
__device__ __forceinline__ void store_global(T* to, T value) {
#ifdef FFRL_CUDA_HOST
  cuda_host::count_store(to, sizeof(T));
#endif
  *to = value;
}

}  // namespace ffrl::cuda
