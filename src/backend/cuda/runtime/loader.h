// Brings weights from host memory (usually a mapped file) into device memory, in the layouts of block/weight_tiles.h.
//
//   host memory → (worker threads) → pinned slot → (copy engine) → device slot → (repack kernel or device copy) → place in the arena
//
// An import takes its place in the arena at once and is cut into pieces: matrices by rows, in multiples of a tile row, arrays anywhere.
// Pieces are gathered into batches of a slot's size. Every worker has two slots with a stream each: it fills one while the device empties
// the other, so that reading files, the link and repacking overlap.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backend/cuda/block/weight_tiles.h"
#include "backend/cuda/runtime/arena.h"

namespace dsv4::cuda {

// Part of an import that lies in one batch.
struct LoadPiece {
  bool is_array = false;          // copied as it is; otherwise rows of a matrix
  const uint8_t* data = nullptr;  // host: bytes of an array, codes of a matrix
  size_t data_bytes = 0;
  size_t data_offset = 0;           // in the slot
  const uint8_t* scales = nullptr;  // host; FP4 matrices alone
  size_t scale_bytes = 0;
  size_t scale_offset = 0;
  uint8_t* out = nullptr;  // device: of an array where these bytes go, of a matrix where it begins
  WeightLayout layout = WeightLayout::kFp8Tile;
  int rows = 0;  // as RepackParams has them
  int cols = 0;
  int first_row = 0;
  int num_rows = 0;
};

struct LoadBatch {
  std::vector<LoadPiece> pieces;
  size_t slot_bytes = 0;    // used of the slot
  size_t source_bytes = 0;  // read from the host
};

// Called from one thread; what imports read must stay until finish() or cancel().
class Loader {
 public:
  explicit Loader(int device_idx, int num_sms);
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;
  ~Loader();

  // Device memory that the loader's imports and others share; it lives as long as the loader.
  Arena& arena() { return arena_; }

  // An array as it is. The device's copy is there after finish().
  const uint8_t* import_array(const void* data, size_t bytes);
  // A matrix [rows, cols] in tiles. `scales`: ue8m0 [rows, cols/32] of a kFp4Tile matrix, which go into the tiles, nullptr for others.
  // Throws Error where cols is no multiple of the tile's columns.
  const uint8_t* import_matrix(WeightLayout layout, const void* codes, const void* scales, int rows, int cols);

  // Waits until every import is in its place and frees slots and threads. Throws Error for what went wrong in any of them, and where
  // scales of an FP4 matrix span too much.
  void finish();
  // Gives up what has not been started, waits for the rest. Does not throw.
  void cancel() noexcept;
  // Called from finish() some ten times a second with the bytes in their place since the last call of this function.
  void set_progress(std::function<void(int64_t bytes_done)> progress);

 private:
  void add(LoadPiece piece);
  void submit_open_batch();
  void start_worker();
  void stop_workers() noexcept;
  void report_progress();

  void work();
  std::optional<LoadBatch> next_batch();

  const int device_idx_;
  const int num_sms_;
  Arena arena_;
  LoadBatch open_batch_;
  std::function<void(int64_t)> progress_;
  std::vector<std::thread> workers_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_is_there_;
  std::condition_variable worker_has_ended_;
  std::deque<LoadBatch> queue_;
  std::exception_ptr error_;  // the first of a worker; the queue is given up then
  bool is_closing_ = false;   // no batch follows those of the queue
  int num_running_ = 0;
  int64_t bytes_done_ = 0;
};

}  // namespace dsv4::cuda
