// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.CompilerServices;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>How much a log message matters.</summary>
    public enum LogLevel
    {
        /// <summary>For whoever debugs the library.</summary>
        Debug = polyad_log_level.POLYAD_LOG_DEBUG,
        /// <summary>What happens.</summary>
        Information = polyad_log_level.POLYAD_LOG_INFO,
        /// <summary>Something that is probably not meant.</summary>
        Warning = polyad_log_level.POLYAD_LOG_WARNING,
        /// <summary>Something failed.</summary>
        Error = polyad_log_level.POLYAD_LOG_ERROR,
    }

    /// <summary>Takes messages out of the native queue on a thread of its own and hands them to the host's sink.</summary>
    internal static class Log
    {
        private static readonly object Gate = new object();
        private static volatile Action<LogLevel, string> sink;
        private static bool running;

        [MethodImpl(NativeLoader.AfterLoading)]
        internal static void Set(Action<LogLevel, string> next)
        {
            lock (Gate)
            {
                sink = next;
                Native.polyad_binding_log_enable(next == null ? 0 : 1);
                if (next == null || running) return;
                running = true;
                new Thread(Drain) { IsBackground = true, Name = "polyad-log" }.Start();
            }
        }

        /// <summary>Mono waits at the end for threads inside native code, background or not, and this one would stay there.</summary>
        internal static void Silence()
        {
            lock (Gate)
            {
                if (running) Set(null);
            }
        }

        private static void Drain()
        {
            while (true)
            {
                int level = Native.polyad_binding_log_next(out IntPtr message);
                if (level < 0)
                {
                    lock (Gate)
                    {
                        if (sink == null)
                        {
                            running = false;
                            return;
                        }
                    }
                    continue; // silenced and set again meanwhile
                }
                string text = Utf8.Text(message);
                Native.polyad_binding_log_free(message);
                try
                {
                    sink?.Invoke(Enum.IsDefined(typeof(LogLevel), level) ? (LogLevel)level : LogLevel.Error, text);
                }
                catch (Exception e)
                {
                    Unobserved(e);
                }
            }
        }

        /// <summary>A task that nobody looks at: .NET's way for exceptions without anyone to catch them.</summary>
        internal static void Unobserved(Exception e) => Task.FromException(e);
    }
}
