// SPDX-License-Identifier: Apache-2.0
#include "run_folder.h"

#include <fstream>
#include <iterator>

namespace cli {

namespace fs = std::filesystem;

void write_whole_file(const fs::path& path, const std::string& bytes) {
    const fs::path temporary = path.string() + ".part";
    std::ofstream file(temporary, std::ios::binary);
    file << bytes;
    file.close();
    std::error_code error;
    if (file) fs::rename(temporary, path, error);
    if (!file || error) {
        std::error_code ignored;
        fs::remove(temporary, ignored);
        throw Failure(POLYAD_IO_ERROR, "cannot write '" + path.string() + "'", path.string());
    }
}

void RunFolder::create() const {
    std::error_code error;
    fs::create_directories(path_, error);
    if (error || !fs::is_directory(path_))
        throw Failure(POLYAD_IO_ERROR, "cannot make the folder '" + path_.string() + "'", path_.string());
}

void RunFolder::write(const char* name, const Json& value) const {
    write_whole_file(path_ / name, value.dump(1) + "\n");
}

Json RunFolder::read(const char* name) const {
    std::ifstream in(path_ / name, std::ios::binary);
    if (!in)
        throw Failure(POLYAD_NOT_FOUND, "'" + path_.string() + "' is no run: it has no " + name, file(name));
    const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    Json value = Json::parse(bytes, nullptr, false);
    if (!value.is_object())
        throw Failure(POLYAD_BAD_FORMAT, std::string(name) + " is not a JSON object", file(name));
    return value;
}

Json routing_of(const polyad_skillset* skills, const polyad_dataset* data) {
    const Json tasks = json_of(polyad_dataset_info, data)["tasks"];
    std::string split = "train";
    for (const char* name : {"validation", "test"})
        for (const Json& task : tasks)
            if (task[name].get<int64_t>() > 0) split = name;
    return json_of(polyad_skillset_routing, skills, data, Json{{"split", split}}.dump().c_str());
}

}  // namespace cli
