// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>How to open a dataset.</summary>
    public sealed class DatasetOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public DatasetOptions()
        {
        }

        /// <summary>error: refuse the data at the first unusable row; skip: leave it out and list it in <see cref="Dataset.Info"/>.</summary>
        public string OnBadRow
        {
            get => Words("on_bad_row");
            set => this["on_bad_row"] = value;
        }

        /// <summary>Share of validation rows where the data names no splits.</summary>
        public double? ValidationFraction
        {
            get => Real("validation_fraction");
            set => this["validation_fraction"] = value;
        }

        /// <summary>Share of test rows where the data names no splits.</summary>
        public double? TestFraction
        {
            get => Real("test_fraction");
            set => this["test_fraction"] = value;
        }

        /// <summary>Seed of the split.</summary>
        public long? Seed
        {
            get => Long("seed");
            set => this["seed"] = value;
        }

        /// <summary>At most so many training rows of a task; 0 = all.</summary>
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
    }
}
