#include "ops/linear_fp8.h"

#include "ops/groups.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/matrices.h"
#include "support/product.h"

namespace dsv4::test {
namespace {

class LinearFp8Gpu : public GpuTest {
 protected:
  static Fp8Weight import(const Fp8Matrix& matrix) {
    const Fp8Weight weight = gpu().import_fp8(matrix.view());
    gpu().finish_imports();
    return weight;
  }

  static std::vector<Bf16> run(const Fp8Rows& x, const Fp8Weight& weight, int first_token, int num_tokens) {
    const DeviceArray<Bf16> values(gpu(), x.values());
    DeviceArray<Bf16> out(gpu(), static_cast<size_t>(num_tokens) * weight.rows);
    const Bf16* first = values.data() + static_cast<size_t>(first_token) * weight.cols;
    gpu().linear_fp8({{nullptr, nullptr, first}, weight, out.data(), num_tokens});
    return out.host();
  }
};

TEST_F(LinearFp8Gpu, IsExactUpToTheTensorCoresSums) {
  Random random(71);
  struct Shape {
    int rows, cols, tokens;
  };
  for (const auto& [rows, cols, tokens] : {Shape{128, 128, 1}, Shape{1536, 4096, 1}, Shape{512, 1024, 5}, Shape{64, 256, 33},
                                           Shape{1024, 7168, 64}, Shape{384, 512, 100}, Shape{4096, 8192, 3}, Shape{256, 1536, 131}}) {
    const Fp8Matrix matrix(random, rows, cols);
    const Fp8Rows x(random, tokens, cols);
    const std::vector<Bf16> out = run(x, import(matrix), 0, tokens);
    std::vector<double> exact(out.size());
    for (int t = 0; t < tokens; ++t) {
      for (int o = 0; o < rows; ++o) {
        double sum = 0.0;
        for (int block = 0; block < cols / 128; ++block) {
          double part = 0.0;
          for (int k = block * 128; k < block * 128 + 128; ++k) {
            part += static_cast<double>(e4m3_to_float(x.codes[static_cast<size_t>(t) * cols + k])) *
                    e4m3_to_float(matrix.codes[static_cast<size_t>(o) * cols + k]);
          }
          sum += part * ue8m0_to_float(x.scales[static_cast<size_t>(t) * (cols / 128) + block]) *
                 ue8m0_to_float(matrix.scales[static_cast<size_t>(o / 128) * (cols / 128) + block]);
        }
        exact[static_cast<size_t>(t) * rows + o] = sum;
      }
    }
    const double error = error_before_rounding(out, exact);
    RecordProperty(fmt::format("error_{}x{}x{}", rows, cols, tokens), fmt::format("{:.2e}", error));
    EXPECT_LE(error, 5e-4) << rows << "×" << cols << ", " << tokens << " tokens";
  }
}

TEST_F(LinearFp8Gpu, RowsDoNotDependOnTheBatch) {
  Random random(72);
  const Fp8Matrix matrix(random, 1536, 2048);
  const Fp8Rows x(random, 150, 2048);
  const Fp8Weight weight = import(matrix);
  const std::vector<Bf16> all = run(x, weight, 0, 150);
  for (const auto& [first, count] : {std::pair{0, 1}, {7, 1}, {3, 8}, {20, 33}, {64, 70}, {149, 1}}) {
    const std::vector<Bf16> part = run(x, weight, first, count);
    const std::vector<Bf16> expected(all.begin() + static_cast<size_t>(first) * 1536,
                                     all.begin() + static_cast<size_t>(first + count) * 1536);
    EXPECT_TRUE(same_bytes(part, expected)) << "rows from " << first << ", " << count;
  }
}

// One launch for FP8 and bf16 matrices gives what the ops give one by one, and outputs of odd widths are complete.
TEST_F(LinearFp8Gpu, GroupsMixFormats) {
  Random random(73);
  constexpr int kCols = 512;
  for (int tokens : {1, 12, 70}) {
    const Fp8Matrix fp8_a(random, 256, kCols), fp8_b(random, 128, kCols);
    const Bf16Matrix fp32_weight(random, 192, kCols), narrow(random, 2, kCols), bf16_weight(random, 64, kCols);
    const Fp8Rows x8(random, tokens, kCols);
    const Bf16Matrix x16(random, tokens, kCols);
    const DeviceArray<Bf16> values(gpu(), x8.values());
    const DeviceArray<Bf16> x(gpu(), x16.data);
    const Fp8Weight a = import(fp8_a), b = import(fp8_b);
    const Bf16Weight c = gpu().import_bf16(fp32_weight.view()), d = gpu().import_bf16(narrow.view()),
                     e = gpu().import_bf16(bf16_weight.view());
    gpu().finish_imports();
    const auto outputs = [&](bool grouped) {
      const size_t n = static_cast<size_t>(tokens);
      DeviceArray<Bf16> out_a(gpu(), n * 256), out_b(gpu(), n * 128), out_d(gpu(), n * 2), out_e(gpu(), n * 64);
      DeviceArray<float> out_c(gpu(), n * 192);
      const LinearFp8Params fp8[] = {{{nullptr, nullptr, values.data()}, a, out_a.data(), tokens},
                                     {{nullptr, nullptr, values.data()}, b, out_b.data(), tokens}};
      const LinearBf16Params bf16[] = {{x.data(), d, out_d.data(), tokens, 0.011f}, {x.data(), e, out_e.data(), tokens, 1.0f}};
      const LinearFp32Params fp32[] = {{x.data(), c, out_c.data(), tokens}};
      if (grouped) {
        gpu().linear_group({fp8, bf16, fp32});
      } else {
        gpu().Backend::linear_group({fp8, bf16, fp32});
      }
      return std::tuple{out_a.host(), out_b.host(), out_c.host(), out_d.host(), out_e.host()};
    };
    const auto grouped = outputs(true), single = outputs(false);
    const auto close = [&](const auto& left, const auto& right, const char* name) {
      ASSERT_EQ(left.size(), right.size());
      for (size_t i = 0; i < left.size(); ++i) {
        const double value = static_cast<double>(static_cast<float>(left[i])), other = static_cast<double>(static_cast<float>(right[i]));
        ASSERT_NEAR(value, other, 2e-2 * std::fabs(other) + 1e-3) << name << " " << i << ", " << tokens << " tokens";
      }
    };
    const auto floats = [](const std::vector<Bf16>& bf16_values) {
      std::vector<float> converted;
      for (Bf16 value : bf16_values) converted.push_back(to_float(value));
      return converted;
    };
    close(floats(std::get<0>(grouped)), floats(std::get<0>(single)), "a");
    close(floats(std::get<1>(grouped)), floats(std::get<1>(single)), "b");
    close(std::get<2>(grouped), std::get<2>(single), "c");
    close(floats(std::get<3>(grouped)), floats(std::get<3>(single)), "d");
    close(floats(std::get<4>(grouped)), floats(std::get<4>(single)), "e");
  }
}

TEST_F(LinearFp8Gpu, NoTokensIsNoLaunch) {
  Random random(74);
  const Fp8Matrix matrix(random, 128, 128);
  gpu().linear_fp8({{nullptr, nullptr}, import(matrix), nullptr, 0});
  gpu().synchronize();
}

}  // namespace
}  // namespace dsv4::test
