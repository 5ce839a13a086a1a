// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>Task-level mixture of experts: a router picks layer copies or low-rank experts by task (arXiv 2205.12701).</summary>
    public sealed class TaskMoe : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public TaskMoe() : base("task_moe")
        {
        }

        /// <summary>Experts are copies of a layer or lora skills.</summary>
        public string ExpertKind
        {
            get => Words("expert_kind");
            set => this["expert_kind"] = value;
        }

        /// <summary>Experts per layer.</summary>
        public int? Experts
        {
            get => Whole("n_experts");
            set => this["n_experts"] = value;
        }

        /// <summary>Of layer copies: size of the noise they start with.</summary>
        public double? InitEps
        {
            get => Real("init_eps");
            set => this["init_eps"] = value;
        }

        /// <summary>Of layer copies: layers that are kept single.</summary>
        public IReadOnlyList<int> VanillaLayers
        {
            get => Wholes("vanilla_layers");
            set => this["vanilla_layers"] = value;
        }

        /// <summary>Of layer copies: refused above this, with gradients and optimiser.</summary>
        public double? ExpertMemoryGib
        {
            get => Real("expert_memory_gib");
            set => this["expert_memory_gib"] = value;
        }

        /// <summary>learned, average, instance_random, task_random.</summary>
        public string Routing
        {
            get => Words("routing");
            set => this["routing"] = value;
        }

        /// <summary>Experts a task draws with task_random.</summary>
        public int? RandomExperts
        {
            get => Whole("random_experts");
            set => this["random_experts"] = value;
        }

        /// <summary>Kind of the router: linear, rnn, gru, lstm, transformer, each also with _layer_specific.</summary>
        public string Router
        {
            get => Words("router");
            set => this["router"] = value;
        }

        /// <summary>Width of the router.</summary>
        public int? RouterHidden
        {
            get => Whole("router_hidden");
            set => this["router_hidden"] = value;
        }

        /// <summary>Dropout of the transformer kinds.</summary>
        public double? RouterDropout
        {
            get => Real("router_dropout");
            set => this["router_dropout"] = value;
        }

        /// <summary>Where a task's vector comes from: random, text, finetuned_text, fisher.</summary>
        public string TaskVectors
        {
            get => Words("task_vectors");
            set => this["task_vectors"] = value;
        }

        /// <summary>Width of random task vectors.</summary>
        public int? TaskVectorDim
        {
            get => Whole("task_vec_dim");
            set => this["task_vec_dim"] = value;
        }

        /// <summary>Whether training moves them.</summary>
        public bool? TrainTaskVectors
        {
            get => Truth("train_task_vectors");
            set => this["train_task_vectors"] = value;
        }

        /// <summary>gumbel_softmax_st, gumbel_softmax, softmax.</summary>
        public string Select
        {
            get => Words("select");
            set => this["select"] = value;
        }

        /// <summary>When not training: argmax, softmax, sample.</summary>
        public string EvalRoute
        {
            get => Words("eval_route");
            set => this["eval_route"] = value;
        }

        /// <summary>Temperature of the selection at the start.</summary>
        public double? Tau
        {
            get => Real("tau");
            set => this["tau"] = value;
        }

        /// <summary>How fast it falls per step.</summary>
        public double? TauRate
        {
            get => Real("tau_rate");
            set => this["tau_rate"] = value;
        }

        /// <summary>Where it stops.</summary>
        public double? TauMin
        {
            get => Real("tau_min");
            set => this["tau_min"] = value;
        }

        /// <summary>Chance of a random route in training.</summary>
        public double? Exploration
        {
            get => Real("exploration");
            set => this["exploration"] = value;
        }

        /// <summary>That route: one_hot or uniform.</summary>
        public string ExplorationRoute
        {
            get => Words("exploration_route");
            set => this["exploration_route"] = value;
        }

        /// <summary>Weight of the loss on the distance between experts.</summary>
        public double? ExpertRegularization
        {
            get => Real("expert_regularization");
            set => this["expert_regularization"] = value;
        }

        /// <summary>Steps of router and experts in turns; 0 = together.</summary>
        public int? AlternateEvery
        {
            get => Whole("alternate_every");
            set => this["alternate_every"] = value;
        }

        /// <summary>What training moves: all, router, experts, uniform.</summary>
        public string Train
        {
            get => Words("train");
            set => this["train"] = value;
        }
    }
}
