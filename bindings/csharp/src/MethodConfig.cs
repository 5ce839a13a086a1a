// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>
    /// A method and its options, for a new <see cref="Skillset"/>. The usual methods have classes with their own options
    /// (<see cref="Lora"/>, <see cref="Poly"/>, <see cref="CPoly"/>, ...); this one reaches every method the library has:
    /// <c>new MethodConfig("orchmoe") { Rank = 8, ["n_skills"] = 8 }</c>.
    /// </summary>
    public class MethodConfig : Options
    {
        /// <summary>A method by its name in docs/configuration.md; <see cref="PolyadLibrary.BuildInfo"/> lists those of this build.</summary>
        public MethodConfig(string method)
        {
            this["method"] = method ?? throw new ArgumentNullException(nameof(method));
        }

        /// <summary>Rank of one skill.</summary>
        public int? Rank
        {
            get => Whole("rank");
            set => this["rank"] = value;
        }

        /// <summary>The last parts of the paths of the linears to adapt: "q_proj", "v_proj".</summary>
        public IReadOnlyList<string> TargetModules
        {
            get => Names("target_modules");
            set => this["target_modules"] = value;
        }

        /// <summary>Seed of the start values.</summary>
        public long? Seed
        {
            get => Long("seed");
            set => this["seed"] = value;
        }

        /// <summary>Distribution of the start values: kaiming, gaussian, polytropon, peft_poly, molora.</summary>
        public string Init
        {
            get => Words("init");
            set => this["init"] = value;
        }

        /// <summary>How an example becomes text.</summary>
        public PromptFormat Prompt
        {
            get => Nested<PromptFormat>("prompt");
            set => this["prompt"] = value;
        }
    }

    /// <summary>What methods with a scale have in common.</summary>
    public abstract class ScaledMethod : MethodConfig
    {
        internal ScaledMethod(string method) : base(method)
        {
        }

        /// <summary>What is added to a linear (an adapter, an expert, a mixture of them) is scaled by alpha / rank.</summary>
        public double? Alpha
        {
            get => Real("alpha");
            set => this["alpha"] = value;
        }
    }

    /// <summary>What methods with a number of low-rank experts have in common.</summary>
    public abstract class ExpertMethod : ScaledMethod
    {
        internal ExpertMethod(string method) : base(method)
        {
        }

        /// <summary>How many experts there are; those of MOELoRA share the rank.</summary>
        public int? Experts
        {
            get => Whole("n_experts");
            set => this["n_experts"] = value;
        }
    }

    /// <summary>LoRA: one low-rank adapter for all tasks (arXiv 2106.09685).</summary>
    public sealed class Lora : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public Lora() : base("lora")
        {
        }

        /// <summary>Scale alpha / sqrt(rank) instead (arXiv 2312.03732).</summary>
        public bool? RankStabilised
        {
            get => Truth("use_rslora");
            set => this["use_rslora"] = value;
        }

        /// <summary>Dropout before the adapter, in training.</summary>
        public double? Dropout
        {
            get => Real("lora_dropout");
            set => this["lora_dropout"] = value;
        }

        /// <summary>Magnitude and direction of every output row apart: DoRA (arXiv 2402.09353).</summary>
        public bool? Dora
        {
            get => Truth("use_dora");
            set => this["use_dora"] = value;
        }
    }

    /// <summary>What the methods that average skills under a learned table have in common.</summary>
    public abstract class PolyFamily : ScaledMethod
    {
        internal PolyFamily(string method) : base(method)
        {
        }

        /// <summary>Blocks of rows and columns that are mixed apart; must divide every adapted width.</summary>
        public int? Splits
        {
            get => Whole("n_splits");
            set => this["n_splits"] = value;
        }

        /// <summary>What is averaged: the factors or their products.</summary>
        public string Combine
        {
            get => Words("combine");
            set => this["combine"] = value;
        }

        /// <summary>Noise on the routing in training: relaxed_bernoulli or sigmoid (none).</summary>
        public string SkillSampling
        {
            get => Words("skill_sampling");
            set => this["skill_sampling"] = value;
        }

        /// <summary>Temperature of that noise.</summary>
        public double? Tau
        {
            get => Real("tau");
            set => this["tau"] = value;
        }

        /// <summary>Where routing tables differ: finegrained (each site), blockwise, layerwise, coderwise, coarsegrained.</summary>
        public string RouterGranularity
        {
            get => Words("router_granularity");
            set => this["router_granularity"] = value;
        }

        /// <summary>What training moves: all, router, uniform.</summary>
        public string Train
        {
            get => Words("train");
            set => this["train"] = value;
        }
    }

    /// <summary>Poly: tasks mix a stock of skills under a learned table (arXiv 2202.13914).</summary>
    public sealed class Poly : PolyFamily
    {
        /// <summary>The library's defaults.</summary>
        public Poly() : base("poly")
        {
        }

        /// <summary>How many skills there are.</summary>
        public int? Skills
        {
            get => Whole("n_skills");
            set => this["n_skills"] = value;
        }
    }

    /// <summary>MHR: Poly with several routing heads (arXiv 2211.03831).</summary>
    public sealed class Mhr : PolyFamily
    {
        /// <summary>The library's defaults.</summary>
        public Mhr() : base("mhr")
        {
        }

        /// <summary>How many skills there are.</summary>
        public int? Skills
        {
            get => Whole("n_skills");
            set => this["n_skills"] = value;
        }
    }

    /// <summary>C-Poly: skills common to all tasks beside private ones of each task (arXiv 2312.03248).</summary>
    public sealed class CPoly : PolyFamily
    {
        /// <summary>The library's defaults.</summary>
        public CPoly() : base("cpoly")
        {
        }

        /// <summary>How many skills all tasks share.</summary>
        public int? CommonSkills
        {
            get => Whole("common_skills");
            set => this["common_skills"] = value;
        }

        /// <summary>How many skills each task has for itself.</summary>
        public int? PrivateSkills
        {
            get => Whole("private_skills");
            set => this["private_skills"] = value;
        }

        /// <summary>Routing of the private skills: learned_full, one_hot, learned_diag.</summary>
        public string SpecificRouting
        {
            get => Words("specific_routing");
            set => this["specific_routing"] = value;
        }

        /// <summary>Activation of that routing: none or sigmoid.</summary>
        public string SpecificActivation
        {
            get => Words("specific_activation");
            set => this["specific_activation"] = value;
        }

        /// <summary>Noise on the routing of the common skills: relaxed_bernoulli or none.</summary>
        public string CommonNoise
        {
            get => Words("common_noise");
            set => this["common_noise"] = value;
        }
    }
}
