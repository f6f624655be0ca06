#include "ops/grouped_linear.h"

#include "support/compare.h"
#include "support/gpu.h"
#include "support/matrices.h"
#include "support/product.h"

namespace dsv4::test {
namespace {

class GroupedLinearGpu : public GpuTest {};

TEST_F(GroupedLinearGpu, MultipliesEachGroupsColumns) {
  Random random(77);
  struct Shape {
    int groups, group_rows, cols, tokens;
  };
  for (const auto& [groups, group_rows, cols, tokens] :
       {Shape{2, 128, 256, 1}, Shape{8, 256, 4096, 2}, Shape{8, 128, 512, 37}, Shape{16, 128, 128, 130}}) {
    const Fp8Matrix matrix(random, groups * group_rows, cols);
    const Bf16Matrix x(random, tokens * groups, cols);
    const Fp8Weight weight = gpu().import_fp8(matrix.view());
    gpu().finish_imports();
    const DeviceArray<Bf16> input(gpu(), x.data);
    DeviceArray<Bf16> out(gpu(), static_cast<size_t>(tokens) * groups * group_rows);
    gpu().grouped_linear({input.data(), weight, out.data(), tokens, groups});
    const std::vector<Bf16> values = out.host();
    std::vector<double> exact(values.size());
    for (int t = 0; t < tokens; ++t) {
      for (int o = 0; o < groups * group_rows; ++o) {
        double sum = 0.0;
        for (int k = 0; k < cols; ++k) sum += x.at(t * groups + o / group_rows, k) * matrix.at(o, k);
        exact[static_cast<size_t>(t) * groups * group_rows + o] = sum;
      }
    }
    const double error = error_before_rounding(values, exact);
    RecordProperty(fmt::format("error_{}x{}x{}x{}", groups, group_rows, cols, tokens), fmt::format("{:.2e}", error));
    EXPECT_LE(error, 1e-4) << groups << " groups, " << group_rows << "×" << cols << ", " << tokens << " tokens";
  }
}

}  // namespace
}  // namespace dsv4::test
