// SPDX-License-Identifier: Apache-2.0
#include "serving/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <thread>

#include "echo_backbone.h"
#include "serving/score.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

class Serving : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        data_ = tiny::dataset();
        poly_ = tiny::skillset(tiny::method("poly"), *data_);
        cpoly_ = tiny::skillset(tiny::method("cpoly"), *data_);
        tiny::shake(*poly_, 1);
        tiny::shake(*cpoly_, 2);
    }

    GenerationInput input(std::shared_ptr<const Skillset> skillset, int task, std::vector<int32_t> prompt,
                          int max_tokens = 12) const {
        GenerationInput out;
        out.skillset = std::move(skillset);
        out.task = task;
        out.prompt = std::move(prompt);
        out.sampling.max_tokens = max_tokens;
        out.sampling.ignore_eos = true;
        return out;
    }

    RequestOptions request(const std::string& skillset, const std::string& task,
                           const std::string& prompt) const {
        RequestOptions out;
        out.skillset = skillset;
        out.task = task;
        out.prompt = prompt;
        out.sampling.max_tokens = 10;
        out.sampling.ignore_eos = true;
        return out;
    }

    std::shared_ptr<const Dataset> data_;
    std::shared_ptr<Skillset> poly_, cpoly_;
};

void finish(Engine& engine) {
    for (int i = 0; engine.step() > 0; ++i) ASSERT_LT(i, 10000);
}

std::vector<int32_t> answer_of(Engine& engine, const RequestOptions& options) {
    const auto request = engine.submit(options);
    finish(engine);
    return request->result().tokens;
}

TEST_F(Serving, RowsOfAMixedBatchEqualTheSameRowsAlone) {
    std::vector<GenerationInput> rows{input(poly_, 0, {20, 21, 22, 23}),
                                      input(cpoly_, 1, {100, 101}),
                                      input(nullptr, -1, {20, 21, 22, 23}),
                                      input(poly_, 1, {20, 21, 22, 23}),
                                      input(cpoly_, 0, {7}, 3),
                                      input(cpoly_, -1, {50, 51, 52, 53, 54, 55, 56, 57}),
                                      input(nullptr, -1, {88, 3, 4}, 20),
                                      input(poly_, 0, {9, 9, 9})};
    rows[5].weights.assign(static_cast<size_t>(cpoly_->method().skill_count()), 0.3f);
    rows[7].sampling.temperature = 0.9f;
    rows[7].sampling.seed = 4;
    std::vector<Generated> alone;
    for (const GenerationInput& row : rows) alone.push_back(generate(tiny::backbone(), {row}).front());
    for (const int max_batch : {8, 3, 2}) {  // fewer slots: rows come and go while others run
        SCOPED_TRACE(max_batch);
        const std::vector<Generated> together = generate(tiny::backbone(), rows, max_batch);
        for (size_t i = 0; i < rows.size(); ++i) {
            EXPECT_EQ(together[i].tokens, alone[i].tokens) << "row " << i;
            EXPECT_EQ(together[i].text, alone[i].text) << "row " << i;
            EXPECT_EQ(together[i].reason, FinishReason::max_tokens);
            EXPECT_EQ(static_cast<int>(together[i].tokens.size()), rows[i].sampling.max_tokens);
        }
    }
    EXPECT_NE(alone[0].tokens, alone[2].tokens);  // the skills do something
    EXPECT_NE(alone[0].tokens, alone[3].tokens);  // and so does the task
}

TEST_F(Serving, DecodingEqualsTheForwardWithoutACache) {
    const GenerationInput row = input(cpoly_, 1, {30, 31, 32});
    const Generated got = generate(tiny::backbone(), {row, input(poly_, 0, {5, 6})}).front();
    std::vector<int32_t> tokens = row.prompt;
    for (const int32_t id : got.tokens) {
        const std::vector<float> logits = last_logits(*tiny::backbone(), cpoly_.get(), 1, tokens);
        const auto best = std::max_element(logits.begin(), logits.end());
        EXPECT_EQ(id, best - logits.begin());
        tokens.push_back(id);
    }
}

TEST_F(Serving, StreamedPiecesAddUpToTheText) {
    Engine engine(tiny::backbone());
    engine.publish("words", *poly_);
    const auto request = engine.submit(this->request("words", "up", "the dog"));
    EXPECT_EQ(request->state(), RequestState::waiting);
    EXPECT_REFUSED(request->result(), Code::wrong_state, "not finished");
    std::string text;
    Request::Piece piece;
    do {
        engine.step();
        piece = request->poll();
        text += piece.text;
        EXPECT_EQ(find_invalid_utf8(text), std::string::npos);
    } while (piece.state < RequestState::finished);
    const RequestResult result = request->result();
    EXPECT_EQ(text, result.text);
    EXPECT_EQ(text, tiny::backbone()->tokenizer()->decode(result.tokens, true));
    EXPECT_EQ(result.reason, FinishReason::max_tokens);
    EXPECT_EQ(result.tokens.size(), 10u);
    const Json stats = engine.stats();
    EXPECT_EQ(stats["finished"], 1);
    EXPECT_EQ(stats["tokens"], 10);
    EXPECT_EQ(stats["prompt_tokens"], result.prompt_tokens);
    EXPECT_EQ(stats["skillsets"]["words"]["version"], 1);
}

TEST_F(Serving, PromptsAreBuiltAsInTraining) {
    Engine engine(tiny::backbone());
    engine.publish("words", *poly_);
    RequestOptions ids = request("words", "down", "");
    ids.prompt.reset();
    ids.tokens = poly_->prompts().prompt(data_->tasks()[static_cast<size_t>(data_->find("down"))], "a");
    EXPECT_EQ(answer_of(engine, request("words", "down", "a")), answer_of(engine, ids));
}

TEST_F(Serving, PublishingWhileRequestsRun) {
    Engine engine(tiny::backbone(), {.max_batch = 4});
    engine.publish("words", *poly_);
    engine.publish("fixed", *cpoly_);
    const RequestOptions options = request("words", "up", "a");
    const std::vector<int32_t> first_version = answer_of(engine, options);
    const std::vector<int32_t> fixed = answer_of(engine, request("fixed", "up", "a"));

    tiny::shake(*poly_, 9);  // what is published is a snapshot
    EXPECT_EQ(answer_of(engine, options), first_version);

    const auto running = engine.submit(options);
    const auto other = engine.submit(request("fixed", "up", "a"));
    for (int i = 0; i < 4; ++i) engine.step();
    engine.publish("words", *poly_);
    const auto next = engine.submit(options);
    engine.step();
    engine.retire("words");
    EXPECT_REFUSED(engine.submit(options), Code::not_found, "words");
    EXPECT_REFUSED(engine.retire("words"), Code::not_found, "words");
    finish(engine);
    EXPECT_EQ(running->result().tokens, first_version);
    EXPECT_EQ(other->result().tokens, fixed);
    EXPECT_NE(next->result().tokens, first_version);
    engine.publish("words", *poly_);
    EXPECT_EQ(engine.stats()["skillsets"]["words"]["version"], 3);
    EXPECT_EQ(answer_of(engine, options), next->result().tokens);
}

TEST_F(Serving, CancelEndsWaitingAndRunningRequests) {
    Engine engine(tiny::backbone(), {.max_batch = 1, .max_queue = 2});
    engine.publish("words", *poly_);
    const RequestOptions options = request("words", "up", "a");
    const auto running = engine.submit(options);
    engine.step();
    const auto waiting = engine.submit(options), last = engine.submit(options);
    EXPECT_REFUSED(engine.submit(options), Code::queue_full, "2");
    waiting->cancel();
    EXPECT_EQ(waiting->state(), RequestState::cancelled);
    const auto replacement = engine.submit(options);  // its place in the queue is free again
    engine.step();
    running->cancel();
    const size_t had = running->result().tokens.size();
    EXPECT_EQ(had, 2u);
    finish(engine);
    EXPECT_EQ(running->result().tokens.size(), had);
    EXPECT_EQ(running->result().reason, FinishReason::cancelled);
    EXPECT_TRUE(waiting->result().tokens.empty());
    EXPECT_EQ(last->result().tokens, replacement->result().tokens);
    EXPECT_EQ(last->result().tokens.size(), 10u);
    const Json stats = engine.stats();
    EXPECT_EQ(stats["cancelled"], 2);
    EXPECT_EQ(stats["finished"], 2);

    std::shared_ptr<Request> orphan;
    {
        Engine gone(tiny::backbone());
        RequestOptions alone = request("", "", "a");
        orphan = gone.submit(alone);
        gone.step();
    }
    EXPECT_EQ(orphan->state(), RequestState::cancelled);
}

TEST_F(Serving, StopStringsEndTheAnswerBeforeThem) {
    RequestOptions options = request("words", "up", "a");
    options.sampling.max_tokens = 30;
    Engine engine(tiny::backbone());
    engine.publish("words", *poly_);
    const auto free = engine.submit(options);
    finish(engine);
    const std::string text = free->result().text;
    size_t at = text.size() / 2;
    while (at < text.size() && (text[at] & 0xC0) == 0x80) ++at;
    size_t end = std::min(text.size(), at + 3);
    while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
    ASSERT_LT(at, end);
    const std::string stop = text.substr(at, end - at);
    options.sampling.stop = {"never there at all", stop};
    const auto stopped = engine.submit(options);
    std::string streamed;
    while (engine.step() > 0) streamed += stopped->poll().text;
    streamed += stopped->poll().text;
    EXPECT_EQ(stopped->result().reason, FinishReason::stop_string);
    EXPECT_EQ(stopped->result().text, text.substr(0, text.find(stop)));
    EXPECT_EQ(streamed, stopped->result().text);
}

TEST_F(Serving, BadRequestsAreRefusedAtOnce) {
    Engine engine(tiny::backbone(), {.max_context = 40});
    engine.publish("words", *poly_);
    const RequestOptions good = request("words", "up", "a");
    const auto refused = [&](Code code, const char* part,
                             const std::function<void(RequestOptions&)>& change) {
        RequestOptions options = good;
        change(options);
        EXPECT_REFUSED(engine.submit(options), code, part);
    };
    const auto as_tokens = [](RequestOptions& o, std::vector<int32_t> ids) {
        o.prompt.reset();
        o.tokens = std::move(ids);
    };
    refused(Code::not_found, "words", [](auto& o) { o.skillset = "nosuch"; });
    refused(Code::unknown_task, "nosuch", [](auto& o) { o.task = "nosuch"; });
    refused(Code::unknown_task, "routes by task", [](auto& o) { o.task = ""; });
    refused(Code::invalid_argument, "prompt", [](auto& o) { o.prompt.reset(); });
    refused(Code::invalid_argument, "vocabulary", [&](auto& o) { as_tokens(o, {1, 1 << 20}); });
    refused(Code::invalid_argument, "vocabulary", [&](auto& o) { as_tokens(o, {-1}); });
    refused(Code::context_overflow, "40", [&](auto& o) { as_tokens(o, std::vector<int32_t>(39, 5)); });
    refused(Code::context_overflow, "max_tokens", [](auto& o) { o.sampling.max_tokens = 40; });
    refused(Code::invalid_argument, "max_tokens", [](auto& o) { o.sampling.max_tokens = 0; });
    refused(Code::invalid_argument, "top_p", [](auto& o) { o.sampling.top_p = 0.0f; });
    refused(Code::invalid_argument, "temperature", [](auto& o) { o.sampling.temperature = NAN; });
    refused(Code::invalid_argument, "stop", [](auto& o) { o.sampling.stop = {""}; });
    refused(Code::invalid_argument, "weights", [](auto& o) { o.weights = {1.0f}; });
    refused(Code::bad_data, "", [](auto& o) { o.prompt = "\xff"; });
    refused(Code::invalid_argument, "needs a skillset", [](auto& o) { o.skillset = ""; });
    EXPECT_REFUSED(Engine(tiny::backbone(), {.max_batch = 0}), Code::invalid_argument, "max_batch");
    EXPECT_REFUSED(Engine(tiny::backbone(), {.max_context = 1 << 20}), Code::invalid_argument, "max_context");
    EXPECT_EQ(answer_of(engine, good).size(), 10u);
}

TEST_F(Serving, ManyThreadsSubmitPollAndCancel) {
    Engine engine(tiny::backbone(), {.max_batch = 4});
    engine.publish("words", *poly_);
    RequestOptions options = request("words", "up", "a");
    options.sampling.max_tokens = 4;
    const std::vector<int32_t> expected = answer_of(engine, options);
    std::atomic<int> left{3};
    std::vector<std::thread> hosts;
    std::atomic<int> right{0}, cancelled{0};
    for (int t = 0; t < 3; ++t)
        hosts.emplace_back([&, t] {
            for (int i = 0; i < 8; ++i) {
                const auto one = engine.submit(options);
                if (i % 4 == t) one->cancel();
                while (one->poll().state < RequestState::finished) std::this_thread::yield();
                if (one->state() == RequestState::cancelled) ++cancelled;
                if (one->state() == RequestState::finished && one->result().tokens == expected) ++right;
                if (t == 0) engine.publish("other", *cpoly_);
            }
            --left;
        });
    while (left > 0) engine.step();
    finish(engine);
    for (std::thread& host : hosts) host.join();
    EXPECT_EQ(right + cancelled, 24);
    EXPECT_EQ(cancelled, 6);
}

TEST(ServingFailures, OneRequestFailsAlone) {
    const auto backbone = std::make_shared<EchoBackbone>("poison");
    Engine engine(backbone);
    RequestOptions options;
    options.prompt = "hello";
    options.sampling.max_tokens = 32;
    const auto good = engine.submit(options);
    options.prompt = "poison";
    const auto bad = engine.submit(options);
    finish(engine);
    EXPECT_EQ(good->state(), RequestState::finished);
    EXPECT_EQ(good->result().text, "hello");
    EXPECT_EQ(good->result().reason, FinishReason::end_token);
    EXPECT_EQ(bad->state(), RequestState::failed);
    EXPECT_REFUSED(bad->result(), Code::numeric_error, "logits");
    EXPECT_EQ(engine.stats()["failed"], 1);
}

TEST(AnswerTextTest, HoldsBackWhatCouldBecomeAStopString) {
    const auto tokenizer = EchoBackbone().tokenizer();
    const auto push = [&](AnswerText& answer, const std::string& text) {
        std::string out;
        for (const int32_t id : tokenizer->encode(text, false)) out += answer.push(id);
        return out;
    };
    AnswerText answer(tokenizer, {"\n\nQ:", "END"});
    EXPECT_EQ(push(answer, "one\n"), "one");
    EXPECT_EQ(push(answer, "\nE"), "\n\n");
    EXPECT_EQ(push(answer, "N"), "");
    EXPECT_EQ(push(answer, "d E"), "ENd ");
    EXPECT_FALSE(answer.stopped());
    EXPECT_EQ(push(answer, "ND more"), "");
    EXPECT_TRUE(answer.stopped());
    EXPECT_EQ(answer.finish(), "");

    AnswerText held(tokenizer, {"END"});
    EXPECT_EQ(push(held, "the EN"), "the ");
    EXPECT_EQ(held.finish(), "EN");
    EXPECT_FALSE(held.stopped());
}

TEST(Sampling, GreedyTakesTheLowestIdOfATie) {
    Generator random(1);
    const std::vector<float> logits{0, 3, 1, 3};
    EXPECT_EQ(pick_token(logits, {}, {}, {}, random), 1);
    SamplingOptions options;
    options.repetition_penalty = 2.0f;
    const std::vector<int32_t> seen{1};
    EXPECT_EQ(pick_token(logits, options, seen, {}, random), 3);
    EXPECT_EQ(pick_token(logits, options, {}, seen, random), 3);
    const std::vector<float> none(4, -std::numeric_limits<float>::infinity());
    EXPECT_REFUSED(pick_token(none, {}, {}, {}, random), Code::numeric_error, "no token");
    const std::vector<float> nan{0, std::numeric_limits<float>::quiet_NaN()};
    EXPECT_REFUSED(pick_token(nan, {}, {}, {}, random), Code::numeric_error, "finite");
}

TEST(Sampling, DrawsAsOftenAsTheProbabilitiesSay) {
    // p = .5 .25 .15 .1
    const std::vector<float> logits{std::log(0.25f), std::log(0.5f), std::log(0.1f), std::log(0.15f)};
    const auto frequencies = [&](const SamplingOptions& options) {
        Generator random(11);
        std::vector<double> out(4);
        for (int i = 0; i < 20000; ++i)
            out[static_cast<size_t>(pick_token(logits, options, {}, {}, random))] += 1 / 20000.0;
        return out;
    };
    SamplingOptions options;
    options.temperature = 1.0f;
    std::vector<double> got = frequencies(options);
    EXPECT_NEAR(got[1], 0.5, 0.02);
    EXPECT_NEAR(got[0], 0.25, 0.02);
    EXPECT_NEAR(got[2], 0.1, 0.02);
    options.top_k = 2;
    got = frequencies(options);
    EXPECT_NEAR(got[1], 2 / 3.0, 0.02);
    EXPECT_EQ(got[2] + got[3], 0.0);
    options.top_k = 0;
    options.top_p = 0.8f;  // .5 + .25 is not enough, .15 comes with them
    got = frequencies(options);
    EXPECT_NEAR(got[3], 0.15 / 0.9, 0.02);
    EXPECT_EQ(got[2], 0.0);
    options.top_p = 0.4f;
    EXPECT_NEAR(frequencies(options)[1], 1.0, 1e-9);
    options.top_p = 1.0f;
    options.temperature = 0.5f;  // squares the odds
    got = frequencies(options);
    EXPECT_NEAR(got[1], 0.25 / 0.345, 0.02);
}

}  // namespace
}  // namespace polyad
