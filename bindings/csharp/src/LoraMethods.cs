// SPDX-License-Identifier: Apache-2.0
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>Several LoRAs side by side, mixed by the weights of a task or a request.</summary>
    public sealed class LoraSet : MethodConfig
    {
        /// <summary>The library's defaults.</summary>
        public LoraSet() : base("lora_set")
        {
        }

        /// <summary>What training moves: all, or router (the weights of the tasks).</summary>
        public string Train
        {
            get => Words("train");
            set => this["train"] = value;
        }
    }

    /// <summary>MoLoRA: low-rank experts mixed per token (arXiv 2309.05444).</summary>
    public sealed class MoLora : ExpertMethod
    {
        /// <summary>The library's defaults.</summary>
        public MoLora() : base("molora")
        {
        }

        /// <summary>Experts a token uses; 0 = all.</summary>
        public int? TopK
        {
            get => Whole("top_k");
            set => this["top_k"] = value;
        }

        /// <summary>Weights of those: renorm (they add to 1) or mask.</summary>
        public string TopKMode
        {
            get => Words("top_k_mode");
            set => this["top_k_mode"] = value;
        }

        /// <summary>Weight of the loss that spreads tokens over experts.</summary>
        public double? BalanceLoss
        {
            get => Real("balance_loss");
            set => this["balance_loss"] = value;
        }

        /// <summary>Weight of the loss that keeps gate logits small.</summary>
        public double? ZLoss
        {
            get => Real("z_loss");
            set => this["z_loss"] = value;
        }
    }

    /// <summary>MOELoRA: low-rank experts mixed by a gate that reads the task (arXiv 2310.18339).</summary>
    public sealed class MoeLora : ExpertMethod
    {
        /// <summary>The library's defaults.</summary>
        public MoeLora() : base("moelora_task")
        {
        }

        /// <summary>Width of the vector each task has.</summary>
        public int? TaskEmbeddingDim
        {
            get => Whole("task_embedding_dim");
            set => this["task_embedding_dim"] = value;
        }

        /// <summary>What training moves: all, router, uniform.</summary>
        public string Train
        {
            get => Words("train");
            set => this["train"] = value;
        }
    }

    /// <summary>MixLoRA: feed-forward experts made of low-rank adapters, a few per token (arXiv 2404.15159).</summary>
    public sealed class MixLora : ExpertMethod
    {
        /// <summary>The library's defaults.</summary>
        public MixLora() : base("mixlora")
        {
        }

        /// <summary>Experts a token uses.</summary>
        public int? TopK
        {
            get => Whole("top_k");
            set => this["top_k"] = value;
        }

        /// <summary>As many experts as reach this probability together, instead of a number.</summary>
        public double? TopP
        {
            get => Real("top_p");
            set => this["top_p"] = value;
        }

        /// <summary>Weight of the loss that spreads tokens over experts; 0 = off.</summary>
        public double? BalanceWeight
        {
            get => Real("balance_weight");
            set => this["balance_weight"] = value;
        }
    }

    /// <summary>One LoRA of its own for every task.</summary>
    public sealed class PrivateLora : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public PrivateLora() : base("private_lora")
        {
        }
    }

    /// <summary>X-LoRA: a head that reads the prompt scales several LoRAs (arXiv 2402.07148).</summary>
    public sealed class XLora : ScaledMethod
    {
        /// <summary>The library's defaults.</summary>
        public XLora() : base("xlora")
        {
        }

        /// <summary>PEFT folders that become the experts.</summary>
        public IReadOnlyList<string> Adapters
        {
            get => Names("adapters");
            set => this["adapters"] = value;
        }

        /// <summary>How many fresh experts there are, without <see cref="Adapters"/>.</summary>
        public int? Experts
        {
            get => Whole("n_experts");
            set => this["n_experts"] = value;
        }

        /// <summary>Whether training moves the experts too.</summary>
        public bool? UseTrainableAdapters
        {
            get => Truth("use_trainable_adapters");
            set => this["use_trainable_adapters"] = value;
        }

        /// <summary>Layers of the head.</summary>
        public int? Depth
        {
            get => Whole("xlora_depth");
            set => this["xlora_depth"] = value;
        }

        /// <summary>Width of the head.</summary>
        public int? Size
        {
            get => Whole("xlora_size");
            set => this["xlora_size"] = value;
        }

        /// <summary>Dropout in the head, in training.</summary>
        public double? Dropout
        {
            get => Real("xlora_dropout_p");
            set => this["xlora_dropout_p"] = value;
        }

        /// <summary>Whether every layer has scales of its own.</summary>
        public bool? LayerwiseScalings
        {
            get => Truth("layerwise_scalings");
            set => this["layerwise_scalings"] = value;
        }

        /// <summary>Whether the scales add to 1.</summary>
        public bool? Softmax
        {
            get => Truth("enable_softmax");
            set => this["enable_softmax"] = value;
        }

        /// <summary>Temperature of that.</summary>
        public double? SoftmaxTemperature
        {
            get => Real("softmax_temperature");
            set => this["softmax_temperature"] = value;
        }

        /// <summary>Experts in use; 0 = all.</summary>
        public int? TopK
        {
            get => Whole("top_k_lora");
            set => this["top_k_lora"] = value;
        }

        /// <summary>Whether the scales of those in use add to 1.</summary>
        public bool? SoftmaxTopK
        {
            get => Truth("enable_softmax_topk");
            set => this["enable_softmax_topk"] = value;
        }

        /// <summary>Scale of every expert in the pass that the head reads.</summary>
        public double? ScalingPassValue
        {
            get => Real("scaling_pass_value");
            set => this["scaling_pass_value"] = value;
        }

        /// <summary>Factor on all scales.</summary>
        public double? GlobalScalingWeight
        {
            get => Real("global_scaling_weight");
            set => this["global_scaling_weight"] = value;
        }

        /// <summary>Whether the answer keeps the scales of the prompt or each token has its own.</summary>
        public string AnswerScalings
        {
            get => Words("answer_scalings");
            set => this["answer_scalings"] = value;
        }
    }
}
