// SPDX-License-Identifier: Apache-2.0
using System;
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Polyad
{
    /// <summary>The platform's own loader; .NET Standard 2.0 has none in its interface.</summary>
    internal static class DynamicLinker
    {
        private const int Lazy = 1; // RTLD_LAZY: an older library gets as far as telling its version

        internal static readonly bool IsWindows = RuntimeInformation.IsOSPlatform(OSPlatform.Windows);
        private static readonly bool IsMac = RuntimeInformation.IsOSPlatform(OSPlatform.OSX);

        /// <summary>What the wrapper library's file is called here.</summary>
        internal static string FileName =>
            IsWindows ? "polyad_csharp_loaded.dll" : IsMac ? "libpolyad_csharp.dylib" : "libpolyad_csharp.so";

        /// <summary>NuGet's name for this platform: linux-x64, osx-arm64, win-x64, ...</summary>
        internal static string RuntimeIdentifier =>
            (IsWindows ? "win-" : IsMac ? "osx-" : "linux-") + RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();

        /// <summary>Loads a library for the rest of the process. Null, or why that failed.</summary>
        internal static string Open(string path)
        {
            if (IsWindows)
            {
                const uint searchItsFolder = 0x100, searchDefaults = 0x1000; // LOAD_LIBRARY_SEARCH_*
                uint flags = System.IO.Path.IsPathRooted(path) ? searchItsFolder | searchDefaults : 0;
                return LoadLibraryEx(path, IntPtr.Zero, flags) != IntPtr.Zero
                    ? null
                    : new Win32Exception(Marshal.GetLastWin32Error()).Message;
            }
            if (IsMac) return Open(path, System_dlopen, System_dlerror);
            try
            {
                return Open(path, Dl_dlopen, Dl_dlerror);
            }
            catch (Exception e) when (e is DllNotFoundException || e is EntryPointNotFoundException)
            {
                return Open(path, C_dlopen, C_dlerror); // not glibc: these functions are in libc itself
            }
        }

        private static string Open(string path, Func<byte[], int, IntPtr> dlopen, Func<IntPtr> dlerror)
        {
            dlerror(); // also binds it, so that nothing comes between the failure and its message
            if (dlopen(Utf8.Terminated(path), Lazy) != IntPtr.Zero) return null;
            string why = Utf8.Text(dlerror());
            return why.Length == 0 ? "dlopen failed" : why;
        }

        [DllImport("libdl.so.2", EntryPoint = "dlopen")]
        private static extern IntPtr Dl_dlopen(byte[] path, int flags);

        [DllImport("libdl.so.2", EntryPoint = "dlerror")]
        private static extern IntPtr Dl_dlerror();

        [DllImport("libc", EntryPoint = "dlopen")]
        private static extern IntPtr C_dlopen(byte[] path, int flags);

        [DllImport("libc", EntryPoint = "dlerror")]
        private static extern IntPtr C_dlerror();

        [DllImport("libSystem.dylib", EntryPoint = "dlopen")]
        private static extern IntPtr System_dlopen(byte[] path, int flags);

        [DllImport("libSystem.dylib", EntryPoint = "dlerror")]
        private static extern IntPtr System_dlerror();

        [DllImport("kernel32", EntryPoint = "LoadLibraryExW", SetLastError = true, CharSet = CharSet.Unicode)]
        private static extern IntPtr LoadLibraryEx(string path, IntPtr reserved, uint flags);
    }
}
