// SPDX-License-Identifier: Apache-2.0
using System;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>Trains a skillset on a dataset. One caller at a time; <see cref="Stepper.Cancel"/> from any thread.</summary>
    public sealed class Trainer : Stepper
    {
        /// <summary>A trainer at step 0.</summary>
        /// <param name="skills">What is trained.</param>
        /// <param name="tasks">On what.</param>
        /// <param name="options">Null for the library's defaults.</param>
        /// <exception cref="PolyadException">InvalidConfig, BadData (empty task, answer too long), UnknownTask (one the skillset lacks).
        /// </exception>
        public Trainer(Skillset skills, Dataset tasks, TrainerOptions options = null)
            : base(Create(NotNull(skills, nameof(skills)), NotNull(tasks, nameof(tasks)), Options.TextOf(options)))
        {
        }

        private static NativeHandle Create(Skillset skills, Dataset tasks, string config) => skills.Use(s => tasks.Use(d => Make(
            Native.polyad_trainer_release, (out IntPtr made) => Native.polyad_trainer_create(s, d, config, out made))));

        internal override void NativeStep(IntPtr handle, polyad_progress progress) => Native.polyad_trainer_step(handle, progress);

        internal override void NativeCancel(IntPtr handle) => Native.polyad_trainer_cancel(handle);

        /// <summary>Steps to the end on this thread.</summary>
        /// <param name="progress">Told after every step; what it throws ends the run. May be null.</param>
        /// <param name="cancellationToken">Ends the run within a step. What was done stays, and the trainer can go on.</param>
        /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
        /// <exception cref="PolyadException">As <see cref="Stepper.Step"/>.</exception>
        public RunProgress Run(IProgress<RunProgress> progress = null,
                               CancellationToken cancellationToken = default(CancellationToken)) => RunSteps(progress, cancellationToken);

        /// <summary>As <see cref="Run"/>, in the background.</summary>
        public Task<RunProgress> RunAsync(IProgress<RunProgress> progress = null,
                                          CancellationToken cancellationToken = default(CancellationToken)) =>
            InBackground(() => RunSteps(progress, cancellationToken), cancellationToken);

        /// <summary>Writes, atomically, everything needed to go on bit for bit.</summary>
        public void SaveCheckpoint(string file)
        {
            NotNull(file, nameof(file));
            Use(handle => Native.polyad_trainer_save_checkpoint(handle, file));
        }

        /// <summary>Goes on from a checkpoint of the same skillset configuration, data and training options.</summary>
        public void Resume(string file)
        {
            NotNull(file, nameof(file));
            Use(handle => Native.polyad_trainer_resume(handle, file));
        }

        /// <summary>The options with all defaults; loss and validation of every step.</summary>
        public Json Report() => AskJson(Native.polyad_trainer_report);
    }
}
