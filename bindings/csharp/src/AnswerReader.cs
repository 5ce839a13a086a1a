// SPDX-License-Identifier: Apache-2.0
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>
    /// Reads an answer piece by piece without blocking a thread. It has the shape that <c>await foreach</c> of C# 8 asks for, without
    /// the interface IAsyncEnumerable, which .NET Standard 2.0 does not have; by hand:
    /// <code>
    /// var reader = answer.GetAsyncEnumerator(cancellationToken);
    /// while (await reader.MoveNextAsync()) Console.Write(reader.Current);
    /// </code>
    /// One reader is for one caller at a time; an answer may have many.
    /// </summary>
    public sealed class AnswerReader
    {
        private readonly Answer answer;
        private readonly CancellationToken cancellationToken;
        private int index;

        internal AnswerReader(Answer answer, CancellationToken cancellationToken)
        {
            this.answer = answer;
            this.cancellationToken = cancellationToken;
        }

        /// <summary>The piece read last.</summary>
        public string Current { get; private set; }

        /// <summary>Waits for the next piece; false at the end.</summary>
        /// <exception cref="PolyadException">What ended the answer, where its text breaks off.</exception>
        /// <exception cref="System.OperationCanceledException">The token was cancelled; the request goes on.</exception>
        public async Task<bool> MoveNextAsync()
        {
            while (true)
            {
                cancellationToken.ThrowIfCancellationRequested();
                string piece = answer.PieceOrChange(index, out Task change);
                if (piece != null)
                {
                    ++index;
                    Current = piece;
                    return true;
                }
                if (change == null) return false;
                if (!cancellationToken.CanBeCanceled)
                {
                    await change.ConfigureAwait(false);
                    continue;
                }
                var cancelled = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
                using (cancellationToken.Register(() => cancelled.TrySetResult(true)))
                {
                    await Task.WhenAny(change, cancelled.Task).ConfigureAwait(false);
                }
            }
        }

        /// <summary>Nothing to give back; <c>await foreach</c> asks for it.</summary>
        public Task DisposeAsync() => Task.CompletedTask;
    }
}
