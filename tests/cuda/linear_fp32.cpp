#include "ops/linear_fp32.h"

#include "support/compare.h"
#include "support/gpu.h"
#include "support/matrices.h"
#include "support/product.h"

namespace dsv4::test {
namespace {

class LinearFp32Gpu : public GpuTest {};

TEST_F(LinearFp32Gpu, IsAnFp32Product) {
  Random random(75);
  struct Shape {
    int rows, cols, tokens;
  };
  for (const auto& [rows, cols, tokens] :
       {Shape{256, 128, 1}, Shape{1024, 4096, 2}, Shape{512, 7168, 9}, Shape{3072, 256, 40}, Shape{130, 192, 70}, Shape{128, 1024, 150}}) {
    const Bf16Matrix matrix(random, rows, cols), x(random, tokens, cols);
    const Bf16Weight weight = gpu().import_bf16(matrix.view());
    gpu().finish_imports();
    const DeviceArray<Bf16> input(gpu(), x.data);
    DeviceArray<float> out(gpu(), static_cast<size_t>(tokens) * rows);
    gpu().linear_fp32({input.data(), weight, out.data(), tokens});
    std::vector<double> exact(out.size());
    for (int t = 0; t < tokens; ++t) {
      for (int o = 0; o < rows; ++o) {
        double sum = 0.0;
        for (int k = 0; k < cols; ++k) sum += x.at(t, k) * matrix.at(o, k);
        exact[static_cast<size_t>(t) * rows + o] = sum;
      }
    }
    const double error = relative_error(out.host(), exact);
    RecordProperty(fmt::format("error_{}x{}x{}", rows, cols, tokens), fmt::format("{:.2e}", error));
    EXPECT_LE(error, 1e-5) << rows << "×" << cols << ", " << tokens << " tokens";
  }
}

}  // namespace
}  // namespace dsv4::test
