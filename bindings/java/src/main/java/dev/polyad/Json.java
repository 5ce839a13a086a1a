// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/**
 * An immutable JSON value: what the library reports about its objects. {@link #toString()} is JSON again, for a JSON library of your
 * own. Asking for what is not there is an {@link IllegalStateException} that shows the value asked.
 */
public final class Json implements Iterable<Json> {
    private final Object value; // Map<String, Json>, List<Json>, String, Long, Double, Boolean or null

    private Json(Object value) {
        this.value = value;
    }

    /** Reads one JSON text. */
    public static Json parse(String text) {
        return new JsonReader(text).read();
    }

    /** From maps, collections, arrays of numbers or strings, strings, numbers, booleans, null and {@code Json}. */
    public static Json of(Object value) {
        if (value instanceof Json json) {
            return json;
        }
        if (value instanceof Map<?, ?> map) {
            Map<String, Json> out = new LinkedHashMap<>();
            map.forEach((key, item) -> out.put(key.toString(), of(item)));
            return new Json(Collections.unmodifiableMap(out));
        }
        if (value instanceof Collection<?> items) {
            List<Json> out = new ArrayList<>(items.size());
            items.forEach(item -> out.add(of(item)));
            return new Json(Collections.unmodifiableList(out));
        }
        if (value instanceof Object[] items) {
            return of(Arrays.asList(items));
        }
        if (value instanceof float[] numbers) {
            return of(IntStream.range(0, numbers.length).mapToObj(i -> numbers[i]).toList());
        }
        if (value instanceof double[] numbers) {
            return of(Arrays.stream(numbers).boxed().toList());
        }
        if (value instanceof int[] numbers) {
            return of(Arrays.stream(numbers).boxed().toList());
        }
        if (value instanceof long[] numbers) {
            return of(Arrays.stream(numbers).boxed().toList());
        }
        if (value instanceof Float || value instanceof Double) {
            double number = ((Number) value).doubleValue();
            if (Double.isNaN(number) || Double.isInfinite(number)) {
                throw new IllegalArgumentException("JSON has no number for " + number);
            }
            return new Json(value instanceof Float ? Double.valueOf(value.toString()) : (Double) number);
        }
        if (value instanceof Long || value instanceof Integer || value instanceof Short || value instanceof Byte) {
            return new Json(((Number) value).longValue());
        }
        if (value == null || value instanceof Boolean) {
            return new Json(value);
        }
        if (value instanceof CharSequence || value instanceof Enum<?>) {
            return new Json(value.toString());
        }
        throw new IllegalArgumentException("no JSON for a " + value.getClass().getName());
    }

    private IllegalStateException not(String what) {
        String shown = toString();
        return new IllegalStateException("not " + what + ": " + (shown.length() > 200 ? shown.substring(0, 200) + "..." : shown));
    }

    /** The value of an object's key. */
    public Json get(String key) {
        Json found = asMap().get(key);
        if (found == null) {
            throw not("an object with the key \"" + key + "\"");
        }
        return found;
    }

    /** Whether this is an object with that key. */
    public boolean has(String key) {
        return value instanceof Map<?, ?> map && map.containsKey(key);
    }

    /** The element of a list. */
    public Json get(int index) {
        List<Json> items = asList();
        if (index < 0 || index >= items.size()) {
            throw not("a list with the index " + index);
        }
        return items.get(index);
    }

    /** Entries of an object or list, 0 for anything else. */
    public int size() {
        return value instanceof Map<?, ?> map ? map.size() : value instanceof List<?> list ? list.size() : 0;
    }

    /** Whether this is JSON's null. */
    public boolean isNull() {
        return value == null;
    }

    /** As a string. */
    public String asString() {
        if (value instanceof String text) {
            return text;
        }
        throw not("a string");
    }

    /** As a whole number. */
    public long asLong() {
        if (value instanceof Long number) {
            return number;
        }
        throw not("a whole number");
    }

    /** As a whole number of 32 bits. */
    public int asInt() {
        long number = asLong();
        if (number != (int) number) {
            throw not("a number of 32 bits");
        }
        return (int) number;
    }

    /** As a number; JSON's null is NaN, as the library writes it. */
    public double asDouble() {
        if (value == null) {
            return Double.NaN;
        }
        if (value instanceof Number number) {
            return number.doubleValue();
        }
        throw not("a number");
    }

    /** As a truth value. */
    public boolean asBoolean() {
        if (value instanceof Boolean truth) {
            return truth;
        }
        throw not("true or false");
    }

    /** The elements of a list. */
    @SuppressWarnings("unchecked")
    public List<Json> asList() {
        if (value instanceof List<?> list) {
            return (List<Json>) list;
        }
        throw not("a list");
    }

    /** The entries of an object, in their order. */
    @SuppressWarnings("unchecked")
    public Map<String, Json> asMap() {
        if (value instanceof Map<?, ?> map) {
            return (Map<String, Json>) map;
        }
        throw not("an object");
    }

    /** The elements of a list. */
    @Override
    public Iterator<Json> iterator() {
        return asList().iterator();
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Json json && (value == null ? json.value == null : value.equals(json.value));
    }

    @Override
    public int hashCode() {
        return value == null ? 0 : value.hashCode();
    }

    /** JSON text. */
    @Override
    public String toString() {
        StringBuilder out = new StringBuilder();
        write(out);
        return out.toString();
    }

    private void write(StringBuilder out) {
        if (value instanceof Map<?, ?>) {
            String comma = "{";
            for (Map.Entry<String, Json> entry : asMap().entrySet()) {
                quote(entry.getKey(), out.append(comma));
                entry.getValue().write(out.append(':'));
                comma = ",";
            }
            out.append(comma.equals("{") ? "{}" : "}");
        } else if (value instanceof List<?>) {
            String comma = "[";
            for (Json item : asList()) {
                item.write(out.append(comma));
                comma = ",";
            }
            out.append(comma.equals("[") ? "[]" : "]");
        } else if (value instanceof String text) {
            quote(text, out);
        } else {
            out.append(value);
        }
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); ++i) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }
}
