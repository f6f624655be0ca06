#include "backend/cuda/runtime/loader.h"

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "backend/cuda/runtime/check.h"
#include "backend/cuda/runtime/repack.h"
#include "base/error.h"
#include "ops/weight.h"

namespace dsv4::cuda {
namespace {

constexpr size_t kSlotBytes = size_t{16} << 20;
constexpr int kMaxWorkers = 8;
constexpr auto kProgressInterval = std::chrono::milliseconds(100);

// Bytes of one row of codes, and of its scales.
size_t row_bytes(WeightLayout layout, int cols) {
  const auto elements = static_cast<size_t>(cols);
  if (layout == WeightLayout::kFp4Tile) return elements / 2;
  return layout == WeightLayout::kBf16Tile ? elements * sizeof(Bf16) : elements;
}
size_t row_scale_bytes(WeightLayout layout, int cols) {
  return layout == WeightLayout::kFp4Tile ? static_cast<size_t>(cols / kFp4Block) : 0;
}

int max_workers() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, kMaxWorkers);
}

// Lets the kernel read the whole range at once where it is mapped from a file and not in the page cache; page by page would be slow. A
// hint: what cannot be read ahead is read when it is touched.
void read_ahead(const uint8_t* data, size_t bytes) {
  constexpr uintptr_t kPageBytes = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / kPageBytes * kPageBytes;
  if (bytes > kPageBytes) madvise(reinterpret_cast<void*>(begin), reinterpret_cast<uintptr_t>(data) + bytes - begin, MADV_WILLNEED);
}

// Pinned and device memory for one batch at a time, and the stream that moves it.
class Slot {
 public:
  explicit Slot(int num_sms) {
    context_.num_sms = num_sms;
    try {
      check(cudaStreamCreateWithFlags(&context_.stream, cudaStreamNonBlocking), "cudaStreamCreate", "loading weights");
      check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync), "cudaEventCreate", "loading weights");
      check(cudaHostAlloc(reinterpret_cast<void**>(&host_), kSlotBytes, cudaHostAllocDefault), "cudaHostAlloc", "loading weights");
      check(cudaMalloc(&device_, kSlotBytes), "cudaMalloc", "loading weights");
    } catch (...) {
      release();
      throw;
    }
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() { release(); }

  // Waits for the batch that runs, if any, and returns the bytes it brought.
  size_t wait() {
    if (running_bytes_ > 0) check(cudaEventSynchronize(done_), "cudaEventSynchronize", "loading weights");
    return std::exchange(running_bytes_, 0);
  }

  // After wait(): sends a batch on its way.
  void run(const LoadBatch& batch) {
    for (const LoadPiece& piece : batch.pieces) {
      read_ahead(piece.data, piece.data_bytes);
      read_ahead(piece.scales, piece.scale_bytes);
    }
    for (const LoadPiece& piece : batch.pieces) {
      std::memcpy(host_ + piece.data_offset, piece.data, piece.data_bytes);
      if (piece.scale_bytes > 0) std::memcpy(host_ + piece.scale_offset, piece.scales, piece.scale_bytes);
    }
    check(cudaMemcpyAsync(device_, host_, batch.slot_bytes, cudaMemcpyHostToDevice, context_.stream), "cudaMemcpyAsync", "loading weights");
    for (const LoadPiece& piece : batch.pieces) {
      if (piece.is_array) {
        check(cudaMemcpyAsync(piece.out, device_ + piece.data_offset, piece.data_bytes, cudaMemcpyDeviceToDevice, context_.stream),
              "cudaMemcpyAsync", "loading weights");
      } else {
        repack(context_, {piece.layout, device_ + piece.data_offset, device_ + piece.scale_offset, piece.out, piece.rows, piece.cols,
                          piece.first_row, piece.num_rows});
      }
    }
    check(cudaEventRecord(done_, context_.stream), "cudaEventRecord", "loading weights");
    running_bytes_ = batch.source_bytes;
  }

 private:
  void release() noexcept {
    if (context_.stream != nullptr) cudaStreamSynchronize(context_.stream);
    cudaFree(device_);
    cudaFreeHost(host_);
    if (done_ != nullptr) cudaEventDestroy(done_);
    if (context_.stream != nullptr) cudaStreamDestroy(context_.stream);
  }

  Context context_;
  cudaEvent_t done_ = nullptr;
  uint8_t* host_ = nullptr;
  uint8_t* device_ = nullptr;
  size_t running_bytes_ = 0;
};

}  // namespace

Loader::Loader(int device_idx, int num_sms) : device_idx_(device_idx), num_sms_(num_sms) {}

Loader::~Loader() {
  cancel();
}

const uint8_t* Loader::import_array(const void* data, size_t bytes) {
  uint8_t* out = arena_.allocate(bytes);
  for (size_t begin = 0; begin < bytes;) {
    if (open_batch_.slot_bytes == kSlotBytes) submit_open_batch();
    LoadPiece piece;
    piece.is_array = true;
    piece.data = static_cast<const uint8_t*>(data) + begin;
    piece.data_bytes = std::min(bytes - begin, kSlotBytes - open_batch_.slot_bytes);
    piece.out = out + begin;
    begin += piece.data_bytes;
    add(piece);
  }
  return out;
}

const uint8_t* Loader::import_matrix(WeightLayout layout, const void* codes, const void* scales, int rows, int cols) {
  require(rows > 0 && cols > 0 && cols % tile_cols(layout) == 0, "a weight matrix of shape [{},{}]: expected columns in multiples of {}",
          rows, cols, tile_cols(layout));
  const size_t codes_per_row = row_bytes(layout, cols);
  const size_t scales_per_row = row_scale_bytes(layout, cols);
  const size_t tile_row_bytes = kTileRows * (codes_per_row + scales_per_row);  // a multiple of kArenaAlignment
  require(tile_row_bytes <= kSlotBytes, "a weight matrix of shape [{},{}]: {} rows are {} bytes, at most {} can be loaded", rows, cols,
          kTileRows, tile_row_bytes, kSlotBytes);
  uint8_t* out = arena_.allocate(static_cast<size_t>(packed_bytes(layout, rows, cols)));
  for (int first_row = 0; first_row < rows;) {
    const size_t tile_rows_that_fit = (kSlotBytes - open_batch_.slot_bytes) / tile_row_bytes;
    if (tile_rows_that_fit == 0) {
      submit_open_batch();
      continue;
    }
    const auto num_rows = static_cast<size_t>(std::min<int64_t>(rows - first_row, static_cast<int64_t>(tile_rows_that_fit) * kTileRows));
    const auto begin = static_cast<size_t>(first_row);
    LoadPiece piece;
    piece.data = static_cast<const uint8_t*>(codes) + begin * codes_per_row;
    piece.data_bytes = num_rows * codes_per_row;
    if (scales_per_row > 0) {
      piece.scales = static_cast<const uint8_t*>(scales) + begin * scales_per_row;
      piece.scale_bytes = num_rows * scales_per_row;
    }
    piece.out = out;
    piece.layout = layout;
    piece.rows = rows;
    piece.cols = cols;
    piece.first_row = first_row;
    piece.num_rows = static_cast<int>(num_rows);
    first_row += piece.num_rows;
    add(piece);
  }
  return out;
}

// Gives a piece its place in the open batch, in which it fits.
void Loader::add(LoadPiece piece) {
  piece.data_offset = open_batch_.slot_bytes;
  piece.scale_offset = piece.data_offset + arena_bytes(piece.data_bytes);
  // Full tile rows of codes and of scales are multiples of the alignment, so rounding up stays within the tile rows counted as fitting.
  open_batch_.slot_bytes = piece.scale_offset + arena_bytes(piece.scale_bytes);
  open_batch_.source_bytes += piece.data_bytes + piece.scale_bytes;
  open_batch_.pieces.push_back(piece);
}

void Loader::submit_open_batch() {
  if (open_batch_.pieces.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::exchange(open_batch_, {}));
  }
  work_is_there_.notify_one();
  if (static_cast<int>(workers_.size()) < max_workers()) start_worker();
}

// One for every batch until there are enough: a small model needs little pinned memory.
void Loader::start_worker() {
  {
    const std::lock_guard lock(mutex_);
    ++num_running_;
  }
  try {
    workers_.emplace_back([this] { work(); });
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --num_running_;
    throw;
  }
}

std::optional<LoadBatch> Loader::next_batch() {
  std::unique_lock lock(mutex_);
  work_is_there_.wait(lock, [this] { return error_ != nullptr || is_closing_ || !queue_.empty(); });
  if (error_ != nullptr || queue_.empty()) return std::nullopt;
  LoadBatch batch = std::move(queue_.front());
  queue_.pop_front();
  return batch;
}

// A worker thread.
void Loader::work() {
  try {
    check(cudaSetDevice(device_idx_), "cudaSetDevice", "loading weights");
    std::optional<Slot> slots[2];
    const auto wait = [this](std::optional<Slot>& slot) {
      if (!slot.has_value()) return;
      const auto bytes = static_cast<int64_t>(slot->wait());
      const std::lock_guard lock(mutex_);
      bytes_done_ += bytes;
    };
    size_t slot_idx = 0;
    while (const std::optional<LoadBatch> batch = next_batch()) {
      std::optional<Slot>& slot = slots[slot_idx];
      wait(slot);
      if (!slot.has_value()) slot.emplace(num_sms_);
      slot->run(*batch);
      slot_idx = 1 - slot_idx;
    }
    wait(slots[slot_idx]);
    wait(slots[1 - slot_idx]);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (error_ == nullptr) error_ = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    --num_running_;
  }
  work_is_there_.notify_all();  // after an error the others give up too
  worker_has_ended_.notify_all();
}

// Lets the workers end and joins them.
void Loader::stop_workers() noexcept {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  work_is_there_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  is_closing_ = false;
  queue_.clear();
}

void Loader::finish() {
  submit_open_batch();
  if (workers_.empty()) return;
  {
    std::unique_lock lock(mutex_);
    is_closing_ = true;
    work_is_there_.notify_all();
    while (!worker_has_ended_.wait_for(lock, kProgressInterval, [this] { return num_running_ == 0; })) {
      lock.unlock();
      report_progress();
      lock.lock();
    }
  }
  stop_workers();
  if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  report_progress();
}

void Loader::cancel() noexcept {
  open_batch_ = {};
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
  }
  stop_workers();
  error_ = nullptr;
}

void Loader::set_progress(std::function<void(int64_t)> progress) {
  progress_ = std::move(progress);
  const std::lock_guard lock(mutex_);
  bytes_done_ = 0;
}

void Loader::report_progress() {
  int64_t bytes_done = 0;
  {
    const std::lock_guard lock(mutex_);
    bytes_done = bytes_done_;
  }
  if (progress_) progress_(bytes_done);
}

}  // namespace dsv4::cuda
