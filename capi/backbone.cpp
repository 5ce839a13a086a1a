// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>

#include "objects.h"
#include "serving/score.h"

using namespace polyad;
using namespace polyad::capi;

namespace {

template <class Open>
polyad_backbone* open_backbone(polyad_context* context, const char* options, Open open) {
    auto parent = get(context);
    BackboneOptions parsed = BackboneOptions::from_json(options_json(options, "backbone options"));
    parsed.device = parent->placed.device;
    auto object = std::make_shared<BackboneObject>();
    object->context = parent;
    parent->compute->run([&] { object->backbone = open(parsed); });
    return wrap<polyad_backbone>(std::move(object));
}

const Tokenizer& tokenizer_of(const Backbone& backbone) {
    if (!backbone.tokenizer())
        fail(Code::unsupported, "backbone '", backbone.info().name, "' came without a tokenizer");
    return *backbone.tokenizer();
}

}  // namespace

polyad_status* polyad_backbone_open(polyad_context* context, const char* path, const char* options,
                                    polyad_backbone** backbone) {
    return guarded([&] {
        clear_out(backbone, "backbone");
        const std::string file = required_string(path, "path");
        *backbone = open_backbone(context, options, [&](const BackboneOptions& o) {
            return Backbone::open(std::filesystem::path(file), o);
        });
    });
}

polyad_status* polyad_backbone_open_memory(polyad_context* context, const void* data, size_t size,
                                           const char* options, polyad_backbone** backbone) {
    return guarded([&] {
        clear_out(backbone, "backbone");
        const Bytes bytes = Bytes::copy_of(byte_view(data, size, "data"), "memory");
        *backbone = open_backbone(context, options,
                                  [&](const BackboneOptions& o) { return Backbone::open(bytes, o); });
    });
}

polyad_backbone* polyad_backbone_retain(polyad_backbone* backbone) {
    return retain(backbone);
}
void polyad_backbone_release(polyad_backbone* backbone) {
    release(backbone);
}

polyad_status* polyad_backbone_info(const polyad_backbone* backbone, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(backbone);
        const BackboneInfo& info = object->backbone->info();
        Json sites = Json::array();
        for (const Site& site : object->backbone->sites())
            sites.push_back(
                {{"path", site.path}, {"layer", site.layer}, {"d_in", site.d_in}, {"d_out", site.d_out}});
        *json =
            make_text(Json{{"name", info.name},
                           {"family", info.family},
                           {"fingerprint", info.fingerprint},
                           {"layers", info.layers},
                           {"width", info.width},
                           {"vocab", info.vocab},
                           {"context", info.context},
                           {"parameters", info.parameters},
                           {"encoder_decoder", info.encoder_decoder},
                           {"encoder_only", info.encoder_only},
                           {"device", object->backbone->device().str()},
                           {"precision", object->backbone->compute_dtype() == at::kFloat ? "fp32" : "bf16"},
                           {"tokenizer", object->backbone->tokenizer() != nullptr},
                           {"sites", std::move(sites)}});
    });
}

polyad_status* polyad_backbone_tokenize(const polyad_backbone* backbone, const char* text, size_t text_size,
                                        int32_t* ids, size_t capacity, size_t* count) {
    return guarded([&] {
        clear_out(count, "count");
        const auto object = get(backbone);
        if (!ids && capacity) fail(Code::invalid_argument, "'ids' is NULL but capacity is ", capacity);
        if (!text) fail(Code::invalid_argument, "'text' is NULL");
        const std::string_view source =
            text_size ? std::string_view(text, text_size) : std::string_view(text);
        const std::vector<int32_t> all = tokenizer_of(*object->backbone).encode(source, false);
        std::copy_n(all.begin(), std::min(capacity, all.size()), ids);
        *count = all.size();
    });
}

polyad_status* polyad_backbone_detokenize(const polyad_backbone* backbone, const int32_t* ids, size_t count,
                                          int32_t skip_special, polyad_text** text) {
    return guarded([&] {
        clear_out(text, "text");
        const auto object = get(backbone);
        if (!ids && count) fail(Code::invalid_argument, "'ids' is NULL but count is ", count);
        const int64_t vocab = object->backbone->info().vocab;
        for (size_t i = 0; i < count; ++i)
            if (ids[i] < 0 || ids[i] >= vocab)
                fail(Code::invalid_argument, "ids[", i, "] is ", ids[i], ", allowed: 0 to ", vocab - 1);
        *text = make_text(tokenizer_of(*object->backbone)
                              .decode(std::vector<int32_t>(ids, ids + count), skip_special != 0));
    });
}

polyad_status* polyad_backbone_chat(const polyad_backbone* backbone, const char* messages_json,
                                    int32_t add_generation_prompt, polyad_text** text) {
    return guarded([&] {
        clear_out(text, "text");
        const auto object = get(backbone);
        const Json list = parse_json(required_string(messages_json, "messages"), "messages");
        if (!list.is_array())
            fail(Code::invalid_config, "messages must be a JSON list, got ", list.type_name());
        std::vector<ChatMessage> messages;
        for (size_t i = 0; i < list.size(); ++i) {
            ConfigReader reader(list[i], polyad::text("messages[", i, "]"));
            messages.push_back({reader.string("role", "user"), reader.string("content", "")});
            reader.finish();
        }
        *text = make_text(
            tokenizer_of(*object->backbone).apply_chat_template(messages, add_generation_prompt != 0));
    });
}

polyad_status* polyad_backbone_logits(const polyad_backbone* backbone, const polyad_skillset* skillset,
                                      const char* task, const int32_t* ids, size_t count, float* logits,
                                      size_t capacity) {
    return guarded([&] {
        const auto object = get(backbone);
        const auto skills = get_optional(skillset);
        if (!logits) fail(Code::invalid_argument, "'logits' is NULL");
        if (!ids || count == 0) fail(Code::invalid_argument, "at least one token id is needed");
        const int64_t vocab = object->backbone->info().vocab;
        if (capacity != static_cast<size_t>(vocab))
            fail(Code::invalid_argument, "capacity is ", capacity, ", the vocabulary has ", vocab);
        if (skills && skills->skillset->backbone() != object->backbone)
            fail(Code::backbone_mismatch, "the skillset belongs to another backbone handle");
        std::optional<Shared> hold;
        if (skills) hold.emplace(skills->use, "skillset");
        const int index = skills && task ? skills->skillset->task_index(task) : -1;
        object->context->compute->run([&] {
            const std::vector<float> out =
                last_logits(*object->backbone, skills ? skills->skillset.get() : nullptr, index,
                            std::vector<int32_t>(ids, ids + count));
            std::copy(out.begin(), out.end(), logits);
        });
    });
}
