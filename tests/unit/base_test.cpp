// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/bytes.h"
#include "base/config.h"
#include "base/error.h"
#include "base/mapped_pages.h"
#include "base/random.h"

namespace polyad {
namespace {

template <class Body>
std::string refusal(Code code, Body body) {
    try {
        body();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), code) << e.what();
        return e.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return {};
}

TEST(Config, NamesTheKeyAndWhatIsAllowed) {
    const Json json = {{"rank", 0}, {"combine", "sum"}, {"epochs", 1.5}, {"nosuch", 1}};
    ConfigReader reader(json, "method");
    EXPECT_EQ(refusal(Code::invalid_config, [&] { reader.integer("rank", 8, 1, 128); }),
              "method.rank: 0 is out of range, allowed: 1 to 128");
    EXPECT_EQ(refusal(Code::invalid_config,
                      [&] {
                          reader.choice("combine", "factors", {"factors", "products"});
                      }),
              "method.combine: 'sum' is not known, allowed: factors, products");
    EXPECT_EQ(refusal(Code::invalid_config, [&] { reader.integer("epochs", 1, 1, 9); }),
              "method.epochs: needs an integer, got 1.5");
    EXPECT_EQ(refusal(Code::invalid_config, [&] { reader.finish(); }),
              "method.nosuch: unknown key, allowed: combine, epochs, rank");
}

TEST(Config, RefusesHostileJson) {
    refusal(Code::invalid_config, [] { parse_json(std::string(100000, '['), "x"); });
    refusal(Code::invalid_config, [] { parse_json("{\"a\": ", "x"); });
    refusal(Code::invalid_config, [] { ConfigReader(Json::array(), "x"); });
    const Json big = {{"n", 18446744073709551615ull}};
    ConfigReader reader(big, "x");
    refusal(Code::invalid_config, [&] { reader.integer("n", 0, INT64_MIN, INT64_MAX); });
}

TEST(Random, MatchesThePublishedPhiloxVector) {
    // Random123 known-answer test: counter 0, key 0.
    Generator g(0, 0);
    EXPECT_EQ(g.next_u32(), 0x6627e8d5u);
    EXPECT_EQ(g.next_u32(), 0xe169c58du);
    EXPECT_EQ(g.next_u32(), 0xbc57ac4cu);
    EXPECT_EQ(g.next_u32(), 0x9b00dbd8u);
}

TEST(Random, ContinuesFromAState) {
    Generator a(7, 3);
    for (int i = 0; i < 13; ++i) a.next_u32();
    Generator b(a.state());
    for (int i = 0; i < 100; ++i) ASSERT_EQ(a.next_u32(), b.next_u32());
    EXPECT_NE(Generator(7, 4).next_u32(), Generator(7, 3).next_u32());
}

TEST(Random, HasTheRightMoments) {
    Generator g(1);
    double sum = 0, squares = 0, normal = 0, normal_squares = 0;
    constexpr int n = 100000;
    for (int i = 0; i < n; ++i) {
        const double u = g.uniform(), z = g.normal();
        ASSERT_GT(u, 0);
        ASSERT_LT(u, 1);
        sum += u, squares += u * u, normal += z, normal_squares += z * z;
    }
    EXPECT_NEAR(sum / n, 0.5, 0.005);
    EXPECT_NEAR(squares / n, 1.0 / 3, 0.005);
    EXPECT_NEAR(normal / n, 0, 0.02);
    EXPECT_NEAR(normal_squares / n, 1, 0.02);
    const auto order = g.permutation(1000);
    EXPECT_EQ(std::set<uint32_t>(order.begin(), order.end()).size(), 1000u);
}

TEST(Bytes, SaysWhatIsWrongWithAFile) {
    refusal(Code::not_found, [] { Bytes::map_file("/nosuch/file"); });
    refusal(Code::io_error, [] { Bytes::map_file("/"); });
    const auto path = std::filesystem::temp_directory_path() / "polyad_base_test";
    write_file_atomically(path, std::string_view("one"));
    const Bytes old = Bytes::map_file(path);
    write_file_atomically(path, std::string_view("two!"));
    EXPECT_EQ(old.text(), "one");
    EXPECT_EQ(Bytes::map_file(path).text(), "two!");
    write_file_atomically(path, std::string_view(""));
    EXPECT_EQ(Bytes::map_file(path).size(), 0u);
    std::filesystem::remove(path);
    refusal(Code::io_error, [] { write_file_atomically("/nosuch/folder/x", std::string_view("x")); });
}

TEST(Bytes, ReleasedPagesComeBackWhenRead) {
    const auto path = std::filesystem::temp_directory_path() / ("polyad_pages_" + std::to_string(getpid()));
    std::string content(1 << 20, ' ');
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 23);
    write_file_atomically(path, std::string_view(content));
    const Bytes file = Bytes::map_file(path);
    const auto faults_of_reading = [&] {
        rusage before{}, after{};
        getrusage(RUSAGE_SELF, &before);
        EXPECT_TRUE(file.text() == content);
        getrusage(RUSAGE_SELF, &after);
        return after.ru_minflt - before.ru_minflt;
    };
    EXPECT_TRUE(file.text() == content);
    release_pages(file, file.span().subspan(5, content.size() - 9));
    EXPECT_GT(faults_of_reading(), 0);
    // Nothing of this is a part of a mapped file: it stays as it is.
    const Bytes copy = Bytes::copy_of(std::string_view(content), "copy");
    release_pages(copy, copy.span());
    release_pages(Bytes::lent(copy.span(), "lent"), copy.span());
    release_pages(file, copy.span());
    EXPECT_TRUE(copy.text() == content);
    std::filesystem::remove(path);
}

TEST(Utf8, FindsTheFirstBadByte) {
    EXPECT_EQ(find_invalid_utf8("plain, h\xc3\xa9, \xe2\x82\xac, \xf0\x9f\x98\x80"), std::string::npos);
    for (const char* bad :
         {"ab\xff", "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80", "ab\xe2\x82", "ab\xf0\x80\x80\x80"})
        EXPECT_EQ(find_invalid_utf8(bad), 2u) << bad;
}

}  // namespace
}  // namespace polyad
