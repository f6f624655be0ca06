#include "support/random_data.h"

#include <cmath>

namespace dsv4::test {

uint64_t Random::next() {
  state_ += 0x9e3779b97f4a7c15ull;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

double Random::unit() {
  return static_cast<double>(next() >> 11) * 0x1p-53;
}

float Random::uniform(float low, float high) {
  return static_cast<float>(low + (static_cast<double>(high) - low) * unit());
}

float Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - unit()));
  return static_cast<float>(radius * std::cos(6.283185307179586 * unit()));
}

int Random::below(int bound) {
  return static_cast<int>(next() % static_cast<uint64_t>(bound));
}

std::vector<float> random_floats(Random& random, size_t count, float stddev) {
  std::vector<float> values(count);
  for (float& value : values) value = stddev * random.normal();
  return values;
}

std::vector<Bf16> random_bf16(Random& random, size_t count, float stddev) {
  std::vector<Bf16> values(count);
  for (Bf16& value : values) value = to_bf16(stddev * random.normal());
  return values;
}

std::vector<uint8_t> random_e4m3(Random& random, size_t count, float stddev) {
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = float_to_e4m3(stddev * random.normal());
  return codes;
}

std::vector<uint8_t> random_bytes(Random& random, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
  return bytes;
}

std::vector<uint8_t> random_ue8m0(Random& random, size_t count, int low_exponent, int high_exponent) {
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(127 + low_exponent + random.below(high_exponent - low_exponent + 1));
  return codes;
}

}  // namespace dsv4::test
