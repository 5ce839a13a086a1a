// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;

namespace Polyad
{
    /// <summary>A part of a dataset.</summary>
    public enum Split
    {
        /// <summary>What skills are trained on.</summary>
        Train = polyad_split.POLYAD_TRAIN,
        /// <summary>What training is watched with.</summary>
        Validation = polyad_split.POLYAD_VALIDATION,
        /// <summary>What skills are scored on.</summary>
        Test = polyad_split.POLYAD_TEST,
    }

    /// <summary>One example of a task.</summary>
    public sealed class Example
    {
        /// <summary>The task's name.</summary>
        public string Task { get; set; }

        /// <summary>What the task asks for.</summary>
        public string Instruction { get; set; }

        /// <summary>The example's input.</summary>
        public string Input { get; set; }

        /// <summary>The right answers; training draws one.</summary>
        public IReadOnlyList<string> Outputs { get; set; }

        /// <summary>The right answer, where there is one.</summary>
        public string Output
        {
            get => Outputs == null ? null : Outputs.FirstOrDefault();
            set => Outputs = new[] { value };
        }

        /// <summary>Null: the dataset splits its rows.</summary>
        public Split? Split { get; set; }

        internal Json ToJson()
        {
            var row = new Dictionary<string, object>
            {
                ["task"] = Task, ["instruction"] = Instruction, ["input"] = Input, ["outputs"] = Outputs,
            };
            if (Split != null) row["split"] = Split.Value;
            return Json.Of(row);
        }
    }

    /// <summary>Named tasks with examples. Immutable after opening: any number of threads may use it at once.</summary>
    public sealed unsafe class Dataset : NativeObject
    {
        private Dataset(NativeHandle handle) : base(handle)
        {
        }

        /// <summary>Opens a Super-NaturalInstructions task file, a JSON Lines file, or a folder of either.</summary>
        /// <param name="path">The file or folder.</param>
        /// <param name="options">Null for the library's defaults.</param>
        /// <param name="context">Null for the process's own.</param>
        /// <exception cref="PolyadException">NotFound, BadData (file and line), InvalidConfig.</exception>
        public static Dataset Open(string path, DatasetOptions options = null, Context context = null)
        {
            NotNull(path, nameof(path));
            string json = Options.TextOf(options);
            return Context.Given(context).Use(c => new Dataset(Make(
                Native.polyad_dataset_release, (out IntPtr made) => Native.polyad_dataset_open(c, path, json, out made))));
        }

        /// <summary>Reads JSON Lines that lie in memory.</summary>
        public static Dataset FromBytes(byte[] jsonLines, DatasetOptions options = null, Context context = null)
        {
            return FromBytes(NotNull(jsonLines, nameof(jsonLines)), jsonLines.Length, options, context);
        }

        private static Dataset FromBytes(byte[] jsonLines, int size, DatasetOptions options, Context context)
        {
            string json = Options.TextOf(options);
            return Context.Given(context).Use(c =>
            {
                fixed (byte* bytes = jsonLines)
                {
                    var span = new NativeSpan(bytes, size);
                    return new Dataset(Make(Native.polyad_dataset_release,
                                            (out IntPtr made) => Native.polyad_dataset_open_memory(c, span, json, out made)));
                }
            });
        }

        /// <summary>Takes examples the program has.</summary>
        public static Dataset FromExamples(IEnumerable<Example> examples, DatasetOptions options = null, Context context = null)
        {
            var lines = new StringBuilder();
            foreach (Example example in NotNull(examples, nameof(examples)))
            {
                lines.Append(NotNull(example, nameof(examples)).ToJson()).Append('\n');
            }
            byte[] utf8 = Utf8.Bytes(lines.ToString());
            return FromBytes(utf8, utf8.Length - 1, options, context);
        }

        /// <summary>Tasks with their category, instruction, labels and row counts; unusable rows.</summary>
        public Json Info => AskJson(Native.polyad_dataset_info);

        /// <summary>The tasks' names.</summary>
        public IReadOnlyList<string> Tasks => Info["tasks"].Select(task => task["name"].AsString()).ToList();

        /// <summary>One example: id, input, outputs.</summary>
        /// <exception cref="PolyadException">UnknownTask, InvalidArgument (the index, with the count).</exception>
        public Json Example(string task, Split split, long index)
        {
            NotNull(task, nameof(task));
            return AskJson((IntPtr handle, out IntPtr json) => Native.polyad_dataset_example(handle, task, (int)split, index, out json));
        }
    }
}
