// SPDX-License-Identifier: Apache-2.0
// The engine under load, through the public header alone: clients with cancellations, deadlines and
// priorities over many tasks, skillsets published and retired all the while, a trainer beside them, a memory
// budget that is too small. Every answer is compared with the same request run alone; nothing may be lost,
// wrong or left in memory. POLYAD_SOAK_SECONDS sets how long (30).
#include <gtest/gtest.h>
#include <malloc.h>
#include <polyad/polyad.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int variants = 3;  // of each skillset: what its versions take turns with
const char* const methods[] = {"lora", "poly", "cpoly", "mhr", "molora", "orchmoe"};
constexpr int sets = 6, tasks = 4, prompts = 48;
constexpr size_t vocab = 304;  // of the tiny model

void check(polyad_status* status) {
    if (!status) return;
    const std::string what = polyad_status_message(status);
    polyad_status_release(status);
    throw std::runtime_error(what);
}

int32_t code_of(polyad_status* status) {
    const int32_t code = polyad_status_code(status);
    polyad_status_release(status);
    return code;
}

std::string take(polyad_text* text) {
    std::string out(polyad_text_data(text), polyad_text_size(text));
    polyad_text_release(text);
    return out;
}

json stats_of(const polyad_engine* engine) {
    polyad_text* text = nullptr;
    check(polyad_engine_stats(engine, &text));
    return json::parse(take(text));
}

std::string rows() {
    std::string out;
    for (int t = 0; t < tasks; ++t)
        for (int i = 0; i < 8; ++i)
            out += json{{"task", "task" + std::to_string(t)},
                        {"instruction", "Say " + std::to_string(t)},
                        {"input", std::string(1, static_cast<char>('a' + i))},
                        {"output", "yes " + std::to_string(t)},
                        {"split", "train"}}
                       .dump() +
                   "\n";
    return out;
}

/// What a client asks for, short of the version that answers.
struct Question {
    int set, task, prompt;  ///< set -1: the backbone alone; task -1: explicit weights
    int max_tokens;
    auto operator<=>(const Question&) const = default;
};

class Soak : public testing::Test {
  protected:
    void SetUp() override {
        const auto model = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures/gguf/tiny_llama.gguf";
        if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is not here";
        polyad_context_options options;
        polyad_context_options_init(&options);
        options.threads = 1;
        check(polyad_context_create(&options, &context_));
        check(polyad_backbone_open(context_, model.c_str(), R"({"precision": "fp32"})", &backbone_));
        const std::string lines = rows();
        check(polyad_dataset_open_memory(context_, lines.data(), lines.size(), nullptr, &data_));
        std::mt19937 random(5);
        for (int s = 0; s < sets; ++s)
            for (int v = 0; v < variants; ++v) skills_[s][v] = shaken(methods[s], random);
        for (int p = 0; p < prompts; ++p) {
            std::vector<int32_t> tokens;  // every third prompt begins like those before it
            const int length = 3 + static_cast<int>(random() % 80);
            for (int i = 0; i < length; ++i)
                tokens.push_back(p % 3 && i < 50 ? 3 + i % 200 : 3 + static_cast<int>(random() % 240));
            prompts_.push_back(tokens);
        }
        polyad_engine_options alone;
        polyad_engine_options_init(&alone);
        alone.max_batch = 1;
        alone.prefix_cache = 0;
        check(polyad_engine_create(backbone_, &alone, &reference_));
        for (int s = 0; s < sets; ++s)
            for (int v = 0; v < variants; ++v)
                check(polyad_engine_publish(reference_, name(s, v).c_str(), skills_[s][v]));
    }
    void TearDown() override {
        polyad_engine_release(reference_);
        for (auto& set : skills_)
            for (polyad_skillset* skills : set) polyad_skillset_release(skills);
        polyad_dataset_release(data_);
        polyad_backbone_release(backbone_);
        polyad_context_release(context_);
    }

    static std::string name(int set, int variant = -1) {
        std::string out = methods[set];
        return variant < 0 ? out : out + "-" + std::to_string(variant);
    }

    polyad_skillset* shaken(const char* method, std::mt19937& random) {
        json config = {{"method", method}, {"rank", 4}};
        if (std::string(method) == "cpoly") config["common_skills"] = 2;
        polyad_skillset* skills = nullptr;
        check(polyad_skillset_create(backbone_, data_, config.dump().c_str(), &skills));
        size_t count = 0;
        check(polyad_skillset_parameter_count(skills, &count));
        std::vector<float> values(count);
        check(polyad_skillset_get_parameters(skills, values.data(), count));
        std::normal_distribution<float> normal(0, 0.4f);
        for (float& value : values) value += normal(random);
        check(polyad_skillset_set_parameters(skills, values.data(), count));
        return skills;
    }

    polyad_request_options options_of(const Question& q, const std::string& skillset, const std::string& task,
                                      std::vector<float>& weights) const {
        polyad_request_options o;
        polyad_request_options_init(&o);
        const auto& tokens = prompts_[static_cast<size_t>(q.prompt)];
        o.tokens = tokens.data();
        o.token_count = tokens.size();
        o.max_tokens = q.max_tokens;
        o.ignore_eos = 1;
        if (q.set >= 0) {
            o.skillset = skillset.c_str();
            if (q.task >= 0) {
                o.task = task.c_str();
            } else {
                weights.assign(skill_count(q.set), 0.2f + 0.1f * static_cast<float>(q.prompt % 3));
                o.weights = weights.data();
                o.weight_count = weights.size();
            }
        }
        return o;
    }

    size_t skill_count(int set) const {
        static std::mutex mutex;
        static std::map<int, size_t> known;
        const std::lock_guard lock(mutex);
        if (const auto at = known.find(set); at != known.end()) return at->second;
        size_t count = 0;
        check(polyad_skillset_task_weights(skills_[set][0], "task0", nullptr, 0, &count));
        return known[set] = count;
    }

    /// The answer of one variant, run alone.
    std::vector<int32_t> expected(const Question& q, int variant) {
        const std::lock_guard lock(reference_mutex_);
        const auto key = std::make_pair(q, q.set < 0 ? 0 : variant);
        if (const auto at = answers_.find(key); at != answers_.end()) return at->second;
        std::vector<float> weights;
        const std::string skillset = q.set < 0 ? "" : name(q.set, variant),
                          task = "task" + std::to_string(q.task);
        const auto o = options_of(q, skillset, task, weights);
        polyad_request* request = nullptr;
        check(polyad_engine_submit(reference_, &o, &request));
        int32_t busy = 1;
        while (busy) check(polyad_engine_step(reference_, &busy));
        polyad_text* text = nullptr;
        check(polyad_request_result(request, &text));
        polyad_request_release(request);
        return answers_[key] = json::parse(take(text)).at("tokens").get<std::vector<int32_t>>();
    }

    /// True when the answers part where the variant's two best logits are equal within rounding: which one
    /// wins then depends on the order of sums, and so on the rows beside it.
    bool tie(const Question& q, int variant, const std::vector<int32_t>& got,
             const std::vector<int32_t>& alone) {
        if (q.set >= 0 && q.task < 0) return false;
        const size_t same = static_cast<size_t>(
            std::mismatch(got.begin(), got.end(), alone.begin(), alone.end()).first - got.begin());
        if (same >= got.size() || same >= alone.size()) return false;
        std::vector<int32_t> ids = prompts_[static_cast<size_t>(q.prompt)];
        ids.insert(ids.end(), got.begin(), got.begin() + static_cast<std::ptrdiff_t>(same));
        std::vector<float> logits(vocab);
        const std::string task = "task" + std::to_string(q.task);
        check(polyad_backbone_logits(backbone_, q.set < 0 ? nullptr : skills_[q.set][variant],
                                     q.set < 0 ? nullptr : task.c_str(), ids.data(), ids.size(),
                                     logits.data(), vocab));
        const auto of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
        return std::abs(of(got[same]) - of(alone[same])) < 1e-3f;
    }

    void run(double seconds, unsigned seed);
    void client(Clock::time_point until, unsigned seed);
    void publish(Clock::time_point until, unsigned seed);
    void train(Clock::time_point until);

    polyad_context* context_ = nullptr;
    polyad_backbone* backbone_ = nullptr;
    polyad_dataset* data_ = nullptr;
    polyad_skillset* skills_[sets][variants] = {};
    polyad_engine *reference_ = nullptr, *engine_ = nullptr;
    std::vector<std::vector<int32_t>> prompts_;
    std::mutex reference_mutex_;
    std::map<std::pair<Question, int>, std::vector<int32_t>> answers_;

    /// Publishes of each name: begun and done; the n-th one has variant n % variants.
    std::atomic<int> begun_[sets] = {}, done_[sets] = {};
    std::atomic<int> working_{0};
    std::atomic<int64_t> submitted_{0}, finished_{0}, cancelled_{0}, expired_{0}, wrong_{0}, failed_{0},
        ties_{0};
    std::atomic<int64_t> queue_full_{0}, retired_{0}, no_memory_{0}, published_{0}, trained_{0};
};

void Soak::client(Clock::time_point until, unsigned seed) {
    struct Open {
        Question question;
        polyad_request* request;
        int first, last;  ///< publishes that may answer
        int polls;        ///< until it is cancelled
    };
    std::mt19937 random(seed);
    std::vector<Open> open;
    while (Clock::now() < until || !open.empty()) {
        if (Clock::now() < until && open.size() < 16) {
            Open one{};
            one.question.set = static_cast<int>(random() % (sets + 1)) - 1;
            one.question.task = static_cast<int>(random() % (tasks + 1)) - 1;
            // Explicit weights where the method takes some, tasks else.
            if (one.question.task < 0 && (one.question.set < 0 || random() % 2)) one.question.task = 0;
            one.question.prompt = static_cast<int>(random() % prompts);
            one.question.max_tokens = 1 << (random() % 5);
            const int set = one.question.set;
            std::vector<float> weights;
            const std::string skillset = set < 0 ? "" : name(set),
                              task = "task" + std::to_string(one.question.task);
            auto o = options_of(one.question, skillset, task, weights);
            o.priority = static_cast<int>(random() % 3);
            if (random() % 10 == 0) o.timeout = random() % 2 ? 1e-6 : 0.01;
            one.polls = random() % 8 == 0 ? static_cast<int>(random() % 20) : -1;
            one.first = set < 0 ? 0 : done_[set].load();
            const int32_t code = code_of(polyad_engine_submit(engine_, &o, &one.request));
            one.last = set < 0 ? 0 : begun_[set].load();
            if (code == POLYAD_OK) {
                ++submitted_;
                open.push_back(one);
            } else {
                queue_full_ += code == POLYAD_QUEUE_FULL;
                retired_ += code == POLYAD_NOT_FOUND;
                no_memory_ += code == POLYAD_OUT_OF_MEMORY;
                if (code != POLYAD_QUEUE_FULL && code != POLYAD_NOT_FOUND && code != POLYAD_OUT_OF_MEMORY)
                    ++failed_;
            }
        }
        std::erase_if(open, [&](Open& one) {
            if (one.polls == 0) polyad_request_cancel(one.request);
            --one.polls;
            int32_t state = 0;
            check(polyad_request_poll(one.request, nullptr, &state));
            if (state < POLYAD_REQUEST_FINISHED) return false;
            polyad_text* text = nullptr;
            if (state == POLYAD_REQUEST_FAILED) {
                ++failed_;
                ADD_FAILURE() << [&] {
                    polyad_status* why = polyad_request_result(one.request, &text);
                    const std::string message = polyad_status_message(why);
                    polyad_status_release(why);
                    return message;
                }();
            } else {
                check(polyad_request_result(one.request, &text));
                const json answer = json::parse(take(text));
                const auto tokens = answer.at("tokens").get<std::vector<int32_t>>();
                bool right = false, tied = false;
                for (int n = one.first; n <= one.last && n < one.first + variants && !right; ++n) {
                    auto whole = expected(one.question, n % variants);
                    if (state != POLYAD_REQUEST_FINISHED) whole.resize(std::min(whole.size(), tokens.size()));
                    right = whole == tokens;
                    tied = tied || (!right && tie(one.question, n % variants, tokens, whole));
                }
                if (!right && tied) {
                    ++ties_;
                } else if (!right) {
                    ++wrong_;
                    ADD_FAILURE() << "wrong answer: set " << one.question.set << " task " << one.question.task
                                  << " prompt " << one.question.prompt << " publishes " << one.first << ".."
                                  << one.last << " state " << state << " got " << answer.dump() << " alone "
                                  << json(expected(one.question, one.first % variants)).dump();
                }
                finished_ += state == POLYAD_REQUEST_FINISHED;
                cancelled_ += state == POLYAD_REQUEST_CANCELLED;
                expired_ += state == POLYAD_REQUEST_EXPIRED;
            }
            polyad_request_release(one.request);
            return true;
        });
        if (open.size() >= 16) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    --working_;
}

void Soak::publish(Clock::time_point until, unsigned seed) {
    std::mt19937 random(seed);
    while (Clock::now() < until) {
        const int set = static_cast<int>(random() % sets);
        if (random() % 6 == 0) {
            const int32_t code = code_of(polyad_engine_retire(engine_, name(set).c_str()));
            if (code != POLYAD_OK && code != POLYAD_NOT_FOUND) ++failed_;
            std::this_thread::sleep_for(std::chrono::milliseconds(random() % 10));
        }
        const int next = done_[set] + 1;
        begun_[set] = next;
        const int32_t code =
            code_of(polyad_engine_publish(engine_, name(set).c_str(), skills_[set][next % variants]));
        if (code == POLYAD_OK) {
            done_[set] = next;
            ++published_;
        } else {
            // The old version stays; the next try is the same publish.
            begun_[set] = next - 1;
            no_memory_ += code == POLYAD_OUT_OF_MEMORY;
            if (code != POLYAD_OUT_OF_MEMORY) ++failed_;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 20));
    }
    --working_;
}

void Soak::train(Clock::time_point until) {
    std::mt19937 random(1);
    polyad_skillset* skills = shaken("poly", random);
    while (Clock::now() < until) {
        polyad_trainer* trainer = nullptr;
        check(polyad_trainer_create(
            skills, data_, R"({"max_steps": 20, "threads": 1, "validation_examples": 0})", &trainer));
        polyad_progress progress;
        polyad_progress_init(&progress);
        while (!progress.done && Clock::now() < until) {
            check(polyad_trainer_step(trainer, &progress));
            ++trained_;
        }
        polyad_trainer_release(trainer);
    }
    polyad_skillset_release(skills);
    --working_;
}

void Soak::run(double seconds, unsigned seed) {
    const auto until =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    for (int s = 0; s < sets; ++s) {
        const int next = done_[s] + 1;
        begun_[s] = next;
        check(polyad_engine_publish(engine_, name(s).c_str(), skills_[s][next % variants]));
        done_[s] = next;
    }
    working_ = 5;
    std::vector<std::thread> threads;
    for (unsigned c = 0; c < 3; ++c) threads.emplace_back([=, this] { client(until, seed + c); });
    threads.emplace_back([=, this] { publish(until, seed + 10); });
    threads.emplace_back([=, this] { train(until); });
    int32_t busy = 0;
    while (working_ > 0 || busy) {
        check(polyad_engine_step(engine_, &busy));
        if (!busy) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    for (std::thread& thread : threads) thread.join();
    check(polyad_engine_step(engine_, &busy));  // lets go of what ended since
    for (int s = 0; s < sets; ++s) {
        const int32_t code = code_of(polyad_engine_retire(engine_, name(s).c_str()));
        EXPECT_TRUE(code == POLYAD_OK || code == POLYAD_NOT_FOUND);
    }
    check(polyad_engine_step(engine_, &busy));
    EXPECT_EQ(busy, 0);
}

int64_t allocated() {
    const auto info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

TEST_F(Soak, NothingIsLostWrongOrLeft) {
    const char* wanted = std::getenv("POLYAD_SOAK_SECONDS");
    const double seconds = wanted ? std::atof(wanted) : 30.0;
    // Room for all skillsets and a little more: what is published or runs now and then finds none.
    polyad_engine_options options;
    polyad_engine_options_init(&options);
    options.max_batch = 8;
    options.max_queue = 24;
    options.threads = 1;
    {
        polyad_engine* probe = nullptr;
        check(polyad_engine_create(backbone_, nullptr, &probe));
        for (int s = 0; s < sets; ++s) check(polyad_engine_publish(probe, name(s).c_str(), skills_[s][0]));
        const json memory = stats_of(probe).at("memory");
        options.memory_budget = memory.at("skills").get<int64_t>() * 3 / 2;
        polyad_engine_release(probe);
    }
    check(polyad_engine_create(backbone_, &options, &engine_));
    // Caches, arenas and memos reach their size in three quarters; then nothing may grow any more.
    run(seconds / 2, 100);
    run(seconds / 4, 200);
    const int64_t before = allocated();
    run(seconds / 4, 300);
    const int64_t after = allocated();

    const json stats = stats_of(engine_);
    EXPECT_EQ(wrong_, 0);
    EXPECT_EQ(failed_, 0);
    EXPECT_LE(ties_, 1 + finished_ / 500);
    EXPECT_EQ(submitted_, finished_ + cancelled_ + expired_);
    EXPECT_EQ(stats.at("finished").get<int64_t>() + stats.at("cancelled").get<int64_t>() +
                  stats.at("expired").get<int64_t>(),
              submitted_);
    EXPECT_EQ(stats.at("failed"), 0);
    EXPECT_EQ(stats.at("memory").at("skills"), 0);
    EXPECT_EQ(stats.at("memory").at("cache"), stats.at("memory").at("cache_shared"));
    EXPECT_GT(finished_, 0);
    EXPECT_GT(published_, 0);
    EXPECT_GT(trained_, 0);
    // The memo of expected answers still learns a little.
    EXPECT_LT(after, before + before / 20 + (int64_t{2} << 20));
    std::printf(
        "soak: %lld submitted, %lld finished (%lld at ties), %lld cancelled, %lld expired; refused: %lld "
        "queue full, %lld "
        "retired, "
        "%lld no memory; %lld published, %lld training steps; %s preempted, %s prefix hits; allocated %.1f "
        "-> %.1f MiB\n",
        static_cast<long long>(submitted_), static_cast<long long>(finished_), static_cast<long long>(ties_),
        static_cast<long long>(cancelled_), static_cast<long long>(expired_),
        static_cast<long long>(queue_full_), static_cast<long long>(retired_),
        static_cast<long long>(no_memory_), static_cast<long long>(published_),
        static_cast<long long>(trained_), stats.at("preempted").dump().c_str(),
        stats.at("prefix_cache").at("hits").dump().c_str(), static_cast<double>(before) / 1048576.0,
        static_cast<double>(after) / 1048576.0);
    polyad_engine_release(engine_);
}

/// Each limit has a status of its own.
TEST_F(Soak, LimitsHaveStatuses) {
    polyad_engine_options options;
    polyad_engine_options_init(&options);
    EXPECT_EQ(options.memory_budget, 0);
    EXPECT_EQ(options.prefix_cache, 1);
    EXPECT_EQ(options.threads, 0);
    options.threads = -1;
    polyad_engine* engine = nullptr;
    EXPECT_EQ(code_of(polyad_engine_create(backbone_, &options, &engine)), POLYAD_INVALID_ARGUMENT);
    options.threads = 1;
    options.max_queue = 2;
    options.max_batch = 1;
    {
        check(polyad_engine_create(backbone_, &options, &engine));
        check(polyad_engine_publish(engine, "lora", skills_[0][0]));
        options.memory_budget = stats_of(engine).at("memory").at("skills").get<int64_t>() * 7 / 4;
        polyad_engine_release(engine);
    }
    check(polyad_engine_create(backbone_, &options, &engine));
    check(polyad_engine_publish(engine, "lora", skills_[0][0]));
    polyad_request *request = nullptr, *other = nullptr;
    std::vector<float> weights;
    const std::string skillset = "lora", task = "task0";
    const auto ask = [&](int max_tokens, double timeout, int prompt = 0) {
        auto o = options_of({0, 0, prompt, max_tokens}, skillset, task, weights);
        o.timeout = timeout;
        return polyad_engine_submit(engine, &o, &request);
    };
    const auto message = [](polyad_status* status, int32_t code) {
        EXPECT_EQ(polyad_status_code(status), code) << polyad_status_message(status);
        std::string out = polyad_status_message(status);
        polyad_status_release(status);
        return out;
    };
    EXPECT_NE(message(ask(1000, 0), POLYAD_CONTEXT_OVERFLOW).find("1000"), std::string::npos);
    EXPECT_EQ(request, nullptr);
    EXPECT_NE(message(ask(4, -1), POLYAD_INVALID_ARGUMENT).find("timeout"), std::string::npos);
    const std::string why =
        message(polyad_engine_publish(engine, "again", skills_[0][1]), POLYAD_OUT_OF_MEMORY);
    EXPECT_NE(why.find(std::to_string(options.memory_budget)), std::string::npos) << why;

    check(ask(4, 0));
    other = request;
    check(ask(4, 1e-9));
    int32_t state = 0, busy = 1;
    check(polyad_request_poll(request, nullptr, &state));
    EXPECT_EQ(state, POLYAD_REQUEST_EXPIRED);
    polyad_text* text = nullptr;
    check(polyad_request_result(request, &text));
    EXPECT_EQ(json::parse(take(text)).at("finish_reason"), "expired");
    polyad_request_release(request);
    check(ask(4, 0));
    polyad_request_cancel(request);
    polyad_request_release(request);
    check(ask(4, 0));  // expired and cancelled requests have given their places back
    polyad_request_release(std::exchange(request, nullptr));  // as this one does: nobody is left to read it
    check(ask(4, 0));
    polyad_request* last = request;
    EXPECT_NE(message(ask(4, 0), POLYAD_QUEUE_FULL).find("2"), std::string::npos);
    check(polyad_engine_retire(engine, "lora"));
    EXPECT_NE(message(ask(4, 0), POLYAD_NOT_FOUND).find("retired"), std::string::npos);
    EXPECT_EQ(code_of(polyad_engine_retire(engine, "lora")), POLYAD_NOT_FOUND);
    while (busy) check(polyad_engine_step(engine, &busy));
    for (polyad_request* one : {other, last}) {
        check(polyad_request_poll(one, nullptr, &state));
        EXPECT_EQ(state, POLYAD_REQUEST_FINISHED);  // they keep the version they were submitted to
        polyad_request_release(one);
    }
    EXPECT_EQ(stats_of(engine).at("memory").at("skills"), 0);
    polyad_engine_release(engine);

    // A budget too small for one request.
    polyad_engine_options_init(&options);
    options.memory_budget = 1000;
    check(polyad_engine_create(backbone_, &options, &engine));
    auto o = options_of({-1, 0, 1, 4}, "", "", weights);
    EXPECT_NE(message(polyad_engine_submit(engine, &o, &request), POLYAD_OUT_OF_MEMORY).find("1000"),
              std::string::npos);
    polyad_engine_release(engine);
}

}  // namespace
