// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>What to look at in <see cref="Skillset.Routing"/>.</summary>
    public sealed class RoutingOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public RoutingOptions()
        {
        }

        /// <summary>The part of the dataset whose rows are run.</summary>
        public Split? Split
        {
            get => SplitOf("split");
            set => this["split"] = value;
        }

        /// <summary>At most so many rows of a task; 0 = all.</summary>
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

    /// <summary>Options of <see cref="Skillset.Derive"/>.</summary>
    public sealed class DeriveOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public DeriveOptions()
        {
        }

        /// <summary>copy (the default: the same tensors under <see cref="Changes"/>), squeeze (one task as plain weights); of Task-level MoE
        /// also second_stage, keep_moe_route, avg.</summary>
        public string Form
        {
            get => Words("form");
            set => this["form"] = value;
        }

        /// <summary>The task that squeeze keeps.</summary>
        public string Task
        {
            get => Words("task");
            set => this["task"] = value;
        }

        /// <summary>A configuration over the skillset's own, by the names of docs/configuration.md.</summary>
        public IReadOnlyDictionary<string, object> Changes
        {
            set => this["changes"] = value;
        }
    }

    /// <summary>Options of <see cref="Skillset.ImportPeft"/>.</summary>
    public sealed class PeftOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public PeftOptions()
        {
        }

        /// <summary>The tasks' names, one per row of the adapter's table.</summary>
        public IReadOnlyList<string> Tasks
        {
            get => Names("tasks");
            set => this["tasks"] = value;
        }

        /// <summary>How an example becomes text.</summary>
        public PromptFormat Prompt
        {
            get => Nested<PromptFormat>("prompt");
            set => this["prompt"] = value;
        }
    }

    /// <summary>Options of <see cref="Skillset.ImportPeftSet"/>.</summary>
    public sealed class PeftSetOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public PeftSetOptions()
        {
        }

        /// <summary>set (the default: requests mix the adapters), or one merged LoRA: linear, cat, ties, dare_linear, dare_ties, magnitude_prune.</summary>
        public string Combination
        {
            get => Words("combination");
            set => this["combination"] = value;
        }

        /// <summary>Share of the numbers a pruning merge keeps.</summary>
        public double? Density
        {
            get => Real("density");
            set => this["density"] = value;
        }

        /// <summary>How ties elects signs: total or frequency.</summary>
        public string MajoritySign
        {
            get => Words("majority_sign");
            set => this["majority_sign"] = value;
        }

        /// <summary>Seed of dare.</summary>
        public long? Seed
        {
            get => Long("seed");
            set => this["seed"] = value;
        }

        /// <summary>The tasks' names, one per adapter.</summary>
        public IReadOnlyList<string> Tasks
        {
            get => Names("tasks");
            set => this["tasks"] = value;
        }

        /// <summary>How an example becomes text.</summary>
        public PromptFormat Prompt
        {
            get => Nested<PromptFormat>("prompt");
            set => this["prompt"] = value;
        }

        /// <summary>Weight of each adapter in a merge; default 1 each.</summary>
        public IReadOnlyList<double> Weights
        {
            get => Reals("weights");
            set => this["weights"] = value;
        }
    }
}
