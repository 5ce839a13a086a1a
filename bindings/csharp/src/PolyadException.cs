// SPDX-License-Identifier: Apache-2.0
using System;

namespace Polyad
{
    /// <summary>
    /// What the library refused or failed at: a code to act on (<c>catch (PolyadException e) when (e.Code == ErrorCode.QueueFull)</c>),
    /// a message (what was wrong and what is allowed) and a detail (where).
    /// </summary>
    /// <remarks>
    /// What is wrong with the call itself is .NET's own exception: <see cref="ArgumentNullException"/> for null,
    /// <see cref="ArgumentException"/> for a string that no C interface can take, <see cref="ObjectDisposedException"/> for an object
    /// that was disposed of, <see cref="OperationCanceledException"/> where a cancellation token ended it.
    /// </remarks>
    public sealed class PolyadException : Exception
    {
        internal PolyadException(int number, string message, string detail) : base(message)
        {
            CodeNumber = number;
            Detail = detail;
        }

        internal PolyadException(ErrorCode code, string message) : this((int)code, message, "")
        {
        }

        /// <summary>What kind of failure this is.</summary>
        public ErrorCode Code => Enum.IsDefined(typeof(ErrorCode), CodeNumber) ? (ErrorCode)CodeNumber : ErrorCode.Unknown;

        /// <summary>The code's number, also where <see cref="Code"/> is <see cref="ErrorCode.Unknown"/>.</summary>
        public int CodeNumber { get; }

        /// <summary>Where: file and offset, configuration key, tensor, task, row. May be empty.</summary>
        public string Detail { get; }

        /// <inheritdoc/>
        public override string ToString() =>
            $"Polyad.PolyadException [{Code}]: {Message}{(Detail.Length == 0 ? "" : " (" + Detail + ")")}{Environment.NewLine}{StackTrace}";
    }
}
