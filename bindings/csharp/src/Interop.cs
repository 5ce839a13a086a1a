// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Polyad
{
    /// <summary>Memory of the caller, valid during a call; the layout is that of polyad_span in csharp.i.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct NativeSpan
    {
        // Where an empty array is said to be; the C interface takes a null pointer for a forgotten argument.
        private static readonly IntPtr Nothing = Marshal.AllocHGlobal(8);

        private IntPtr data;
        private UIntPtr size; // elements

        /// <summary>Memory that is there, also when it is empty; default(NativeSpan) is none at all.</summary>
        internal unsafe NativeSpan(void* data, int size)
        {
            this.data = data == null ? Nothing : (IntPtr)data;
            this.size = (UIntPtr)(uint)size;
        }
    }

    /// <summary>Turns a status of the C interface into nothing or an exception; called by the generated layer.</summary>
    internal static class Status
    {
        internal static void Check(IntPtr status)
        {
            if (status == IntPtr.Zero) return;
            try
            {
                throw new PolyadException(Native.polyad_status_code(status), Native.polyad_status_message(status),
                                          Native.polyad_status_detail(status));
            }
            finally
            {
                Native.polyad_status_release(status);
            }
        }
    }

    /// <summary>Strings to UTF-8 and back. Nothing is replaced silently on the way in.</summary>
    internal static unsafe class Utf8
    {
        private static readonly UTF8Encoding Strict = new UTF8Encoding(false, true);

        /// <summary>
        /// A name, path or JSON text, which ends at NUL in C and so must not hold one. Null stays null. Called by the generated layer.
        /// </summary>
        internal static byte[] Terminated(string value)
        {
            int nul = value == null ? -1 : value.IndexOf('\0');
            if (nul >= 0) throw new ArgumentException($"a name, path or option holds the character NUL at index {nul}");
            return Bytes(value);
        }

        /// <summary>UTF-8 and a NUL behind it, which is not part of the text; null stays null.</summary>
        internal static byte[] Bytes(string value)
        {
            if (value == null) return null;
            try
            {
                var bytes = new byte[Strict.GetByteCount(value) + 1];
                Strict.GetBytes(value, 0, value.Length, bytes, 0);
                return bytes;
            }
            catch (EncoderFallbackException e)
            {
                throw new ArgumentException("a string holds half of a surrogate pair and has no UTF-8 form", e);
            }
        }

        /// <summary>Lends a list of names or paths for the length of a call.</summary>
        internal static T List<T>(string[] values, Func<NativeSpan, T> call)
        {
            var pins = new GCHandle[values.Length];
            try
            {
                var pointers = new IntPtr[values.Length];
                for (int i = 0; i < values.Length; ++i)
                {
                    pins[i] = GCHandle.Alloc(Terminated(values[i]), GCHandleType.Pinned);
                    pointers[i] = pins[i].AddrOfPinnedObject();
                }
                fixed (IntPtr* first = pointers)
                {
                    return call(new NativeSpan(first, pointers.Length));
                }
            }
            finally
            {
                foreach (GCHandle pin in pins)
                {
                    if (pin.IsAllocated) pin.Free();
                }
            }
        }

        /// <summary>A text of the library that ends at NUL. Called by the generated layer.</summary>
        internal static string Text(IntPtr text)
        {
            var bytes = (byte*)text;
            if (bytes == null) return "";
            int size = 0;
            while (bytes[size] != 0) ++size;
            return Encoding.UTF8.GetString(bytes, size);
        }

        /// <summary>A polyad_text, which is released.</summary>
        internal static string Take(IntPtr text)
        {
            try
            {
                int size = Size(text);
                return size == 0 ? "" : Encoding.UTF8.GetString((byte*)Native.polyad_text_data(text), size);
            }
            finally
            {
                Native.polyad_text_release(text);
            }
        }

        /// <summary>The bytes of a polyad_text, which is released.</summary>
        internal static byte[] TakeBytes(IntPtr text)
        {
            try
            {
                var bytes = new byte[Size(text)];
                Marshal.Copy(Native.polyad_text_data(text), bytes, 0, bytes.Length);
                return bytes;
            }
            finally
            {
                Native.polyad_text_release(text);
            }
        }

        private static int Size(IntPtr text)
        {
            ulong size = (ulong)Native.polyad_text_size(text);
            return size <= int.MaxValue ? (int)size : throw new OutOfMemoryException($"a text of {size} bytes is too long for .NET");
        }
    }
}
