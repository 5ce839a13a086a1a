// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace Polyad.Tests
{
    /// <summary>The programs of samples/csharp and samples/dotnet-worker and the README's, each in a process of its own.</summary>
    public sealed class SampleTests : IDisposable
    {
        private readonly Fixture.Folder folder = new Fixture.Folder();

        public void Dispose() => folder.Dispose();

        private static Child Run(string program, string input, params string[] arguments) => Child.Run(
            Path.Combine(Path.GetDirectoryName(typeof(SampleTests).Assembly.Location), program + ".exe"), arguments, null, input);

        /// <summary>Tasks that the tiny model learns to tell apart in twenty steps.</summary>
        private string Tasks()
        {
            string tasks = Directory.CreateDirectory(folder["tasks"]).FullName;
            File.WriteAllLines(Path.Combine(tasks, "tasks.jsonl"), Fixture.Examples().Select(
                e => Json.Of(new Dictionary<string, object>
                {
                    ["task"] = e.Task, ["instruction"] = e.Instruction, ["input"] = e.Input, ["output"] = e.Output, ["split"] = e.Split,
                }).ToString()));
            return tasks;
        }

        /// <summary>Skills that have learned their word.</summary>
        private string Bundle()
        {
            TrainerOptions options = Fixture.Training();
            options.MaxSteps = 60;
            using (Backbone model = Fixture.Model())
            using (Dataset tasks = Fixture.Tasks())
            using (var skills = new Skillset(model, tasks, Fixture.Method()))
            using (var trainer = new Trainer(skills, tasks, options))
            {
                trainer.Run();
                skills.Save(folder["learned.polyad"]);
            }
            return folder["learned.polyad"];
        }

        public void Trains()
        {
            string output = Run("TrainAndSwitch", null, Fixture.ModelFile, Tasks(), folder["words.polyad"], "up", "c", "down", "c").Right();
            Check.Contains("step 20/20", output);
            Check.Contains("up: c -> ", output);
            Check.Contains("down: c -> ", output);
            Check.Equal("cpoly", Skillset.Inspect(folder["words.polyad"])["config"]["method"].AsString());
        }

        public void ServesAndInspects()
        {
            string bundle = Bundle();
            string served = Run("ServeMixedBatch", null, Fixture.ModelFile, bundle, "c", "up", "down").Right();
            Check.Contains("0: up,", served);
            Check.Contains("1: down,", served);
            Check.Contains("3: ", served);
            Json inspected = Json.Parse(Run("InspectBundle", null, bundle).Right());
            Check.Equal("cpoly", inspected["config"]["method"].AsString());
            Child missing = Run("InspectBundle", null, folder["nosuch.polyad"]);
            Check.Equal(1, missing.ExitCode);
            Check.Contains("NotFound", missing.Errors);
            foreach (string program in new[] { "TrainAndSwitch", "ServeMixedBatch", "InspectBundle", "Worker" })
            {
                Child usage = Run(program, null);
                Check.Equal(2, usage.ExitCode);
                Check.Contains("usage: ", usage.Errors);
            }
        }

        public void TheWorkerAnswersLines()
        {
            string bundle = Bundle();
            string input = string.Join("\n",
                "{\"id\": 1, \"task\": \"up\", \"prompt\": \"c\"}",
                "{\"id\": \"two\", \"task\": \"down\", \"prompt\": \"c\", \"max_tokens\": 4}",
                "",
                "not JSON",
                "{\"id\": 3, \"task\": \"nosuch\", \"prompt\": \"c\"}",
                "{\"id\": 4, \"task\": \"up\"}",
                "{\"id\": 5, \"task\": \"up\", \"prompt\": \"c\", \"what\": 1}",
                "[1]",
                "{\"id\": 6, \"prompt\": \"c\", \"max_tokens\": 1}",
                "{\"id\": 7, \"task\": \"up\", \"prompt\": 5}",
                "{\"id\": 8, \"task\": \"up\", \"prompt\": \"c\"}");
            Child child = Run("Worker", input, Fixture.ModelFile, bundle);
            Dictionary<string, Json> answers = child.Right().Split(new[] { '\n' }, StringSplitOptions.RemoveEmptyEntries)
                .Select(Json.Parse)
                .GroupBy(answer => answer["id"].ToString())
                .ToDictionary(group => group.Key, group => group.Last());
            Check.Equal("up", answers["1"]["text"].AsString());
            Check.Equal("down", answers["\"two\""]["text"].AsString());
            Check.Equal("up", answers["8"]["text"].AsString());
            Check.Equal("UnknownTask", answers["3"]["error"].AsString());
            Check.Contains("nosuch", answers["3"]["message"].AsString());
            Check.Equal("BadRequest", answers["4"]["error"].AsString());
            Check.Contains("what", answers["5"]["message"].AsString());
            Check.Equal("BadRequest", answers["7"]["error"].AsString());
            Check.Contains("task", answers["6"]["message"].AsString());
            Check.Equal("BadRequest", answers["null"]["error"].AsString());
        }
    }
}
