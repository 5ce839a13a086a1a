// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Text;

namespace Polyad
{
    /// <summary>
    /// An immutable JSON value: what the library reports about its objects. <see cref="ToString"/> is JSON again, for a JSON library
    /// of your own. Asking a value for what it is not is an <see cref="InvalidOperationException"/> that shows it.
    /// </summary>
    public sealed class Json : IEnumerable<Json>, IEquatable<Json>
    {
        // Dictionary<string, Json>, List<Json>, string, long, double, bool or null.
        private readonly object value;
        private readonly List<string> keys; // of an object, in their order

        internal Json(object scalar)
        {
            value = scalar;
        }

        internal Json(List<Json> items)
        {
            value = items;
        }

        internal Json(List<string> keys, Dictionary<string, Json> members)
        {
            this.keys = keys;
            value = members;
        }

        /// <summary>Reads one JSON text.</summary>
        /// <exception cref="FormatException">Not JSON; the message says where.</exception>
        public static Json Parse(string text) => new JsonReader(text ?? throw new ArgumentNullException(nameof(text))).Read();

        /// <summary>
        /// From dictionaries with string keys, sequences, strings, numbers, booleans, enumerations (their names in lower case), null,
        /// options and <see cref="Json"/>.
        /// </summary>
        /// <exception cref="ArgumentException">JSON has no form for it: another type, NaN, infinity.</exception>
        public static Json Of(object value)
        {
            if (value == null || value is bool || value is string) return new Json(value);
            if (value is Json json) return json;
            if (value is Options options) return options.ToJson();
            if (value is Enum name) return new Json(name.ToString().ToLowerInvariant());
            if (value is float || value is double || value is decimal)
            {
                // A float's shortest decimal form is what its writer meant: 0.1f is 0.1, not 0.10000000149011612.
                double number = double.Parse(((IFormattable)value).ToString(value is decimal ? null : "R", CultureInfo.InvariantCulture),
                                             CultureInfo.InvariantCulture);
                return double.IsNaN(number) || double.IsInfinity(number)
                    ? throw new ArgumentException("JSON has no number for " + number.ToString(CultureInfo.InvariantCulture))
                    : new Json(number);
            }
            if (value is ulong big && big > long.MaxValue)
            {
                throw new ArgumentException($"{big} is beyond the whole numbers of 64 bits with sign");
            }
            if (value is sbyte || value is byte || value is short || value is ushort || value is int || value is uint || value is long
                || value is ulong)
            {
                return new Json(Convert.ToInt64(value, CultureInfo.InvariantCulture));
            }
            if (value is IDictionary map)
            {
                var members = new Dictionary<string, Json>();
                var order = new List<string>();
                foreach (DictionaryEntry entry in map)
                {
                    string key = entry.Key as string ?? throw new ArgumentException("the keys of a JSON object are strings");
                    order.Add(key);
                    members.Add(key, Of(entry.Value));
                }
                return new Json(order, members);
            }
            if (value is IEnumerable items) return new Json(items.Cast<object>().Select(Of).ToList());
            throw new ArgumentException("no JSON for a " + value.GetType().FullName);
        }

        private InvalidOperationException Not(string what) => new InvalidOperationException("not " + what + ": " + Shown());

        private string Shown()
        {
            string shown = ToString();
            return shown.Length > 200 ? shown.Substring(0, 200) + "..." : shown;
        }

        private Dictionary<string, Json> Members => value as Dictionary<string, Json> ?? throw Not("an object");

        /// <summary>The value of an object's key.</summary>
        /// <exception cref="KeyNotFoundException">The object has no such key.</exception>
        public Json this[string key] => Members.TryGetValue(key, out Json found)
            ? found
            : throw new KeyNotFoundException("no key \"" + key + "\" in " + Shown());

        /// <summary>The element of a list.</summary>
        /// <exception cref="ArgumentOutOfRangeException">The list is shorter.</exception>
        public Json this[int index] => index >= 0 && index < Items.Count
            ? Items[index]
            : throw new ArgumentOutOfRangeException(nameof(index), "no index " + index + " in a list of " + Items.Count);

        /// <summary>Whether this is an object with that key.</summary>
        public bool Has(string key) => value is Dictionary<string, Json> members && members.ContainsKey(key);

        /// <summary>Entries of an object or list; 0 for anything else.</summary>
        public int Count => value is ICollection some ? some.Count : 0;

        /// <summary>Whether this is JSON's null.</summary>
        public bool IsNull => value == null;

        /// <summary>As a string.</summary>
        public string AsString() => value as string ?? throw Not("a string");

        /// <summary>As a whole number.</summary>
        public long AsLong() => value is long number ? number : throw Not("a whole number");

        /// <summary>As a whole number of 32 bits.</summary>
        public int AsInt()
        {
            long number = AsLong();
            return number == (int)number ? (int)number : throw Not("a number of 32 bits");
        }

        /// <summary>As a number; JSON's null is NaN, as the library writes it.</summary>
        public double AsDouble()
        {
            if (value == null) return double.NaN;
            if (value is long whole) return whole;
            return value is double number ? number : throw Not("a number");
        }

        /// <summary>As a truth value.</summary>
        public bool AsBoolean() => value is bool truth ? truth : throw Not("true or false");

        /// <summary>The elements of a list.</summary>
        public IReadOnlyList<Json> Items => value as List<Json> ?? throw Not("a list");

        /// <summary>The keys of an object, in their order.</summary>
        public IReadOnlyList<string> Keys => keys ?? throw Not("an object");

        /// <summary>The elements of a list.</summary>
        public IEnumerator<Json> GetEnumerator() => Items.GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        private bool IsNumber => value is long || value is double;

        /// <summary>Whether both are the same JSON value; the order of keys does not count, and 2 is 2.0.</summary>
        public bool Equals(Json other)
        {
            if (other == null) return false;
            if (value is List<Json> items) return other.value is List<Json> others && items.SequenceEqual(others);
            if (value is Dictionary<string, Json> members)
            {
                return other.value is Dictionary<string, Json> more && members.Count == more.Count
                    && members.All(entry => more.TryGetValue(entry.Key, out Json same) && entry.Value.Equals(same));
            }
            if (IsNumber && other.IsNumber) return Equals(value, other.value) || AsDouble() == other.AsDouble();
            return Equals(value, other.value);
        }

        /// <inheritdoc/>
        public override bool Equals(object other) => Equals(other as Json);

        /// <inheritdoc/>
        public override int GetHashCode() => value is ICollection some ? some.Count
            : IsNumber ? AsDouble().GetHashCode()
            : value == null ? 0
            : value.GetHashCode();

        /// <summary>JSON text.</summary>
        public override string ToString()
        {
            var text = new StringBuilder();
            Write(text);
            return text.ToString();
        }

        private void Write(StringBuilder text)
        {
            if (value == null)
            {
                text.Append("null");
            }
            else if (value is bool truth)
            {
                text.Append(truth ? "true" : "false");
            }
            else if (value is string words)
            {
                Quote(words, text);
            }
            else if (value is List<Json> items)
            {
                text.Append('[');
                for (int i = 0; i < items.Count; ++i)
                {
                    if (i > 0) text.Append(',');
                    items[i].Write(text);
                }
                text.Append(']');
            }
            else if (value is Dictionary<string, Json> members)
            {
                text.Append('{');
                for (int i = 0; i < keys.Count; ++i)
                {
                    if (i > 0) text.Append(',');
                    Quote(keys[i], text);
                    text.Append(':');
                    members[keys[i]].Write(text);
                }
                text.Append('}');
            }
            else
            {
                text.Append(((IFormattable)value).ToString(value is double ? "R" : null, CultureInfo.InvariantCulture));
            }
        }

        private static void Quote(string words, StringBuilder text)
        {
            text.Append('"');
            foreach (char c in words)
            {
                if (c == '"' || c == '\\') text.Append('\\').Append(c);
                else if (c < ' ') text.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture));
                else text.Append(c);
            }
            text.Append('"');
        }
    }
}
