// SPDX-License-Identifier: Apache-2.0
namespace Polyad
{
    /// <summary>
    /// What went wrong, as the library says it. New codes are appended; one that this version does not know is <see cref="Unknown"/>,
    /// with its number in <see cref="PolyadException.CodeNumber"/>.
    /// </summary>
    public enum ErrorCode
    {
        /// <summary>A code of a library newer than this assembly.</summary>
        Unknown = -1,
        /// <summary>An argument, option or id out of its allowed range.</summary>
        InvalidArgument = polyad_code.POLYAD_INVALID_ARGUMENT,
        /// <summary>Options: unknown key, wrong type, bad range.</summary>
        InvalidConfig = polyad_code.POLYAD_INVALID_CONFIG,
        /// <summary>A file, site, skillset or tensor that does not exist.</summary>
        NotFound = polyad_code.POLYAD_NOT_FOUND,
        /// <summary>The operating system refused to read or write.</summary>
        IOError = polyad_code.POLYAD_IO_ERROR,
        /// <summary>A damaged or hostile file.</summary>
        BadFormat = polyad_code.POLYAD_BAD_FORMAT,
        /// <summary>Well-formed, but not something this build can do.</summary>
        Unsupported = polyad_code.POLYAD_UNSUPPORTED,
        /// <summary>A bundle made for another base model.</summary>
        BackboneMismatch = polyad_code.POLYAD_BACKBONE_MISMATCH,
        /// <summary>A task outside the task table.</summary>
        UnknownTask = polyad_code.POLYAD_UNKNOWN_TASK,
        /// <summary>A dataset row or text that cannot be used.</summary>
        BadData = polyad_code.POLYAD_BAD_DATA,
        /// <summary>A text longer than the model or the cache can hold.</summary>
        ContextOverflow = polyad_code.POLYAD_CONTEXT_OVERFLOW,
        /// <summary>NaN or infinity where training or scoring needs a number.</summary>
        NumericError = polyad_code.POLYAD_NUMERIC_ERROR,
        /// <summary>Stopped by a cancel call.</summary>
        Cancelled = polyad_code.POLYAD_CANCELLED,
        /// <summary>Not allowed now: finished, retired, or used by another call at this moment.</summary>
        WrongState = polyad_code.POLYAD_WRONG_STATE,
        /// <summary>Native memory ran out.</summary>
        OutOfMemory = polyad_code.POLYAD_OUT_OF_MEMORY,
        /// <summary>The engine's queue is full: try again after some steps.</summary>
        QueueFull = polyad_code.POLYAD_QUEUE_FULL,
        /// <summary>A bug in Polyad: please report it.</summary>
        Internal = polyad_code.POLYAD_INTERNAL,
    }
}
