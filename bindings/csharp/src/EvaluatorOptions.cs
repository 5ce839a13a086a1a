// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>How to score.</summary>
    public sealed class EvaluatorOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public EvaluatorOptions()
        {
        }

        /// <summary>The part of the dataset.</summary>
        public Split? Split
        {
            get => SplitOf("split");
            set => this["split"] = value;
        }

        /// <summary>generate (greedy) or labels (rank a task's labels by log-probability).</summary>
        public string Mode
        {
            get => Words("mode");
            set => this["mode"] = value;
        }

        /// <summary>Most tokens of an answer.</summary>
        public int? MaxTokens
        {
            get => Whole("max_tokens");
            set => this["max_tokens"] = value;
        }

        /// <summary>Rows scored together.</summary>
        public int? BatchSize
        {
            get => Whole("batch_size");
            set => this["batch_size"] = value;
        }

        /// <summary>At most so many examples of a task.</summary>
        public int? MaxExamplesPerTask
        {
            get => Whole("max_examples_per_task");
            set => this["max_examples_per_task"] = value;
        }

        /// <summary>Only these tasks.</summary>
        public IReadOnlyList<string> Tasks
        {
            get => Names("tasks");
            set => this["tasks"] = value;
        }

        /// <summary>Whether labels are compared by log-probability per token.</summary>
        public bool? NormalizeLength
        {
            get => Truth("normalize_length");
            set => this["normalize_length"] = value;
        }

        /// <summary>How an example becomes text.</summary>
        public PromptFormat Prompt
        {
            get => Nested<PromptFormat>("prompt");
            set => this["prompt"] = value;
        }
    }
}
