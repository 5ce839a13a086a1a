// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.CompilerServices;

namespace Polyad
{
    /// <summary>The library itself: version, features, log, and where its native part is loaded from.</summary>
    public static class PolyadLibrary
    {
        /// <summary>
        /// Loads the native library from a file or a folder instead of looking for it. Call it before anything else. Without it the
        /// library is looked for when it is first needed: the property <c>polyad.library</c> or the environment variable
        /// <c>POLYAD_LIBRARY</c> (a file or a folder), else the files bundled with this assembly, else the system's library path.
        /// </summary>
        /// <exception cref="DllNotFoundException">Lists every place tried and why each failed; or names both versions.</exception>
        /// <exception cref="InvalidOperationException">The library is loaded already.</exception>
        public static void Load(string path) => NativeLoader.Use(path ?? throw new ArgumentNullException(nameof(path)));

        /// <summary>The native library's version, for example "0.1.0".</summary>
        public static string Version
        {
            get
            {
                NativeLoader.Load();
                return Loaded.Version();
            }
        }

        /// <summary>Version, LibTorch, compiler, CPU features in use, methods, model families.</summary>
        public static Json BuildInfo
        {
            get
            {
                NativeLoader.Load();
                return Json.Parse(Loaded.BuildInfo());
            }
        }

        /// <summary>Whether this build has a feature: "bf16", "method:cpoly", "family:llama".</summary>
        public static bool HasFeature(string name)
        {
            if (name == null) throw new ArgumentNullException(nameof(name));
            NativeLoader.Load();
            return Loaded.HasFeature(name);
        }

        /// <summary>
        /// The devices there are, with their memory and whether they can be used; and why there is no CUDA device, where there is none.
        /// </summary>
        public static Json Devices
        {
            get
            {
                NativeLoader.Load();
                return Json.Parse(Loaded.Devices());
            }
        }

        /// <summary>
        /// Where the library's log messages go; null silences, the default. The sink runs on a thread of its own, so it may block, throw,
        /// or call Polyad. What it throws is raised as <see cref="System.Threading.Tasks.TaskScheduler.UnobservedTaskException"/>, and
        /// the next message comes all the same.
        /// </summary>
        public static void SetLog(Action<LogLevel, string> sink)
        {
            NativeLoader.Load();
            Log.Set(sink);
        }

        private static class Loaded
        {
            [MethodImpl(NativeLoader.AfterLoading)]
            internal static string Version() => Native.polyad_version_string();

            [MethodImpl(NativeLoader.AfterLoading)]
            internal static string BuildInfo() => Native.polyad_build_info();

            [MethodImpl(NativeLoader.AfterLoading)]
            internal static string Devices()
            {
                Native.polyad_devices(out IntPtr text);
                return Utf8.Take(text);
            }

            [MethodImpl(NativeLoader.AfterLoading)]
            internal static bool HasFeature(string name) => Native.polyad_has_feature(name) != 0;
        }
    }
}
