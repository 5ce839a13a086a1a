// SPDX-License-Identifier: Apache-2.0
// T5 and BART below and above the seam: what an Adaptation sees of them, and training, evaluation, generation
// and mixed batches over them. Their numbers are checked against the published code by parity_runner.
#include "backbone/encoder_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <set>

#include "evaluation/answer_likelihood.h"
#include "evaluation/evaluator.h"
#include "serving/engine.h"
#include "serving/score.h"
#include "tiny_encoder_decoder.h"
#include "training/trainer.h"

namespace polyad {
namespace {

class EncoderDecoders : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        if (!std::filesystem::exists(tiny::encoder_decoder_fixture(GetParam())))
            GTEST_SKIP() << "no fixture at " << tiny::encoder_decoder_fixture(GetParam());
        backbone_ = tiny::encoder_decoder(GetParam());
        data_ = tiny::dataset();
    }

    std::shared_ptr<Skillset> skillset(const char* method) const {
        return Skillset::create(backbone_, data_->tasks(), tiny::method(method));
    }

    std::shared_ptr<const Backbone> backbone_;
    std::shared_ptr<const Dataset> data_;
};

/// Rows given as {source, decoder tokens}.
Batch rows_of(const std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>& rows) {
    Batch batch;
    batch.row_begin = batch.source_begin = {0};
    for (const auto& [source, tokens] : rows) {
        batch.source.insert(batch.source.end(), source.begin(), source.end());
        batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
        batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(source.size()));
    }
    return batch;
}

Batch two_rows() {
    return rows_of({{{5, 6, 7, 8, 9}, {0, 11, 12}}, {{20, 21}, {0, 30, 31, 32}}});
}

double off(const at::Tensor& a, const at::Tensor& b) {
    EXPECT_EQ(a.sizes(), b.sizes());
    return (a.detach().to(at::kFloat) - b.detach().to(at::kFloat)).abs().max().item<double>();
}

TEST_P(EncoderDecoders, SitesSayWhoseRowsTheyRead) {
    const BackboneInfo& info = backbone_->info();
    EXPECT_TRUE(info.encoder_decoder);
    EXPECT_GE(info.decoder_start, 0);
    std::set<int> layers;
    for (const Site& site : backbone_->sites()) {
        SCOPED_TRACE(site.path);
        layers.insert(site.layer);
        EXPECT_EQ(&site, &backbone_->sites()[static_cast<size_t>(site.index)]);
        const bool encoder = site.path.find("decoder.") == std::string::npos;
        const bool cross = site.path.find("EncDecAttention") != std::string::npos ||
                           site.path.find("encoder_attn") != std::string::npos;
        const std::string name = site.name();
        const bool keys = name[0] == 'k' || name[0] == 'v';
        EXPECT_EQ(encoder, site.layer < info.encoder_layers);
        EXPECT_EQ(site.stream == Stream::source, encoder || (cross && keys));
        const Role role = name == "wo" || name == "fc2"             ? Role::feed_forward_out
                          : name.starts_with("wi") || name == "fc1" ? Role::feed_forward_in
                                                                    : Role::attention;
        EXPECT_EQ(site.role, role);
        EXPECT_EQ(backbone_->frozen(site.path + ".weight").sizes(), (at::IntArrayRef{site.d_out, site.d_in}));
        EXPECT_EQ(backbone_->frozen(site.path + ".bias").defined(), info.family == "bart");
    }
    EXPECT_EQ(static_cast<int64_t>(layers.size()), info.layers);
    std::set<std::string> norms;
    for (const NormSite& norm : backbone_->norms()) {
        EXPECT_TRUE(norms.insert(norm.path).second) << norm.path;
        EXPECT_EQ(backbone_->frozen(norm.path).sizes(), at::IntArrayRef{norm.width}) << norm.path;
    }
    const int64_t decoder_layers = info.layers - info.encoder_layers;
    const int64_t each = info.family == "bart" ? 2 : 1;  // gains, and biases
    EXPECT_EQ(static_cast<int64_t>(norms.size()), each * (2 * info.encoder_layers + 3 * decoder_layers + 2));
    EXPECT_FALSE(backbone_->frozen("no.such.path").defined());
}

TEST_P(EncoderDecoders, CachedEqualsUncached) {
    const at::NoGradGuard no_gradients;
    const auto skills = skillset("cpoly");
    tiny::shake(*skills, 3);
    const Batch whole = two_rows();
    const auto adapt = [&](const Batch& batch) {
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.source_begin = batch.source_begin;
        route.prompt_length = batch.prompt_length;
        route.task_ids.assign(static_cast<size_t>(batch.rows()), 1);
        return skills->method().adapt(route);
    };
    ForwardOptions options;
    const auto plain = adapt(whole);
    options.adaptation = plain.get();
    const at::Tensor want = backbone_->hidden(whole, options);
    const auto cache = backbone_->make_cache(3, 8);
    options.cache = cache.get();
    // The second row joins while the first is on its way, in slots other than their numbers.
    const Batch steps[] = {rows_of({{{5, 6, 7, 8, 9}, {0}}}), rows_of({{{}, {11}}, {{20, 21}, {0, 30}}}),
                           rows_of({{{}, {31}}, {{}, {12}}}), rows_of({{{}, {32}}})};
    const std::vector<int> slots[] = {{2}, {2, 0}, {0, 2}, {0}};
    const std::vector<std::vector<int64_t>> place = {{0}, {1, 3, 4}, {5, 2}, {6}};
    for (size_t i = 0; i < 4; ++i) {
        const auto adaptation = adapt(steps[i]);
        options.adaptation = adaptation.get();
        options.slots = slots[i];
        const at::Tensor got = backbone_->hidden(steps[i], options);
        for (size_t n = 0; n < place[i].size(); ++n)
            EXPECT_LT(off(got[static_cast<int64_t>(n)], want[place[i][n]]), 1e-4) << i << " " << n;
    }
    EXPECT_EQ(cache->length(0), 4);
    EXPECT_EQ(cache->length(2), 3);
    // A slot that is cut back goes on from there; emptied, it needs a source again.
    cache->truncate(0, 1);
    options.slots = {0};
    const Batch again = rows_of({{{}, {30, 31, 32}}});
    const auto adaptation = adapt(again);
    options.adaptation = adaptation.get();
    EXPECT_LT(off(backbone_->hidden(again, options), want.narrow(0, 4, 3)), 1e-4);
    cache->truncate(0, 0);
    EXPECT_REFUSED(backbone_->hidden(again, options), Code::invalid_argument, "no source");
}

/// Puts trained positions before the source of one row.
class PrefixAdaptation final : public Adaptation {
  public:
    at::Tensor prefix_of_first;
    int64_t states = 0;
    std::vector<LowRank> at(const Site&, const at::Tensor& x) override {
        EXPECT_EQ(x.size(0), 7);  // seven decoder tokens, and seven of the source with the prefix
        return {};
    }
    std::vector<at::Tensor> prefix() override { return {prefix_of_first, at::Tensor()}; }
    void encoded(const at::Tensor& encoder_states) override { states = encoder_states.size(0); }
};

TEST_P(EncoderDecoders, PrefixIsLikeTokensOfTheSource) {
    const Batch whole = two_rows();
    const at::Tensor want = backbone_->hidden(whole);
    PrefixAdaptation adaptation;
    adaptation.prefix_of_first = backbone_->embed({5, 6}).requires_grad_(true);
    ForwardOptions options;
    options.adaptation = &adaptation;
    const at::Tensor got =
        backbone_->hidden(rows_of({{{7, 8, 9}, {0, 11, 12}}, {{20, 21}, {0, 30, 31, 32}}}), options);
    EXPECT_LT(off(got, want), 1e-4);
    EXPECT_EQ(adaptation.states, 7);
    got.sum().backward();
    ASSERT_TRUE(adaptation.prefix_of_first.grad().defined());
    EXPECT_GT(adaptation.prefix_of_first.grad().abs().max().item<double>(), 0);
}

/// Gives back the backbone's own tensors, runs every block as copies of itself, and counts.
class SameAdaptation final : public Adaptation {
  public:
    explicit SameAdaptation(const Backbone& backbone, bool spread, bool parts = false)
        : backbone_(backbone), spread_(spread), parts_(parts) {}
    std::set<std::string> asked;
    std::map<int, int> entered, fed;
    int begun = 0;

    std::vector<LowRank> at(const Site&, const at::Tensor&) override { return {}; }
    void begin(const Backbone&, const Batch&, const ForwardOptions&) override { ++begun; }
    at::Tensor weight(const std::string& path) override {
        asked.insert(path);
        return backbone_.frozen(path);
    }
    at::Tensor feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) override {
        ++fed[layer];
        EXPECT_EQ(u.size(0), y.size(0));
        return y;
    }
    /// Three times all tokens, a third each; in parts the even positions, nothing, the odd ones.
    std::optional<Spread> spread(int layer, const at::Tensor& h) override {
        if (!spread_) return std::nullopt;
        Spread out;
        const auto tokens = static_cast<int32_t>(h.size(0));
        for (int copy = 0; copy < 3; ++copy) {
            ++entered[layer];
            out.rows.push_back(static_cast<int32_t>(out.token.size()));
            for (int32_t n = 0; n < tokens; ++n)
                if (!parts_ || (copy != 1 && n % 2 == copy / 2)) out.token.push_back(n);
        }
        out.rows.push_back(static_cast<int32_t>(out.token.size()));
        out.weight = at::full({out.rows.back()}, parts_ ? 1.0 : 1.0 / 3, at::kFloat);
        return out;
    }
    int copies(int, const at::Tensor&) override { return spread_ ? 0 : 3; }
    void enter(int layer, int) override { ++entered[layer]; }
    std::optional<std::vector<int64_t>> copy_part(int, int copy) override {
        if (!parts_) return std::nullopt;
        if (copy == 1) return std::vector<int64_t>{};
        return std::vector<int64_t>{copy == 0 ? 0 : 1};
    }
    at::Tensor join(int, const std::vector<at::Tensor>& outputs) override {
        EXPECT_EQ(outputs.size(), 3u);
        if (!parts_) return (outputs[0] + outputs[1] + outputs[2]) / 3;
        EXPECT_FALSE(outputs[1].defined());
        return at::cat({outputs[0], outputs[2]}, 0);  // whole rows, in order
    }

  private:
    const Backbone& backbone_;
    bool spread_, parts_;
};

TEST_P(EncoderDecoders, EveryHookIsAskedInEveryLayer) {
    const at::NoGradGuard no_gradients;
    const Batch batch = two_rows();
    const at::Tensor want = backbone_->hidden(batch);
    const auto layers = static_cast<size_t>(backbone_->info().layers);
    for (const bool spread : {false, true})
        for (const bool parts : {false, true})
            for (const bool cached : {false, true}) {
                SCOPED_TRACE(text(spread ? "feed forward" : "layer", parts ? ", parts" : "",
                                  cached ? ", cached" : ""));
                SameAdaptation adaptation(*backbone_, spread, parts);
                const auto cache = backbone_->make_cache(2, 8);
                ForwardOptions options;
                options.adaptation = &adaptation;
                if (cached) {
                    options.cache = cache.get();
                    options.slots = {1, 0};
                }
                EXPECT_LT(off(backbone_->hidden(batch, options), want), 1e-4);
                EXPECT_EQ(adaptation.begun, 1);
                EXPECT_EQ(adaptation.entered.size(), layers);
                for (const auto& [layer, times] : adaptation.entered)
                    EXPECT_EQ(times, parts && !spread ? 2 : 3) << layer;
                for (const NormSite& norm : backbone_->norms())
                    EXPECT_TRUE(adaptation.asked.contains(norm.path)) << norm.path;
                for (const Site& site : backbone_->sites())
                    EXPECT_EQ(adaptation.asked.contains(site.path + ".weight"),
                              !spread || site.role == Role::attention)
                        << site.path;
                EXPECT_EQ(adaptation.fed.size(), spread ? 0 : layers);
            }
}

TEST_P(EncoderDecoders, RefusesWhatItCannotRun) {
    Batch batch = two_rows();
    batch.source.clear();
    batch.source_begin.clear();
    EXPECT_REFUSED(backbone_->hidden(batch), Code::invalid_argument, "no source");
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{5}, {0}}, {{}, {0}}})), Code::invalid_argument,
                   "row 1 has no source");
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{5, 99999}, {0}}})), Code::invalid_argument, "vocabulary");
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{5}, {-1}}})), Code::invalid_argument, "vocabulary");
    batch = two_rows();
    batch.source_begin = {0, 7};
    EXPECT_REFUSED(backbone_->hidden(batch), Code::invalid_argument, "source_begin");
    batch.source_begin = {0, 8, 7};
    EXPECT_REFUSED(backbone_->hidden(batch), Code::invalid_argument, "decreases");
    ForwardOptions options;
    options.embeddings = at::randn({3, backbone_->info().width});
    EXPECT_REFUSED(backbone_->hidden(two_rows(), options), Code::invalid_argument, "embeddings are");

    options = {};
    const auto cache = backbone_->make_cache(2, 4);
    options.cache = cache.get();
    options.slots = {0};
    backbone_->hidden(rows_of({{{5, 6}, {0}}}), options);
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{5, 6}, {7}}}), options), Code::invalid_argument,
                   "empty the slot");
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{}, {1, 2, 3, 4}}}), options), Code::context_overflow,
                   "capacity");
    EXPECT_EQ(cache->length(0), 1);
    options.slots = {1};
    EXPECT_REFUSED(backbone_->hidden(rows_of({{{}, {1}}}), options), Code::invalid_argument, "no source");
    if (backbone_->info().family == "bart") {
        const std::vector<int32_t> longer(static_cast<size_t>(backbone_->info().context) + 1, 5);
        EXPECT_REFUSED(backbone_->hidden(rows_of({{longer, {0}}})), Code::context_overflow, "source tokens");
        EXPECT_REFUSED(backbone_->hidden(rows_of({{{5}, longer}})), Code::context_overflow, "context");
        EXPECT_REFUSED(backbone_->make_cache(1, 65), Code::context_overflow, "context");
    }
    if (std::filesystem::exists(tiny::model())) {
        const auto other = tiny::backbone()->make_cache(1, 4);
        options.cache = other.get();
        options.slots = {0};
        EXPECT_REFUSED(backbone_->hidden(rows_of({{{5}, {0}}}), options), Code::invalid_argument,
                       "another kind");
        EXPECT_REFUSED(tiny::backbone()->hidden(two_rows()), Code::invalid_argument, "no encoder");
    }
}

GenerationInput input(std::shared_ptr<const Skillset> skills, int task, std::vector<int32_t> prompt,
                      int max_tokens) {
    GenerationInput out;
    out.skillset = std::move(skills);
    out.task = task;
    out.prompt = std::move(prompt);
    out.sampling.max_tokens = max_tokens;
    out.sampling.ignore_eos = true;
    return out;
}

TEST_P(EncoderDecoders, TrainsSavesLoadsAndAnswers) {
    for (const char* method : {"lora", "cpoly", "molora"}) {
        SCOPED_TRACE(method);
        const auto skills = skillset(method);
        Trainer trainer(skills, data_,
                        {{"max_steps", 60}, {"batch_size", 5}, {"learning_rate", 0.01}, {"seed", 5}});
        const double first = trainer.step().loss;
        while (!trainer.progress().done) trainer.step();
        EXPECT_LT(trainer.progress().loss, 0.3 * first);
        EXPECT_TRUE(std::isfinite(trainer.progress().validation_loss));

        const auto loaded = Skillset::load(backbone_, Bytes::copy_of(skills->save_to_memory(), "bundle"));
        EXPECT_EQ(tiny::weights(*loaded), tiny::weights(*skills));
        EvaluatorOptions options;
        options.split = Split::train;
        options.max_tokens = 12;
        Json results[2];
        for (int i = 0; i < 2; ++i) {
            Evaluator evaluator(backbone_, i ? loaded : skills, data_, options);
            while (!evaluator.finished()) evaluator.step();
            results[i] = evaluator.result();
        }
        EXPECT_EQ(results[0], results[1]);
        if (method != std::string("cpoly")) continue;
        for (const Json& row : results[0]["predictions"])
            EXPECT_GT(row["rouge_l"].get<double>(), 0) << row.dump();
    }
}

TEST_P(EncoderDecoders, RowsOfAMixedBatchEqualTheSameRowsAlone) {
    const auto lora = skillset("lora"), cpoly = skillset("cpoly"), molora = skillset("molora");
    tiny::shake(*lora, 1);
    tiny::shake(*cpoly, 2);
    tiny::shake(*molora, 3);
    std::vector<GenerationInput> rows{input(lora, -1, {20, 21, 22, 23}, 12),
                                      input(cpoly, 1, {100, 101}, 12),
                                      input(nullptr, -1, {20, 21, 22, 23}, 9),
                                      input(cpoly, 0, {7}, 3),
                                      input(molora, -1, {50, 51, 52, 53, 54, 55, 56, 57}, 12),
                                      input(nullptr, -1, {88, 3, 4}, 20),
                                      input(cpoly, -1, {9, 9, 9}, 6)};
    rows[6].weights.assign(static_cast<size_t>(cpoly->method().skill_count()), 0.3f);
    rows.push_back(input(molora, -1, {60, 61, 62}, 6));
    rows[7].weights.assign(static_cast<size_t>(molora->method().skill_count()), 0.2f);
    rows[5].sampling.temperature = 0.9f;
    rows[5].sampling.seed = 4;
    std::vector<Generated> alone;
    for (const GenerationInput& row : rows) alone.push_back(generate(backbone_, {row}).front());
    EXPECT_NE(alone[0].tokens, alone[2].tokens);  // the skills do something
    for (const int max_batch : {8, 3, 2}) {       // fewer slots: rows come and go while others run
        SCOPED_TRACE(max_batch);
        const std::vector<Generated> together = generate(backbone_, rows, max_batch);
        for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(together[i].tokens, alone[i].tokens) << i;
    }
    for (const int i : {0, 3, 4}) {  // and what no cache was used for
        const GenerationInput& row = rows[static_cast<size_t>(i)];
        const auto logits = last_logits(*backbone_, row.skillset.get(), row.task, row.prompt);
        EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(),
                  alone[static_cast<size_t>(i)].tokens.front());
    }
}

TEST_P(EncoderDecoders, TheEngineAnswersText) {
    const auto skills = skillset("cpoly");
    tiny::shake(*skills, 2);
    EngineOptions options;
    options.max_batch = 2;
    options.max_context = 60;
    Engine engine(backbone_, options);
    engine.publish("skills", *skills);
    std::vector<std::shared_ptr<Request>> requests;
    for (const char* task : {"up", "down", "up"}) {
        RequestOptions request;
        request.skillset = "skills";
        request.task = task;
        request.prompt = "the dog";
        request.sampling.max_tokens = 10;
        request.sampling.ignore_eos = true;
        requests.push_back(engine.submit(request));
    }
    while (engine.step() > 0) continue;
    EXPECT_EQ(requests[0]->result().tokens.size(), 10u);
    EXPECT_EQ(requests[0]->result().tokens, requests[2]->result().tokens);
    const int task = skills->task_index("down");
    const auto prompt =
        skills->prompts().prompt(skills->tasks()[static_cast<size_t>(task)].to_task(), "the dog");
    const auto alone = generate(backbone_, {input(skills, task, prompt, 10)}).front();
    EXPECT_EQ(requests[1]->result().tokens, alone.tokens);
}

TEST_P(EncoderDecoders, AnswersOfOnePromptScoreAsTheyDoAlone) {
    const auto skills = skillset("cpoly");
    tiny::shake(*skills, 2);
    AnswerLikelihood likelihood(*backbone_, skills.get(), 3);
    ASSERT_TRUE(likelihood.shares_prompts(0));
    std::vector<Question> together{{{5, 6, 7}, {{9, 1}, {10, 11, 12, 1}, {13}}, 0},
                                   {{20, 21}, {{9, 1}, {30, 31}}, 1}};
    const auto scores = likelihood.score(together, [] {});
    for (size_t q = 0; q < together.size(); ++q)
        for (size_t k = 0; k < together[q].answers.size(); ++k) {
            const std::vector<Question> one{{together[q].prompt, {together[q].answers[k]}, together[q].task}};
            EXPECT_NEAR(likelihood.score(one, [] {})[0][0], scores[q][k], 1e-3);
        }
    EXPECT_NE(scores[0][0], scores[1][0]);
}

TEST_P(EncoderDecoders, RunsInBf16) {
    const auto backbone = tiny::encoder_decoder(GetParam(), Precision::bf16);
    EXPECT_EQ(backbone->compute_dtype(), at::kBFloat16);
    const auto skills = Skillset::create(backbone, data_->tasks(), tiny::method("cpoly"));
    Trainer trainer(skills, data_,
                    {{"max_steps", 60}, {"batch_size", 5}, {"learning_rate", 0.01}, {"seed", 5}});
    const double first = trainer.step().loss;
    while (!trainer.progress().done) trainer.step();
    EXPECT_LT(trainer.progress().loss, 0.6 * first);
    EXPECT_EQ(generate(backbone, {input(skills, 0, {5, 6, 7}, 5)}).front().tokens.size(), 5u);
}

INSTANTIATE_TEST_SUITE_P(Families, EncoderDecoders, testing::Values("t5_v10", "t5_v11", "bart"),
                         [](const auto& param) { return std::string(param.param); });

TEST(EncoderDecoderConfigs, StartTokensAndWhatIsRefused) {
    if (!std::filesystem::exists(tiny::encoder_decoder_fixture("t5_v10"))) GTEST_SKIP() << "no fixtures";
    const auto open = [](const char* name, const Json& patch) {
        return tiny::open_encoder_decoder(name, Precision::fp32, patch);
    };
    const Json none = {{"decoder_start_token_id", nullptr}};
    EXPECT_EQ(open("bart", none)->info().decoder_start, 2);
    EXPECT_EQ(open("t5_v10", none)->info().decoder_start, 0);  // T5 starts from its padding
    EXPECT_EQ(
        open("t5_v10", {{"decoder_start_token_id", nullptr}, {"pad_token_id", 7}})->info().decoder_start, 7);
    EXPECT_REFUSED(open("t5_v10", {{"relative_attention_max_distance", 4}}), Code::bad_format,
                   "max_distance");
    EXPECT_REFUSED(open("t5_v10", {{"relative_attention_num_buckets", 16}}), Code::bad_format,
                   "relative_attention_bias");
    EXPECT_REFUSED(open("bart", {{"decoder_attention_heads", 7}}), Code::bad_format, "heads");
    EXPECT_REFUSED(open("bart", {{"max_position_embeddings", 65}}), Code::bad_format, "embed_positions");
}

TEST(PackForEncoderDecoders, ThePromptIsTheSource) {
    const EncodedExample a{{4, 5, 6}, {7, 8}, 0}, b{{9}, {10}, 0};
    const Batch batch = pack({&a, &b}, 2);
    EXPECT_EQ(batch.source, (std::vector<int32_t>{4, 5, 6, 9}));
    EXPECT_EQ(batch.source_begin, (std::vector<int32_t>{0, 3, 4}));
    EXPECT_EQ(batch.tokens, (std::vector<int32_t>{2, 7, 2}));
    EXPECT_EQ(batch.targets, (std::vector<int32_t>{7, 8, 10}));
    EXPECT_EQ(batch.row_begin, (std::vector<int32_t>{0, 2, 3}));
    EXPECT_EQ(batch.prompt_length, (std::vector<int32_t>{3, 1}));
}

}  // namespace
}  // namespace polyad
