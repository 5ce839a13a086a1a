// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Threading.Tasks;

namespace Polyad.Tests
{
    /// <summary>The tiny model and data the tests share; the same as in tests/bindings/parity.c.</summary>
    internal static class Fixture
    {
        internal static string ModelFile
        {
            get
            {
                string shared = Environment.GetEnvironmentVariable("POLYAD_TEST_SHARED") ?? "";
                string file = Path.Combine(shared, "fixtures", "gguf", "tiny_llama.gguf");
                return File.Exists(file) ? file : throw new SkipException($"the shared fixtures are not here ({file})");
            }
        }

        internal static string BuildFolder => Environment.GetEnvironmentVariable("POLYAD_TEST_BUILD")
            ?? throw new SkipException("POLYAD_TEST_BUILD does not name bindings/csharp of a build");

        internal static Backbone Model() => Backbone.Open(ModelFile, new BackboneOptions { Precision = "fp32" });

        internal static IEnumerable<Example> Examples()
        {
            foreach (string task in new[] { "up", "down" })
            {
                foreach (string input in new[] { "a", "b", "c" })
                {
                    yield return new Example
                    {
                        Task = task,
                        Instruction = "Say " + task + ".",
                        Input = input,
                        Output = task,
                        Split = input == "c" ? Split.Test : Split.Train,
                    };
                }
            }
        }

        internal static Dataset Tasks() => Dataset.FromExamples(Examples());

        internal static CPoly Method() =>
            new CPoly { Rank = 4, CommonSkills = 2, Seed = 3, Prompt = new PromptFormat { Style = "{instruction} {input} ->" } };

        internal static TrainerOptions Training() => new TrainerOptions { MaxSteps = 6, BatchSize = 2, LearningRate = 0.01, Seed = 5 };

        internal static Trainer Trainer(Skillset skills, Dataset tasks) => new Trainer(skills, tasks, Training());

        internal static Request Request(int tokens) => new Request("words") { Task = "up", Prompt = "c", MaxTokens = tokens, IgnoreEos = true };

        /// <summary>A folder that is deleted afterwards.</summary>
        internal sealed class Folder : IDisposable
        {
            internal readonly string Path = System.IO.Path.Combine(
                System.IO.Path.GetTempPath(), "polyad-" + Guid.NewGuid().ToString("N"));

            internal Folder() => Directory.CreateDirectory(Path);

            internal string this[string name] => System.IO.Path.Combine(Path, name);

            public void Dispose() => Directory.Delete(Path, true);
        }
    }

    /// <summary>Progress told at once, on the thread that steps; Progress&lt;T&gt; of .NET posts it elsewhere.</summary>
    internal sealed class Told : IProgress<RunProgress>
    {
        private readonly Action<RunProgress> listener;

        internal Told(Action<RunProgress> listener) => this.listener = listener;

        public void Report(RunProgress value) => listener(value);
    }

    /// <summary>Another process on the runtime that runs this one.</summary>
    internal sealed class Child
    {
        internal string Output { get; private set; }

        internal string Errors { get; private set; }

        internal int ExitCode { get; private set; }

        /// <summary>Runs an assembly with arguments; of the environment, a null value removes a variable.</summary>
        internal static Child Run(string assembly, IEnumerable<string> arguments, IDictionary<string, string> environment = null,
                                  string input = null)
        {
            var words = new List<string> { assembly };
            words.AddRange(arguments);
            return Start(Process.GetCurrentProcess().MainModule.FileName, words, environment, input);
        }

        internal static Child Start(string program, IEnumerable<string> arguments, IDictionary<string, string> environment = null,
                                    string input = null)
        {
            var start = new ProcessStartInfo(program)
            {
                UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true,
            };
            foreach (string argument in arguments) start.Arguments += "\"" + argument + "\" ";
            foreach (var variable in environment ?? new Dictionary<string, string>())
            {
                start.EnvironmentVariables.Remove(variable.Key);
                if (variable.Value != null) start.EnvironmentVariables[variable.Key] = variable.Value;
            }
            using (Process process = Process.Start(start))
            {
                Task<string> output = process.StandardOutput.ReadToEndAsync();
                Task<string> errors = process.StandardError.ReadToEndAsync();
                if (input != null) process.StandardInput.Write(input);
                process.StandardInput.Close();
                process.WaitForExit();
                return new Child { Output = output.Result, Errors = errors.Result, ExitCode = process.ExitCode };
            }
        }

        /// <summary>The output of a process that went well.</summary>
        internal string Right()
        {
            Check.That(ExitCode == 0, $"exit code 0, it is {ExitCode}: {Output}{Errors}");
            return Output;
        }
    }
}
