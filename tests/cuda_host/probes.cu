// Kernels of a few lines for the tests of the emulation: each does one thing, right or wrong.

namespace {

__global__ void product_tf32(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  cuda_host::mma_m16n8k8_tf32(d + 4 * lane, a + 4 * lane, b + 2 * lane);
}

__global__ void product_bf16(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  cuda_host::mma_m16n8k16_bf16(d + 4 * lane, a + 4 * lane, b + 2 * lane);
}

/// The matrices of 8 x 8 halves of each form in turn: x1, x2, x4, then transposed.
__global__ void load_matrices(const uint4* rows, uint32_t* d) {
  FFRL_SHARED(uint4, shared);
  const int lane = threadIdx.x;
  shared[lane] = rows[lane];
  __syncwarp();
  uint32_t got[6][4] = {};
  cuda_host::ldmatrix_x1(got[0], shared + lane);
  cuda_host::ldmatrix_x2(got[1], shared + lane);
  cuda_host::ldmatrix_x4(got[2], shared + lane);
  cuda_host::ldmatrix_x1_trans(got[3], shared + lane);
  cuda_host::ldmatrix_x2_trans(got[4], shared + lane);
  cuda_host::ldmatrix_x4_trans(got[5], shared + lane);
  for (int form = 0; form < 6; ++form)
    for (int i = 0; i < 4; ++i) d[(form * 32 + lane) * 4 + i] = got[form][i];
}

__global__ void shuffles(const int* values, int* out, int by, int width) {
  const int lane = threadIdx.x, value = values[lane];
  out[lane] = __shfl_sync(~0u, value, by, width);
  out[32 + lane] = __shfl_xor_sync(~0u, value, by, width);
  out[64 + lane] = __shfl_down_sync(~0u, value, by, width);
  out[96 + lane] = __shfl_up_sync(~0u, value, by, width);
}

/// The two halves of the warp vote apart.
__global__ void votes(const int* values, unsigned* out) {
  const int lane = threadIdx.x, value = values[lane];
  const unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  out[lane] = __ballot_sync(half, value);
  out[32 + lane] = __any_sync(half, value);
  out[64 + lane] = __all_sync(half, value);
}

/// 16 bytes by each of the three sizes, `bytes` of them from `from` and zeros after.
__global__ void copy_sizes(const char* from, char* to, int bytes) {
  FFRL_SHARED(char, shared);
  const auto wanted = [&](int at, int size) { return max(0, min(size, bytes - at)); };
  cuda_host::cp_async_16(shared, from, wanted(0, 16));
  for (int at = 0; at < 16; at += 8) cuda_host::cp_async_8(shared + 16 + at, from + at, wanted(at, 8));
  for (int at = 0; at < 16; at += 4) cuda_host::cp_async_4(shared + 32 + at, from + at, wanted(at, 4));
  cuda_host::cp_async_commit();
  cuda_host::cp_async_wait(0);
  for (int i = 0; i < 48; ++i) to[i] = shared[i];
}

/// Two groups: what is there before the first wait, after waiting for all but one, and after waiting for all.
__global__ void copy_groups(const float* from, float* to) {
  FFRL_SHARED(float, shared);
  for (int group = 0; group < 2; ++group) {
    cuda_host::cp_async_16(shared + 4 * group, from + 4 * group);
    cuda_host::cp_async_commit();
  }
  for (int left = 2; left >= 0; --left) {
    cuda_host::cp_async_wait(left);
    to[2 * (2 - left)] = shared[0];
    to[2 * (2 - left) + 1] = shared[4];
  }
}

__global__ void built_in(int* out) {
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * threads + thread] = 1000 * block + thread;
}

template <class T>
__global__ void unwritten(T* out) {
  FFRL_SHARED(T, dynamic);
  FFRL_STATIC_SHARED(T, array, [2]);
  FFRL_STATIC_SHARED(T, scalar);
  out[3 * blockIdx.x] = dynamic[0];
  out[3 * blockIdx.x + 1] = array[1];
  out[3 * blockIdx.x + 2] = scalar;
  dynamic[0] = array[1] = scalar = T(0);
}

__global__ void last_block(int* out) { *out = blockIdx.x; }

/// Warp 0 writes, all read; `barrier`: between the two.
__global__ void exchange(int* out, bool barrier) {
  FFRL_SHARED(int, shared);
  if (threadIdx.x < 32) shared[threadIdx.x] = threadIdx.x;
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x % 32];
}

/// Neighbours exchange 16 bytes; `order`: 0 nothing between, 1 __syncthreads, 2 __syncwarp, 3 a shuffle.
__global__ void neighbours(float4* out, int order) {
  FFRL_SHARED(float4, shared);
  shared[threadIdx.x] = make_float4(1, 2, 3, 4);
  if (order == 1) __syncthreads();
  if (order == 2) __syncwarp();
  if (order == 3) __shfl_sync(~0u, 1, 0);
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

/// All blocks write to the same place.
__global__ void every_block_writes(int* out) { out[threadIdx.x] = 1; }

/// A thread of each kind of fault.
enum Fault {
  kNoFault,
  kBarrierOfOneWarp,
  kBarrierOfHalfAWarp,
  kDifferentInstructions,
  kNotInOwnMask,
  kShuffleFromOutside,
  kReturnedLane,
  kMisalignedCopy,
  kMisalignedSource,
  kTooManySourceBytes,
  kCopyOutsideShared,
  kMatrixOutsideShared,
  kWriteBeyondShared,
  kWriteBeforeShared,
  kReadBeyondShared,
  kWriteBeyondStatic,
  kLoadBeyondBuffer,
  kStoreBeforeBuffer,
};

__global__ void faulty(float* buffer, int size, Fault fault) {
  FFRL_SHARED(float, shared);  // one float a thread
  FFRL_STATIC_SHARED(float, table, [4]);
  const int thread = threadIdx.x, lane = thread % 32;
  const bool first = thread == 0;
  shared[thread] = 0;
  if (thread < 4) table[thread] = 0;
  switch (fault) {
    case kNoFault:
      break;
    case kBarrierOfOneWarp:
      if (thread < 32) __syncthreads();
      __syncwarp();
      if (thread < 32) __syncthreads();
      break;
    case kBarrierOfHalfAWarp:
      if (lane < 16) __syncthreads();
      __syncwarp();
      break;
    case kDifferentInstructions:
      lane < 16 ? __syncwarp() : void(__any_sync(~0u, 1));
      break;
    case kNotInOwnMask:
      __syncwarp(0xFFFF);
      break;
    case kShuffleFromOutside:
      if (lane < 16) __shfl_sync(0xFFFF, 1, 20);
      break;
    case kReturnedLane:
      if (lane == 5) return;
      __shfl_sync(~0u, 1, 0);
      break;
    case kMisalignedCopy:
      if (first) cuda_host::cp_async_16(shared + 1, buffer);
      break;
    case kMisalignedSource:
      if (first) cuda_host::cp_async_16(shared, buffer + 1);
      break;
    case kTooManySourceBytes:
      if (first) cuda_host::cp_async_16(shared, buffer, 20);
      break;
    case kCopyOutsideShared:
      if (first) cuda_host::cp_async_16(shared + blockDim.x, buffer);
      break;
    case kMatrixOutsideShared: {
      uint32_t d[4];
      cuda_host::ldmatrix_x4(d, shared + 4 * lane);
      break;
    }
    case kWriteBeyondShared:
      if (first) shared[blockDim.x] = 1;
      break;
    case kWriteBeforeShared:
      if (first) shared[-1] = 1;
      break;
    case kReadBeyondShared:
      if (first) buffer[0] = shared[blockDim.x];
      break;
    case kWriteBeyondStatic:
      if (first) (&table[0])[thread + 4] = 1;
      break;
    case kLoadBeyondBuffer:
      cuda_host::count_load(buffer + size, sizeof(float));
      break;
    case kStoreBeforeBuffer:
      cuda_host::count_store(buffer - 1, sizeof(float));
      break;
  }
}

}  // namespace

extern "C" {

int run_product_tf32(const uint32_t* a, const uint32_t* b, float* d, int threads) {
  FFRL_LAUNCH(product_tf32, 1, threads, 0, nullptr, a, b, d);
  return cudaGetLastError();
}
int run_product_bf16(const uint32_t* a, const uint32_t* b, float* d) {
  FFRL_LAUNCH(product_bf16, 1, 32, 0, nullptr, a, b, d);
  return cudaGetLastError();
}
int run_load_matrices(const uint4* rows, uint32_t* d) {
  FFRL_LAUNCH(load_matrices, 1, 32, 512, nullptr, rows, d);
  return cudaGetLastError();
}
int run_shuffles(const int* values, int* out, int by, int width) {
  FFRL_LAUNCH(shuffles, 1, 32, 0, nullptr, values, out, by, width);
  return cudaGetLastError();
}
int run_votes(const int* values, unsigned* out) {
  FFRL_LAUNCH(votes, 1, 32, 0, nullptr, values, out);
  return cudaGetLastError();
}
int run_copy_sizes(const char* from, char* to, int bytes) {
  FFRL_LAUNCH(copy_sizes, 1, 1, 48, nullptr, from, to, bytes);
  return cudaGetLastError();
}
int run_copy_groups(const float* from, float* to) {
  FFRL_LAUNCH(copy_groups, 1, 1, 32, nullptr, from, to);
  return cudaGetLastError();
}
int run_built_in(int* out) {
  FFRL_LAUNCH(built_in, dim3(3, 2, 2), dim3(4, 3, 5), 0, nullptr, out);
  return cudaGetLastError();
}
int run_unwritten(float* out) {
  FFRL_LAUNCH(unwritten<float>, 2, 1, 4, nullptr, out);
  return cudaGetLastError();
}
int run_last_block(int* out, int blocks) {
  FFRL_LAUNCH(last_block, blocks, 1, 0, nullptr, out);
  return cudaGetLastError();
}
int run_exchange(int* out, bool barrier) {
  FFRL_LAUNCH(exchange, 1, 64, 128, nullptr, out, barrier);
  return cudaGetLastError();
}
int run_neighbours(float4* out, int order) {
  FFRL_LAUNCH(neighbours, 1, 32, 512, nullptr, out, order);
  return cudaGetLastError();
}
int run_every_block_writes(int* out, int blocks, int launches) {
  for (int i = 0; i < launches; ++i) FFRL_LAUNCH(every_block_writes, blocks, 32, 0, nullptr, out);
  return cudaGetLastError();
}
int run_faulty(float* buffer, int size, Fault fault) {
  FFRL_LAUNCH(faulty, 1, 64, 256, nullptr, buffer, size, fault);
  return cudaGetLastError();
}
int run_with_limits(float* out, int blocks, int threads, int shared_bytes, int allowed) {
  if (allowed) {
    const cudaError_t error =
        cudaFuncSetAttribute(unwritten<float>, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
    if (error != cudaSuccess) return error;
  }
  FFRL_LAUNCH(unwritten<float>, blocks, threads, shared_bytes, nullptr, out);
  return cudaGetLastError();
}
int read_attributes(int* out) {
  int device = -1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(out, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(out + 1, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(out + 2, cudaDevAttrComputeCapabilityMajor, device);
  return cudaDeviceGetAttribute(out + 3, cudaDevAttrMultiProcessorCount, 1);
}
int copy_and_clear(const int* from, int* to, int size) {
  cudaMemcpyAsync(to, from, size * sizeof(int), cudaMemcpyDeviceToDevice, nullptr);
  return cudaMemsetAsync(to, 0, sizeof(int), nullptr);
}
uint32_t rounded_tf32(float x) { return cuda_host::round_tf32(x); }
uint32_t packed_bf16(float low, float high) { return cuda_host::pack_bf16(low, high); }
float approximate_tanh(float x) { return cuda_host::tanh_approx(x); }

}  // extern "C"
