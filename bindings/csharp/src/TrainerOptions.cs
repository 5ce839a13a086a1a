// SPDX-License-Identifier: Apache-2.0
namespace Polyad
{
    /// <summary>How to train.</summary>
    public sealed class TrainerOptions : Options
    {
        /// <summary>The library's defaults.</summary>
        public TrainerOptions()
        {
        }

        /// <summary>Passes over the training rows.</summary>
        public double? Epochs
        {
            get => Real("epochs");
            set => this["epochs"] = value;
        }

        /// <summary>Optimiser steps, instead of epochs.</summary>
        public long? MaxSteps
        {
            get => Long("max_steps");
            set => this["max_steps"] = value;
        }

        /// <summary>Rows of one forward pass.</summary>
        public int? BatchSize
        {
            get => Whole("batch_size");
            set => this["batch_size"] = value;
        }

        /// <summary>A forward pass with more tokens is split; the loss stays the same.</summary>
        public int? MaxTokensPerBatch
        {
            get => Whole("max_tokens_per_batch");
            set => this["max_tokens_per_batch"] = value;
        }

        /// <summary>Forward passes of one optimiser step.</summary>
        public int? GradientAccumulation
        {
            get => Whole("gradient_accumulation");
            set => this["gradient_accumulation"] = value;
        }

        /// <summary>Of the skills.</summary>
        public double? LearningRate
        {
            get => Real("learning_rate");
            set => this["learning_rate"] = value;
        }

        /// <summary>Of the routing logits; default ten times the skills'.</summary>
        public double? RouterLearningRate
        {
            get => Real("router_learning_rate");
            set => this["router_learning_rate"] = value;
        }

        /// <summary>Of the skills.</summary>
        public double? WeightDecay
        {
            get => Real("weight_decay");
            set => this["weight_decay"] = value;
        }

        /// <summary>After the warm-up: linear, cosine, constant.</summary>
        public string Schedule
        {
            get => Words("schedule");
            set => this["schedule"] = value;
        }

        /// <summary>Share of the steps in which the rates rise.</summary>
        public double? WarmupRatio
        {
            get => Real("warmup_ratio");
            set => this["warmup_ratio"] = value;
        }

        /// <summary>Clipping over all parameters; 0 = off.</summary>
        public double? MaxGradientNorm
        {
            get => Real("max_grad_norm");
            set => this["max_grad_norm"] = value;
        }

        /// <summary>How rows are drawn from the tasks: proportional, uniform, temperature.</summary>
        public string Sampling
        {
            get => Words("sampling");
            set => this["sampling"] = value;
        }

        /// <summary>Order of rows and routing noise.</summary>
        public long? Seed
        {
            get => Long("seed");
            set => this["seed"] = value;
        }

        /// <summary>Steps between validations; 0 = each epoch.</summary>
        public long? ValidationEvery
        {
            get => Long("validation_every");
            set => this["validation_every"] = value;
        }

        /// <summary>Validation rows, dealt out evenly over the tasks; 0 = none.</summary>
        public int? ValidationExamples
        {
            get => Whole("validation_examples");
            set => this["validation_examples"] = value;
        }

        /// <summary>Validations without gain before stopping; 0 = never.</summary>
        public int? EarlyStopPatience
        {
            get => Whole("early_stop_patience");
            set => this["early_stop_patience"] = value;
        }

        /// <summary>Whether to end with the weights of the best validation.</summary>
        public bool? KeepBest
        {
            get => Truth("keep_best");
            set => this["keep_best"] = value;
        }

        /// <summary>A file written atomically every <see cref="CheckpointEvery"/> steps, from which <see cref="Trainer.Resume"/> goes on.</summary>
        public string Checkpoint
        {
            get => Words("checkpoint");
            set => this["checkpoint"] = value;
        }

        /// <summary>Steps between checkpoints.</summary>
        public long? CheckpointEvery
        {
            get => Long("checkpoint_every");
            set => this["checkpoint_every"] = value;
        }
    }
}
