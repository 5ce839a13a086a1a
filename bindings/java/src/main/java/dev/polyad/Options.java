// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Options that the library reads as JSON. What is not set keeps the library's default; the library checks names, types and ranges and
 * names what is allowed. The setters are those of docs/configuration.md; {@link #set} reaches any option by its name there, also one
 * newer than this class.
 *
 * @param <B> the builder itself
 */
public abstract class Options<B extends Options<B>> {
    private final Map<String, Object> values = new LinkedHashMap<>();

    Options() {}

    /** Sets an option by its name in docs/configuration.md. */
    @SuppressWarnings("unchecked")
    public final B set(String key, Object value) {
        if (key == null) {
            throw new NullPointerException("key");
        }
        values.put(key, value instanceof Options<?> nested ? nested.json() : Json.of(value));
        return (B) this;
    }

    /** The options as the library will read them. */
    public final Json json() {
        return Json.of(values);
    }
}
