// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** Named tasks with examples. Immutable after opening: any number of threads may use it at once. */
public final class Dataset extends NativeObject {
    private Dataset(long handle) {
        super(handle, Native::polyad_dataset_release);
    }

    /**
     * Opens a Super-NaturalInstructions task file, a JSON Lines file, or a folder of either.
     *
     * @throws PolyadException NOT_FOUND, BAD_DATA (file and line)
     */
    public static Dataset open(Path path) {
        return builder().open(path);
    }

    /** A dataset of examples the program has. */
    public static Dataset of(Collection<Example> examples) {
        return builder().open(examples);
    }

    /** Options for opening. */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * One example.
     *
     * @param split null to let the dataset split its rows
     */
    public record Example(String task, String instruction, String input, List<String> outputs, Split split) {
        /** An example with one output, left to the dataset to split. */
        public Example(String task, String instruction, String input, String output) {
            this(task, instruction, input, List.of(output), null);
        }
    }

    /** How to open a dataset. */
    public static final class Builder extends Options<Builder> {
        private Context context;

        private Builder() {}

        /** The context to use instead of the process's own. */
        public Builder context(Context context) {
            this.context = context;
            return this;
        }

        /** Leaves unusable rows out and lists them in {@link Dataset#info()}, instead of refusing the data at the first. */
        public Builder skipBadRows() {
            return set("on_bad_row", "skip");
        }

        /** Share of validation rows where the data names no splits. */
        public Builder validationFraction(double fraction) {
            return set("validation_fraction", fraction);
        }

        /** Share of test rows where the data names no splits. */
        public Builder testFraction(double fraction) {
            return set("test_fraction", fraction);
        }

        /** Seed of the split. */
        public Builder seed(long seed) {
            return set("seed", seed);
        }

        /** At most so many training rows of a task; 0 = all. */
        public Builder maxExamplesPerTask(int count) {
            return set("max_examples_per_task", count);
        }

        /** Only these tasks. */
        public Builder tasks(String... names) {
            return set("tasks", names);
        }

        /** Opens files. */
        public Dataset open(Path path) {
            String file = path.toString();
            return new Dataset(owner().<Long>work(
                    c -> NativeObject.open(out -> Native.polyad_dataset_open(c, file, json().toString(), out))));
        }

        /** Reads JSON Lines that lie in memory between the buffer's position and limit. */
        public Dataset open(ByteBuffer jsonLines) {
            Object bytes = Data.bytes(jsonLines);
            return new Dataset(owner().<Long>work(
                    c -> NativeObject.open(out -> Native.polyad_dataset_open_memory(c, bytes, json().toString(), out))));
        }

        /** Takes examples the program has. */
        public Dataset open(Collection<Example> examples) {
            StringBuilder lines = new StringBuilder();
            for (Example example : examples) {
                Map<String, Object> row = new LinkedHashMap<>();
                row.put("task", example.task());
                row.put("instruction", example.instruction());
                row.put("input", example.input());
                row.put("outputs", example.outputs());
                if (example.split() != null) {
                    row.put("split", example.split());
                }
                lines.append(Json.of(row)).append('\n');
            }
            return open(ByteBuffer.wrap(lines.toString().getBytes(StandardCharsets.UTF_8)));
        }

        private Context owner() {
            return context == null ? Context.shared() : context;
        }
    }

    /** Tasks with their category, instruction, labels and row counts; unusable rows. */
    public Json info() {
        return json(Native::polyad_dataset_info);
    }

    /** The tasks' names. */
    public List<String> tasks() {
        return info().get("tasks").asList().stream().map(t -> t.get("name").asString()).toList();
    }

    /**
     * One example: id, input, outputs.
     *
     * @throws PolyadException UNKNOWN_TASK, INVALID_ARGUMENT (the index, with the count)
     */
    public Json example(String task, Split split, long index) {
        Objects.requireNonNull(task, "task");
        return json((handle, out) -> Native.polyad_dataset_example(handle, task, split.number, index, out));
    }
}
