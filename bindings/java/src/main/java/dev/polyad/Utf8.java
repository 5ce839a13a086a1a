// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** Java strings to UTF-8 and back. Nothing is replaced silently. */
final class Utf8 {
    private Utf8() {}

    /** The string's bytes; null stays null. */
    static byte[] bytes(String value) {
        if (value == null) {
            return null;
        }
        try {
            ByteBuffer encoded = StandardCharsets.UTF_8
                    .newEncoder()
                    .onMalformedInput(CodingErrorAction.REPORT)
                    .encode(CharBuffer.wrap(value));
            byte[] out = new byte[encoded.remaining()];
            encoded.get(out);
            return out;
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException("a string holds half of a surrogate pair and has no UTF-8 form", e);
        }
    }

    /** The bytes of a name, path or JSON text, which end at NUL in C and so must not hold one; null stays null. */
    static byte[] terminated(String value) {
        if (value == null) {
            return null;
        }
        int nul = value.indexOf('\0');
        if (nul >= 0) {
            throw new IllegalArgumentException("a name, path or option holds the character NUL at index " + nul);
        }
        return bytes(value); // the wrapper ends every copy with NUL
    }

    /** As above, of each. */
    static byte[][] terminated(String[] values) {
        byte[][] out = new byte[values.length][];
        for (int i = 0; i < values.length; ++i) {
            out[i] = terminated(values[i]);
        }
        return out;
    }

    static String text(byte[] bytes) {
        return bytes == null ? "" : new String(bytes, StandardCharsets.UTF_8);
    }
}
