// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Runtime.CompilerServices;

namespace Polyad
{
    /// <summary>
    /// Finds and loads the native library, by the rule that all bindings share: a path given in code, else the property
    /// <c>polyad.library</c> (of the application domain: <c>configProperties</c> in runtimeconfig.json, or AppDomain.SetData) or the
    /// environment variable <c>POLYAD_LIBRARY</c>, else the library bundled with the assembly, else the system's library path. A place
    /// that was named is the only one tried: nobody wants to run another library than the one they named. A failure lists every place
    /// and why it failed.
    /// </summary>
    /// <remarks>
    /// The generated layer imports from "polyad_csharp_loaded", which is no file but the name (SONAME) that the wrapper library gives
    /// itself: it can only mean the library loaded here, whatever lies in the folders a runtime searches.
    /// </remarks>
    internal static class NativeLoader
    {
        internal const string Property = "polyad.library";
        internal const string Variable = "POLYAD_LIBRARY";

        /// <summary>
        /// For methods that call the generated layer right after <see cref="Load"/>. Mono binds an import when it compiles the method that
        /// calls it, and remembers a failure: such a method must not be compiled, nor become part of another, before the library is there.
        /// </summary>
        internal const MethodImplOptions AfterLoading = MethodImplOptions.NoInlining;

        private static readonly object Gate = new object();
        private static volatile bool loaded;
        private static string explicitPath;
        private static string failure;

        /// <summary>The path to use, instead of looking for one. Only before the first use.</summary>
        internal static void Use(string path)
        {
            lock (Gate)
            {
                if (loaded) throw new InvalidOperationException("the native library is loaded already");
                explicitPath = path;
                failure = null;
            }
            Load();
        }

        /// <summary>Loads the library if that has not been done; every later call after a failure gives the same error.</summary>
        internal static void Load()
        {
            if (loaded) return;
            lock (Gate)
            {
                if (loaded) return;
                failure = failure ?? TryAll();
                if (failure != null) throw new DllNotFoundException(failure);
                ProcessEnd.Watch();
                loaded = true;
            }
        }

        private static string TryAll()
        {
            var tried = new List<string>();
            bool found;
            string property = AppDomain.CurrentDomain.GetData(Property) as string;
            string variable = Environment.GetEnvironmentVariable(Variable);
            if (explicitPath != null)
            {
                found = TryNamed("path given to PolyadLibrary.Load", explicitPath, tried);
            }
            else if (!string.IsNullOrEmpty(property))
            {
                found = TryNamed("property " + Property, property, tried);
            }
            else if (!string.IsNullOrEmpty(variable))
            {
                found = TryNamed("environment variable " + Variable, variable, tried);
            }
            else
            {
                tried.Add("path given to PolyadLibrary.Load: none");
                tried.Add("property " + Property + ": not set");
                tried.Add("environment variable " + Variable + ": not set");
                found = Bundled().Any(folder => TryFile("bundled", Path.Combine(folder, DynamicLinker.FileName), tried))
                    || Try("system", DynamicLinker.FileName, tried);
            }
            return found ? CheckVersion() : "cannot load the native library of Polyad; tried\n  " + string.Join("\n  ", tried);
        }

        /// <summary>A file, or a folder that holds it.</summary>
        private static bool TryNamed(string what, string path, List<string> tried)
        {
            try
            {
                string file = Path.GetFullPath(path);
                return TryFile(what, Directory.Exists(file) ? Path.Combine(file, DynamicLinker.FileName) : file, tried);
            }
            catch (Exception e) when (e is ArgumentException || e is NotSupportedException || e is IOException)
            {
                tried.Add(what + ": " + path + ": " + e.Message);
                return false;
            }
        }

        private static bool TryFile(string what, string file, List<string> tried)
        {
            if (File.Exists(file)) return Try(what, file, tried);
            tried.Add(what + ": " + file + " does not exist");
            return false;
        }

        private static bool Try(string what, string file, List<string> tried)
        {
            string why = DynamicLinker.Open(file);
            if (why == null) return true;
            tried.Add(what + ": " + file + ": " + why + DynamicLinker.OtherProcessor(file));
            return false;
        }

        /// <summary>Where NuGet, a publish, or an unpacked package puts the native files of this assembly.</summary>
        private static IEnumerable<string> Bundled()
        {
            string native = Path.Combine("runtimes", DynamicLinker.RuntimeIdentifier, "native");
            var folders = new List<string>();
            string assembly = typeof(NativeLoader).Assembly.Location; // empty in a single-file application
            string own = string.IsNullOrEmpty(assembly) ? null : Path.GetDirectoryName(assembly);
            foreach (string folder in new[] { own, AppDomain.CurrentDomain.BaseDirectory })
            {
                if (string.IsNullOrEmpty(folder)) continue;
                folders.Add(Path.Combine(folder, native));
                folders.Add(folder);
            }
            if (own != null) folders.Add(Path.Combine(own, "..", "..", native)); // beside lib/netstandard2.0
            // What the host of .NET found in the application's list of dependencies, the package cache included.
            if (AppDomain.CurrentDomain.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") is string list)
            {
                folders.AddRange(list.Split(new[] { Path.PathSeparator }, StringSplitOptions.RemoveEmptyEntries));
            }
            return folders.Select(Path.GetFullPath).Select(f => f.TrimEnd(Path.DirectorySeparatorChar)).Distinct();
        }

        /// <summary>What to say when library and binding do not fit, else null.</summary>
        [MethodImpl(AfterLoading)]
        private static string CheckVersion()
        {
            int library = Native.polyad_version();
            int binding = Native.polyad_binding_version();
            // Before 1.0 a minor version may change what exists; from then on only a major one.
            int unit = binding < 1_000_000 ? 1000 : 1_000_000;
            return library / unit == binding / unit && library >= binding
                ? null
                : $"the native library is Polyad {Version(library)}, but this assembly was made for {Version(binding)}: "
                    + "install matching versions of both";
        }

        private static string Version(int number) => $"{number / 1_000_000}.{number / 1000 % 1000}.{number % 1000}";
    }
}
