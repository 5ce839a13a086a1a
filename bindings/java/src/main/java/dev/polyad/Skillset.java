// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import java.util.Objects;

/**
 * Skills, their router, the task table and the method's configuration: what is trained, saved and published. Any number of threads
 * may read it at once; while one changes it, or a trainer steps, others get WRONG_STATE.
 */
public final class Skillset extends NativeObject {
    private Skillset(long handle) {
        super(handle, Native::polyad_skillset_release);
    }

    /**
     * Fresh skills for a dataset's tasks.
     *
     * @throws PolyadException INVALID_CONFIG, with the option and what is allowed
     */
    public static Skillset create(Backbone model, Dataset tasks, MethodConfig method) {
        String config = method.json().toString();
        Objects.requireNonNull(tasks, "tasks");
        return new Skillset(model.<Long>work(
                m -> tasks.ask(d -> open(out -> Native.polyad_skillset_create(m, d, config, out)))));
    }

    /**
     * Loads a bundle.
     *
     * @throws PolyadException BACKBONE_MISMATCH (both names), BAD_FORMAT (field and offset), UNSUPPORTED (newer version)
     */
    public static Skillset load(Backbone model, Path bundle) {
        String file = bundle.toString();
        return new Skillset(model.<Long>work(m -> open(out -> Native.polyad_skillset_load(m, file, out))));
    }

    /** Loads a bundle that lies in memory between the buffer's position and limit. */
    public static Skillset load(Backbone model, ByteBuffer bundle) {
        Object bytes = Data.bytes(bundle);
        return new Skillset(model.<Long>work(m -> open(out -> Native.polyad_skillset_load_memory(m, bytes, out))));
    }

    /** What a bundle holds, without its backbone: as {@link #info()}, and backbone and tensors. */
    public static Json inspect(Path bundle) {
        String file = bundle.toString();
        return Context.shared().json((c, out) -> Native.polyad_bundle_inspect(c, file, out));
    }

    /** Options of {@link #importPeft}. */
    public static final class PeftOptions extends Options<PeftOptions> {
        private PeftOptions() {}

        /** The library's defaults. */
        public static PeftOptions create() {
            return new PeftOptions();
        }

        /** The tasks' names, one per row of the adapter's table. */
        public PeftOptions tasks(String... names) {
            return set("tasks", names);
        }

        /** How an example becomes text. */
        public PeftOptions prompt(PromptFormat format) {
            return set("prompt", format);
        }
    }

    /**
     * Takes in a PEFT folder (adapter_config.json, adapter_model.safetensors): LoRA, rsLoRA, DoRA, Poly, the experts of
     * X-LoRA.
     *
     * @param options null for the defaults
     * @throws PolyadException NOT_FOUND, BAD_FORMAT (key or tensor), UNSUPPORTED (kinds of adapter, by name)
     */
    public static Skillset importPeft(Backbone model, Path folder, PeftOptions options) {
        String path = folder.toString();
        String json = options == null ? null : options.json().toString();
        return new Skillset(model.<Long>work(m -> open(out -> Native.polyad_skillset_import_peft(m, path, json, out))));
    }

    /** How {@link #importPeftSet} puts several LoRAs together. */
    public static final class PeftSetOptions extends Options<PeftSetOptions> {
        private PeftSetOptions() {}

        /** The library's defaults: all side by side, mixed by each request's weights. */
        public static PeftSetOptions create() {
            return new PeftSetOptions();
        }

        /**
         * {@code set} (side by side), or one merged LoRA: {@code linear}, {@code cat}, {@code ties}, {@code dare_linear},
         * {@code dare_ties}, {@code magnitude_prune}.
         */
        public PeftSetOptions combination(String how) {
            return set("combination", how);
        }

        /** One per adapter, for a merged LoRA. */
        public PeftSetOptions weights(double... weights) {
            return set("weights", weights);
        }

        /** Share of the values that pruning keeps. */
        public PeftSetOptions density(double share) {
            return set("density", share);
        }

        /** How {@code ties} elect a sign: {@code total} or {@code frequency}. */
        public PeftSetOptions majoritySign(String how) {
            return set("majority_sign", how);
        }

        /** Seed of what {@code dare} drops. */
        public PeftSetOptions seed(long seed) {
            return set("seed", seed);
        }

        /** The tasks' names, one per adapter. */
        public PeftSetOptions tasks(String... names) {
            return set("tasks", names);
        }

        /** How an example becomes text. */
        public PeftSetOptions prompt(PromptFormat format) {
            return set("prompt", format);
        }
    }

    /**
     * Takes in several PEFT folders with LoRAs, of any ranks, as one skillset.
     *
     * @param options null for the defaults
     * @throws PolyadException as {@link #importPeft}
     */
    public static Skillset importPeftSet(Backbone model, Collection<Path> folders, PeftSetOptions options) {
        String[] paths = folders.stream().map(Path::toString).toArray(String[]::new);
        String json = options == null ? null : options.json().toString();
        return new Skillset(model.<Long>work(m -> open(out -> Native.polyad_skillset_import_peft_set(m, paths, json, out))));
    }

    /**
     * Writes a PEFT folder: a task as plain LoRA, exactly, or with a null task the whole skillset as PEFT's own kind.
     *
     * @param baseModel what the folder says its base model is; may be null
     * @throws PolyadException UNKNOWN_TASK, INVALID_ARGUMENT (a task is needed), UNSUPPORTED (no exact plain LoRA), IO_ERROR
     */
    public void exportPeft(String task, Path folder, String baseModel) {
        String path = folder.toString();
        String json = baseModel == null ? null : Json.of(java.util.Map.of("base_model", baseModel)).toString();
        work(handle -> {
            Native.polyad_skillset_export_peft(handle, task, path, json);
            return null;
        });
    }

    /**
     * Writes one GGUF file that llama.cpp takes as {@code --lora}.
     *
     * @param task may be null where the method needs none
     * @param name what the file says its name is; may be null
     * @throws PolyadException as {@link #exportPeft}
     */
    public void exportGguf(String task, Path file, String name) {
        String path = file.toString();
        String json = name == null ? null : Json.of(java.util.Map.of("name", name)).toString();
        work(handle -> {
            Native.polyad_skillset_export_gguf(handle, task, path, json);
            return null;
        });
    }

    /** Writes a bundle atomically: readers see the old file or the new one. */
    public void save(Path bundle) {
        String file = bundle.toString();
        work(handle -> {
            Native.polyad_skillset_save(handle, file);
            return null;
        });
    }

    /** The bundle's bytes. */
    public byte[] toBytes() {
        return Calls.blocking(() -> bytes(Native::polyad_skillset_save_memory));
    }

    /** Configuration with all defaults, tasks, parameters, metadata. */
    public Json info() {
        return json(Native::polyad_skillset_info);
    }

    /** The tasks' names. */
    public List<String> tasks() {
        return info().get("tasks").asList().stream().map(t -> t.get("name").asString()).toList();
    }

    /**
     * A new skillset from parts of this one, which stays as it is.
     *
     * @param options "form" ("copy", "squeeze", "second_stage", "keep_moe_route", "avg"), "task", "changes"
     * @throws PolyadException INVALID_CONFIG, UNKNOWN_TASK, UNSUPPORTED (a method that has no such form)
     */
    public Skillset derive(java.util.Map<String, ?> options) {
        String json = Json.of(options).toString();
        return new Skillset(this.<Long>work(s -> open(out -> Native.polyad_skillset_derive(s, json, out))));
    }

    /** How a task that is added starts. */
    public enum Start {
        /** As a new skillset's tasks do. */
        FRESH,
        /** With the even mix of the skills. */
        UNIFORM
    }

    /** Adds a task of a dataset for few-shot training. */
    public void addTask(Dataset dataset, String task, Start start) {
        Objects.requireNonNull(task, "task");
        String name = start.name().toLowerCase(java.util.Locale.ROOT);
        work(handle -> {
            dataset.call(d -> Native.polyad_skillset_add_task(handle, d, task, name));
            return null;
        });
    }

    /**
     * The weights of the skills a task uses, averaged over sites.
     *
     * @throws PolyadException UNKNOWN_TASK
     */
    public float[] taskWeights(String task) {
        Objects.requireNonNull(task, "task");
        return ask(handle -> {
            long[] count = new long[1];
            Native.polyad_skillset_task_weights(handle, task, null, count);
            float[] weights = new float[Math.toIntExact(count[0])];
            Native.polyad_skillset_task_weights(handle, task, weights, count);
            return weights;
        });
    }

    /** What to look at in {@link #routing}. */
    public static final class RoutingOptions extends Options<RoutingOptions> {
        private RoutingOptions() {}

        /** The library's defaults. */
        public static RoutingOptions create() {
            return new RoutingOptions();
        }

        /** The part of the dataset whose rows are run. */
        public RoutingOptions split(Split split) {
            return set("split", split);
        }

        /** At most so many rows of a task. */
        public RoutingOptions maxExamplesPerTask(int count) {
            return set("max_examples_per_task", count);
        }

        /** Only these tasks. */
        public RoutingOptions tasks(String... names) {
            return set("tasks", names);
        }
    }

    /**
     * What the router has learned: load per skill, dead skills, entropy; weights of every task and their distances.
     *
     * @param dataset rows to run, for methods that do not route by task; else null
     * @param options null for the defaults
     * @throws PolyadException INVALID_ARGUMENT (rows are needed), BAD_DATA (an empty split), UNKNOWN_TASK
     */
    public Json routing(Dataset dataset, RoutingOptions options) {
        String json = options == null ? null : options.json().toString();
        return Calls.blocking(() -> json((handle, out) -> {
            if (dataset == null) {
                Native.polyad_skillset_routing(handle, 0, json, out);
            } else {
                dataset.call(d -> Native.polyad_skillset_routing(handle, d, json, out));
            }
        }));
    }

    /**
     * MoR1E with an intuition: gives it an opened sentence encoder, instead of the one at the path its configuration names.
     *
     * @throws PolyadException BACKBONE_MISMATCH (clusters from another encoder), UNSUPPORTED (not an encoder), WRONG_STATE (no
     *     intuition)
     */
    public void setEncoder(Backbone encoder) {
        Objects.requireNonNull(encoder, "encoder");
        work(handle -> {
            encoder.call(e -> Native.polyad_skillset_set_encoder(handle, e));
            return null;
        });
    }

    /**
     * What a prompt's text scores against the clusters of MoR1E, as training and serving see it; nothing for other methods.
     *
     * @param instruction the task's, as {@link #info()} has it; may be null
     * @throws PolyadException NOT_FOUND (the encoder's folder), BACKBONE_MISMATCH
     */
    public float[] intuition(String instruction, String input) {
        Objects.requireNonNull(input, "input");
        return work(handle -> {
            long[] count = new long[1];
            Native.polyad_skillset_intuition(handle, instruction, input, null, count);
            float[] scores = new float[Math.toIntExact(count[0])];
            Native.polyad_skillset_intuition(handle, instruction, input, scores, count);
            return scores;
        });
    }

    /** Replaces free metadata that the bundle keeps under {@code key}: anything {@link Json#of} takes. */
    public void setMetadata(String key, Object value) {
        Objects.requireNonNull(key, "key");
        String json = Json.of(value).toString();
        call(handle -> Native.polyad_skillset_set_metadata(handle, key, json));
    }

    /** How many numbers are trained. */
    public long parameterCount() {
        return ask(handle -> {
            long[] count = new long[1];
            Native.polyad_skillset_parameter_count(handle, count);
            return count[0];
        });
    }

    /** All trainable parameters in bundle order. */
    public float[] parameters() {
        float[] values = new float[Math.toIntExact(parameterCount())];
        work(handle -> {
            Native.polyad_skillset_get_parameters(handle, values);
            return null;
        });
        return values;
    }

    /**
     * As above, into a buffer with exactly {@link #parameterCount()} remaining; a direct one in native byte order is filled in place.
     *
     * @throws PolyadException INVALID_ARGUMENT, with both numbers
     */
    public void parameters(FloatBuffer values) {
        Data.fill(values, floats -> work(handle -> {
            Native.polyad_skillset_get_parameters(handle, floats);
            return null;
        }));
    }

    /**
     * Replaces all trainable parameters.
     *
     * @throws PolyadException INVALID_ARGUMENT (another count, both numbers)
     */
    public void setParameters(float[] values) {
        Objects.requireNonNull(values, "values");
        setParametersFrom(values);
    }

    /** As above, from a buffer; a direct one in native byte order is read in place. */
    public void setParameters(FloatBuffer values) {
        setParametersFrom(Data.floats(values));
    }

    private void setParametersFrom(Object values) {
        work(handle -> {
            Native.polyad_skillset_set_parameters(handle, values);
            return null;
        });
    }
}
