// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Threading;

namespace Polyad
{
    /// <summary>
    /// Steps an engine while it has requests and hands what they produce to their answers. It knows the engine's handle, not the engine,
    /// and its thread ends a moment after the last answer: an engine that its user forgot can be collected. While answers are being made
    /// they keep the engine.
    /// </summary>
    internal sealed class EngineDriver
    {
        /// <summary>How long an idle thread waits for the next request before it ends.</summary>
        private const int IdleMilliseconds = 1000;

        private readonly NativeHandle handle;
        private readonly object gate = new object();
        private readonly List<Answer> active = new List<Answer>();
        private Thread thread; // null while there is nothing to do
        private bool stopping;

        internal EngineDriver(NativeHandle handle, bool manual)
        {
            this.handle = handle;
            Manual = manual;
        }

        internal bool Manual { get; }

        internal void Add(Answer answer)
        {
            lock (gate)
            {
                if (!stopping)
                {
                    active.Add(answer);
                    if (!Manual && thread == null)
                    {
                        thread = new Thread(Run) { IsBackground = true, Name = "polyad-engine" };
                        thread.Start();
                    }
                    Monitor.PulseAll(gate);
                    return;
                }
            }
            answer.Abandon(Closed());
        }

        internal void Wake()
        {
            lock (gate) Monitor.PulseAll(gate);
        }

        /// <summary>Ends everything; returns when no step runs any more.</summary>
        internal void Stop()
        {
            lock (gate)
            {
                stopping = true;
                Monitor.PulseAll(gate);
            }
            foreach (Answer answer in Snapshot()) answer.Cancel();
            lock (gate)
            {
                // On the engine's own thread (a log sink, say, that disposes of the engine) there is nobody to wait for.
                while (thread != null && thread != Thread.CurrentThread) Monitor.Wait(gate);
            }
            AbandonAll(Closed());
        }

        private static PolyadException Closed() => new PolyadException(ErrorCode.Cancelled, "the engine was disposed of");

        private List<Answer> Snapshot()
        {
            lock (gate) return new List<Answer>(active);
        }

        /// <summary>Polls every answer in the making.</summary>
        internal void Deliver()
        {
            foreach (Answer answer in Snapshot())
            {
                if (!answer.Poll()) continue;
                lock (gate) active.Remove(answer);
            }
        }

        private void AbandonAll(Exception why)
        {
            foreach (Answer answer in Snapshot())
            {
                answer.Cancel();
                answer.Abandon(why);
                lock (gate) active.Remove(answer);
            }
        }

        private void Run()
        {
            while (WaitForWork())
            {
                try
                {
                    bool held = false;
                    ProcessEnd.Enter();
                    try
                    {
                        handle.DangerousAddRef(ref held);
                        Native.polyad_engine_step(handle.DangerousGetHandle(), out int _);
                    }
                    finally
                    {
                        if (held) handle.DangerousRelease();
                        ProcessEnd.Leave();
                    }
                    Deliver();
                }
                catch (Exception e)
                {
                    AbandonAll(e); // a step that fails has answered nobody
                }
            }
        }

        /// <summary>False when the thread has to end, which others then see.</summary>
        private bool WaitForWork()
        {
            lock (gate)
            {
                if (!stopping && active.Count == 0) Monitor.Wait(gate, IdleMilliseconds);
                if (!stopping && active.Count > 0) return true;
                thread = null;
                Monitor.PulseAll(gate);
                return false;
            }
        }
    }
}
