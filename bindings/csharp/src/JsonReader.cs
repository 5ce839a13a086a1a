// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Polyad
{
    /// <summary>Reads one JSON text (RFC 8259).</summary>
    internal sealed class JsonReader
    {
        private const int MostDepth = 512;

        private readonly string text;
        private int at;
        private int depth;

        internal JsonReader(string text)
        {
            this.text = text;
        }

        internal Json Read()
        {
            Json read = Value();
            SkipSpace();
            return at == text.Length ? read : throw Bad("more after the value");
        }

        private FormatException Bad(string what) => new FormatException($"not JSON at character {at}: {what}");

        private void SkipSpace()
        {
            while (at < text.Length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) ++at;
        }

        private bool Take(char c)
        {
            SkipSpace();
            if (at >= text.Length || text[at] != c) return false;
            ++at;
            return true;
        }

        private Json Value()
        {
            SkipSpace();
            if (at >= text.Length) throw Bad("the text ends");
            char c = text[at];
            if (c == '"') return new Json(String());
            if (c == '{' || c == '[')
            {
                if (++depth > MostDepth) throw Bad("nested deeper than " + MostDepth);
                Json read = c == '{' ? Object() : List();
                --depth;
                return read;
            }
            if (c == '-' || (c >= '0' && c <= '9')) return Number();
            foreach (string word in new[] { "true", "false", "null" })
            {
                if (string.CompareOrdinal(text, at, word, 0, word.Length) == 0)
                {
                    at += word.Length;
                    return new Json(word == "null" ? null : (object)(word == "true"));
                }
            }
            throw Bad("no value begins with '" + c + "'");
        }

        private Json Object()
        {
            var keys = new List<string>();
            var members = new Dictionary<string, Json>();
            ++at;
            if (Take('}')) return new Json(keys, members);
            do
            {
                SkipSpace();
                if (at >= text.Length || text[at] != '"') throw Bad("a key is missing");
                string key = String();
                if (!Take(':')) throw Bad("':' is missing");
                if (!members.ContainsKey(key)) keys.Add(key);
                members[key] = Value();
            }
            while (Take(','));
            return Take('}') ? new Json(keys, members) : throw Bad("'}' is missing");
        }

        private Json List()
        {
            var items = new List<Json>();
            ++at;
            if (Take(']')) return new Json(items);
            do
            {
                items.Add(Value());
            }
            while (Take(','));
            return Take(']') ? new Json(items) : throw Bad("']' is missing");
        }

        private string String()
        {
            var read = new StringBuilder();
            for (++at; at < text.Length && text[at] != '"'; ++at)
            {
                if (text[at] < ' ') throw Bad("a control character in a string");
                read.Append(text[at] == '\\' ? Escape() : text[at]);
            }
            if (at >= text.Length) throw Bad("a string without an end");
            ++at;
            return read.ToString();
        }

        private char Escape()
        {
            ++at;
            char c = at < text.Length ? text[at] : '\0';
            int plain = "\"\\/bfnrt".IndexOf(c);
            if (plain >= 0) return "\"\\/\b\f\n\r\t"[plain];
            if (c != 'u' || at + 4 >= text.Length
                || !int.TryParse(text.Substring(at + 1, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int code))
            {
                throw Bad("an unknown escape");
            }
            at += 4;
            return (char)code;
        }

        private Json Number()
        {
            int begin = at;
            bool whole = true;
            while (at < text.Length && "+-.0123456789eE".IndexOf(text[at]) >= 0)
            {
                whole &= (text[at] >= '0' && text[at] <= '9') || text[at] == '-';
                ++at;
            }
            string digits = text.Substring(begin, at - begin);
            if (whole && long.TryParse(digits, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number))
            {
                return new Json(number);
            }
            const NumberStyles style = NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent;
            return double.TryParse(digits, style, CultureInfo.InvariantCulture, out double real)
                ? new Json(real)
                : throw Bad("'" + digits + "' is no number");
        }
    }
}
