// SPDX-License-Identifier: Apache-2.0
using System;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>
    /// Scores a skillset, or the backbone alone, on a part of a dataset. One caller at a time; <see cref="Stepper.Cancel"/> from any
    /// thread.
    /// </summary>
    public sealed class Evaluator : Stepper
    {
        /// <summary>An evaluator before its first batch.</summary>
        /// <param name="model">The backbone.</param>
        /// <param name="skills">The skillset to score; null for the backbone alone, with the same prompts.</param>
        /// <param name="tasks">On what.</param>
        /// <param name="options">Null for the library's defaults.</param>
        public Evaluator(Backbone model, Skillset skills, Dataset tasks, EvaluatorOptions options = null)
            : base(Create(NotNull(model, nameof(model)), skills, NotNull(tasks, nameof(tasks)), Options.TextOf(options)))
        {
        }

        private static NativeHandle Create(Backbone model, Skillset skills, Dataset tasks, string config) =>
            model.Use(m => UseOrNull(skills, s => tasks.Use(d => Make(
                Native.polyad_evaluator_release, (out IntPtr made) => Native.polyad_evaluator_create(m, s, d, config, out made)))));

        internal override void NativeStep(IntPtr handle, polyad_progress progress) => Native.polyad_evaluator_step(handle, progress);

        internal override void NativeCancel(IntPtr handle) => Native.polyad_evaluator_cancel(handle);

        /// <summary>Scores to the end on this thread.</summary>
        /// <param name="progress">Told after every batch; what it throws ends the run. May be null.</param>
        /// <param name="cancellationToken">Ends the run within a batch.</param>
        /// <returns>As <see cref="Result"/>.</returns>
        /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
        public Json Run(IProgress<RunProgress> progress = null, CancellationToken cancellationToken = default(CancellationToken))
        {
            RunSteps(progress, cancellationToken);
            return Result();
        }

        /// <summary>As <see cref="Run"/>, in the background.</summary>
        public Task<Json> RunAsync(IProgress<RunProgress> progress = null,
                                   CancellationToken cancellationToken = default(CancellationToken)) =>
            InBackground(() => Run(progress, cancellationToken), cancellationToken);

        /// <summary>Exact match and ROUGE-L (0 to 100) overall, per category and per task; counts; predictions.</summary>
        /// <exception cref="PolyadException">WrongState before everything is scored.</exception>
        public Json Result() => AskJson(Native.polyad_evaluator_result);

        /// <summary>The same as an aligned table for people.</summary>
        public string Table() => Text(Native.polyad_evaluator_table);
    }
}
