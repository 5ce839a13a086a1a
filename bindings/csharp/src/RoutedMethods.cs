// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>OrchMoE: latent tasks read from the prompt choose and mix shared skills (arXiv 2401.10559).</summary>
    public sealed class OrchMoe : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public OrchMoe() : base("orchmoe")
        {
        }

        /// <summary>How many skills there are.</summary>
        public int? Skills
        {
            get => Whole("n_skills");
            set => this["n_skills"] = value;
        }

        /// <summary>How many latent tasks the router tells apart.</summary>
        public int? LatentTasks
        {
            get => Whole("n_latent_tasks");
            set => this["n_latent_tasks"] = value;
        }

        /// <summary>Blocks of rows and columns that are mixed apart; must divide every adapted width.</summary>
        public int? Splits
        {
            get => Whole("n_splits");
            set => this["n_splits"] = value;
        }

        /// <summary>What is averaged: factors or their products.</summary>
        public string Combine
        {
            get => Words("combine");
            set => this["combine"] = value;
        }

        /// <summary>latent_tasks, or softmax_gate (the ablation).</summary>
        public string Router
        {
            get => Words("router");
            set => this["router"] = value;
        }

        /// <summary>Whether each layer routes for itself or the model once.</summary>
        public string RouterScope
        {
            get => Words("router_scope");
            set => this["router_scope"] = value;
        }

        /// <summary>Whether the prompt attends to the latent tasks.</summary>
        public bool? TaskAttention
        {
            get => Truth("task_attention");
            set => this["task_attention"] = value;
        }

        /// <summary>How a prompt becomes one vector: mean, last, first, none.</summary>
        public string TaskPool
        {
            get => Words("task_pool");
            set => this["task_pool"] = value;
        }

        /// <summary>Of the latent tasks: softmax, sigmoid_norm, none, st_gumbel.</summary>
        public string TaskActivation
        {
            get => Words("task_activation");
            set => this["task_activation"] = value;
        }

        /// <summary>Temperature of st_gumbel.</summary>
        public double? TaskTau
        {
            get => Real("task_tau");
            set => this["task_tau"] = value;
        }

        /// <summary>What is read: prompt, causal, or all (encoders only).</summary>
        public string RouteSpan
        {
            get => Words("route_span");
            set => this["route_span"] = value;
        }

        /// <summary>Noise on the skills in training: relaxed_bernoulli, sigmoid (none), softmax.</summary>
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

        /// <summary>Start of the latent tasks: normal or uniform.</summary>
        public string TaskInit
        {
            get => Words("task_init");
            set => this["task_init"] = value;
        }

        /// <summary>Start of the table of skills: uniform or normal.</summary>
        public string TableInit
        {
            get => Words("table_init");
            set => this["table_init"] = value;
        }

        /// <summary>What training moves: all, router, table.</summary>
        public string Train
        {
            get => Words("train");
            set => this["train"] = value;
        }
    }

    /// <summary>Intuition-MoR1E: rank-one experts mixed per token, led by the intuition of the whole prompt (arXiv 2404.08985).</summary>
    public sealed class Mor1e : MethodConfig
    {
        /// <summary>The library's defaults.</summary>
        public Mor1e() : base("mor1e")
        {
        }

        /// <summary>rank1_flex (<see cref="R1"/> x <see cref="R2"/> experts) or rank1 (<see cref="MethodConfig.Rank"/> experts).</summary>
        public string Variant
        {
            get => Words("variant");
            set => this["variant"] = value;
        }

        /// <summary>Of rank1_flex: vectors on the input side.</summary>
        public int? R1
        {
            get => Whole("r1");
            set => this["r1"] = value;
        }

        /// <summary>Of rank1_flex: vectors on the output side.</summary>
        public int? R2
        {
            get => Whole("r2");
            set => this["r2"] = value;
        }

        /// <summary>Weight of what the router says of a token.</summary>
        public double? TokenWeight
        {
            get => Real("c_tok");
            set => this["c_tok"] = value;
        }

        /// <summary>Weight of the intuition.</summary>
        public double? TaskWeight
        {
            get => Real("c_task");
            set => this["c_task"] = value;
        }

        /// <summary>Factor on the gates.</summary>
        public double? GateFactor
        {
            get => Real("gate_factor");
            set => this["gate_factor"] = value;
        }

        /// <summary>none, or what is left out: intuition, router.</summary>
        public string Ablation
        {
            get => Words("ablation");
            set => this["ablation"] = value;
        }

        /// <summary>Where the scores of a prompt come from; without it they are 0 unless a request brings its own.</summary>
        public IntuitionOptions Intuition
        {
            get => Nested<IntuitionOptions>("intuition");
            set => this["intuition"] = value;
        }
    }

    /// <summary>Clusters of sentence vectors: what a prompt scores against them is its intuition.</summary>
    public sealed class IntuitionOptions : Options
    {
        /// <summary>With a sentence encoder.</summary>
        /// <param name="encoder">A folder with a BERT encoder.</param>
        public IntuitionOptions(string encoder)
        {
            this["encoder"] = encoder ?? throw new System.ArgumentNullException(nameof(encoder));
        }

        /// <summary>spherical_kmeans or kmeans.</summary>
        public string Cluster
        {
            get => Words("cluster");
            set => this["cluster"] = value;
        }

        /// <summary>How many clusters; as many as there are experts.</summary>
        public int? Clusters
        {
            get => Whole("clusters");
            set => this["clusters"] = value;
        }

        /// <summary>Whether the centres have length 1.</summary>
        public bool? NormalizeCentroids
        {
            get => Truth("normalize_centroids");
            set => this["normalize_centroids"] = value;
        }

        /// <summary>Tokens of a text that are read.</summary>
        public int? MaxTokens
        {
            get => Whole("max_tokens");
            set => this["max_tokens"] = value;
        }

        /// <summary>At most so many rows are clustered; 0 = all.</summary>
        public int? MaxInstances
        {
            get => Whole("max_instances");
            set => this["max_instances"] = value;
        }
    }

    /// <summary>PEMT, stage 1: one expert and one prompt per source task (arXiv 2402.15082).</summary>
    public sealed class PemtSource : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public PemtSource() : base("pemt_source")
        {
        }

        /// <summary>lora or bottleneck.</summary>
        public string Expert
        {
            get => Words("expert");
            set => this["expert"] = value;
        }

        /// <summary>Start of its B: zero or kaiming.</summary>
        public string LoraBInit
        {
            get => Words("stage1_lora_b_init");
            set => this["stage1_lora_b_init"] = value;
        }

        /// <summary>Start of the prompts: description or random.</summary>
        public string PromptInit
        {
            get => Words("prompt_init");
            set => this["prompt_init"] = value;
        }

        /// <summary>Tokens of a prompt; 0 = as many as its description has.</summary>
        public int? PromptTokens
        {
            get => Whole("prompt_tokens");
            set => this["prompt_tokens"] = value;
        }

        /// <summary>At most so many.</summary>
        public int? MaxPromptTokens
        {
            get => Whole("max_prompt_tokens");
            set => this["max_prompt_tokens"] = value;
        }
    }

    /// <summary>PEMT, stage 2: target tasks that mix the experts of stage 1 by the likeness of their prompts (arXiv 2402.15082).</summary>
    public sealed class Pemt : MethodConfig
    {
        /// <summary>The library's defaults.</summary>
        public Pemt() : base("pemt")
        {
        }

        /// <summary>Bundles of stage 1; their tensors are copied.</summary>
        public IReadOnlyList<string> Sources
        {
            get => Names("sources");
            set => this["sources"] = value;
        }

        /// <summary>Width of the target task's own adapter.</summary>
        public int? AdapterDim
        {
            get => Whole("adapter_dim");
            set => this["adapter_dim"] = value;
        }

        /// <summary>dynamic or init_once.</summary>
        public string CorrelationPrompt
        {
            get => Words("corr_prompt");
            set => this["corr_prompt"] = value;
        }

        /// <summary>Dropout of the attention over source prompts, in training.</summary>
        public double? PromptDropout
        {
            get => Real("prompt_dropout");
            set => this["prompt_dropout"] = value;
        }

        /// <summary>prefix, or prompt: the row's own prompt too.</summary>
        public string GateReads
        {
            get => Words("gate_reads");
            set => this["gate_reads"] = value;
        }

        /// <summary>Whether layer norms train too.</summary>
        public bool? TrainNorms
        {
            get => Truth("train_norms");
            set => this["train_norms"] = value;
        }

        /// <summary>Weight of the Task Sparsity Loss; 0 = off.</summary>
        public double? TaskSparsityWeight
        {
            get => Real("ts_weight");
            set => this["ts_weight"] = value;
        }

        /// <summary>Leaves masked tokens out of it.</summary>
        public bool? TaskSparsityMaskPadding
        {
            get => Truth("ts_mask_padding");
            set => this["ts_mask_padding"] = value;
        }

        /// <summary>Keeps its gradient out of the experts' output.</summary>
        public bool? TaskSparsityDetachOutput
        {
            get => Truth("ts_detach_output");
            set => this["ts_detach_output"] = value;
        }

        /// <summary>Start of the prompts: description or random.</summary>
        public string PromptInit
        {
            get => Words("prompt_init");
            set => this["prompt_init"] = value;
        }

        /// <summary>Tokens of a prompt; 0 = as many as its description has.</summary>
        public int? PromptTokens
        {
            get => Whole("prompt_tokens");
            set => this["prompt_tokens"] = value;
        }

        /// <summary>At most so many.</summary>
        public int? MaxPromptTokens
        {
            get => Whole("max_prompt_tokens");
            set => this["max_prompt_tokens"] = value;
        }
    }
}
