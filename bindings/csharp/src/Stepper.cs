// SPDX-License-Identifier: Apache-2.0
using System;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>Work that is done in steps: one caller at a time steps, any thread may cancel.</summary>
    public abstract class Stepper : NativeObject
    {
        // A token's cancel that came too late for the step it was meant for. The library would hand it to the next step, whose caller
        // never asked for it.
        private volatile bool staleCancel;

        internal Stepper(NativeHandle handle) : base(handle)
        {
        }

        internal abstract void NativeStep(IntPtr handle, polyad_progress progress);

        internal abstract void NativeCancel(IntPtr handle);

        /// <summary>One step. A step that fails changes nothing.</summary>
        /// <exception cref="PolyadException">Cancelled; WrongState (done already, or stepped by another thread); NumericError (step and
        /// task).</exception>
        public RunProgress Step()
        {
            try
            {
                return OneStep();
            }
            catch (PolyadException e) when (e.Code == ErrorCode.Cancelled && staleCancel)
            {
                staleCancel = false;
                return OneStep();
            }
        }

        private RunProgress OneStep() => Use(handle => RunProgress.Of(progress => NativeStep(handle, progress)));

        /// <summary>
        /// Makes the step in progress, or the next one, end with <see cref="ErrorCode.Cancelled"/>; stepping can go on after that. Any
        /// thread.
        /// </summary>
        public void Cancel()
        {
            staleCancel = false;
            Use(NativeCancel);
        }

        /// <summary>
        /// Steps until nothing is left to do. A cancelled token ends it within a step, and what <paramref name="progress"/> throws ends it
        /// too. Either way everything done so far stays, and stepping can go on.
        /// </summary>
        internal RunProgress RunSteps(IProgress<RunProgress> progress, CancellationToken cancellationToken)
        {
            bool passedOn = false;
            bool heard = false;
            try
            {
                using (cancellationToken.Register(() =>
                {
                    passedOn = true;
                    try
                    {
                        Use(NativeCancel);
                    }
                    catch (ObjectDisposedException)
                    {
                        // Nothing left to cancel.
                    }
                }))
                {
                    while (true)
                    {
                        cancellationToken.ThrowIfCancellationRequested();
                        RunProgress now = Step();
                        progress?.Report(now);
                        if (now.Done) return now;
                    }
                }
            }
            catch (PolyadException e) when (e.Code == ErrorCode.Cancelled && cancellationToken.IsCancellationRequested)
            {
                heard = true;
                throw new OperationCanceledException(e.Message, e, cancellationToken);
            }
            finally
            {
                if (passedOn && !heard) staleCancel = true;
            }
        }

        /// <summary>Long work on a thread of its own, so that it takes none of the pool's.</summary>
        internal static Task<T> InBackground<T>(Func<T> work, CancellationToken cancellationToken) => Task.Factory.StartNew(
            work, cancellationToken, TaskCreationOptions.LongRunning | TaskCreationOptions.DenyChildAttach, TaskScheduler.Default);
    }
}
