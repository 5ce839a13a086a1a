// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Takes the library's log messages. */
@FunctionalInterface
public interface LogSink {
    /** How important a message is. */
    enum Level {
        /** Details for developers of Polyad. */
        DEBUG,
        /** What happens in the normal course of things. */
        INFO,
        /** Something that may not be what was meant. */
        WARNING,
        /** Something that went wrong. */
        ERROR
    }

    /** One message. */
    void log(Level level, String message);
}
