// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad.Tests
{
    public sealed class TrainingTests : IDisposable
    {
        private readonly Fixture.Folder folder = new Fixture.Folder();
        private readonly Backbone model = Fixture.Model();
        private readonly Dataset tasks = Fixture.Tasks();
        private readonly Skillset skills;

        public TrainingTests()
        {
            skills = new Skillset(model, tasks, Fixture.Method());
        }

        public void Dispose()
        {
            skills.Dispose();
            tasks.Dispose();
            model.Dispose();
            folder.Dispose();
        }

        private float[] Uninterrupted()
        {
            using (var other = new Skillset(model, tasks, Fixture.Method()))
            using (Trainer trainer = Fixture.Trainer(other, tasks))
            {
                trainer.Run();
                return other.GetParameters();
            }
        }

        private sealed class OwnException : Exception
        {
        }

        public void AListenerThatThrowsLosesNothing()
        {
            string checkpoint = folder["run.checkpoint"];
            TrainerOptions options = Fixture.Training();
            options.Checkpoint = checkpoint;
            options.CheckpointEvery = 3;
            using (var trainer = new Trainer(skills, tasks, options))
            {
                Check.Throws<OwnException>(() => trainer.Run(new Told(p =>
                {
                    if (p.Step == 4) throw new OwnException();
                })));
            }
            using (var again = new Skillset(model, tasks, Fixture.Method()))
            using (var trainer = new Trainer(again, tasks, options))
            {
                trainer.Resume(checkpoint);
                Check.Equal(4, trainer.Step().Step); // the checkpoint is that of step 3
                Check.Equal(6, trainer.Run().Step);
                Check.Same(Uninterrupted(), again.GetParameters());
            }
        }

        public void AFailingCallLosesNothing()
        {
            string checkpoint = folder["by_hand.checkpoint"];
            using (Trainer trainer = Fixture.Trainer(skills, tasks))
            {
                trainer.Step();
                trainer.Step();
                trainer.SaveCheckpoint(checkpoint);
                byte[] saved = File.ReadAllBytes(checkpoint);
                Check.Refused(ErrorCode.IOError, "nosuch", () => trainer.SaveCheckpoint(folder["nosuch/x.checkpoint"]));
                Check.Refused(ErrorCode.NotFound, "nosuch", () => trainer.Resume(folder["nosuch.checkpoint"]));
                Check.Throws<ArgumentException>(() => trainer.SaveCheckpoint("a\0b"));
                Check.Throws<ArgumentNullException>(() => trainer.Resume(null));
                Check.Same(saved, File.ReadAllBytes(checkpoint), "the checkpoint");
                trainer.Step();
                trainer.Resume(checkpoint);
                Check.Equal(6, trainer.Run().Step);
                Check.Same(Uninterrupted(), skills.GetParameters());
                Check.Refused(ErrorCode.WrongState, "", () => trainer.Step());
                Check.Equal(6, trainer.Report()["history"]["step"].Count);
            }
        }

        private Trainer Endless()
        {
            TrainerOptions options = Fixture.Training();
            options.MaxSteps = 1_000_000;
            options.ValidationExamples = 0;
            return new Trainer(skills, tasks, options);
        }

        public async Task CancelledFromAnotherThread()
        {
            using (Trainer trainer = Endless())
            using (var begun = new ManualResetEventSlim())
            {
                Task<RunProgress> run = trainer.RunAsync(new Told(p => begun.Set()));
                begun.Wait();
                trainer.Cancel();
                PolyadException e = await Check.ThrowsAsync<PolyadException>(() => run);
                Check.Equal(ErrorCode.Cancelled, e.Code);
                trainer.Step(); // goes on
            }
        }

        public async Task CancelledByToken()
        {
            using (Trainer trainer = Endless())
            {
                // Some cancels reach a step, some come between two; none may reach a step of somebody who did not ask for it.
                long steps = 0;
                for (int i = 0; i < 40; ++i)
                {
                    using (var source = new CancellationTokenSource())
                    using (var begun = new ManualResetEventSlim())
                    {
                        CancellationToken token = source.Token;
                        Task<RunProgress> run = trainer.RunAsync(new Told(p => begun.Set()), token);
                        begun.Wait();
                        Thread.SpinWait(1000 * i);
                        source.Cancel();
                        var e = await Check.ThrowsAsync<OperationCanceledException>(() => run);
                        Check.Equal(token, e.CancellationToken);
                        Check.That(run.IsCanceled, "the task is cancelled, not failed");
                    }
                    long now = trainer.Step().Step;
                    Check.That(now > steps);
                    steps = now;
                }
                using (var source = new CancellationTokenSource())
                {
                    source.Cancel();
                    Check.Throws<OperationCanceledException>(() => trainer.Run(null, source.Token));
                    await Check.ThrowsAsync<OperationCanceledException>(() => trainer.RunAsync(null, source.Token));
                    Check.Equal(steps + 1, trainer.Step().Step);
                }
                Exception thrown = null;
                using (var source = new CancellationTokenSource())
                {
                    Task<RunProgress> run = trainer.RunAsync(null, source.Token);
                    trainer.Dispose(); // a step in progress ends first
                    thrown = await Check.ThrowsAsync<ObjectDisposedException>(() => run);
                    source.Cancel();
                }
                Check.Contains("Trainer", thrown.Message);
            }
        }

        public void ParametersThroughArraysAndSpans()
        {
            int count = checked((int)skills.ParameterCount);
            float[] before = skills.GetParameters();
            var wide = new float[count + 7];
            skills.CopyParameters(new ArraySegment<float>(wide, 3, count));
            Check.Same(before, wide.Skip(3).Take(count));
            Check.Equal(0f, wide[2] + wide[count + 3], "the floats beside");
            using (Trainer trainer = Fixture.Trainer(skills, tasks)) trainer.Run();
            Check.That(!before.SequenceEqual(skills.GetParameters()), "training moves parameters");
            skills.ReplaceParameters(new ReadOnlySpan<float>(wide, 3, count));
            Check.Same(before, skills.GetParameters());
            skills.SetParameters(before);
            Check.Same(before, skills.GetParameters());
        }

        public void BundlesThroughFilesAndMemory()
        {
            string bundle = folder["F\u00e4higkeiten \uD83D\uDE80.polyad"];
            using (Trainer trainer = Fixture.Trainer(skills, tasks)) trainer.Run();
            skills.SetMetadata("licence", new Dictionary<string, object> { ["name"] = "Apache-2.0", ["note"] = "\uD83D\uDE80\0" });
            skills.Save(bundle);
            byte[] bytes = skills.ToBytes();
            Check.Same(File.ReadAllBytes(bundle), bytes, "file and memory");
            using (Skillset file = Skillset.Load(model, bundle))
            using (Skillset memory = Skillset.FromBytes(model, bytes))
            {
                Check.Same(skills.GetParameters(), file.GetParameters());
                Check.Same(skills.GetParameters(), memory.GetParameters());
                Check.Equal("\uD83D\uDE80\0", file.Info["metadata"]["licence"]["note"].AsString());
            }
            Check.Equal("cpoly", Skillset.Inspect(bundle)["config"]["method"].AsString());
            Check.Same(new[] { "down", "up" }, skills.Tasks);
            Check.That(skills.TaskWeights("up").Length > 2);
            Check.That(skills.Routing().Count > 0);
            Check.Equal(0, skills.Intuition(null, "x").Length);
            bytes[0] = 0;
            Check.Refused(ErrorCode.BadFormat, "", () => Skillset.FromBytes(model, bytes));
            Check.Refused(ErrorCode.BadFormat, "", () => Skillset.FromBytes(model, new byte[0]));
        }

        public void TasksAreAdded()
        {
            Example[] more = Fixture.Examples().Select(example =>
            {
                if (example.Task == "up") example.Task = "left";
                return example;
            }).ToArray();
            using (Dataset other = Dataset.FromExamples(more))
            {
                skills.AddTask(other, "left", Skillset.Start.Uniform);
                Check.Same(new[] { "down", "up", "left" }, skills.Tasks);
                using (Trainer trainer = Fixture.Trainer(skills, other)) Check.Equal(6, trainer.Run().Step);
                Check.Refused(ErrorCode.UnknownTask, "nosuch", () => skills.AddTask(other, "nosuch"));
            }
        }

        public async Task Evaluates()
        {
            var options = new EvaluatorOptions { Split = Split.Test, MaxTokens = 4 };
            using (var evaluator = new Evaluator(model, skills, tasks, options))
            {
                Check.Refused(ErrorCode.WrongState, "", () => evaluator.Result());
                int told = 0;
                Check.Equal(2, evaluator.Run(new Told(p => ++told))["overall"]["count"].AsInt());
                Check.That(told > 0);
                Check.Contains("up", evaluator.Table());
            }
            using (var alone = new Evaluator(model, null, tasks, options))
            using (var cancelled = new Evaluator(model, null, tasks, options))
            {
                Check.That((await alone.RunAsync()).Has("overall"));
                cancelled.Cancel();
                Check.Refused(ErrorCode.Cancelled, "", () => cancelled.Run());
                Check.That(cancelled.Run().Has("overall"));
            }
        }

        public void AdaptersOfPeft()
        {
            using (var lora = new Skillset(model, tasks, new Lora { Rank = 4, Alpha = 8, Seed = 1 }))
            {
                using (Trainer trainer = Fixture.Trainer(lora, tasks)) trainer.Run();
                lora.ExportPeft(null, folder["lora"], "tiny");
                Check.Contains("\"tiny\"", File.ReadAllText(Path.Combine(folder["lora"], "adapter_config.json")));
                using (Skillset back = Skillset.ImportPeft(model, folder["lora"], new PeftOptions { Tasks = new[] { "one" } }))
                {
                    Check.Same(lora.GetParameters(), back.GetParameters(), "there and back");
                    Check.Same(new[] { "one" }, back.Tasks);
                }
                skills.ExportPeft("up", folder["up"]);
                string[] two = { folder["lora"], folder["up"] };
                using (Skillset set = Skillset.ImportPeftSet(model, two, new PeftSetOptions { Tasks = new[] { "a", "b" } }))
                {
                    Check.Same(new[] { "a", "b" }, set.Tasks);
                }
                var merge = new PeftSetOptions { Combination = "linear", Weights = new[] { 0.5, 0.25 } };
                using (Skillset merged = Skillset.ImportPeftSet(model, new[] { folder["lora"], folder["lora"] }, merge))
                {
                    Check.Equal("lora", merged.Info["config"]["method"].AsString());
                }
                skills.ExportGguf("up", folder["up.gguf"], "up");
                Check.Same(new byte[] { (byte)'G', (byte)'G', (byte)'U', (byte)'F' }, File.ReadAllBytes(folder["up.gguf"]).Take(4));
                Check.Refused(ErrorCode.NotFound, "nosuch", () => Skillset.ImportPeft(model, folder["nosuch"]));
                Check.Refused(ErrorCode.InvalidArgument, "task", () => skills.ExportGguf(null, folder["x.gguf"]));
                Check.Throws<ArgumentNullException>(() => Skillset.ImportPeftSet(model, new string[] { null }));
                Check.Throws<PolyadException>(() => Skillset.ImportPeftSet(model, new string[0]));
            }
        }
    }
}
