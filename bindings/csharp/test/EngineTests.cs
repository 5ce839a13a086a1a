// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad.Tests
{
    public sealed class EngineTests : IDisposable
    {
        private readonly Backbone model = Fixture.Model();
        private readonly Dataset tasks = Fixture.Tasks();
        private readonly Skillset skills;
        private readonly Engine engine;

        public EngineTests()
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

        /// <summary>As long as the tiny model's context of 128 tokens allows.</summary>
        private static Request Long() => Fixture.Request(100);

        private static PolyadException Cancelled(Answer answer) => Check.Refused(ErrorCode.Cancelled, "", () => answer.Wait());

        public async Task EveryWayOfReadingSeesTheSame()
        {
            Answer answer = engine.Submit(Fixture.Request(24));
            AnswerReader early = answer.GetAsyncEnumerator();
            var byHand = new StringBuilder();
            while (await early.MoveNextAsync()) byHand.Append(early.Current);
            await early.DisposeAsync();
            string text = answer.Wait().Text;
            Check.Equal(text, byHand.ToString());
            Check.Equal(text, string.Concat(answer));
            Check.Equal(text, string.Concat(engine.Submit(Fixture.Request(24))));
            AnswerReader late = answer.GetAsyncEnumerator();
            byHand.Clear();
            while (await late.MoveNextAsync()) byHand.Append(late.Current);
            Check.Equal(text, byHand.ToString());
            AnswerResult result = await answer.Completion;
            Check.Equal(text, result.ToString());
            Check.Equal(24, result.Tokens.Length);
            Check.Equal("max_tokens", result.FinishReason);
            Check.That(result.PromptTokens > 0 && result.TruncatedTokens == 0 && result.Elapsed > TimeSpan.Zero);
            Check.Equal(AnswerState.Finished, answer.State);
            Check.Equal(text, (await engine.SubmitAsync(Fixture.Request(24))).Text);
            Check.That(text.Length > 0);
        }

        /// <summary>An engine that is stepped by hand, so that a cancel always comes before the end.</summary>
        private Engine Manual() => new Engine(model, new EngineOptions { Manual = true }).Publish("words", skills);

        private static void Finish(Engine manual)
        {
            while (manual.Step() > 0)
            {
            }
        }

        private static async Task ReadAll(AnswerReader reader)
        {
            while (await reader.MoveNextAsync())
            {
            }
        }

        public async Task CancelledByAnswerTokenAndDispose()
        {
            using (Engine manual = Manual())
            using (var source = new CancellationTokenSource())
            {
                Answer byAnswer = manual.Submit(Long());
                Answer byDispose = manual.Submit(Long());
                Task<AnswerResult> byToken = manual.SubmitAsync(Long(), source.Token);
                Answer other = manual.Submit(Fixture.Request(9));
                AnswerReader reader = byAnswer.GetAsyncEnumerator();
                Task reading = ReadAll(reader);
                manual.Step();
                manual.Step();
                byAnswer.Cancel();
                byDispose.Dispose();
                byDispose.Dispose();
                source.Cancel();
                Finish(manual);
                Cancelled(byAnswer);
                Cancelled(byDispose);
                Check.Refused(ErrorCode.Cancelled, "", () => string.Concat(byAnswer));
                Check.Equal(AnswerState.Cancelled, byAnswer.State);
                Check.Equal(ErrorCode.Cancelled, (await Check.ThrowsAsync<PolyadException>(() => reading)).Code);
                Check.Equal(source.Token, (await Check.ThrowsAsync<OperationCanceledException>(() => byToken)).CancellationToken);
                Check.That(byToken.IsCanceled, "the task is cancelled, not failed");
                await Check.ThrowsAsync<OperationCanceledException>(() => manual.SubmitAsync(Long(), source.Token));
                Check.Equal(9, other.Wait().Tokens.Length);
            }
        }

        public void CancelledFromAnotherThreadWhileTheEngineSteps()
        {
            List<Answer> answers = Enumerable.Range(0, 300).Select(_ => engine.Submit(Long())).ToList();
            var canceller = new Thread(() => answers.ForEach(answer => answer.Cancel()));
            canceller.Start();
            canceller.Join();
            Cancelled(answers[299]); // its turn had not come
            foreach (Answer answer in answers)
            {
                try
                {
                    Check.Equal(100, answer.Wait().Tokens.Length);
                }
                catch (PolyadException e) when (e.Code == ErrorCode.Cancelled)
                {
                    // Before it was done.
                }
            }
            Check.Equal(3, engine.Submit(Fixture.Request(3)).Wait().Tokens.Length);
        }

        public async Task ACancelledReaderLeavesTheRequest()
        {
            using (Engine manual = Manual())
            using (var source = new CancellationTokenSource())
            {
                Answer answer = manual.Submit(Long());
                AnswerReader reader = answer.GetAsyncEnumerator(source.Token);
                while (!reader.MoveNextAsync().IsCompleted) manual.Step();
                Task waiting = ReadAll(reader);
                source.Cancel();
                await Check.ThrowsAsync<OperationCanceledException>(() => waiting);
                Finish(manual);
                Check.Equal(100, answer.Wait().Tokens.Length);
            }
        }

        public void DisposingTheEngineEndsItsAnswers()
        {
            List<Answer> answers = Enumerable.Range(0, 300).Select(_ => engine.Submit(Long())).ToList();
            engine.Dispose();
            Cancelled(answers[299]);
            foreach (Answer answer in answers) Check.That(answer.Completion.IsCompleted && answer.State >= AnswerState.Finished);
        }

        public async Task ContinuationsMayCallTheEngine()
        {
            string twice = await engine.SubmitAsync(Fixture.Request(4))
                .ContinueWith(first => first.Result.Text + engine.Submit(Fixture.Request(4)).Wait().Text,
                              TaskContinuationOptions.ExecuteSynchronously);
            string once = engine.Submit(Fixture.Request(4)).Wait().Text;
            Check.Equal(once + once, twice);
            // The engine is disposed of by what continues after its answer.
            await engine.SubmitAsync(Fixture.Request(4)).ContinueWith(_ => engine.Dispose(), TaskContinuationOptions.ExecuteSynchronously);
            Check.That(engine.IsDisposed);
        }

        public void ManyThreadsWhileAVersionIsSwapped()
        {
            using (Trainer trainer = Fixture.Trainer(skills, tasks)) trainer.Run();
            string before = engine.Submit(Fixture.Request(12)).Wait().Text;
            engine.Publish("words", skills);
            string after = engine.Submit(Fixture.Request(12)).Wait().Text;
            var odd = new ConcurrentQueue<string>();
            List<Thread> threads = Enumerable.Range(0, 4).Select(_ => new Thread(() =>
            {
                try
                {
                    for (int n = 0; n < 50; ++n)
                    {
                        string text = engine.Submit(Fixture.Request(12)).Wait().Text;
                        if (text != before && text != after) odd.Enqueue(text);
                    }
                }
                catch (Exception e)
                {
                    odd.Enqueue(e.ToString());
                }
            })).ToList();
            threads.ForEach(thread => thread.Start());
            while (!threads.All(thread => thread.Join(10)))
            {
                engine.Publish("words", skills);
                engine.Publish("other", skills);
                Check.That(engine.Stats.Count > 0);
                engine.Retire("other");
            }
            Check.That(odd.IsEmpty, string.Join("\n", odd));
        }

        public async Task ManyTasksAtOnce()
        {
            AnswerResult[] all = await Task.WhenAll(Enumerable.Range(0, 200).Select(
                i => engine.SubmitAsync(new Request("words") { Task = i % 2 == 0 ? "up" : "down", Prompt = "c", MaxTokens = 8 })));
            Check.Equal(1, all.Where((_, i) => i % 2 == 0).Select(r => r.Text).Distinct().Count());
            Check.Equal(1, all.Where((_, i) => i % 2 == 1).Select(r => r.Text).Distinct().Count());
        }

        public void SteppedByHand()
        {
            var options = new EngineOptions { MaxBatch = 2, MaxQueue = 3, MaxContext = 120, Manual = true };
            using (Engine manual = new Engine(model, options).Publish("words", skills))
            {
                List<Answer> answers = Enumerable.Range(0, 3).Select(_ => manual.Submit(Fixture.Request(5))).ToList();
                Check.Refused(ErrorCode.QueueFull, "", () => manual.Submit(Fixture.Request(5)));
                int steps = 0;
                while (manual.Step() > 0) ++steps;
                Check.That(steps > 5);
                answers.ForEach(answer => Check.Equal(5, answer.Wait().Tokens.Length));
                Answer left = manual.Submit(Fixture.Request(100));
                manual.Dispose();
                Cancelled(left);
            }
            Check.Throws<InvalidOperationException>(() => engine.Step());
        }

        public void OptionsOfServing()
        {
            var options = new EngineOptions { Manual = true, Threads = 1, PrefixCache = true, MergeHotTask = false, MemoryBudget = 1L << 30 };
            using (Engine manual = new Engine(model, options).Publish("words", skills))
            {
                Check.Equal(1L << 30, manual.Stats["memory"]["budget"].AsLong());
                Request late = Long();
                late.Timeout = TimeSpan.FromTicks(1);
                Answer expired = manual.Submit(late);
                Request urgent = Fixture.Request(3);
                urgent.Priority = 5;
                Answer first = manual.Submit(urgent);
                Thread.Sleep(2);
                Finish(manual);
                Check.Equal(AnswerState.Expired, expired.State);
                Check.Equal("expired", expired.Wait().FinishReason);
                Check.Equal(3, first.Wait().Tokens.Length);
            }
            Check.Refused(ErrorCode.InvalidArgument, "memory_budget", () => new Engine(model, new EngineOptions { MemoryBudget = -1 }));
            Check.Throws<ArgumentOutOfRangeException>(() => new Request { Timeout = TimeSpan.Zero });
        }

        public void WeightsAndTokensOfTheHost()
        {
            float[] weights = skills.TaskWeights("down");
            Check.That(weights.Length > 1);
            int[] tokens = model.Tokenize("Say up. c ->");
            AnswerResult named = engine.Submit(
                new Request("words") { Task = "down", Tokens = tokens, MaxTokens = 8, IgnoreEos = true }).Wait();
            Check.Equal(8, named.Tokens.Length);
            Check.Refused(ErrorCode.InvalidArgument, "weight",
                          () => engine.Submit(new Request("words") { Task = "up", Prompt = "c", Weights = new[] { 1f } }));
            string stop = named.Text.Substring(named.Text.Length - 1);
            var request = new Request("words") { Task = "down", Tokens = tokens, MaxTokens = 8, IgnoreEos = true, Stop = { "nosuch", stop } };
            Check.That(!engine.Submit(request).Wait().Text.Contains(stop));
            Check.Equal(8, engine.Submit(new Request { Prompt = "Say", MaxTokens = 8, IgnoreEos = true }).Wait().Tokens.Length);
        }

        public void EnginesRestAndWakeAgain()
        {
            string first = engine.Submit(Fixture.Request(4)).Wait().Text;
            Thread.Sleep(1500); // its thread has ended by now
            Check.Equal(first, engine.Submit(Fixture.Request(4)).Wait().Text);
        }
    }
}
