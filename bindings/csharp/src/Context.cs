// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.CompilerServices;

namespace Polyad
{
    /// <summary>Where what is opened through a context lives and computes. What is null keeps the library's default.</summary>
    public sealed class ContextOptions
    {
        /// <summary>Worker threads of one call, 1 to 1024; 0 = what OpenMP would use.</summary>
        public int? Threads { get; set; }

        /// <summary>"cpu", "cuda" (the first) or "cuda:N"; <see cref="PolyadLibrary.Devices"/> lists them.</summary>
        public string Device { get; set; }

        /// <summary>CUDA: most bytes of device memory this process may take; 0 = all there is.</summary>
        public long? MemoryBudget { get; set; }

        [MethodImpl(NativeLoader.AfterLoading)]
        internal NativeHandle Create()
        {
            if (MemoryBudget < 0)
                throw new ArgumentOutOfRangeException(nameof(MemoryBudget), MemoryBudget, "a memory budget has to be 0 or more");
            using (var o = new polyad_context_options())
            {
                o.threads = Threads ?? o.threads;
                o.device = Device;
                o.memory_budget = (ulong?)MemoryBudget ?? o.memory_budget;
                return NativeObject.Make(Native.polyad_context_release, (out IntPtr made) => Native.polyad_context_create(o, out made));
            }
        }
    }

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
        public Context(int threads = 0) : this(new ContextOptions { Threads = threads })
        {
        }

        /// <summary>A context on a device.</summary>
        /// <exception cref="PolyadException">
        /// <see cref="ErrorCode.InvalidConfig"/> (no such name of a device), <see cref="ErrorCode.InvalidArgument"/> (no such index),
        /// <see cref="ErrorCode.Unsupported"/> (no CUDA here: the message says what is missing), <see cref="ErrorCode.WrongState"/>
        /// (trained on the CPU already, another memory budget is in force).
        /// </exception>
        public Context(ContextOptions options) : base(Create(NotNull(options, nameof(options))))
        {
        }

        private static NativeHandle Create(ContextOptions options)
        {
            NativeLoader.Load();
            return options.Create();
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
