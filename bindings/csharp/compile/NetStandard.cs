// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Mono.Cecil;

/// <summary>
/// Debian has no reference assembly of .NET Standard 2.0: its netstandard.dll only forwards to Mono's own libraries. So mcs compiles
/// against the .NET Framework 4.7.1 surface, and this tool then
///
///     retarget IN OUT NETSTANDARD   points every type reference at netstandard 2.0; fails on a type that is not in it. Also makes the
///                                   bytes depend on nothing but the sources (no time, no random id).
///     public-key IN OUT             gives a stand-in for one of Microsoft's assemblies the public key of the real one, so that
///                                   references to it name that.
/// </summary>
internal static class NetStandard
{
    // The public key whose token is cc7b13ffcd2ddd51, of netstandard.dll and System.Memory.dll.
    private const string OpenKey =
        "00240000048000009400000006020000002400005253413100040000010001004b86c4cb78549b34bab61a3b1800e23bfeb5b3ec390074041536a7e3cbd97f5f"
        + "04cf0f857155a8928eaa29ebfd11cfbbad3ba70efea7bda3226c6a8d370a4cd303f714486b6ebc225985a638471e6ef571cc92a4613c00b8fa65d61ccee0"
        + "cbe5f36330c9a01f4183559f1bef24cc2917c6d913e3a541333a1d05d9bed22b38cb";

    private static int Main(string[] arguments)
    {
        if (arguments.Length == 4 && arguments[0] == "retarget") return Retarget(arguments[1], arguments[2], arguments[3]);
        if (arguments.Length == 3 && arguments[0] == "public-key") return GivePublicKey(arguments[1], arguments[2]);
        Console.Error.WriteLine("usage: NetStandard retarget IN OUT NETSTANDARD | public-key IN OUT");
        return 2;
    }

    private static int Retarget(string input, string output, string facade)
    {
        AssemblyNameReference real;
        HashSet<string> names;
        using (ModuleDefinition module = ModuleDefinition.ReadModule(facade))
        {
            real = new AssemblyNameReference("netstandard", new Version(2, 0, 0, 0)) { PublicKeyToken = module.Assembly.Name.PublicKeyToken };
            names = new HashSet<string>(module.ExportedTypes.Select(type => type.FullName));
        }
        using (ModuleDefinition module = ModuleDefinition.ReadModule(input))
        {
            module.AssemblyReferences.Add(real);
            int missing = 0;
            foreach (TypeReference type in module.GetTypeReferences())
            {
                if (type.IsNested || !(type.Scope is AssemblyNameReference) || type.Scope.Name == "System.Memory") continue;
                if (!names.Contains(type.FullName))
                {
                    Console.Error.WriteLine($"{input}: {type.FullName} is not in .NET Standard 2.0");
                    ++missing;
                }
                type.Scope = real;
            }
            foreach (AssemblyNameReference reference in module.AssemblyReferences.ToArray())
            {
                if (reference != real && reference.Name != "System.Memory") module.AssemblyReferences.Remove(reference);
            }
            module.Assembly.SecurityDeclarations.Clear(); // mcs writes SkipVerification with the name of mscorlib in it
            module.Write(output, new WriterParameters { DeterministicMvid = true, Timestamp = 0 });
            return missing == 0 ? 0 : 1;
        }
    }

    private static int GivePublicKey(string input, string output)
    {
        using (AssemblyDefinition assembly = AssemblyDefinition.ReadAssembly(input))
        {
            assembly.Name.PublicKey = Enumerable.Range(0, OpenKey.Length / 2)
                .Select(i => Convert.ToByte(OpenKey.Substring(2 * i, 2), 16))
                .ToArray();
            assembly.Name.HasPublicKey = true;
            assembly.Write(output);
        }
        return 0;
    }
}
