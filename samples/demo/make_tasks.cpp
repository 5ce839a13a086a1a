// SPDX-License-Identifier: Apache-2.0
// make_tasks FOLDER: writes the demo's eight tasks as JSON Lines, one file each, with train, validation and
// test splits. The result depends on the installed data alone: the same packages give the same bytes.
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>

#include "demo_tasks.h"

namespace {

void write_licence(const std::filesystem::path& folder, const WordNet& wordnet) {
    std::ofstream file(folder / "LICENCE.txt");
    file << "place_country and language_code: facts of ISO 3166-2 and ISO 639-2, read from Debian's "
            "iso-codes\n"
            "(LGPL-2.1-or-later). All other tasks are made from WordNet:\n\n"
         << wordnet.licence();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2 || argc > 4 || std::strcmp(argv[1], "--help") == 0) {
        std::fprintf(stderr, "usage: make_tasks FOLDER [WORDNET_FOLDER [ISO_CODES_FOLDER]]\n");
        return 2;
    }
    try {
        const std::filesystem::path folder = argv[1];
        const WordNet wordnet(argc > 2 ? argv[2] : "/usr/share/wordnet");
        const std::filesystem::path iso_codes = argc > 3 ? argv[3] : "/usr/share/iso-codes/json";
        WordGroups groups;
        const DemoTask tasks[] = {antonym(wordnet, groups),  // first: it says which words belong together
                                  language_code(iso_codes), noun_plural(wordnet), part_of_speech(wordnet),
                                  place_country(iso_codes), verb_past(wordnet),   verb_to_person(wordnet),
                                  word_category(wordnet)};
        std::filesystem::create_directories(folder);
        for (const DemoTask& task : tasks) {
            auto written = write_task(folder, task, groups, SplitSizes{});
            std::printf("%-16s %4d train  %3d validation  %3d test\n", task.name.c_str(), written["train"],
                        written["validation"], written["test"]);
        }
        write_licence(folder, wordnet);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "make_tasks: %s\n", error.what());
        return 1;
    }
    return 0;
}
