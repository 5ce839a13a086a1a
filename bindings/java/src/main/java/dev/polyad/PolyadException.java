// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * What the library refused or failed at: a code to act on, a message (what was wrong and what is allowed) and a detail (where).
 *
 * <p>One class with a code rather than a class per code: codes are appended in later versions, so a {@code switch} with a default
 * is the handler that keeps working, and C# and Go look the same. What is wrong with the call itself is the JDK's own exception:
 * {@link NullPointerException} for null, {@link IllegalArgumentException} for a string that no C interface can take,
 * {@link IllegalStateException} for an object that was closed.
 */
public final class PolyadException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final int number;
    private final String detail;

    PolyadException(int number, String message, String detail) {
        super(message);
        this.number = number;
        this.detail = detail;
    }

    PolyadException(ErrorCode code, String message) {
        this(code.number(), message, "");
    }

    /** What kind of failure this is. */
    public ErrorCode code() {
        return ErrorCode.of(number);
    }

    /** The code's number, also where {@link #code()} is {@link ErrorCode#UNKNOWN}. */
    public int codeNumber() {
        return number;
    }

    /** Where: file and offset, configuration key, tensor, task, row. May be empty. */
    public String detail() {
        return detail;
    }

    @Override
    public String toString() {
        return "PolyadException [" + code() + "]: " + getMessage() + (detail.isEmpty() ? "" : " (" + detail + ")");
    }
}
