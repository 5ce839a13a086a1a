// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;

namespace Polyad.Tests
{
    /// <summary>Whatever a host passes in by mistake gives an exception of its language, never a crash.</summary>
    public sealed class BadInputTests : IDisposable
    {
        private readonly Backbone model = Fixture.Model();
        private readonly Dataset tasks = Fixture.Tasks();
        private readonly Skillset skills;
        private readonly Engine engine;

        public BadInputTests()
        {
            skills = new Skillset(model, tasks, Fixture.Method());
            engine = new Engine(model).Publish("words", skills);
        }

        public void Dispose()
        {
            engine.Dispose();
            skills.Dispose();
            tasks.Dispose();
            model.Dispose();
        }

        private static void Null(Action call) => Check.Throws<ArgumentNullException>(call);

        private static void NotAString(Action call) => Check.Throws<ArgumentException>(call);

        public void NullArguments()
        {
            Null(() => Backbone.Open(null));
            Null(() => Backbone.FromBytes(null));
            Null(() => Backbone.OpenAsync(null));
            Null(() => model.Tokenize(null));
            Null(() => model.Detokenize(null));
            Null(() => model.Logits(null));
            Null(() => model.Chat(null));
            Null(() => new ChatMessage(null, "x"));
            Null(() => Dataset.Open(null));
            Null(() => Dataset.FromBytes(null));
            Null(() => Dataset.FromExamples(null));
            Null(() => Dataset.FromExamples(new Example[] { null }));
            Null(() => tasks.Example(null, Split.Test, 0));
            Null(() => new Skillset(null, tasks, Fixture.Method()));
            Null(() => new Skillset(model, null, Fixture.Method()));
            Null(() => new Skillset(model, tasks, null));
            Null(() => Skillset.Load(null, "x"));
            Null(() => Skillset.Load(model, null));
            Null(() => Skillset.FromBytes(model, null));
            Null(() => Skillset.Inspect(null));
            Null(() => Skillset.ImportPeft(model, null));
            Null(() => Skillset.ImportPeftSet(model, null));
            Null(() => skills.Save(null));
            Null(() => skills.TaskWeights(null));
            Null(() => skills.SetParameters(null));
            Null(() => skills.AddTask(null, "x"));
            Null(() => skills.SetMetadata(null, 1));
            Null(() => skills.SetEncoder(null));
            Null(() => skills.Intuition(null, null));
            Null(() => skills.ExportPeft("up", null));
            Null(() => new Trainer(null, tasks));
            Null(() => new Trainer(skills, null));
            Null(() => new Evaluator(null, skills, tasks));
            Null(() => new Engine(null));
            Null(() => engine.Publish(null, skills));
            Null(() => engine.Publish("x", null));
            Null(() => engine.Retire(null));
            Null(() => engine.Submit(null));
            Null(() => engine.SubmitAsync(null));
            Null(() => new Request(null));
            Null(() => engine.Submit(new Request("words") { Prompt = "c", Task = "up", Stop = { null } }));
            Null(() => new MethodConfig(null));
            Null(() => PolyadLibrary.HasFeature(null));
            Null(() => PolyadLibrary.Load(null));
            Null(() => Json.Parse(null));
            Check.Refused(ErrorCode.InvalidArgument, "prompt", () => engine.Submit(new Request("words") { Task = "up" }));
            Check.Refused(ErrorCode.BadData, "", () => Dataset.FromExamples(new[] { new Example() }));
        }

        public void StringsThatCannotPass()
        {
            NotAString(() => engine.Retire("wor\0ds"));
            NotAString(() => Backbone.Open("a\0b"));
            NotAString(() => Dataset.Open("a\0b"));
            NotAString(() => skills.Save("a\0b"));
            NotAString(() => PolyadLibrary.HasFeature("bf16\0"));
            NotAString(() => engine.Submit(new Request("words") { Task = "up\0", Prompt = "c" }));
            NotAString(() => engine.Submit(new Request("words") { Task = "up", Prompt = "c", Stop = { "a\0" } }));
            NotAString(() => model.Tokenize("half \ud83d of a pair"));
            NotAString(() => skills.TaskWeights("\udc00"));
            NotAString(() => Dataset.FromExamples(new[] { new Example { Task = "t", Instruction = "\ud83d", Input = "a", Output = "b" } }));
            NotAString(() => Skillset.ImportPeftSet(model, new[] { "a", "b\0" }));
            // A prompt has a length and may hold NUL.
            Check.Equal("a\0b", model.Detokenize(model.Tokenize("a\0b")));
            var request = new Request("words") { Task = "up", Prompt = "a\0b", MaxTokens = 2, IgnoreEos = true };
            Check.Equal(2, engine.Submit(request).Wait().Tokens.Length);
            // Options carry NUL as an escape; the library says what it thinks of the value.
            Check.Refused(ErrorCode.InvalidConfig, "precision",
                          () => Backbone.Open(Fixture.ModelFile, new BackboneOptions { Precision = "fp\0" }));
        }

        public void EmptyAndHugeStrings()
        {
            Check.Equal(0, model.Tokenize("").Length);
            Check.Equal("", model.Detokenize(new int[0]));
            Check.Throws<PolyadException>(() => Backbone.Open(""));
            Check.Refused(ErrorCode.NotFound, "", () => engine.Retire(""));
            Check.Refused(ErrorCode.UnknownTask, "", () => skills.TaskWeights(""));
            var empty = new Request("words") { Task = "up", Prompt = "", MaxTokens = 1, IgnoreEos = true };
            Check.Equal(1, engine.Submit(empty).Wait().Tokens.Length);
            var huge = new string('x', 1 << 24);
            Check.Refused(ErrorCode.NotFound, "", () => engine.Retire(huge));
            Check.Refused(ErrorCode.UnknownTask, "", () => skills.TaskWeights(huge));
            Check.Refused(ErrorCode.InvalidConfig, "", () => Backbone.Open(Fixture.ModelFile, new BackboneOptions { Precision = huge }));
            Check.Throws<PolyadException>(() => Backbone.Open(huge));
            Check.That(!PolyadLibrary.HasFeature(huge) && !PolyadLibrary.HasFeature(""));
            Check.That(model.Tokenize(string.Concat(Enumerable.Repeat("hot ", 20_000))).Length >= 20_000);
            Check.Equal("h\u00e4\u00df \uD83D\uDE80", model.Detokenize(model.Tokenize("h\u00e4\u00df \uD83D\uDE80")));
            Check.Throws<PolyadException>(() => engine.Submit(new Request("words") { Task = "up", Tokens = new int[100_000] }));
        }

        public void ArraysOfTheWrongLength()
        {
            int count = checked((int)skills.ParameterCount);
            foreach (int wrong in new[] { 0, 1, count - 1, count + 1 })
            {
                Check.Refused(ErrorCode.InvalidArgument, count.ToString(), () => skills.SetParameters(new float[wrong]));
                Check.Refused(ErrorCode.InvalidArgument, count.ToString(), () => skills.ReplaceParameters(new float[wrong]));
                Check.Refused(ErrorCode.InvalidArgument, count.ToString(), () => skills.CopyParameters(new float[wrong]));
            }
            Check.Refused(ErrorCode.InvalidArgument, "", () => model.CopyLogits(null, null, new[] { 1 }, new float[3]));
            Check.Refused(ErrorCode.InvalidArgument, "", () => model.CopyLogits(null, null, default(ReadOnlySpan<int>), default(Span<float>)));
            Check.Refused(ErrorCode.InvalidArgument, "", () => model.Logits(new int[0]));
            Check.Refused(ErrorCode.InvalidArgument, "", () => model.Logits(new[] { -1 }));
            Check.Refused(ErrorCode.InvalidArgument, "", () => model.Logits(new[] { 1 << 30 }));
            Check.Refused(ErrorCode.InvalidArgument, "ids[1]", () => model.Detokenize(new[] { 1, 1 << 30 }));
            Check.Refused(ErrorCode.InvalidArgument, "", () => engine.Submit(new Request { Tokens = new int[0] }));
            Check.Throws<PolyadException>(() => Backbone.FromBytes(new byte[0]));
            Check.Throws<PolyadException>(() => Backbone.FromBytes(Encoding.ASCII.GetBytes("GGUF is not enough")));
            Check.Refused(ErrorCode.BadData, "", () => Dataset.FromBytes(new byte[] { 0xff, 0xfe, 0 }));
        }

        public void OptionsOutOfRange()
        {
            Check.Refused(ErrorCode.InvalidConfig, "cpoly", () => new Skillset(model, tasks, new MethodConfig("nosuch")));
            Check.Refused(ErrorCode.InvalidConfig, "rank", () => new Skillset(model, tasks, new Lora { Rank = 0 }));
            Check.Refused(ErrorCode.InvalidConfig, "rnk", () => new Skillset(model, tasks, new Lora { ["rnk"] = 8 }));
            Check.Refused(ErrorCode.InvalidConfig, "learning_rate", () => new Trainer(skills, tasks, new TrainerOptions { LearningRate = -1 }));
            Check.Refused(ErrorCode.InvalidArgument, "threads", () => new Context(-1));
            Check.Refused(ErrorCode.InvalidArgument, "max_tokens", () => engine.Submit(Fixture.Request(-1)));
            Check.Refused(ErrorCode.InvalidArgument, "temperature",
                          () => engine.Submit(new Request("words") { Task = "up", Prompt = "c", Temperature = -1 }));
            Check.Refused(ErrorCode.UnknownTask, "nosuch", () => engine.Submit(new Request("words") { Task = "nosuch", Prompt = "c" }));
            Check.Refused(ErrorCode.NotFound, "nosuch", () => engine.Submit(new Request("nosuch") { Prompt = "c" }));
            Check.Refused(ErrorCode.BadData, "", () => Dataset.FromExamples(new Example[0]));
            Check.Refused(ErrorCode.InvalidArgument, "", () => tasks.Example("up", Split.Test, 99));
            Check.Refused(ErrorCode.WrongState, "", () => skills.SetEncoder(model));
            Check.Throws<ArgumentException>(() => new Lora { Alpha = double.NaN });
            Check.Throws<ArgumentException>(() => new Lora { ["alpha"] = new object() });
            Check.Throws<ArgumentException>(() => skills.SetMetadata("x", float.PositiveInfinity));
            var method = new CPoly { Rank = 8, TargetModules = new[] { "q_proj" }, Alpha = 0.5, Prompt = new PromptFormat { MaxTokens = 64 } };
            method.Rank = null;
            Check.Equal("{\"method\":\"cpoly\",\"target_modules\":[\"q_proj\"],\"alpha\":0.5,\"prompt\":{\"max_tokens\":64}}", method.ToString());
            Check.Equal(64, method.Prompt.MaxTokens);
            Check.Equal(null, method.Rank);
            Check.Same(new[] { "q_proj" }, method.TargetModules);
        }

        public void DevicesAreNamed()
        {
            Json devices = PolyadLibrary.Devices;
            Check.Equal("cpu", devices["devices"][0]["name"].AsString());
            Check.That(devices["devices"][0]["usable"].AsBoolean());
            using (var cpu = new Context(new ContextOptions { Threads = 1, Device = "cpu" }))
            using (Backbone there = Backbone.Open(Fixture.ModelFile, new BackboneOptions { Precision = "fp32" }, cpu))
            {
                Check.Equal("cpu", there.Info["device"].AsString());
                Check.Same(model.Logits(new[] { 1, 2 }), there.Logits(new[] { 1, 2 }));
            }
            Null(() => new Context(null));
            NotAString(() => new Context(new ContextOptions { Device = "cpu\0" }));
            Check.Throws<ArgumentOutOfRangeException>(() => new Context(new ContextOptions { MemoryBudget = -1 }));
            Check.Refused(ErrorCode.InvalidArgument, "memory_budget", () => new Context(new ContextOptions { MemoryBudget = 1L << 33 }));
            Check.Refused(ErrorCode.InvalidConfig, "abacus", () => new Context(new ContextOptions { Device = "abacus" }));
            if (devices["cuda"].IsNull) return;
            // No CUDA here: the refusal says why.
            Check.Refused(ErrorCode.Unsupported, "CUDA", () => new Context(new ContextOptions { Device = "cuda" }));
        }

        public void JsonReadsAndWrites()
        {
            Json json = Json.Parse(" {\"a\": [1, -2.5e3, true, null, \"\\u00e4\\n\\\"\"], \"b\": {}} ");
            Check.Equal(json, Json.Parse(json.ToString()));
            Check.Equal("{\"a\":[1,-2500,true,null,\"\u00e4\\u000a\\\"\"],\"b\":{}}", json.ToString());
            Check.Equal("\u00e4\n\"", json["a"][4].AsString());
            Check.Equal(-2500.0, json["a"][1].AsDouble());
            Check.That(double.IsNaN(json["a"][3].AsDouble()) && json["a"][2].AsBoolean() && json["a"][3].IsNull);
            Check.Equal(1, json["a"][0].AsInt());
            Check.Same(new[] { "a", "b" }, json.Keys);
            Check.Throws<KeyNotFoundException>(() => Console.Write(json["c"]));
            Check.Throws<ArgumentOutOfRangeException>(() => Console.Write(json["a"][9]));
            Check.Throws<InvalidOperationException>(() => json["a"].AsLong());
            Check.Throws<InvalidOperationException>(() => json["a"][0].AsString());
            Check.Equal("{\"x\":[0.1,0.1,9223372036854775807,\"train\"]}", Json.Of(new Dictionary<string, object>
            {
                ["x"] = new object[] { 0.1f, 0.1, ulong.MaxValue / 2, Split.Train },
            }).ToString());
            Check.Throws<ArgumentException>(() => Json.Of(ulong.MaxValue));
            foreach (string bad in new[]
            {
                "", "{", "[1,", "\"", "{\"a\"}", "1 2", "nul", "\"\\q\"", "\"\\u12\"", "-", "1.2.3", "+1", "[1 2]", new string('[', 5000),
            })
            {
                Check.Throws<FormatException>(() => Json.Parse(bad));
            }
        }
    }
}
