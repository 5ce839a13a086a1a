// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <ctime>

#include "base/bytes.h"
#include "text/rust_text.h"

namespace polyad {

namespace {

size_t local_time(const char* format, char* out, size_t capacity) {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
#ifdef _WIN32
    if (localtime_s(&parts, &now) != 0) return 0;
#else
    if (!localtime_r(&now, &parts)) return 0;
#endif
    return std::strftime(out, capacity, format, &parts);
}

void require_utf8(std::string_view text, size_t message, const char* field) {
    const size_t at = find_invalid_utf8(text);
    if (at != std::string_view::npos)
        fail(Code::bad_data, "messages[", message, "].", field, " is not valid UTF-8 at byte ", at);
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, Json variables) : variables_(std::move(variables)) {
    RustString error;
    const int status =
        polyad_text_template_create(source.data(), source.size(), local_time, &template_, error.out());
    if (status != POLYAD_TEXT_OK) error_ = error.view();
}

ChatTemplate::~ChatTemplate() {
    polyad_text_template_free(template_);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const {
    if (!template_) fail(Code::unsupported, "the model's chat template does not parse: ", error_);
    // Insertion order: a template that prints a message as JSON shows role before content, as in Python.
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (size_t i = 0; i < messages.size(); ++i) {
        require_utf8(messages[i].role, i, "role");
        require_utf8(messages[i].content, i, "content");
        nlohmann::ordered_json message;
        message["role"] = messages[i].role;
        message["content"] = messages[i].content;
        list.push_back(std::move(message));
    }
    nlohmann::ordered_json variables = variables_;
    variables["messages"] = std::move(list);
    variables["add_generation_prompt"] = add_generation_prompt;
    // Hugging Face passes these as None when they are not given.
    variables["tools"] = nullptr;
    variables["documents"] = nullptr;
    const std::string json = variables.dump(-1, ' ', false, Json::error_handler_t::replace);
    RustString out, error;
    const int status =
        polyad_text_template_render(template_, json.data(), json.size(), out.out(), error.out());
    if (status == POLYAD_TEXT_EXCEPTION)
        fail(Code::invalid_argument, "the model's chat template refused the messages: ", error.view());
    check_rust(status, error, Code::bad_format, "the model's chat template failed");
    return std::string(out.view());
}

}  // namespace polyad
