// The scalar types of PTX, and the arithmetic formats that C++ lacks.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ptx {

/// Anything that ends a parse or a launch; the catcher adds the instruction it happened at.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Type : std::uint8_t {
  pred,
  b8,
  u8,
  s8,
  b16,
  u16,
  s16,
  f16,
  bf16,
  b32,
  u32,
  s32,
  f32,
  tf32,
  f16x2,
  bf16x2,
  b64,
  u64,
  s64,
  f64,
  none
};

/// The type that a modifier names, or none.
Type type_named(const std::string& name);
const char* type_name(Type type);

/// Bytes; a predicate takes one.
constexpr int width(Type type) {
  if (type <= Type::s8) return 1;
  if (type <= Type::bf16) return 2;
  if (type <= Type::bf16x2) return 4;
  return 8;
}

constexpr bool is_float(Type type) {
  return type == Type::f16 || type == Type::bf16 || type == Type::f32 || type == Type::tf32 || type == Type::f16x2 ||
         type == Type::bf16x2 || type == Type::f64;
}
constexpr bool is_signed(Type type) {
  return type == Type::s8 || type == Type::s16 || type == Type::s32 || type == Type::s64;
}

/// IEEE half precision.
struct Half {
  std::uint16_t bits;
  Half() = default;
  explicit Half(float x) : bits(std::bit_cast<std::uint16_t>(static_cast<_Float16>(x))) {}
  explicit operator float() const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
};

/// bfloat16: the upper half of a float, rounded to nearest even.
struct Bfloat {
  std::uint16_t bits;
  Bfloat() = default;
  explicit Bfloat(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    bits = std::isnan(x) ? 0x7fff : static_cast<std::uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// Two halves in one register.
template <class H>
struct Packed {
  H low, high;
};

/// What a matrix unit reads of a tf32 operand: the low 13 bits are dropped.
inline float truncated_tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

/// cvt.rna.tf32.f32: to nearest, ties away from zero.
inline std::uint32_t rounded_tf32(float x) {
  return std::isnan(x) ? 0x7fffe000u : (std::bit_cast<std::uint32_t>(x) + 0x1000u) & 0xffffe000u;
}

/// cvt.rn.tf32.f32: to nearest, ties to even.
inline std::uint32_t even_tf32(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  return std::isnan(x) ? 0x7fffe000u : (u + 0xfffu + ((u >> 13) & 1)) & 0xffffe000u;
}

}  // namespace ptx
