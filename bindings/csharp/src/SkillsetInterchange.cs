// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;

namespace Polyad
{
    /// <content>Adapters of Hugging Face PEFT in and out, and LoRA files for llama.cpp.</content>
    public sealed unsafe partial class Skillset
    {
        /// <summary>
        /// Takes in a PEFT folder (adapter_config.json, adapter_model.safetensors): LoRA, rsLoRA, DoRA, Poly, the experts of X-LoRA.
        /// </summary>
        /// <exception cref="PolyadException">NotFound, BadFormat (key or tensor), Unsupported (kinds of adapter, by name).</exception>
        public static Skillset ImportPeft(Backbone model, string folder, PeftOptions options = null)
        {
            NotNull(folder, nameof(folder));
            string json = Options.TextOf(options);
            return NotNull(model, nameof(model)).Use(
                m => Made((out IntPtr made) => Native.polyad_skillset_import_peft(m, folder, json, out made)));
        }

        /// <summary>Takes in several LoRA folders as one skillset that requests mix, or merged into one LoRA.</summary>
        /// <exception cref="PolyadException">As <see cref="ImportPeft"/>.</exception>
        public static Skillset ImportPeftSet(Backbone model, IEnumerable<string> folders, PeftSetOptions options = null)
        {
            string[] paths = NotNull(folders, nameof(folders)).Select(folder => NotNull(folder, nameof(folders))).ToArray();
            string json = Options.TextOf(options);
            return NotNull(model, nameof(model)).Use(m => Utf8.List(
                paths, list => Made((out IntPtr made) => Native.polyad_skillset_import_peft_set(m, list, json, out made))));
        }

        /// <summary>Writes a PEFT folder: a task as plain LoRA, exactly, or without one the whole skillset as PEFT's own kind.</summary>
        /// <param name="task">The task, or null.</param>
        /// <param name="folder">Where to.</param>
        /// <param name="baseModel">What the folder says its base model is; null for the backbone's name.</param>
        /// <exception cref="PolyadException">UnknownTask, InvalidArgument (a task is needed), Unsupported (no exact plain LoRA),
        /// NumericError, IOError.</exception>
        public void ExportPeft(string task, string folder, string baseModel = null)
        {
            NotNull(folder, nameof(folder));
            string json = OneOption("base_model", baseModel);
            Use(handle => Native.polyad_skillset_export_peft(handle, task, folder, json));
        }

        /// <summary>Writes one GGUF file that llama.cpp takes as --lora. Decoders only.</summary>
        /// <param name="task">The task; null where the method needs none.</param>
        /// <param name="file">Where to.</param>
        /// <param name="name">What the file says its name is; null for the task's.</param>
        /// <exception cref="PolyadException">As <see cref="ExportPeft"/>.</exception>
        public void ExportGguf(string task, string file, string name = null)
        {
            NotNull(file, nameof(file));
            string json = OneOption("name", name);
            Use(handle => Native.polyad_skillset_export_gguf(handle, task, file, json));
        }

        private static string OneOption(string key, string value) =>
            value == null ? null : Json.Of(new Dictionary<string, string> { [key] = value }).ToString();
    }
}
