// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;

namespace Polyad.Tests
{
    /// <summary>What a child process of a test does: loads the library in one way and says how that went, or ends while it is busy.</summary>
    internal static class Probe
    {
        internal static int Run(string[] arguments)
        {
            if (arguments[0] == "end") return EndInTheMiddle();
            try
            {
                if (arguments[0] == "property") AppDomain.CurrentDomain.SetData("polyad.library", arguments[1]);
                if (arguments[0] == "code") PolyadLibrary.Load(arguments[1]);
                Console.WriteLine("version " + PolyadLibrary.Version);
                Console.WriteLine(File.ReadAllText("/proc/self/maps").Split('\n').Where(line => line.Contains("libpolyad_csharp"))
                                      .Select(line => line.Substring(line.IndexOf('/'))).First());
                try
                {
                    PolyadLibrary.Load(arguments.Last());
                }
                catch (InvalidOperationException e)
                {
                    Console.WriteLine(e.Message);
                }
            }
            catch (DllNotFoundException e)
            {
                Console.WriteLine("DllNotFoundException " + e.Message);
                string again = null;
                try
                {
                    new Context();
                }
                catch (DllNotFoundException second)
                {
                    again = second.Message;
                }
                Console.WriteLine(again == e.Message ? "the same again" : "another failure: " + again);
            }
            return 0;
        }

        /// <summary>The program ends while an engine answers, a trainer steps, the log is on and nothing was disposed of.</summary>
        private static int EndInTheMiddle()
        {
            PolyadLibrary.SetLog((level, text) => { });
            Backbone model = Fixture.Model();
            Dataset tasks = Fixture.Tasks();
            TrainerOptions options = Fixture.Training();
            options.MaxSteps = 1_000_000;
            options.ValidationExamples = 0;
            var trainer = new Trainer(new Skillset(model, tasks, Fixture.Method()), tasks, options);
            var begun = new ManualResetEventSlim();
            trainer.RunAsync(new Told(p => begun.Set()));
            Engine engine = new Engine(model).Publish("words", new Skillset(model, tasks, Fixture.Method()));
            for (int i = 0; i < 500; ++i) engine.Submit(Fixture.Request(100));
            begun.Wait();
            Console.WriteLine("busy");
            return 0;
        }
    }

    /// <summary>Each way to name the library, and each way it can be wrong, in a process of its own.</summary>
    public sealed class LoaderTests : IDisposable
    {
        private const string FileName = "libpolyad_csharp.so";
        private static readonly string Right = Path.GetFullPath(Path.Combine(Fixture.BuildFolder, FileName));
        private readonly Fixture.Folder folder = new Fixture.Folder();

        public LoaderTests()
        {
            if (!File.Exists(Right)) throw new SkipException("these tests know Linux only");
        }

        public void Dispose() => folder.Dispose();

        private static string Load(string way, string argument, string variable = null, string program = null, string path = null)
        {
            var environment = new Dictionary<string, string> { ["POLYAD_LIBRARY"] = variable };
            if (path != null) environment["LD_LIBRARY_PATH"] = path;
            return Child.Run(program ?? typeof(LoaderTests).Assembly.Location, new[] { "--probe", way, argument }, environment).Right();
        }

        private static void Loaded(string file, string output)
        {
            Check.Contains("version " + PolyadLibrary.Version, output);
            Check.Contains(Path.GetFileName(Path.GetDirectoryName(file)) + "/" + FileName, output);
            Check.Contains("loaded already", output);
        }

        private static void Failed(string output, params string[] parts)
        {
            Check.Contains("DllNotFoundException", output);
            Check.Contains("the same again", output);
            foreach (string part in parts) Check.Contains(part, output);
        }

        /// <summary>A copy of the library with some bytes changed.</summary>
        private string Damaged(string name, Action<byte[]> change)
        {
            byte[] bytes = File.ReadAllBytes(Right);
            change(bytes);
            File.WriteAllBytes(folder[name], bytes);
            return folder[name];
        }

        public void NamedInCodeByPropertyAndByVariable()
        {
            foreach (string place in new[] { Right, Path.GetDirectoryName(Right) })
            {
                Loaded(Right, Load("code", place, "/nosuch"));
                Loaded(Right, Load("property", place, "/nosuch"));
                Loaded(Right, Load("variable", "x", place));
            }
        }

        public void ANamedPlaceIsTheOnlyOne()
        {
            Failed(Load("code", "/nosuch/place", Right), "path given to PolyadLibrary.Load: /nosuch/place does not exist");
            Failed(Load("property", folder.Path, Right), "property polyad.library: " + folder[FileName] + " does not exist");
            Failed(Load("variable", "x", "/nosuch/place"), "environment variable POLYAD_LIBRARY: /nosuch/place does not exist");
            Check.That(!Load("code", "/nosuch/place", Right).Contains("POLYAD_LIBRARY"), "no other place is tried");
        }

        /// <summary>A folder with the programs, as a publish lays them out.</summary>
        private string Application()
        {
            string program = typeof(LoaderTests).Assembly.Location;
            foreach (string name in new[] { "Polyad.dll", Path.GetFileName(program), "PolyadTests.runtimeconfig.json" })
            {
                File.Copy(Path.Combine(Path.GetDirectoryName(program), name), folder[name]);
            }
            return folder[Path.GetFileName(program)];
        }

        public void BundledWithTheAssembly()
        {
            string program = Application();
            string native = Directory.CreateDirectory(folder["runtimes/linux-x64/native"]).FullName;
            File.Copy(Right, Path.Combine(native, FileName));
            Loaded(Path.Combine(native, FileName), Load("bundled", "x", null, program));
            File.Move(Path.Combine(native, FileName), folder[FileName]);
            Loaded(folder[FileName], Load("bundled", "x", null, program));
        }

        public void TheNamedLibraryBeatsTheBundledOne()
        {
            string program = Application();
            File.Copy(Right, folder[FileName]);
            string other = Directory.CreateDirectory(folder["other"]).FullName;
            File.Copy(Right, Path.Combine(other, FileName));
            Loaded(Path.Combine(other, FileName), Load("code", other, null, program));
            Loaded(Path.Combine(other, FileName), Load("variable", "x", other, program));
        }

        public void FromTheSystem()
        {
            string program = Application();
            string system = Directory.CreateDirectory(folder["system"]).FullName;
            File.Copy(Right, Path.Combine(system, FileName));
            Loaded(Path.Combine(system, FileName), Load("system", "x", null, program, system));
        }

        public void NowhereListsEveryPlace()
        {
            string program = Application();
            Failed(Load("nowhere", "x", null, program), "path given to PolyadLibrary.Load: none", "property polyad.library: not set",
                   "environment variable POLYAD_LIBRARY: not set",
                   "bundled: " + folder["runtimes/linux-x64/native/" + FileName] + " does not exist",
                   "bundled: " + folder[FileName] + " does not exist",
                   "system: " + FileName + ": " + FileName + ": cannot open shared object file");
            // A bundled file that is wrong is in the list with its reason, and the search goes on.
            File.WriteAllText(folder[FileName], "not a library");
            Failed(Load("nowhere", "x", null, program), "bundled: " + folder[FileName] + ": " + folder[FileName] + ": file too short",
                   "system: ");
        }

        public void AnotherArchitecture()
        {
            string file = Damaged("aarch64.so", bytes => bytes[18] = 0xb7);
            Failed(Load("code", file), "path given to PolyadLibrary.Load: " + file + ": " + file + ": cannot open shared object file",
                   "(it is for AArch64, this process for ");
            file = Damaged("elf32.so", bytes => bytes[4] = 1);
            Failed(Load("code", file), "wrong ELF class");
            file = folder["text.so"];
            File.WriteAllText(file, new string('x', 4096));
            Failed(Load("code", file), "invalid ELF header");
        }

        public void AMissingDependency()
        {
            byte[] needed = Encoding.ASCII.GetBytes("libpolyad.so.0\0");
            string file = Damaged("dependency.so", bytes =>
            {
                int at = Enumerable.Range(0, bytes.Length - needed.Length)
                    .First(i => needed.Select((b, j) => bytes[i + j] == b).All(same => same));
                bytes[at + 3] = (byte)'q';
            });
            Failed(Load("code", file), "libqolyad.so.0: cannot open shared object file: No such file or directory");
        }

        public void AnOlderLibrary()
        {
            string old = Path.Combine(Fixture.BuildFolder, "..", "old");
            if (!Directory.Exists(old)) throw new SkipException(old + " was not built");
            Failed(Load("code", Right, null, null, old), "the native library is Polyad 0.0.9",
                   "this assembly was made for " + PolyadLibrary.Version, "install matching versions of both");
        }
    }
}
