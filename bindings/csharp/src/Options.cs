// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;

namespace Polyad
{
    /// <summary>
    /// Options that the library reads as JSON. What is not set keeps the library's default; the library checks names, types and ranges
    /// and says what is allowed. The properties are those of docs/configuration.md; the indexer reaches any option by its name there,
    /// also one newer than this assembly: <c>new CPoly { Rank = 8, ["common_skills"] = 3 }</c>.
    /// </summary>
    public abstract class Options
    {
        private readonly List<string> names = new List<string>();
        private readonly Dictionary<string, object> values = new Dictionary<string, object>(); // Json, or options of their own

        internal Options()
        {
        }

        /// <summary>An option by its name in docs/configuration.md, as anything <see cref="Json.Of"/> takes; null unsets it.</summary>
        public object this[string name]
        {
            get => values.TryGetValue(name ?? throw new ArgumentNullException(nameof(name)), out object value) ? value : null;
            set
            {
                bool known = values.ContainsKey(name ?? throw new ArgumentNullException(nameof(name)));
                if (value == null)
                {
                    names.Remove(name);
                    values.Remove(name);
                    return;
                }
                values[name] = value as Options ?? (object)Json.Of(value);
                if (!known) names.Add(name);
            }
        }

        /// <summary>The options as the library will read them.</summary>
        public Json ToJson()
        {
            var members = new Dictionary<string, Json>();
            foreach (KeyValuePair<string, object> entry in values) members.Add(entry.Key, Json.Of(entry.Value));
            return new Json(new List<string>(names), members);
        }

        /// <summary>The options as the library will read them.</summary>
        public override string ToString() => ToJson().ToString();

        /// <summary>The text the library reads, which is null for null.</summary>
        internal static string TextOf(Options some) => some?.ToString();

        private Json Value(string name) => this[name] == null ? null : Json.Of(this[name]);

        internal int? Whole(string name) => Value(name)?.AsInt();

        internal long? Long(string name) => Value(name)?.AsLong();

        internal double? Real(string name) => Value(name)?.AsDouble();

        internal bool? Truth(string name) => Value(name)?.AsBoolean();

        internal string Words(string name) => Value(name)?.AsString();

        internal Split? SplitOf(string name) =>
            Words(name) is string words ? (Split)Enum.Parse(typeof(Split), words, ignoreCase: true) : (Split?)null;

        internal IReadOnlyList<int> Wholes(string name) => Value(name)?.Items.Select(item => item.AsInt()).ToList();

        internal IReadOnlyList<double> Reals(string name) => Value(name)?.Items.Select(item => item.AsDouble()).ToList();

        internal T Nested<T>(string name) where T : Options => this[name] as T;

        internal IReadOnlyList<string> Names(string name) => Value(name)?.Items.Select(item => item.AsString()).ToList();
    }
}
