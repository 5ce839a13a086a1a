// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>Where a request stands.</summary>
    public enum AnswerState
    {
        /// <summary>In the queue.</summary>
        Waiting = polyad_request_state.POLYAD_REQUEST_WAITING,
        /// <summary>Being answered.</summary>
        Running = polyad_request_state.POLYAD_REQUEST_RUNNING,
        /// <summary>End token, stop text, or as many tokens as were allowed.</summary>
        Finished = polyad_request_state.POLYAD_REQUEST_FINISHED,
        /// <summary>Stopped by a cancel.</summary>
        Cancelled = polyad_request_state.POLYAD_REQUEST_CANCELLED,
        /// <summary>Failed; the task tells why.</summary>
        Failed = polyad_request_state.POLYAD_REQUEST_FAILED,
        /// <summary>Its timeout passed; the answer is what it had until then.</summary>
        Expired = polyad_request_state.POLYAD_REQUEST_EXPIRED,
    }

    /// <summary>A finished answer.</summary>
    public sealed class AnswerResult
    {
        internal AnswerResult(Json json)
        {
            Text = json["text"].AsString();
            Tokens = json["tokens"].Select(token => token.AsInt()).ToArray();
            FinishReason = json["finish_reason"].AsString();
            PromptTokens = json["prompt_tokens"].AsInt();
            CachedTokens = json["cached_tokens"].AsInt();
            TruncatedTokens = json["truncated"].AsInt();
            Elapsed = TimeSpan.FromSeconds(json["seconds"].AsDouble());
        }

        /// <summary>All of the text.</summary>
        public string Text { get; }

        /// <summary>Its token ids.</summary>
        public int[] Tokens { get; }

        /// <summary>end_token, stop_string, max_tokens, or expired: the timeout passed.</summary>
        public string FinishReason { get; }

        /// <summary>Tokens of the prompt.</summary>
        public int PromptTokens { get; }

        /// <summary>Those of them that were found in the prefix cache.</summary>
        public int CachedTokens { get; }

        /// <summary>Tokens of the prompt that were cut off to fit the prompt format.</summary>
        public int TruncatedTokens { get; }

        /// <summary>From submitting to the end.</summary>
        public TimeSpan Elapsed { get; }

        /// <summary>The text.</summary>
        public override string ToString() => Text;
    }

    /// <summary>
    /// The answer to a request, while it is made and after. Read it whole (<see cref="Completion"/>) or piece by piece: with
    /// <c>foreach</c>, which waits, or with <c>await foreach</c> (C# 8), which does not block; without C# 8 see
    /// <see cref="AnswerReader"/>. Every reader sees all of it from the beginning. It ends by itself, so disposing is not needed;
    /// disposing of an unfinished one cancels it. Any thread may use it.
    /// </summary>
    public sealed class Answer : IEnumerable<string>, IDisposable
    {
        private volatile Engine engine; // kept while the answer is made
        private readonly RequestHandle request;
        private readonly object gate = new object();
        private readonly List<string> pieces = new List<string>();
        private readonly TaskCompletionSource<AnswerResult> completion =
            new TaskCompletionSource<AnswerResult>(TaskCreationOptions.RunContinuationsAsynchronously);
        private TaskCompletionSource<bool> changed = NewChange();
        private AnswerState state = AnswerState.Waiting;
        private Exception failure;

        internal Answer(Engine engine, NativeHandle handle)
        {
            this.engine = engine;
            request = new RequestHandle(handle);
        }

        private sealed class RequestHandle : NativeObject
        {
            internal RequestHandle(NativeHandle handle) : base(handle)
            {
            }
        }

        private static TaskCompletionSource<bool> NewChange() =>
            new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);

        // ---- the engine's side ----------------------------------------------------------------------------------------

        /// <summary>Takes what has become certain; true when the answer is complete. Only the stepping thread calls it.</summary>
        internal bool Poll()
        {
            string added = null;
            int number = 0;
            AnswerResult result = null;
            Exception why = null;
            try
            {
                added = request.Text((IntPtr handle, out IntPtr piece) =>
                                         Native.polyad_request_poll(handle, out piece, out number));
                if (number < (int)AnswerState.Finished)
                {
                    Put(added, (AnswerState)number);
                    return false;
                }
                if (number == (int)AnswerState.Cancelled)
                {
                    why = new PolyadException(ErrorCode.Cancelled, "the request was cancelled");
                }
                else
                {
                    result = new AnswerResult(request.AskJson(Native.polyad_request_result));
                }
            }
            catch (Exception e)
            {
                why = e;
            }
            if (!string.IsNullOrEmpty(added)) Put(added, AnswerState.Running);
            End(why == null ? (AnswerState)number
                : number == (int)AnswerState.Cancelled ? AnswerState.Cancelled
                : AnswerState.Failed, result, why);
            return true;
        }

        internal void Abandon(Exception why) => End(
            why is PolyadException e && e.Code == ErrorCode.Cancelled ? AnswerState.Cancelled : AnswerState.Failed, null, why);

        private void Put(string piece, AnswerState now)
        {
            lock (gate)
            {
                if (Ended) return;
                state = now;
                if (piece.Length == 0) return;
                pieces.Add(piece);
                Announce();
            }
        }

        /// <summary>Ends the answer; the first end counts.</summary>
        private void End(AnswerState last, AnswerResult result, Exception why)
        {
            lock (gate)
            {
                if (Ended) return;
                state = last;
                failure = why;
                Announce();
            }
            request.Dispose();
            engine = null;
            // Continuations run elsewhere: none can hold up the engine.
            if (why == null) completion.SetResult(result);
            else completion.SetException(why);
            GC.KeepAlive(completion.Task.Exception); // seen: an answer that nobody asks for is no unobserved failure
        }

        private void Announce()
        {
            TaskCompletionSource<bool> was = changed;
            changed = NewChange();
            was.SetResult(true);
            Monitor.PulseAll(gate);
        }

        private bool Ended => state >= AnswerState.Finished;

        // ---- the reader's side ----------------------------------------------------------------------------------------

        /// <summary>The whole answer. Fails with the <see cref="PolyadException"/> that ended it.</summary>
        public Task<AnswerResult> Completion => completion.Task;

        /// <summary>The whole answer; cancelling the token cancels the request.</summary>
        /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
        public async Task<AnswerResult> WaitAsync(CancellationToken cancellationToken = default(CancellationToken))
        {
            using (cancellationToken.Register(Cancel))
            {
                try
                {
                    return await Completion.ConfigureAwait(false);
                }
                catch (PolyadException e) when (e.Code == ErrorCode.Cancelled && cancellationToken.IsCancellationRequested)
                {
                    throw new OperationCanceledException(e.Message, e, cancellationToken);
                }
            }
        }

        /// <summary>Waits for the whole answer on this thread.</summary>
        /// <exception cref="PolyadException">What ended it: Cancelled, ContextOverflow, ...</exception>
        public AnswerResult Wait() => Completion.GetAwaiter().GetResult();

        /// <summary>Where the request stands.</summary>
        public AnswerState State
        {
            get
            {
                lock (gate) return state;
            }
        }

        /// <summary>Stops the request, whose task then fails with Cancelled. Does nothing when it has ended.</summary>
        public void Cancel()
        {
            try
            {
                request.Use(Native.polyad_request_cancel);
                engine?.Wake();
            }
            catch (ObjectDisposedException)
            {
                // Ended meanwhile.
            }
        }

        /// <summary>Cancels the request if it has not ended.</summary>
        public void Dispose() => Cancel();

        /// <summary>The piece at an index; else a task that ends with the next change, or null at the end.</summary>
        internal string PieceOrChange(int index, out Task change)
        {
            lock (gate)
            {
                change = null;
                if (index < pieces.Count) return pieces[index];
                if (!Ended) change = changed.Task;
                else if (failure != null) throw Rethrown(failure);
                return null;
            }
        }

        /// <summary>The same failure for every reader, each with its own stack.</summary>
        private static Exception Rethrown(Exception e)
        {
            if (e is PolyadException ours) return new PolyadException(ours.CodeNumber, ours.Message, ours.Detail);
            return new InvalidOperationException(e.Message, e);
        }

        /// <summary>The pieces as they come; waits for each. Throws the <see cref="PolyadException"/> that ended the answer where its text
        /// breaks off.</summary>
        public IEnumerator<string> GetEnumerator()
        {
            for (int index = 0;; ++index)
            {
                string piece;
                lock (gate)
                {
                    while (index >= pieces.Count && !Ended) Monitor.Wait(gate);
                    piece = PieceOrChange(index, out Task _);
                }
                if (piece == null) yield break;
                yield return piece;
            }
        }

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        /// <summary>The pieces as they come, without blocking: what <c>await foreach (string piece in answer)</c> calls.</summary>
        /// <param name="cancellationToken">Ends the reading, not the request.</param>
        public AnswerReader GetAsyncEnumerator(CancellationToken cancellationToken = default(CancellationToken)) =>
            new AnswerReader(this, cancellationToken);
    }
}
