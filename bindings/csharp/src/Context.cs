// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.CompilerServices;

namespace Polyad
{
    /// <summary>
    /// Threads and device settings shared by what is opened through it. Most programs never name one: without a context, one for the
    /// process is used. Any number of threads may use a context at once.
    /// </summary>
    public sealed class Context : NativeObject
    {
        private static readonly object Gate = new object();
        private static Context shared;

        /// <summary>A context whose calls use <paramref name="threads"/> worker threads each.</summary>
        /// <param name="threads">1 to 1024, or 0 for what OpenMP would use.</param>
        public Context(int threads = 0) : base(Create(threads))
        {
        }

        private static NativeHandle Create(int threads)
        {
            NativeLoader.Load();
            return CreateLoaded(threads);
        }

        [MethodImpl(NativeLoader.AfterLoading)]
        private static NativeHandle CreateLoaded(int threads)
        {
            using (var options = new polyad_context_options())
            {
                options.threads = threads;
                return Make(Native.polyad_context_release, (out IntPtr made) => Native.polyad_context_create(options, out made));
            }
        }

        /// <summary>The process's own context, made when it is first asked for, if none is given.</summary>
        internal static Context Given(Context given)
        {
            if (given != null) return given;
            lock (Gate)
            {
                return shared ?? (shared = new Context());
            }
        }
    }
}
