// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;

namespace Polyad
{
    /// <summary>
    /// What to answer and with which skills: <c>new Request("words") { Task = "antonym", Prompt = "hot" }</c>. The library copies
    /// everything when it is submitted, so a request may be submitted again, changed or not. Not for two threads at once.
    /// </summary>
    public sealed unsafe class Request
    {
        private TimeSpan? timeout;

        /// <summary>A request to the backbone alone.</summary>
        public Request()
        {
        }

        /// <summary>A request to a published skillset.</summary>
        public Request(string skillset)
        {
            Skillset = skillset ?? throw new ArgumentNullException(nameof(skillset));
        }

        /// <summary>The published name; null = the backbone alone.</summary>
        public string Skillset { get; }

        /// <summary>The task; methods that route by task need it unless <see cref="Weights"/> are given.</summary>
        public string Task { get; set; }

        /// <summary>The example's input, put into the task's prompt.</summary>
        public string Prompt { get; set; }

        /// <summary>A finished prompt as token ids, instead of <see cref="Prompt"/>.</summary>
        public int[] Tokens { get; set; }

        /// <summary>Skill weights instead of the router's; null = let the router decide.</summary>
        public float[] Weights { get; set; }

        /// <summary>MoR1E: the host's own scores of the prompt, one per expert; null = from the prompt's text.</summary>
        public float[] Intuition { get; set; }

        /// <summary>The answer ends before the first of these texts.</summary>
        public IList<string> Stop { get; set; } = new List<string>();

        /// <summary>Most tokens of the answer; null = the library's default, 64.</summary>
        public int? MaxTokens { get; set; }

        /// <summary>0 = greedy, the default.</summary>
        public double? Temperature { get; set; }

        /// <summary>Draw among so many of the likeliest tokens; 0 = off.</summary>
        public int? TopK { get; set; }

        /// <summary>Draw among the likeliest tokens that reach this probability together; 1 = off.</summary>
        public double? TopP { get; set; }

        /// <summary>Divides the logits of tokens that have appeared; 1 = off.</summary>
        public double? RepetitionPenalty { get; set; }

        /// <summary>Seed of the drawing.</summary>

        public ulong Seed { get; set; }

        /// <summary>
        /// Time from submitting after which the request ends with what it has (<see cref="AnswerState.Expired"/>); null = never.
        /// </summary>
        /// <exception cref="ArgumentOutOfRangeException">Not positive.</exception>
        public TimeSpan? Timeout
        {
            get => timeout;
            set => timeout = value == null || value > TimeSpan.Zero
                ? value
                : throw new ArgumentOutOfRangeException(nameof(value), "a timeout has to be positive, this one is " + value);
        }

        /// <summary>Waiting requests of a higher priority come first; 0 is the default.</summary>
        public int? Priority { get; set; }

        /// <summary>Goes on after the end token (benchmarks).</summary>
        public bool IgnoreEos { get; set; }

        private static NativeSpan Span(Array array, void* first) =>
            array == null ? default(NativeSpan) : new NativeSpan(first, array.Length);

        /// <summary>Fills the C struct for the length of a call.</summary>
        internal void Use(Action<polyad_request_options> call)
        {
            using (var o = new polyad_request_options())
            {
                o.skillset = Skillset;
                o.task = Task;
                byte[] prompt = Utf8.Bytes(Prompt);
                bool kept;
                fixed (byte* text = prompt)
                fixed (int* ids = Tokens)
                fixed (float* weights = Weights)
                fixed (float* intuition = Intuition)
                {
                    kept = o.set_prompt(prompt == null ? default(NativeSpan) : new NativeSpan(text, prompt.Length - 1)) != 0
                        && o.set_tokens(Span(Tokens, ids)) != 0
                        && o.set_weights(Span(Weights, weights)) != 0
                        && o.set_intuition(Span(Intuition, intuition)) != 0;
                }
                foreach (string text in Stop ?? new string[0])
                {
                    if (text == null) throw new ArgumentNullException(nameof(Stop), "a stop text is null");
                    kept = kept && o.add_stop(text) != 0;
                }
                if (!kept) throw new OutOfMemoryException("no native memory for a request");
                o.max_tokens = MaxTokens ?? o.max_tokens;
                o.temperature = (float?)Temperature ?? o.temperature;
                o.top_k = TopK ?? o.top_k;
                o.top_p = (float?)TopP ?? o.top_p;
                o.repetition_penalty = (float?)RepetitionPenalty ?? o.repetition_penalty;
                o.seed = Seed;
                o.ignore_eos = IgnoreEos ? 1 : 0;
                o.timeout = Timeout?.TotalSeconds ?? o.timeout;
                o.priority = Priority ?? o.priority;
                call(o);
            }
        }
    }
}
