// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>The frozen base model. Immutable after opening: any number of threads may use it at once.</summary>
    public sealed unsafe class Backbone : NativeObject
    {
        private Backbone(NativeHandle handle) : base(handle)
        {
        }

        /// <summary>Opens a GGUF file or a Hugging Face folder.</summary>
        /// <param name="path">The file or folder.</param>
        /// <param name="options">Null for the library's defaults.</param>
        /// <param name="context">Null for the process's own.</param>
        /// <exception cref="PolyadException">NotFound, IOError, BadFormat (with tensor or offset), Unsupported (family or type by name),
        /// InvalidConfig.</exception>
        public static Backbone Open(string path, BackboneOptions options = null, Context context = null)
        {
            NotNull(path, nameof(path));
            string json = Options.TextOf(options);
            return Context.Given(context).Use(c => new Backbone(Make(
                Native.polyad_backbone_release, (out IntPtr made) => Native.polyad_backbone_open(c, path, json, out made))));
        }

        /// <summary>Opens a GGUF file that lies in memory. The bytes are copied.</summary>
        public static Backbone FromBytes(byte[] gguf, BackboneOptions options = null, Context context = null)
        {
            NotNull(gguf, nameof(gguf));
            string json = Options.TextOf(options);
            return Context.Given(context).Use(c =>
            {
                fixed (byte* bytes = gguf)
                {
                    var span = new NativeSpan(bytes, gguf.Length);
                    return new Backbone(Make(Native.polyad_backbone_release,
                                             (out IntPtr made) => Native.polyad_backbone_open_memory(c, span, json, out made)));
                }
            });
        }

        /// <summary>Opens in the background. A cancellation is heeded before the opening begins.</summary>
        public static Task<Backbone> OpenAsync(string path, BackboneOptions options = null, Context context = null,
                                               CancellationToken cancellationToken = default(CancellationToken))
        {
            NotNull(path, nameof(path));
            return Task.Run(() => Open(path, options, context), cancellationToken);
        }

        /// <summary>Name, family, fingerprint, layers, width, vocab, context, parameters, precision, weights, tokenizer, sites.</summary>
        public Json Info => AskJson(Native.polyad_backbone_info);

        /// <summary>How many token ids there are: the number of logits.</summary>
        public int VocabularySize => Info["vocab"].AsInt();

        /// <summary>Token ids of a text, without BOS or EOS.</summary>
        /// <exception cref="PolyadException">Unsupported (no tokenizer).</exception>
        public int[] Tokenize(string text)
        {
            byte[] utf8 = Utf8.Bytes(NotNull(text, nameof(text)));
            return Use(handle =>
            {
                var ids = new int[text.Length + 16];
                int count = Tokenize(handle, utf8, ids);
                if (count > ids.Length)
                {
                    ids = new int[count];
                    count = Tokenize(handle, utf8, ids);
                }
                Array.Resize(ref ids, count);
                return ids;
            });
        }

        private static int Tokenize(IntPtr handle, byte[] utf8, int[] ids)
        {
            fixed (byte* bytes = utf8)
            fixed (int* first = ids)
            {
                Native.polyad_backbone_tokenize(handle, new NativeSpan(bytes, utf8.Length - 1), new NativeSpan(first, ids.Length),
                                                out UIntPtr count);
                return checked((int)count);
            }
        }

        /// <summary>The text of token ids.</summary>
        /// <exception cref="PolyadException">InvalidArgument (an id outside the vocabulary).</exception>
        public string Detokenize(int[] ids, bool skipSpecial = true)
        {
            NotNull(ids, nameof(ids));
            fixed (int* first = ids)
            {
                var span = new NativeSpan(first, ids.Length);
                return Text((IntPtr handle, out IntPtr text) =>
                                Native.polyad_backbone_detokenize(handle, span, skipSpecial ? 1 : 0, out text));
            }
        }

        /// <summary>A conversation in the model's chat template.</summary>
        public string Chat(IEnumerable<ChatMessage> messages, bool addGenerationPrompt = true)
        {
            var list = new List<Dictionary<string, string>>();
            foreach (ChatMessage message in NotNull(messages, nameof(messages)))
            {
                list.Add(new Dictionary<string, string> { ["role"] = message.Role, ["content"] = message.Content });
            }
            string json = Json.Of(list).ToString();
            return Text((IntPtr handle, out IntPtr text) =>
                            Native.polyad_backbone_chat(handle, json, addGenerationPrompt ? 1 : 0, out text));
        }

        /// <summary>Logits after the last token, of the backbone alone.</summary>
        /// <exception cref="PolyadException">InvalidArgument (an id), ContextOverflow.</exception>
        public float[] Logits(int[] ids) => Logits(null, null, ids);

        /// <summary>Logits after the last token.</summary>
        /// <param name="skills">The skillset, or null for the backbone alone.</param>
        /// <param name="task">The task, or null.</param>
        /// <param name="ids">Token ids.</param>
        /// <exception cref="PolyadException">InvalidArgument (an id), ContextOverflow, UnknownTask.</exception>
        public float[] Logits(Skillset skills, string task, int[] ids)
        {
            NotNull(ids, nameof(ids));
            var logits = new float[VocabularySize];
            fixed (int* first = ids)
            fixed (float* values = logits)
            {
                Logits(skills, task, new NativeSpan(first, ids.Length), new NativeSpan(values, logits.Length));
            }
            return logits;
        }

        /// <summary>As <see cref="Logits(Skillset, string, int[])"/>, into memory whose length is the vocabulary's; nothing is copied.</summary>
        public void CopyLogits(Skillset skills, string task, ReadOnlySpan<int> ids, Span<float> logits)
        {
            fixed (int* first = &MemoryMarshal.GetReference(ids))
            fixed (float* values = &MemoryMarshal.GetReference(logits))
            {
                Logits(skills, task, new NativeSpan(first, ids.Length), new NativeSpan(values, logits.Length));
            }
        }

        private void Logits(Skillset skills, string task, NativeSpan ids, NativeSpan logits) => Use(
            handle => UseOrNull(skills, s =>
            {
                Native.polyad_backbone_logits(handle, s, task, ids, logits);
                return true;
            }));
    }

    /// <summary>One turn of a conversation.</summary>
    public sealed class ChatMessage
    {
        /// <summary>One turn.</summary>
        /// <param name="role">system, user, assistant, or what else the model's template knows.</param>
        /// <param name="content">What was said.</param>
        public ChatMessage(string role, string content)
        {
            Role = role ?? throw new ArgumentNullException(nameof(role));
            Content = content ?? throw new ArgumentNullException(nameof(content));
        }

        /// <summary>Who speaks.</summary>
        public string Role { get; }

        /// <summary>What was said.</summary>
        public string Content { get; }
    }
}
