// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads one JSON text (RFC 8259); nesting is limited so that no text can exhaust the stack. */
final class JsonReader {
    private static final int DEEPEST = 512;

    private final String text;
    private int at;
    private int depth;

    JsonReader(String text) {
        this.text = text;
    }

    Json read() {
        Object value = value();
        skipSpace();
        if (at < text.length()) {
            throw wrong("the end");
        }
        return Json.of(value);
    }

    private IllegalArgumentException wrong(String expected) {
        return new IllegalArgumentException("not JSON: expected " + expected + " at index " + at);
    }

    private void skipSpace() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            ++at;
        }
    }

    private boolean skip(char c) {
        skipSpace();
        if (at < text.length() && text.charAt(at) == c) {
            ++at;
            return true;
        }
        return false;
    }

    private void expect(char c) {
        if (!skip(c)) {
            throw wrong("'" + c + "'");
        }
    }

    private Object value() {
        skipSpace();
        if (at >= text.length()) {
            throw wrong("a value");
        }
        char c = text.charAt(at);
        if (c == '{' || c == '[') {
            if (++depth > DEEPEST) {
                throw wrong("no more than " + DEEPEST + " levels");
            }
            Object container = c == '{' ? object() : list();
            --depth;
            return container;
        }
        if (c == '"') {
            return string();
        }
        if (text.startsWith("true", at)) {
            at += 4;
            return Boolean.TRUE;
        }
        if (text.startsWith("false", at)) {
            at += 5;
            return Boolean.FALSE;
        }
        if (text.startsWith("null", at)) {
            at += 4;
            return null;
        }
        return number();
    }

    private Map<String, Object> object() {
        Map<String, Object> out = new LinkedHashMap<>();
        expect('{');
        if (skip('}')) {
            return out;
        }
        do {
            skipSpace();
            String key = string();
            expect(':');
            out.put(key, value());
        } while (skip(','));
        expect('}');
        return out;
    }

    private List<Object> list() {
        List<Object> out = new ArrayList<>();
        expect('[');
        if (skip(']')) {
            return out;
        }
        do {
            out.add(value());
        } while (skip(','));
        expect(']');
        return out;
    }

    private String string() {
        expect('"');
        StringBuilder out = new StringBuilder();
        while (at < text.length()) {
            char c = text.charAt(at++);
            if (c == '"') {
                return out.toString();
            }
            if (c == '\\' && at < text.length()) {
                c = escaped(text.charAt(at++));
            }
            out.append(c);
        }
        throw wrong("'\"'");
    }

    private char escaped(char c) {
        int known = "\"\\/bfnrt".indexOf(c);
        if (known >= 0) {
            return "\"\\/\b\f\n\r\t".charAt(known);
        }
        if (c == 'u' && at + 4 <= text.length()) {
            try {
                char code = (char) Integer.parseInt(text.substring(at, at + 4), 16);
                at += 4;
                return code;
            } catch (NumberFormatException e) {
                throw wrong("four hexadecimal digits");
            }
        }
        throw wrong("an escape");
    }

    private Number number() {
        int start = at;
        while (at < text.length() && "+-.0123456789eE".indexOf(text.charAt(at)) >= 0) {
            ++at;
        }
        String digits = text.substring(start, at);
        try {
            if (digits.matches("-?[0-9]{1,18}")) {
                return Long.valueOf(digits);
            }
            return Double.valueOf(digits);
        } catch (NumberFormatException e) {
            at = start;
            throw wrong("a value");
        }
    }
}
