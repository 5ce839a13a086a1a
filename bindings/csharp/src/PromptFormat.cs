// SPDX-License-Identifier: Apache-2.0
namespace Polyad
{
    /// <summary>How an example becomes text.</summary>
    public sealed class PromptFormat : Options
    {
        /// <summary>The library's defaults.</summary>
        public PromptFormat()
        {
        }

        /// <summary>auto, chat, plain, or a text with {instruction} and {input}.</summary>
        public string Style
        {
            get => Words("style");
            set => this["style"] = value;
        }

        /// <summary>The system message of chat templates.</summary>
        public string System
        {
            get => Words("system");
            set => this["system"] = value;
        }

        /// <summary>How many of a task's positive examples precede the question.</summary>
        public int? PositiveExamples
        {
            get => Whole("positive_examples");
            set => this["positive_examples"] = value;
        }

        /// <summary>Most tokens of prompt and answer; longer prompts are cut on the left.</summary>
        public int? MaxTokens
        {
            get => Whole("max_tokens");
            set => this["max_tokens"] = value;
        }

        /// <summary>Most tokens of an answer.</summary>
        public int? MaxAnswerTokens
        {
            get => Whole("max_answer_tokens");
            set => this["max_answer_tokens"] = value;
        }
    }
}
