// SPDX-License-Identifier: Apache-2.0
using System;
using System.Threading;

namespace Polyad
{
    /// <summary>
    /// A process that ends runs the native libraries' destructors while its background threads go on. None of them may be inside a call
    /// then, or it crashes on what is gone: the end waits for the calls in progress, and no new ones begin. Mono itself stops its threads
    /// outside native code before that, and waits for those that are inside.
    /// </summary>
    internal static class ProcessEnd
    {
        /// <summary>Longer than any step; a process is not to hang for a call that never returns.</summary>
        private static readonly TimeSpan Longest = TimeSpan.FromSeconds(30);

        private static readonly bool OnMono = Type.GetType("Mono.Runtime") != null;

        private static int inside;
        private static volatile Thread ending; // the thread that ends the process, which may still call

        /// <summary>Once, when the library is there.</summary>
        internal static void Watch() => AppDomain.CurrentDomain.ProcessExit += (sender, e) =>
        {
            Log.Silence();
            if (OnMono) return;
            ending = Thread.CurrentThread;
            SpinWait.SpinUntil(() => Volatile.Read(ref inside) == 0, Longest);
        };

        /// <summary>Before a call into the library; <see cref="Leave"/> belongs to it.</summary>
        internal static void Enter()
        {
            Interlocked.Increment(ref inside);
            if (ending == null || ending == Thread.CurrentThread) return;
            Leave();
            Thread.Sleep(Longest); // an exception here would only turn a clean end into an unhandled one
            throw new InvalidOperationException("the process is ending");
        }

        internal static void Leave() => Interlocked.Decrement(ref inside);
    }
}
