// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/mapped_pages.h"

namespace polyad {
namespace {

struct FileDescriptor {
    int value = -1;
    ~FileDescriptor() {
        if (value >= 0) ::close(value);
    }
};

[[noreturn]] void fail_errno(Code code, const char* doing, const std::filesystem::path& path) {
    const int error = errno;
    throw Error(code, text("cannot ", doing, " '", path.string(), "': ", std::strerror(error)),
                path.string());
}

/// What lets go of a mapping; who holds bytes with it holds a mapped file.
struct Unmap {
    size_t size;
    void operator()(const void* address) const { ::munmap(const_cast<void*>(address), size); }
};

}  // namespace

Bytes Bytes::map_file(const std::filesystem::path& path) {
    FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.value < 0) fail_errno(errno == ENOENT ? Code::not_found : Code::io_error, "open", path);
    struct stat info = {};
    if (::fstat(file.value, &info) != 0) fail_errno(Code::io_error, "stat", path);
    if (!S_ISREG(info.st_mode)) fail(Code::io_error, "'", path.string(), "' is not a regular file");
    Bytes out;
    out.name_ = path.string();
    if (info.st_size == 0) return out;
    const auto size = static_cast<size_t>(info.st_size);
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
    if (address == MAP_FAILED) fail_errno(Code::io_error, "map", path);
    out.owner_ = std::shared_ptr<const void>(address, Unmap{size});
    out.data_ = {static_cast<const std::byte*>(address), size};
    return out;
}

void release_pages(const Bytes& file, std::span<const std::byte> part) {
    const auto* mapping = std::get_deleter<Unmap>(file.owner());
    if (!mapping || part.empty()) return;
    const auto* begin = static_cast<const std::byte*>(file.owner().get());
    if (part.data() < begin || part.data() + part.size() > begin + mapping->size) return;
    // Whole pages; those at the ends may hold a neighbour's bytes, which come back when they are read.
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t first = static_cast<size_t>(part.data() - begin) / page * page;
    const auto last = static_cast<size_t>(part.data() + part.size() - begin);
    ::madvise(const_cast<std::byte*>(begin) + first, last - first, MADV_DONTNEED);
}

Bytes Bytes::copy_of(std::span<const std::byte> data, std::string name) {
    auto copy = std::make_shared<std::vector<std::byte>>(data.begin(), data.end());
    Bytes out;
    out.data_ = *copy;
    out.owner_ = std::move(copy);
    out.name_ = std::move(name);
    return out;
}

Bytes Bytes::copy_of(std::string_view data, std::string name) {
    return copy_of(std::as_bytes(std::span(data.data(), data.size())), std::move(name));
}

Bytes Bytes::lent(std::span<const std::byte> data, std::string name) {
    Bytes out;
    out.data_ = data;
    out.name_ = std::move(name);
    return out;
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> data) {
    static std::atomic<unsigned> serial{0};
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
    std::filesystem::path temporary = path;
    temporary += text(".tmp-", ::getpid(), "-", serial++);
    {
        FileDescriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
        if (file.value < 0) fail_errno(Code::io_error, "create", temporary);
        size_t done = 0;
        while (done < data.size()) {
            const ssize_t n = ::write(file.value, data.data() + done, data.size() - done);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) {
                const int error = errno;
                ::unlink(temporary.c_str());
                errno = error;
                fail_errno(Code::io_error, "write", temporary);
            }
            done += static_cast<size_t>(n);
        }
        if (::fsync(file.value) != 0) {
            const int error = errno;
            ::unlink(temporary.c_str());
            errno = error;
            fail_errno(Code::io_error, "flush", temporary);
        }
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary.c_str());
        errno = error;
        fail_errno(Code::io_error, "rename into", path);
    }
    FileDescriptor directory{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (directory.value >= 0) ::fsync(directory.value);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view data) {
    write_file_atomically(path, std::as_bytes(std::span(data.data(), data.size())));
}

size_t find_invalid_utf8(std::string_view s) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
    for (size_t i = 0; i < s.size();) {
        const unsigned char lead = byte(i);
        size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : (lead & 0xF0) == 0xE0 ? 3 : 0;
        if (lead >= 0xF0 && lead < 0xF5) length = 4;
        if (length == 0 || i + length > s.size()) return i;
        for (size_t k = 1; k < length; ++k)
            if ((byte(i + k) & 0xC0) != 0x80) return i;
        if ((lead == 0xE0 && byte(i + 1) < 0xA0) || (lead == 0xED && byte(i + 1) > 0x9F) ||
            (lead == 0xF0 && byte(i + 1) < 0x90) || (lead == 0xF4 && byte(i + 1) > 0x8F))
            return i;  // overlong, surrogate, or beyond U+10FFFF
        i += length;
    }
    return std::string_view::npos;
}

}  // namespace polyad
