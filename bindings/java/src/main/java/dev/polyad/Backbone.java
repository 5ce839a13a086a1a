// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;

/** The frozen base model. Immutable after opening: any number of threads may use it at once. */
public final class Backbone extends NativeObject {
    private Backbone(long handle) {
        super(handle, Native::polyad_backbone_release);
    }

    /**
     * Opens a GGUF file or a Hugging Face folder with default options.
     *
     * @throws PolyadException NOT_FOUND, IO_ERROR, BAD_FORMAT (with tensor or offset), UNSUPPORTED (family or type by name)
     */
    public static Backbone open(Path path) {
        return builder().open(path);
    }

    /** Options for opening. */
    public static Builder builder() {
        return new Builder();
    }

    /** How to open a backbone. */
    public static final class Builder extends Options<Builder> {
        private Context context;

        private Builder() {}

        /** The context to use instead of the process's own. */
        public Builder context(Context context) {
            this.context = context;
            return this;
        }

        /** Arithmetic: {@code auto}, {@code fp32} or {@code bf16}. */
        public Builder precision(String precision) {
            return set("precision", precision);
        }

        /** Quantised weights: {@code auto}, {@code packed} (expanded at each use) or {@code expanded} (once, when opening). */
        public Builder weights(String weights) {
            return set("weights", weights);
        }

        /** Opens a GGUF file or a Hugging Face folder. */
        public Backbone open(Path path) {
            String file = path.toString();
            return new Backbone(owner().<Long>work(
                    c -> NativeObject.open(out -> Native.polyad_backbone_open(c, file, json().toString(), out))));
        }

        /** Opens a GGUF file that lies in memory between the buffer's position and limit. The bytes are copied. */
        public Backbone open(ByteBuffer gguf) {
            Object bytes = Data.bytes(gguf);
            return new Backbone(owner().<Long>work(
                    c -> NativeObject.open(out -> Native.polyad_backbone_open_memory(c, bytes, json().toString(), out))));
        }

        /** Opens in the background. */
        public CompletableFuture<Backbone> openAsync(Path path) {
            Objects.requireNonNull(path, "path");
            return CompletableFuture.supplyAsync(() -> open(path), Calls.executor());
        }

        private Context owner() {
            return context == null ? Context.shared() : context;
        }
    }

    /** Name, family, fingerprint, layers, width, vocab, context, parameters, precision, weights, tokenizer, sites. */
    public Json info() {
        return json(Native::polyad_backbone_info);
    }

    /** How many token ids there are: the number of logits. */
    public int vocabularySize() {
        return info().get("vocab").asInt();
    }

    /**
     * Token ids of a text, without BOS or EOS.
     *
     * @throws PolyadException UNSUPPORTED (no tokenizer)
     */
    public int[] tokenize(String text) {
        Objects.requireNonNull(text, "text");
        return ask(handle -> {
            long[] count = new long[1];
            int[] ids = new int[text.length() + 16];
            Native.polyad_backbone_tokenize(handle, text, ids, count);
            if (count[0] > ids.length) {
                ids = new int[Math.toIntExact(count[0])];
                Native.polyad_backbone_tokenize(handle, text, ids, count);
            }
            return java.util.Arrays.copyOf(ids, Math.toIntExact(count[0]));
        });
    }

    /** The text of token ids, without special tokens. */
    public String detokenize(int... ids) {
        return detokenize(ids, true);
    }

    /**
     * The text of token ids.
     *
     * @throws PolyadException INVALID_ARGUMENT (an id outside the vocabulary)
     */
    public String detokenize(int[] ids, boolean skipSpecial) {
        Objects.requireNonNull(ids, "ids");
        return text((handle, out) -> Native.polyad_backbone_detokenize(handle, ids, skipSpecial ? 1 : 0, out));
    }

    /** One turn of a conversation. */
    public record Message(String role, String content) {}

    /** A conversation in the model's chat template. */
    public String chat(Collection<Message> messages, boolean addGenerationPrompt) {
        List<Map<String, String>> list = messages.stream()
                .map(m -> Map.of("role", m.role(), "content", m.content()))
                .toList();
        return text((handle, out) ->
                Native.polyad_backbone_chat(handle, Json.of(list).toString(), addGenerationPrompt ? 1 : 0, out));
    }

    /** Logits after the last token, of the backbone alone. */
    public float[] logits(int... ids) {
        return logits(null, null, ids);
    }

    /**
     * Logits after the last token.
     *
     * @param skills the skillset, or null for the backbone alone
     * @param task the task, or null
     * @throws PolyadException INVALID_ARGUMENT (an id), CONTEXT_OVERFLOW, UNKNOWN_TASK
     */
    public float[] logits(Skillset skills, String task, int... ids) {
        Objects.requireNonNull(ids, "ids");
        float[] out = new float[vocabularySize()];
        logitsInto(skills, task, ids, out);
        return out;
    }

    /**
     * As above, into a buffer whose remaining size is the vocabulary's; ids and logits in direct buffers of native byte order are
     * not copied. Positions stay where they are.
     */
    public void logits(Skillset skills, String task, IntBuffer ids, FloatBuffer out) {
        Object data = Data.ints(ids);
        Data.fill(out, floats -> logitsInto(skills, task, data, floats));
    }

    private void logitsInto(Skillset skills, String task, Object ids, Object out) {
        work(handle -> {
            if (skills == null) {
                Native.polyad_backbone_logits(handle, 0, task, ids, out);
            } else {
                skills.call(s -> Native.polyad_backbone_logits(handle, s, task, ids, out));
            }
            return null;
        });
    }
}
