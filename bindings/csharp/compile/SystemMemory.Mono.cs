// SPDX-License-Identifier: Apache-2.0
// System.Memory.dll for a Mono without NuGet: Mono has these types in its core library, but Debian's package lacks the assembly that
// says so. Tests and samples run with it; it is in no package of Polyad.
using System;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

[assembly: AssemblyVersion("4.0.1.1")]
[assembly: TypeForwardedTo(typeof(Span<>))]
[assembly: TypeForwardedTo(typeof(ReadOnlySpan<>))]
[assembly: TypeForwardedTo(typeof(MemoryMarshal))]
