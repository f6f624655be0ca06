// stand-in until the loader's is merged
#pragma once
namespace dsv4::cuda {
inline constexpr int kTileBytes = 8192;
inline constexpr int kFp4TileValueBytes = 4096;
inline constexpr int kFp4TileBytes = 4352;
}  // namespace dsv4::cuda
