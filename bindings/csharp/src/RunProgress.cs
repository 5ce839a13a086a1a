// SPDX-License-Identifier: Apache-2.0
using System;

namespace Polyad
{
    /// <summary>Where a trainer or an evaluator stands.</summary>
    public sealed class RunProgress
    {
        private RunProgress(polyad_progress p)
        {
            Step = p.step;
            TotalSteps = p.total_steps;
            Epoch = p.epoch;
            Loss = p.loss;
            LearningRate = p.learning_rate;
            GradientNorm = p.gradient_norm;
            ValidationLoss = p.validation_loss;
            BestValidationLoss = p.best_validation_loss;
            Tokens = p.tokens;
            TokensPerSecond = p.tokens_per_second;
            SecondsLeft = p.seconds_left;
            TruncatedRows = p.truncated_rows;
            Done = p.done != 0;
            StoppedEarly = p.stopped_early != 0;
        }

        /// <summary>Runs a step that fills the C struct.</summary>
        internal static RunProgress Of(Action<polyad_progress> step)
        {
            using (var filled = new polyad_progress())
            {
                step(filled);
                return new RunProgress(filled);
            }
        }

        /// <summary>Steps done; of an evaluator: examples scored.</summary>
        public long Step { get; }

        /// <summary>Steps there are.</summary>
        public long TotalSteps { get; }

        /// <summary>Epochs finished, with fraction.</summary>
        public double Epoch { get; }

        /// <summary>Mean negative log likelihood per answer token of the last step.</summary>
        public double Loss { get; }

        /// <summary>Of the skills.</summary>
        public double LearningRate { get; }

        /// <summary>Before clipping.</summary>
        public double GradientNorm { get; }

        /// <summary>Last measured; NaN before the first.</summary>
        public double ValidationLoss { get; }

        /// <summary>Best measured; NaN before the first.</summary>
        public double BestValidationLoss { get; }

        /// <summary>Real tokens processed so far.</summary>
        public long Tokens { get; }

        /// <summary>Recent.</summary>
        public double TokensPerSecond { get; }

        /// <summary>An estimate; NaN while unknown.</summary>
        public double SecondsLeft { get; }

        /// <summary>Prompts that were cut on the left.</summary>
        public long TruncatedRows { get; }

        /// <summary>Nothing is left to do.</summary>
        public bool Done { get; }

        /// <summary>Validation stopped improving.</summary>
        public bool StoppedEarly { get; }
    }
}
