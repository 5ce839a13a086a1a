// SPDX-License-Identifier: Apache-2.0
// Read-only bytes with an owner: a memory-mapped file, a copy, or memory lent by the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace polyad {

class Bytes {
  public:
    Bytes() = default;
    /// Maps a regular file; Code::not_found / io_error with the path otherwise. An empty file gives empty
    /// bytes.
    static Bytes map_file(const std::filesystem::path& path);
    static Bytes copy_of(std::span<const std::byte> data, std::string name);
    static Bytes copy_of(std::string_view data, std::string name);
    /// The caller keeps `data` alive for as long as any copy of the result.
    static Bytes lent(std::span<const std::byte> data, std::string name);

    std::span<const std::byte> span() const { return data_; }
    const std::byte* data() const { return data_.data(); }
    size_t size() const { return data_.size(); }
    std::string_view text() const { return {reinterpret_cast<const char*>(data_.data()), data_.size()}; }
    /// File path or the name given, for error messages.
    const std::string& name() const { return name_; }
    /// Whatever keeps the bytes alive (null for lent memory).
    const std::shared_ptr<const void>& owner() const { return owner_; }

  private:
    std::span<const std::byte> data_;
    std::shared_ptr<const void> owner_;
    std::string name_;
};

/// Writes temporary file, fsync, rename: readers see the old file or the new one, never half of it.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> data);
void write_file_atomically(const std::filesystem::path& path, std::string_view data);

/// Offset of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace polyad
