// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;

namespace Polyad
{
    /// <summary>
    /// Skills, their router, the task table and the method's configuration: what is trained, saved and published. Any number of threads
    /// may read it at once; while one changes it, or a trainer steps, others get <see cref="ErrorCode.WrongState"/>.
    /// </summary>
    public sealed unsafe partial class Skillset : NativeObject
    {
        private Skillset(NativeHandle handle) : base(handle)
        {
        }

        /// <summary>Fresh skills for a dataset's tasks.</summary>
        /// <exception cref="PolyadException">InvalidConfig, with the option and what is allowed.</exception>
        public Skillset(Backbone model, Dataset tasks, MethodConfig method)
            : base(Create(NotNull(model, nameof(model)), NotNull(tasks, nameof(tasks)), NotNull(method, nameof(method)).ToString()))
        {
        }

        private static NativeHandle Create(Backbone model, Dataset tasks, string config) => model.Use(m => tasks.Use(d => Make(
            Native.polyad_skillset_release, (out IntPtr made) => Native.polyad_skillset_create(m, d, config, out made))));

        private static Skillset Made(Creation call) => new Skillset(Make(Native.polyad_skillset_release, call));

        /// <summary>Loads a bundle.</summary>
        /// <exception cref="PolyadException">BackboneMismatch (both names), BadFormat (field and offset), Unsupported (newer version).
        /// </exception>
        public static Skillset Load(Backbone model, string bundle)
        {
            NotNull(bundle, nameof(bundle));
            return NotNull(model, nameof(model)).Use(
                m => Made((out IntPtr made) => Native.polyad_skillset_load(m, bundle, out made)));
        }

        /// <summary>Loads a bundle that lies in memory.</summary>
        public static Skillset FromBytes(Backbone model, byte[] bundle)
        {
            NotNull(bundle, nameof(bundle));
            return NotNull(model, nameof(model)).Use(m =>
            {
                fixed (byte* bytes = bundle)
                {
                    var span = new NativeSpan(bytes, bundle.Length);
                    return Made((out IntPtr made) => Native.polyad_skillset_load_memory(m, span, out made));
                }
            });
        }

        /// <summary>What a bundle holds, without its backbone: as <see cref="Info"/>, and backbone and tensors.</summary>
        public static Json Inspect(string bundle)
        {
            NotNull(bundle, nameof(bundle));
            return Context.Given(null).AskJson((IntPtr c, out IntPtr json) => Native.polyad_bundle_inspect(c, bundle, out json));
        }

        /// <summary>Writes a bundle atomically: readers see the old file or the new one.</summary>
        public void Save(string bundle)
        {
            NotNull(bundle, nameof(bundle));
            Use(handle => Native.polyad_skillset_save(handle, bundle));
        }

        /// <summary>The bundle's bytes.</summary>
        public byte[] ToBytes() => Use(handle =>
        {
            Native.polyad_skillset_save_memory(handle, out IntPtr bytes);
            return Utf8.TakeBytes(bytes);
        });

        /// <summary>Configuration with all defaults, tasks, parameters, metadata.</summary>
        public Json Info => AskJson(Native.polyad_skillset_info);

        /// <summary>The tasks' names.</summary>
        public IReadOnlyList<string> Tasks => Info["tasks"].Select(task => task["name"].AsString()).ToList();

        /// <summary>How a task that is added starts.</summary>
        public enum Start
        {
            /// <summary>As a new skillset's tasks do.</summary>
            Fresh,
            /// <summary>With the even mix of the skills.</summary>
            Uniform,
        }

        /// <summary>Adds a task of a dataset for few-shot training.</summary>
        /// <exception cref="PolyadException">UnknownTask, WrongState.</exception>
        public void AddTask(Dataset dataset, string task, Start start = Start.Fresh)
        {
            NotNull(task, nameof(task));
            NotNull(dataset, nameof(dataset)).Use(
                d => Use(handle => Native.polyad_skillset_add_task(handle, d, task, start.ToString().ToLowerInvariant())));
        }

        /// <summary>The weights of the skills a task uses, averaged over sites.</summary>
        /// <exception cref="PolyadException">UnknownTask.</exception>
        public float[] TaskWeights(string task)
        {
            NotNull(task, nameof(task));
            return Filled((IntPtr handle, NativeSpan weights, out UIntPtr count) =>
                              Native.polyad_skillset_task_weights(handle, task, weights, out count));
        }

        private delegate void Filling(IntPtr handle, NativeSpan values, out UIntPtr count);

        /// <summary>Asks how many there are, then for them.</summary>
        private float[] Filled(Filling call) => Use(handle =>
        {
            call(handle, default(NativeSpan), out UIntPtr count);
            var values = new float[checked((int)count)];
            fixed (float* first = values)
            {
                call(handle, new NativeSpan(first, values.Length), out count);
            }
            return values;
        });

        /// <summary>A new skillset from parts of this one, which stays as it is.</summary>
        /// <exception cref="PolyadException">InvalidConfig, UnknownTask, Unsupported (a method that has no such form).</exception>
        public Skillset Derive(DeriveOptions options)
        {
            string json = Options.TextOf(NotNull(options, nameof(options)));
            return Use(handle => Made((out IntPtr made) => Native.polyad_skillset_derive(handle, json, out made)));
        }

        /// <summary>What the router has learned: load per skill, dead skills, entropy; weights of every task and their distances.</summary>
        /// <param name="dataset">Rows to run, for methods that do not route by task; else null.</param>
        /// <param name="options">Null for the library's defaults.</param>
        /// <exception cref="PolyadException">InvalidArgument (rows are needed), BadData (an empty split), UnknownTask.</exception>
        public Json Routing(Dataset dataset = null, RoutingOptions options = null)
        {
            string json = Options.TextOf(options);
            return UseOrNull(dataset, d => AskJson(
                (IntPtr handle, out IntPtr text) => Native.polyad_skillset_routing(handle, d, json, out text)));
        }

        /// <summary>
        /// MoR1E with an intuition: the sentence encoder its clusters were made with, in place of opening the one its configuration
        /// names.
        /// </summary>
        /// <exception cref="PolyadException">BackboneMismatch (clusters from another encoder), Unsupported (not an encoder), WrongState
        /// (no intuition).</exception>
        public void SetEncoder(Backbone encoder) => NotNull(encoder, nameof(encoder)).Use(
            e => Use(handle => Native.polyad_skillset_set_encoder(handle, e)));

        /// <summary>MoR1E: what a prompt's text scores against the clusters, one per expert; empty without an intuition.</summary>
        /// <param name="instruction">The task's instruction, or null.</param>
        /// <param name="input">The example's input.</param>
        /// <exception cref="PolyadException">NotFound, BackboneMismatch.</exception>
        public float[] Intuition(string instruction, string input)
        {
            NotNull(input, nameof(input));
            return Filled((IntPtr handle, NativeSpan scores, out UIntPtr count) =>
                              Native.polyad_skillset_intuition(handle, instruction, input, scores, out count));
        }

        /// <summary>Replaces free metadata that the bundle keeps under a key: anything <see cref="Json.Of"/> takes.</summary>
        public void SetMetadata(string key, object value)
        {
            NotNull(key, nameof(key));
            string json = Json.Of(value).ToString();
            Use(handle => Native.polyad_skillset_set_metadata(handle, key, json));
        }

        /// <summary>How many numbers are trained.</summary>
        public long ParameterCount => Use(handle =>
        {
            Native.polyad_skillset_parameter_count(handle, out UIntPtr count);
            return checked((long)count);
        });

        /// <summary>All trainable parameters in bundle order.</summary>
        public float[] GetParameters()
        {
            var values = new float[ParameterCount];
            fixed (float* first = values)
            {
                CopyParameters(new NativeSpan(first, values.Length));
            }
            return values;
        }

        /// <summary>As <see cref="GetParameters"/>, into memory of exactly <see cref="ParameterCount"/>; nothing is copied twice.</summary>
        /// <exception cref="PolyadException">InvalidArgument, with both numbers.</exception>
        public void CopyParameters(Span<float> values)
        {
            fixed (float* first = &MemoryMarshal.GetReference(values))
            {
                CopyParameters(new NativeSpan(first, values.Length));
            }
        }

        private void CopyParameters(NativeSpan values) => Use(handle => Native.polyad_skillset_get_parameters(handle, values));

        /// <summary>Replaces all trainable parameters.</summary>
        /// <exception cref="PolyadException">InvalidArgument (another count, both numbers).</exception>
        public void SetParameters(float[] values)
        {
            NotNull(values, nameof(values));
            fixed (float* first = values)
            {
                ReplaceParameters(new NativeSpan(first, values.Length));
            }
        }

        /// <summary>As <see cref="SetParameters"/>, from memory that is lent for the call.</summary>
        /// <exception cref="PolyadException">InvalidArgument (another count, both numbers).</exception>
        public void ReplaceParameters(ReadOnlySpan<float> values)
        {
            fixed (float* first = &MemoryMarshal.GetReference(values))
            {
                ReplaceParameters(new NativeSpan(first, values.Length));
            }
        }

        private void ReplaceParameters(NativeSpan values) => Use(handle => Native.polyad_skillset_set_parameters(handle, values));
    }
}
