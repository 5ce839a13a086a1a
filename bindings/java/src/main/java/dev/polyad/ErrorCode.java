// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * What went wrong, as the library says it. New codes are appended; a code that this version does not know is
 * {@link #UNKNOWN}, with its number in {@link PolyadException#codeNumber()}.
 */
public enum ErrorCode {
    /** An argument, option or id out of its allowed range. */
    INVALID_ARGUMENT(polyad_code.POLYAD_INVALID_ARGUMENT),
    /** Options: unknown key, wrong type, bad range. */
    INVALID_CONFIG(polyad_code.POLYAD_INVALID_CONFIG),
    /** A file, site, skillset or tensor that does not exist. */
    NOT_FOUND(polyad_code.POLYAD_NOT_FOUND),
    /** The operating system refused to read or write. */
    IO_ERROR(polyad_code.POLYAD_IO_ERROR),
    /** A damaged or hostile file. */
    BAD_FORMAT(polyad_code.POLYAD_BAD_FORMAT),
    /** Well-formed, but not something this build can do. */
    UNSUPPORTED(polyad_code.POLYAD_UNSUPPORTED),
    /** A bundle made for another base model. */
    BACKBONE_MISMATCH(polyad_code.POLYAD_BACKBONE_MISMATCH),
    /** A task outside the task table. */
    UNKNOWN_TASK(polyad_code.POLYAD_UNKNOWN_TASK),
    /** A dataset row or text that cannot be used. */
    BAD_DATA(polyad_code.POLYAD_BAD_DATA),
    /** A text longer than the model or the cache can hold. */
    CONTEXT_OVERFLOW(polyad_code.POLYAD_CONTEXT_OVERFLOW),
    /** NaN or infinity where training or scoring needs a number. */
    NUMERIC_ERROR(polyad_code.POLYAD_NUMERIC_ERROR),
    /** Stopped by a cancel call. */
    CANCELLED(polyad_code.POLYAD_CANCELLED),
    /** Not allowed now: finished, retired, or used by another call at this moment. */
    WRONG_STATE(polyad_code.POLYAD_WRONG_STATE),
    /** Native memory ran out. */
    OUT_OF_MEMORY(polyad_code.POLYAD_OUT_OF_MEMORY),
    /** The engine's queue is full: try again after some steps. */
    QUEUE_FULL(polyad_code.POLYAD_QUEUE_FULL),
    /** A bug in Polyad: please report it. */
    INTERNAL(polyad_code.POLYAD_INTERNAL),
    /** A code of a library newer than this class. */
    UNKNOWN(-1);

    private final int number;

    ErrorCode(int number) {
        this.number = number;
    }

    static ErrorCode of(int number) {
        for (ErrorCode code : values()) {
            if (code.number == number) {
                return code;
            }
        }
        return UNKNOWN;
    }

    /** The number this code has in the C interface. */
    public int number() {
        return number;
    }
}
