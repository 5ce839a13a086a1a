// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Concurrent;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad.Tests
{
    /// <summary>The host's own sink: told what the library has to say, allowed to throw and to call back.</summary>
    public sealed class LogTests : IDisposable
    {
        private readonly BlockingCollection<string> messages = new BlockingCollection<string>();

        public void Dispose() => PolyadLibrary.SetLog(null);

        /// <summary>Makes the library warn: a row that cannot be used.</summary>
        private static void Warn()
        {
            byte[] rows = Encoding.UTF8.GetBytes(
                "{\"task\": \"t\", \"instruction\": \"i\", \"input\": \"a\", \"output\": \"b\", \"split\": \"train\"}\n{\"h\u00e4\u00df\": 1}\n");
            Dataset.FromBytes(rows, new DatasetOptions { OnBadRow = "skip" }).Dispose();
        }

        private static T Next<T>(BlockingCollection<T> from) =>
            from.TryTake(out T next, 60_000) ? next : throw new CheckException("nothing came");

        public void MessagesArriveUntilSilenced()
        {
            PolyadLibrary.SetLog((level, text) => messages.Add(level + " " + text));
            Warn();
            string message = Next(messages);
            Check.Contains("Warning", message);
            Check.Contains("skipped 1 bad row", message);
            var others = new BlockingCollection<string>();
            for (int i = 0; i < 20; ++i) // off and on again, sinks changed while messages come
            {
                PolyadLibrary.SetLog(null);
                Warn();
                PolyadLibrary.SetLog((level, text) => others.Add(text));
                Warn();
                Next(others);
            }
            Check.Equal(0, messages.Count);
        }

        private sealed class OwnException : Exception
        {
        }

        public void ASinkThatThrowsHarmsNobody()
        {
            var unobserved = new ConcurrentQueue<Exception>();
            EventHandler<UnobservedTaskExceptionEventArgs> handler = (sender, e) =>
            {
                foreach (Exception inner in e.Exception.InnerExceptions) unobserved.Enqueue(inner);
                e.SetObserved();
            };
            TaskScheduler.UnobservedTaskException += handler;
            try
            {
                PolyadLibrary.SetLog((level, text) =>
                {
                    messages.Add(text);
                    throw new OwnException();
                });
                for (int i = 0; i < 5; ++i)
                {
                    Warn(); // the call that logs knows nothing of it
                    Next(messages);
                }
                for (int i = 0; i < 1000 && unobserved.IsEmpty; ++i)
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                    Thread.Sleep(10);
                }
                Check.That(unobserved.TryDequeue(out Exception seen) && seen is OwnException, "the sink's own exception is raised");
            }
            finally
            {
                TaskScheduler.UnobservedTaskException -= handler;
            }
        }

        public void ASinkMayCallTheLibrary()
        {
            PolyadLibrary.SetLog((level, text) =>
            {
                using (Dataset tasks = Fixture.Tasks())
                {
                    string names = string.Join(",", tasks.Tasks);
                    PolyadLibrary.SetLog(null);
                    messages.Add(names);
                }
            });
            Warn();
            Check.Equal("down,up", Next(messages));
        }
    }
}
