#include "backend/cuda/runtime/profile.h"

#include <chrono>
#include <thread>

#include "backend/cuda/runtime/check.h"

namespace dsv4::cuda {
namespace {

// How long the stream stands still before a profiled run, so that the host is ahead of it: a launch that the device has to wait for would
// be timed from when its first event came.
constexpr std::chrono::milliseconds kHeadStart(20);

constexpr size_t kCopyBytes = size_t{1} << 28;  // much more than the L2 cache
constexpr int kCopies = 20;

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(other.event_) { other.event_ = nullptr; }
  Event& operator=(Event&&) = delete;

  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  double seconds_since(const Event& start) const {
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "cudaEventElapsedTime");
    return 1e-3 * milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Two events around every launch.
class LaunchTimer final : public LaunchObserver {
 public:
  explicit LaunchTimer(cudaStream_t stream) : stream_(stream) {}

  void before_launch(const char* op) override {
    launches_.push_back({op, Event(), Event()});
    launches_.back().start.record(stream_);
  }
  void after_launch(const char*) override { launches_.back().end.record(stream_); }

  // Once the stream has run them all.
  std::vector<ProfiledLaunch> times() const {
    std::vector<ProfiledLaunch> times;
    for (const Timed& launch : launches_) times.push_back({launch.op, launch.end.seconds_since(launch.start)});
    return times;
  }

 private:
  struct Timed {
    const char* op;
    Event start;
    Event end;
  };

  cudaStream_t stream_;
  std::vector<Timed> launches_;
};

class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes) { check(cudaMalloc(&memory_, bytes), "cudaMalloc", "copy rate"); }
  ~DeviceBytes() { cudaFree(memory_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

}  // namespace

std::vector<ProfiledLaunch> profile_launches(Context& context, const std::function<void()>& ops) {
  LaunchTimer timer(context.stream);
  check(cudaLaunchHostFunc(
            context.stream, [](void*) { std::this_thread::sleep_for(kHeadStart); }, nullptr),
        "cudaLaunchHostFunc");
  context.observer = &timer;
  try {
    ops();
  } catch (...) {
    context.observer = nullptr;
    throw;
  }
  context.observer = nullptr;
  check(cudaStreamSynchronize(context.stream), "cudaStreamSynchronize", "profile");
  return timer.times();
}

double measure_copy_rate(cudaStream_t stream) {
  const DeviceBytes source(kCopyBytes);
  const DeviceBytes destination(kCopyBytes);
  const auto copy = [&] {
    check(cudaMemcpyAsync(destination.get(), source.get(), kCopyBytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync", "copy rate");
  };
  Event start;
  Event end;
  check(cudaMemsetAsync(source.get(), 1, kCopyBytes, stream), "cudaMemsetAsync", "copy rate");
  copy();  // warm
  start.record(stream);
  for (int i = 0; i < kCopies; ++i) copy();
  end.record(stream);
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize", "copy rate");
  return 2.0 * static_cast<double>(kCopyBytes) * kCopies / end.seconds_since(start);
}

}  // namespace dsv4::cuda
