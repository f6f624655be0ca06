#include "ops/mhc_head.h"

#include "support/mhc_case.h"

namespace dsv4 {
namespace {

class MhcHeadGpu : public test::GpuTest {
 protected:
  // The norm's output, or x without the norm.
  static std::vector<Bf16> run(Backend& backend, const test::BoundaryCase& input, bool with_norm) {
    const test::DeviceArray<Bf16> streams(backend, input.streams), weight(backend, input.norm_weight);
    const std::vector<float> four_rows(input.fn.begin(), input.fn.begin() + 16 * input.hidden_size);
    const std::vector<float> four_values(input.base.begin(), input.base.begin() + 4),
        one_value(input.scale.begin(), input.scale.begin() + 1);
    const test::DeviceArray<float> fn(backend, four_rows), base(backend, four_values), scale(backend, one_value);
    const size_t size = static_cast<size_t>(input.num_tokens) * input.hidden_size;
    const test::DeviceArray<Bf16> x(backend, size), out(backend, size);
    const MhcHeadParams head{streams.data(),   fn.data(), base.data(),       scale.data(), x.data(),
                             input.num_tokens, 4,         input.hidden_size, 1e-6f,        1e-6f};
    if (!with_norm) {
      backend.mhc_head(head);
      return x.host();
    }
    backend.head_norm({head, {x.data(), weight.data(), out.data(), input.num_tokens, input.hidden_size, 1e-6f}});
    return out.host();
  }
};

TEST_F(MhcHeadGpu, MatchesCpu) {
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  for (const auto& [num_tokens, hidden_size] : {std::pair{0, 256}, {1, 128}, {5, 256}, {17, 384}, {1, 4096}, {20, 4096}, {3, 7168}}) {
    const test::BoundaryCase input(num_tokens, hidden_size, 1, 8);
    for (const bool with_norm : {false, true}) {
      const std::vector<Bf16> actual = run(gpu(), input, with_norm);
      EXPECT_TRUE(test::nearly_same_bf16(actual, run(*cpu, input, with_norm)))
          << num_tokens << " tokens of " << hidden_size << ", norm " << with_norm;
    }
  }
}

TEST_F(MhcHeadGpu, TokensAloneGiveTheSameBytes) {
  const test::BoundaryCase input(40, 4096, 1, 9);
  const std::vector<Bf16> together = run(gpu(), input, true);
  for (const int token : {0, 3, 9, 39}) {
    const std::vector<Bf16> alone = run(gpu(), input.rows(token, 1), true);
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(alone), std::span<const Bf16>(together).subspan(token * 4096, 4096))) << token;
  }
}

}  // namespace
}  // namespace dsv4
