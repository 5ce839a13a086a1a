// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.util.Objects;

/** What the generated layer takes for an array: a Java array (copied) or a direct buffer in native order (lent, never copied). */
final class Data {
    private Data() {}

    static Object bytes(ByteBuffer data) {
        Objects.requireNonNull(data, "data");
        if (data.isDirect()) {
            return data.slice();
        }
        byte[] copy = new byte[data.remaining()];
        data.duplicate().get(copy);
        return copy;
    }

    static Object ints(IntBuffer data) {
        Objects.requireNonNull(data, "ids");
        if (data.isDirect() && data.order() == ByteOrder.nativeOrder()) {
            return data.slice();
        }
        int[] copy = new int[data.remaining()];
        data.duplicate().get(copy);
        return copy;
    }

    static Object floats(FloatBuffer data) {
        Objects.requireNonNull(data, "values");
        if (lent(data)) {
            return data.slice();
        }
        float[] copy = new float[data.remaining()];
        data.duplicate().get(copy);
        return copy;
    }

    private static boolean lent(FloatBuffer data) {
        return data.isDirect() && data.order() == ByteOrder.nativeOrder();
    }

    interface Fill {
        void run(Object floats);
    }

    /** Lets a call fill a buffer between its position and its limit, in place where that is possible. */
    static void fill(FloatBuffer data, Fill call) {
        Objects.requireNonNull(data, "values");
        if (data.isReadOnly()) {
            throw new IllegalArgumentException("the buffer is read-only");
        }
        if (lent(data)) {
            call.run(data.slice());
        } else {
            float[] copy = new float[data.remaining()];
            call.run(copy);
            data.duplicate().put(copy);
        }
    }
}
