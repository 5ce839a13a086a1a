// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Text;
using System.Threading;

namespace Polyad.Tests
{
    /// <summary>
    /// Handles: disposed of twice, used after that, parents first, forgotten, shared by threads, made a hundred thousand times.
    /// </summary>
    public sealed class LifetimeTests
    {
        private static void Disposed(Action call)
        {
            Check.Contains("Polyad.", Check.Throws<ObjectDisposedException>(call).ObjectName);
        }

        public void DisposedObjectsRefuseEveryCall()
        {
            var context = new Context(1);
            Backbone model = Fixture.Model();
            Dataset tasks = Fixture.Tasks();
            var skills = new Skillset(model, tasks, Fixture.Method());
            Trainer trainer = Fixture.Trainer(skills, tasks);
            var evaluator = new Evaluator(model, skills, tasks);
            var engine = new Engine(model);
            engine.Publish("words", skills);
            Answer answer = engine.Submit(Fixture.Request(2));
            answer.Wait();
            foreach (NativeObject one in new NativeObject[] { context, model, tasks, skills, trainer, evaluator, engine })
            {
                one.Dispose();
                one.Dispose();
                Check.That(one.IsDisposed, one.GetType().Name);
            }
            answer.Dispose();
            answer.Dispose();
            Disposed(() => Backbone.Open(Fixture.ModelFile, null, context));
            Disposed(() => Console.WriteLine(model.Info));
            Disposed(() => model.Logits(new[] { 1 }));
            Disposed(() => model.Tokenize("x"));
            Disposed(() => Console.WriteLine(tasks.Info));
            Disposed(() => skills.GetParameters());
            Disposed(() => skills.Save("x.polyad"));
            Disposed(() => trainer.Step());
            Disposed(() => trainer.Run());
            Disposed(() => trainer.Cancel());
            Disposed(() => evaluator.Step());
            Disposed(() => Console.WriteLine(engine.Stats));
            Disposed(() => engine.Submit(Fixture.Request(1)));
            Disposed(() => new Skillset(model, tasks, Fixture.Method()));
            Disposed(() => new Engine(model));
            answer.Cancel(); // ended: nothing to do
            Check.Equal(AnswerState.Finished, answer.State);
        }

        public void ParentsMayGoFirst()
        {
            Backbone model = Fixture.Model();
            Dataset tasks = Fixture.Tasks();
            var skills = new Skillset(model, tasks, Fixture.Method());
            Trainer trainer = Fixture.Trainer(skills, tasks);
            Engine engine = new Engine(model).Publish("words", skills);
            Answer answer = engine.Submit(Fixture.Request(4));
            model.Dispose();
            tasks.Dispose();
            skills.Dispose();
            Check.Equal(4, answer.Wait().Tokens.Length);
            Check.Equal(6, trainer.Run().Step);
            engine.Dispose();
            trainer.Dispose();
        }

        private static List<Thread> StartMany(int count, Action body, ConcurrentQueue<Exception> odd)
        {
            var threads = new List<Thread>();
            for (int i = 0; i < count; ++i)
            {
                var thread = new Thread(() =>
                {
                    try
                    {
                        body();
                    }
                    catch (Exception e)
                    {
                        odd.Enqueue(e);
                    }
                });
                thread.Start();
                threads.Add(thread);
            }
            return threads;
        }

        private static void None(ConcurrentQueue<Exception> odd) => Check.That(odd.IsEmpty, "no exception: " + string.Join("\n", odd));

        public void DisposingWhileOthersCall()
        {
            using (Dataset tasks = Fixture.Tasks())
            {
                for (int round = 0; round < 20; ++round)
                {
                    Backbone model = Fixture.Model();
                    var odd = new ConcurrentQueue<Exception>();
                    using (var started = new CountdownEvent(4))
                    {
                        List<Thread> threads = StartMany(4, () =>
                        {
                            started.Signal();
                            try
                            {
                                while (true)
                                {
                                    model.Tokenize("Say up.");
                                    new Skillset(model, tasks, Fixture.Method()).Dispose();
                                    model.Logits(new[] { 1, 2, 3 });
                                }
                            }
                            catch (ObjectDisposedException)
                            {
                                // What an object says that was disposed of.
                            }
                        }, odd);
                        started.Wait();
                        Thread.Sleep(5);
                        model.Dispose();
                        threads.ForEach(thread => thread.Join());
                    }
                    None(odd);
                }
            }
        }

        public void OneCallerAtATime()
        {
            TrainerOptions options = Fixture.Training();
            options.MaxSteps = 200;
            using (Backbone model = Fixture.Model())
            using (Dataset tasks = Fixture.Tasks())
            using (var skills = new Skillset(model, tasks, Fixture.Method()))
            using (var trainer = new Trainer(skills, tasks, options))
            {
                var odd = new ConcurrentQueue<Exception>();
                StartMany(4, () =>
                {
                    for (int n = 0; n < 10; ++n)
                    {
                        try
                        {
                            trainer.Step();
                        }
                        catch (PolyadException e) when (e.Code == ErrorCode.WrongState)
                        {
                            // Another thread is stepping.
                        }
                    }
                }, odd).ForEach(thread => thread.Join());
                None(odd);
                Check.That(trainer.Step().Step > 10);
            }
        }

        /// <summary>Not inlined, so that no local of the caller keeps an object.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private static IEnumerable<WeakReference> Forget(bool wait)
        {
            Backbone model = Fixture.Model();
            Dataset tasks = Fixture.Tasks();
            var skills = new Skillset(model, tasks, Fixture.Method());
            Trainer trainer = Fixture.Trainer(skills, tasks);
            Engine engine = new Engine(model).Publish("words", skills);
            Answer answer = engine.Submit(Fixture.Request(2));
            trainer.Step();
            if (wait) answer.Wait();
            return new object[] { model, tasks, skills, trainer, engine, answer }.Select(one => new WeakReference(one)).ToList();
        }

        public void ForgottenObjectsAreReleased()
        {
            var forgotten = new List<WeakReference>();
            var maker = new Thread(() => // its stack goes with it
            {
                for (int i = 0; i < 20; ++i) forgotten.AddRange(Forget(i % 10 == 0));
            });
            maker.Start();
            maker.Join();
            // Mono's collector looks for references on stacks without knowing them; a stray word can keep one set of objects.
            int allowed = Type.GetType("Mono.Runtime") == null ? 0 : 6;
            int left = forgotten.Count;
            for (int i = 0; i < 3000 && left > allowed; ++i)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
                Thread.Sleep(20);
                left = forgotten.Count(one => one.IsAlive);
            }
            Check.That(left <= allowed, $"{left} of {forgotten.Count} objects left");
        }

        public void GarbageCollectionDuringCalls()
        {
            bool stop = false;
            var collector = new Thread(() =>
            {
                var clock = new Stopwatch();
                while (!Volatile.Read(ref stop))
                {
                    clock.Restart();
                    GC.Collect();
                    // Without a rest a thread that waits for the end of a collection wakes up in the next one, for minutes.
                    TimeSpan taken = clock.Elapsed;
                    while (clock.Elapsed < taken + taken) Thread.SpinWait(10);
                }
            });
            collector.Start();
            try
            {
                for (int i = 0; i < 8; ++i)
                {
                    // Nothing holds the objects but the calls themselves.
                    Check.Equal("Say up.", Fixture.Model().Detokenize(Fixture.Model().Tokenize("Say up.")));
                    var skills = new Skillset(Fixture.Model(), Fixture.Tasks(), Fixture.Method());
                    Check.Equal(6, Fixture.Trainer(skills, Fixture.Tasks()).Run().Step);
                    var request = new Request { Tokens = new[] { 1, 2, 3 }, MaxTokens = 3, IgnoreEos = true };
                    Check.Equal(3, new Engine(Fixture.Model()).Submit(request).Wait().Tokens.Length);
                }
            }
            finally
            {
                Volatile.Write(ref stop, true);
                collector.Join();
            }
        }

        public void AProgramMayEndInTheMiddleOfEverything()
        {
            string file = Fixture.ModelFile;
            for (int i = 0; i < 3; ++i)
            {
                Child child = Child.Run(typeof(LifetimeTests).Assembly.Location, new[] { "--probe", "end" });
                Check.Equal("busy", child.Right().Trim(), file + " " + child.Errors);
                Check.Equal("", child.Errors);
            }
        }

        private static long ResidentBytes() => 4096 * long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1]);

        /// <summary>Memory after the second half is that of the first half, within what an allocator and a JIT move.</summary>
        private static void DoesNotGrow(int times, Func<IDisposable> make)
        {
            for (int i = 0; i < times / 2; ++i) make().Dispose();
            GC.Collect();
            long before = ResidentBytes();
            for (int i = 0; i < times / 2; ++i) make().Dispose();
            GC.Collect();
            long grown = ResidentBytes() - before;
            Check.That(grown < 24 << 20, $"{grown} bytes more after {times / 2} times");
        }

        public void AHundredThousandTimesWithoutGrowth()
        {
            if (!File.Exists("/proc/self/statm")) throw new SkipException("this system does not tell a process's memory in /proc");
            byte[] row = Encoding.UTF8.GetBytes(
                "{\"task\": \"t\", \"instruction\": \"i\", \"input\": \"a\", \"output\": \"b\", \"split\": \"train\"}\n");
            DoesNotGrow(60_000, () => Dataset.FromBytes(row));
            DoesNotGrow(20_000, () => new Context(1));
            using (Backbone model = Fixture.Model())
            using (Dataset tasks = Fixture.Tasks())
            using (var engine = new Engine(model, new EngineOptions { Manual = true }))
            {
                var request = new Request { Tokens = new[] { 1, 2, 3 }, Stop = { "one", "two" }, Weights = new float[0], MaxTokens = 1 };
                DoesNotGrow(18_000, () =>
                {
                    Answer answer = engine.Submit(request);
                    answer.Cancel();
                    engine.Step();
                    return answer;
                });
                DoesNotGrow(2_000, () => new Skillset(model, tasks, Fixture.Method()));
            }
        }
    }
}
