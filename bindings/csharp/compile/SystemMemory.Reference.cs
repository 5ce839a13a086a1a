// SPDX-License-Identifier: Apache-2.0
// What Polyad uses of System.Memory.dll, for the compiler only. .NET Standard 2.0 has Span in that assembly: .NET brings it along,
// NuGet has it for .NET Framework and Mono.
using System.Reflection;

[assembly: AssemblyVersion("4.0.1.1")]

namespace System
{
    public readonly ref struct Span<T>
    {
        public Span(T[] array) => throw null;

        public Span(T[] array, int start, int length) => throw null;

        public int Length => throw null;

        public static implicit operator Span<T>(T[] array) => throw null;

        public static implicit operator Span<T>(ArraySegment<T> segment) => throw null;

        public static implicit operator ReadOnlySpan<T>(Span<T> span) => throw null;
    }

    public readonly ref struct ReadOnlySpan<T>
    {
        public ReadOnlySpan(T[] array) => throw null;

        public ReadOnlySpan(T[] array, int start, int length) => throw null;

        public int Length => throw null;

        public static implicit operator ReadOnlySpan<T>(T[] array) => throw null;

        public static implicit operator ReadOnlySpan<T>(ArraySegment<T> segment) => throw null;
    }
}

namespace System.Runtime.InteropServices
{
    public static class MemoryMarshal
    {
        public static ref T GetReference<T>(Span<T> span) => throw null;

        public static ref T GetReference<T>(ReadOnlySpan<T> span) => throw null;
    }
}
