// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <algorithm>
#include <cstddef>

extern "C" size_t polyad_text_lowercase(const char* text, size_t length, char* out, size_t capacity);

namespace polyad {

std::string lowercase(std::string_view source) {
    std::string out(source);
    if (std::all_of(source.begin(), source.end(),
                    [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
        for (char& c : out)
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
        return out;
    }
    size_t needed = polyad_text_lowercase(source.data(), source.size(), out.data(), out.size());
    if (needed > out.size()) {
        out.resize(needed);
        needed = polyad_text_lowercase(source.data(), source.size(), out.data(), out.size());
    }
    out.resize(needed);
    return out;
}

}  // namespace polyad
