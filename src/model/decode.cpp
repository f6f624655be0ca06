#include "model/decode.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace dsv4 {
namespace {

size_t size_idx(int num_seqs) {
  const auto found = std::lower_bound(kDecodeSizes.begin(), kDecodeSizes.end(), num_seqs);
  return static_cast<size_t>(std::min(found, kDecodeSizes.end() - 1) - kDecodeSizes.begin());
}

int num_pages_of(int64_t num_positions) {
  return static_cast<int>((num_positions + kPagePositions - 1) / kPagePositions);
}

size_t elements(int rows, int cols) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols);
}

// Every row is a sequence of its own.
Buffer make_constant(Backend& backend, int capacity) {
  std::vector<int32_t> values;
  for (int row = 0; row < capacity; ++row) values.push_back(row);
  for (int row = 0; row <= capacity; ++row) values.push_back(row);
  Buffer constant(backend, values.size() * sizeof(int32_t));
  backend.copy_from_host(constant.as<void>(), values.data(), constant.bytes());
  return constant;
}

}  // namespace

int decode_size(int num_seqs) {
  return kDecodeSizes[size_idx(num_seqs)];
}

DecodeStep::RowArrays::RowArrays(uint8_t* base, int capacity)
    : sampling(reinterpret_cast<SampleRow*>(base)),
      token_ids(reinterpret_cast<int32_t*>(sampling + capacity)),
      positions(token_ids + capacity),
      slots(positions + capacity) {}

size_t DecodeStep::RowArrays::bytes(int capacity) {
  return static_cast<size_t>(capacity) * (sizeof(SampleRow) + 3 * sizeof(int32_t));
}

int64_t DecodeStep::bytes_needed(const ModelConfig& config, int64_t max_seqs, int64_t max_context) {
  const int64_t rows = decode_size(static_cast<int>(std::min<int64_t>(max_seqs, kMaxDecodeRows)));
  const int64_t row_bytes = static_cast<int64_t>(sizeof(SampleRow)) + 7 * static_cast<int64_t>(sizeof(int32_t));
  const int64_t words = int64_t{config.vocab_size} + num_pages_of(max_context);
  return rows * (row_bytes + words * static_cast<int64_t>(sizeof(int32_t)));
}

DecodeStep::DecodeStep(Model& model, const KvCache& cache, Backend& backend, float* kept_logits, int max_seqs, int max_context)
    : model_(model),
      cache_(cache),
      backend_(backend),
      kept_logits_(kept_logits),
      max_rows_(std::min(max_seqs, kMaxDecodeRows)),
      capacity_(decode_size(max_seqs)),
      max_pages_(num_pages_of(max_context)),
      rows_memory_(backend, RowArrays::bytes(capacity_)),
      rows_(rows_memory_.as<uint8_t>(), capacity_),
      page_table_(backend, elements(capacity_, max_pages_) * sizeof(int32_t)),
      constant_(make_constant(backend, capacity_)),
      logits_(backend, elements(capacity_, model.config().vocab_size) * sizeof(float)),
      drawn_(backend, elements(capacity_, 2) * sizeof(int32_t)),
      drawn_host_(backend, drawn_.bytes()),
      finished_(backend.make_marker()),
      device_(static_cast<size_t>(capacity_)),
      wanted_(device_),
      row_idx_(static_cast<size_t>(capacity_)),
      pages_(static_cast<size_t>(capacity_)),
      row_of_slot_(static_cast<size_t>(cache.options().num_slots), -1),
      used_(static_cast<size_t>(capacity_)) {
  for (int i = 0; i < kNumStagings; ++i) {
    stagings_.push_back({HostBuffer(backend, rows_memory_.bytes() + page_table_.bytes()), backend.make_marker()});
  }
  forget_all();
}

int DecodeStep::num_kernels(int num_seqs) const {
  const std::unique_ptr<Recording>& recording = recordings_[size_idx(num_seqs)];
  return recording ? recording->num_kernels() : 0;
}

void DecodeStep::forget(int slot) {
  const int row = std::exchange(row_of_slot_.at(static_cast<size_t>(slot)), -1);
  if (row < 0) return;
  pages_[static_cast<size_t>(row)] = {};
  device_[static_cast<size_t>(row)].slot = kUnknown;
}

void DecodeStep::forget_all() {
  for (Row& row : device_) row.slot = kUnknown;
  std::fill(pages_.begin(), pages_.end(), PageRow{});
  std::fill(row_of_slot_.begin(), row_of_slot_.end(), -1);
  last_size_ = 0;
}

// Gives every sequence a row below `size`: the one where its pages stand, if it is there, else any that is left.
void DecodeStep::place(std::span<const DecodeRow> rows, int size) {
  std::fill(row_idx_.begin(), row_idx_.end(), -1);
  unplaced_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const int row = row_of_slot_.at(static_cast<size_t>(rows[i].slot));
    if (row >= 0 && row < size) {
      row_idx_[static_cast<size_t>(row)] = static_cast<int>(i);
    } else {
      unplaced_.push_back(i);
    }
  }
  size_t row = 0;
  for (size_t i : unplaced_) {
    while (row_idx_[row] >= 0) ++row;
    row_idx_[row] = static_cast<int>(i);
    PageRow& pages = pages_[row];
    if (pages.slot >= 0) row_of_slot_[static_cast<size_t>(pages.slot)] = -1;
    int& old_row = row_of_slot_[static_cast<size_t>(rows[i].slot)];
    if (old_row >= 0) pages_[static_cast<size_t>(old_row)] = {};
    old_row = static_cast<int>(row);
    pages = {rows[i].slot, 0};
  }
  for (row = 0; row < row_idx_.size(); ++row) {
    wanted_[row] = {};
    if (row_idx_[row] < 0) continue;
    const DecodeRow& placed = rows[static_cast<size_t>(row_idx_[row])];
    wanted_[row] = {placed.slot, placed.token_id, placed.position, placed.sampling};
  }
}

// Brings what differs to the device: all row arrays, and the pages that are not there yet.
void DecodeStep::upload(std::span<const DecodeRow> rows, int size) {
  const auto end = device_.begin() + size;
  const bool rows_differ = !std::equal(device_.begin(), end, wanted_.begin());
  const auto has_new_pages = [&](size_t row) {
    return row_idx_[row] >= 0 && static_cast<size_t>(pages_[row].num_pages) < rows[static_cast<size_t>(row_idx_[row])].pages.size();
  };
  bool pages_differ = false;
  for (size_t row = 0; row < row_idx_.size(); ++row) pages_differ = pages_differ || has_new_pages(row);
  if (!rows_differ && !pages_differ) return;

  Staging& staging = stagings_[next_staging_];
  next_staging_ = (next_staging_ + 1) % stagings_.size();
  staging.copied->wait();
  if (rows_differ) {
    const RowArrays arrays(staging.memory.as<uint8_t>(), capacity_);
    for (size_t row = 0; row < wanted_.size(); ++row) {
      arrays.sampling[row] = wanted_[row].sampling;
      arrays.token_ids[row] = wanted_[row].token_id;
      arrays.positions[row] = wanted_[row].position;
      arrays.slots[row] = wanted_[row].slot;
    }
    backend_.copy_from_host_async(rows_memory_.as<void>(), staging.memory.as<void>(), rows_memory_.bytes());
    device_ = wanted_;
  }
  int32_t* page_staging = reinterpret_cast<int32_t*>(staging.memory.as<uint8_t>() + rows_memory_.bytes());
  for (size_t row = 0; row < row_idx_.size(); ++row) {
    if (!has_new_pages(row)) continue;
    const std::span<const int32_t> pages =
        rows[static_cast<size_t>(row_idx_[row])].pages.subspan(static_cast<size_t>(pages_[row].num_pages));
    const size_t begin = row * static_cast<size_t>(max_pages_) + static_cast<size_t>(pages_[row].num_pages);
    std::copy(pages.begin(), pages.end(), page_staging + begin);
    backend_.copy_from_host_async(page_table_.as<int32_t>() + begin, page_staging + begin, pages.size_bytes());
    pages_[row].num_pages += static_cast<int>(pages.size());
  }
  staging.copied->set();
}

// The whole step for `size` rows; nothing in it depends on what the rows hold.
void DecodeStep::record_ops(int size) {
  BatchView batch;
  batch.num_tokens = size;
  batch.num_seqs = size;
  batch.token_ids = rows_.token_ids;
  batch.positions = rows_.positions;
  batch.seq_idx = constant_.as<int32_t>();
  batch.row_begin = constant_.as<int32_t>() + capacity_;
  batch.slots = rows_.slots;
  batch.page_table = page_table_.as<int32_t>();
  batch.page_table_stride = max_pages_;
  const int vocab_size = model_.config().vocab_size;
  float* logits = logits_.as<float>();
  int32_t* ids = drawn_.as<int32_t>();
  model_.decode(batch, cache_, logits);
  backend_.gather_rows({logits, nullptr, kept_logits_, size, int64_t{vocab_size} * static_cast<int64_t>(sizeof(float)), rows_.slots});
  backend_.sample({logits, rows_.sampling, ids, drawn_.as<float>() + capacity_, nullptr, nullptr, size, vocab_size, 0});
  backend_.advance({ids, rows_.token_ids, rows_.positions, rows_.sampling, size});
  backend_.copy_to_host_async(drawn_host_.as<void>(), drawn_.as<void>(), drawn_.bytes());
}

void DecodeStep::execute(int size) {
  if (!use_recordings_) return record_ops(size);
  std::unique_ptr<Recording>& recording = recordings_[size_idx(size)];
  if (recording) {
    recording->replay();
  } else {
    recording = backend_.record([this, size] { record_ops(size); });
  }
}

void DecodeStep::warm_up(int num_seqs) {
  for (int size : kDecodeSizes) {
    if (size > std::min(decode_size(num_seqs), capacity_) || recordings_[size_idx(size)]) continue;
    place({}, size);
    upload({}, size);
    execute(size);
    last_size_ = 0;
  }
}

void DecodeStep::run(std::span<const DecodeRow> rows) {
  require(!rows.empty() && rows.size() <= static_cast<size_t>(max_rows_), "decode: {} sequences, expected 1 to {}", rows.size(), max_rows_);
  for (const DecodeRow& row : rows) {
    require(row.position >= 0 && num_pages_of(row.position + 1) <= static_cast<int>(row.pages.size()) &&
                row.pages.size() <= static_cast<size_t>(max_pages_),
            "decode: slot {} at position {} with {} pages, expected the pages of its positions and at most {}", row.slot, row.position,
            row.pages.size(), max_pages_);
    require(row.sampling.num_bias == 0 && row.sampling.num_history == 0 && row.sampling.num_logprobs == 0,
            "decode: slot {} draws with a bias, a history or alternatives", row.slot);
  }
  const int size = decode_size(static_cast<int>(rows.size()));
  try {
    place(rows, size);
    upload(rows, size);
    execute(size);
  } catch (...) {
    forget_all();
    throw;
  }
  for (size_t row = 0; row < static_cast<size_t>(size); ++row) {
    Row& ran = device_[row];
    if (ran.position < 0) continue;
    used_[row] = ran.sampling;
    ++ran.position;
    ++ran.sampling.draw_idx;
    ran.token_id = -1;
  }
  finished_->set();
  drawn_known_ = false;
  last_size_ = size;
  ++num_runs_;
}

// After it the host knows the inputs of the next step that the device has made itself.
void DecodeStep::wait_for_drawn() {
  if (drawn_known_) return;
  finished_->wait();
  const int32_t* ids = drawn_host_.as<int32_t>();
  for (size_t row = 0; row < static_cast<size_t>(last_size_); ++row) {
    if (device_[row].position >= 0) device_[row].token_id = std::max(ids[row], 0);
  }
  drawn_known_ = true;
}

std::optional<Drawn> DecodeStep::drawn(int slot) {
  const int row = row_of_slot_.at(static_cast<size_t>(slot));
  if (row < 0 || row >= last_size_ || device_[static_cast<size_t>(row)].slot != slot) return std::nullopt;
  wait_for_drawn();
  return Drawn{drawn_host_.as<int32_t>()[row], drawn_host_.as<float>()[capacity_ + row], used_[static_cast<size_t>(row)]};
}

}  // namespace dsv4
