// SPDX-License-Identifier: Apache-2.0
// The demo's eight tasks. Six come from WordNet, two from Debian's iso-codes.
#pragma once

#include <filesystem>

#include "task_files.h"
#include "wordnet.h"

DemoTask word_category(const WordNet& wordnet);                  ///< classification: falcon -> animal
DemoTask part_of_speech(const WordNet& wordnet);                 ///< classification: suddenly -> adverb
DemoTask antonym(const WordNet& wordnet, WordGroups& groups);    ///< relation: hot -> cold
DemoTask noun_plural(const WordNet& wordnet);                    ///< inflection: wolf -> wolves
DemoTask verb_past(const WordNet& wordnet);                      ///< inflection: stop -> stopped
DemoTask verb_to_person(const WordNet& wordnet);                 ///< derivation: teach -> teacher
DemoTask place_country(const std::filesystem::path& iso_codes);  ///< classification: Osaka -> Japan
DemoTask language_code(const std::filesystem::path& iso_codes);  ///< codes: Swedish -> swe
