// SPDX-License-Identifier: Apache-2.0
using System;
using System.ComponentModel;
using System.IO;
using System.Linq;
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
                uint flags = Path.IsPathRooted(path) ? searchItsFolder | searchDefaults : 0;
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

        /// <summary>What glibc does not say: that a file which is there is for another processor.</summary>
        internal static string OtherProcessor(string file)
        {
            try
            {
                byte[] library = MachineOf(file), own = MachineOf("/proc/self/exe");
                return library == null || own == null || library.SequenceEqual(own)
                    ? ""
                    : $" (it is for {Named(library)}, this process for {Named(own)})";
            }
            catch (Exception e) when (e is IOException || e is UnauthorizedAccessException)
            {
                return "";
            }
        }

        /// <summary>The processor an ELF file is for, e_machine in its header; null for other files.</summary>
        private static byte[] MachineOf(string file)
        {
            var header = new byte[20];
            using (FileStream stream = File.OpenRead(file))
            {
                if (stream.Read(header, 0, header.Length) < header.Length) return null;
            }
            return header[0] == 0x7f && header[1] == 'E' && header[2] == 'L' && header[3] == 'F' ? new[] { header[18], header[19] } : null;
        }

        private static string Named(byte[] machine)
        {
            int number = machine[0] + machine[1]; // the other byte is 0, whatever the order
            switch (number)
            {
                case 3: return "x86";
                case 40: return "ARM";
                case 62: return "x86-64";
                case 183: return "AArch64";
                case 243: return "RISC-V";
                default: return "the processor of ELF number " + number;
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
