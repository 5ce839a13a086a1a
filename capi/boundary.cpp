// SPDX-License-Identifier: Apache-2.0
#include "boundary.h"

#include <exception>
#include <filesystem>
#include <new>

#include "backbone/device_error.h"
#include "base/bytes.h"
#include "base/log.h"

namespace polyad::capi {

POLYAD_HANDLE(polyad_status, status, StatusObject);
POLYAD_HANDLE(polyad_text, text, std::string);

namespace {

#define POLYAD_SAME_CODE(c_name, cpp_name) static_assert(c_name == static_cast<int>(Code::cpp_name))
POLYAD_SAME_CODE(POLYAD_OK, ok);
POLYAD_SAME_CODE(POLYAD_INVALID_ARGUMENT, invalid_argument);
POLYAD_SAME_CODE(POLYAD_INVALID_CONFIG, invalid_config);
POLYAD_SAME_CODE(POLYAD_NOT_FOUND, not_found);
POLYAD_SAME_CODE(POLYAD_IO_ERROR, io_error);
POLYAD_SAME_CODE(POLYAD_BAD_FORMAT, bad_format);
POLYAD_SAME_CODE(POLYAD_UNSUPPORTED, unsupported);
POLYAD_SAME_CODE(POLYAD_BACKBONE_MISMATCH, backbone_mismatch);
POLYAD_SAME_CODE(POLYAD_UNKNOWN_TASK, unknown_task);
POLYAD_SAME_CODE(POLYAD_BAD_DATA, bad_data);
POLYAD_SAME_CODE(POLYAD_CONTEXT_OVERFLOW, context_overflow);
POLYAD_SAME_CODE(POLYAD_NUMERIC_ERROR, numeric_error);
POLYAD_SAME_CODE(POLYAD_CANCELLED, cancelled);
POLYAD_SAME_CODE(POLYAD_WRONG_STATE, wrong_state);
POLYAD_SAME_CODE(POLYAD_OUT_OF_MEMORY, out_of_memory);
POLYAD_SAME_CODE(POLYAD_QUEUE_FULL, queue_full);
POLYAD_SAME_CODE(POLYAD_INTERNAL, internal);

// Prepared while there is memory; handed out when there is none. Never released for good.
void* out_of_memory_ticket() {
    static void* ticket =
        make_handle(Kind::status,
                    std::make_shared<StatusObject>(StatusObject{POLYAD_OUT_OF_MEMORY, "out of memory", ""}));
    return ticket;
}
[[maybe_unused]] const void* const prepared = out_of_memory_ticket();

polyad_status* make_status(Code code, const char* message, const std::string& detail) {
    return wrap<polyad_status>(
        std::make_shared<StatusObject>(StatusObject{static_cast<int32_t>(code), message, detail}));
}

}  // namespace

polyad_status* status_from_current_exception() noexcept {
    try {
        try {
            throw;
        } catch (const Error& e) {
            return make_status(e.code(), e.what(), e.detail());
        } catch (const std::bad_alloc&) {
            return make_status(Code::out_of_memory, "out of memory", "");
        } catch (const std::filesystem::filesystem_error& e) {
            const std::string message = "the path cannot be used: " + e.code().message();
            return make_status(Code::io_error, message.c_str(), e.path1().string().substr(0, 200));
        } catch (const std::exception& e) {
            if (const std::string sizes = out_of_device_memory(e); !sizes.empty())
                return make_status(Code::out_of_memory, sizes.c_str(), "");
            const std::string message = e.what();  // LibTorch's go on with a stack trace
            return make_status(Code::internal, message.substr(0, message.find('\n')).c_str(), "");
        } catch (...) {
            return make_status(Code::internal, "an unknown exception", "");
        }
    } catch (...) {
        retain_handle(Kind::status, out_of_memory_ticket());
        return static_cast<polyad_status*>(out_of_memory_ticket());
    }
}

std::string required_string(const char* value, const char* name) {
    if (!value) fail(Code::invalid_argument, "'", name, "' is NULL");
    std::string out = value;
    if (const size_t bad = find_invalid_utf8(out); bad != std::string::npos)
        fail(Code::invalid_argument, "'", name, "' is not valid UTF-8 at byte ", bad);
    return out;
}

Json options_json(const char* json, const char* name) {
    if (!json || !*json) return Json::object();
    const std::string source = required_string(json, name);
    Json value = parse_json(source, name);
    if (!value.is_object())
        fail(Code::invalid_config, name, " must be a JSON object, got ", value.type_name());
    return value;
}

std::string_view byte_view(const void* data, size_t size, const char* name) {
    if (!data && size) fail(Code::invalid_argument, "'", name, "' is NULL but its size is ", size);
    return {static_cast<const char*>(data), size};
}

polyad_text* make_text(std::string value) {
    return wrap<polyad_text>(std::make_shared<std::string>(std::move(value)));
}

polyad_text* make_text(const Json& value) {
    return make_text(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace polyad::capi

using namespace polyad;
using namespace polyad::capi;

int32_t polyad_status_code(const polyad_status* status) {
    if (!status) return POLYAD_OK;
    const auto object = std::static_pointer_cast<StatusObject>(find_handle(Kind::status, status));
    return object ? object->code : POLYAD_INVALID_ARGUMENT;
}

const char* polyad_status_message(const polyad_status* status) {
    if (!status) return "";
    const auto object = std::static_pointer_cast<StatusObject>(find_handle(Kind::status, status));
    return object ? object->message.c_str() : "not a live status handle";
}

const char* polyad_status_detail(const polyad_status* status) {
    const auto object = std::static_pointer_cast<StatusObject>(find_handle(Kind::status, status));
    return object ? object->detail.c_str() : "";
}

void polyad_status_release(polyad_status* status) {
    release_handle(Kind::status, status);
}

const char* polyad_code_name(int32_t code) {
    return code_name(static_cast<Code>(code));
}

const char* polyad_text_data(const polyad_text* text) {
    const auto object = std::static_pointer_cast<std::string>(find_handle(Kind::text, text));
    return object ? object->c_str() : "";
}

size_t polyad_text_size(const polyad_text* text) {
    const auto object = std::static_pointer_cast<std::string>(find_handle(Kind::text, text));
    return object ? object->size() : 0;
}

void polyad_text_release(polyad_text* text) {
    release_handle(Kind::text, text);
}

void polyad_log_set_sink(polyad_log_sink sink, void* user) {
    guarded_quietly([&] {
        if (!sink) return set_log_sink({});
        set_log_sink([sink, user](LogLevel level, std::string_view message) {
            sink(static_cast<int32_t>(level), std::string(message).c_str(), user);
        });
    });
}
