// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * What to answer and with which skills: {@code Request.to("words").task("antonym").prompt("hot")}. The library copies everything when it
 * is submitted, so a request may be submitted again, changed or not. Not for use by two threads at once.
 */
public final class Request {
    private final String skillset;
    private String task;
    private String prompt;
    private Object tokens;
    private Object weights;
    private Object intuition;
    private final List<String> stop = new ArrayList<>();
    private Integer maxTokens;
    private Float temperature;
    private Integer topK;
    private Float topP;
    private Float repetitionPenalty;
    private long seed;
    private boolean ignoreEos;
    private Double timeout;
    private Integer priority;

    private Request(String skillset) {
        this.skillset = skillset;
    }

    /** A request to a published skillset. */
    public static Request to(String skillset) {
        return new Request(Objects.requireNonNull(skillset, "skillset"));
    }

    /** A request to the backbone alone. */
    public static Request toBackbone() {
        return new Request(null);
    }

    /** The task; methods that route by task need it unless {@link #weights} are given. */
    public Request task(String task) {
        this.task = task;
        return this;
    }

    /** The example's input, put into the task's prompt. */
    public Request prompt(String prompt) {
        this.prompt = prompt;
        return this;
    }

    /** A finished prompt as token ids, instead of a text. */
    public Request tokens(int... ids) {
        tokens = ids.clone();
        return this;
    }

    /** As above. The buffer is read when the request is submitted. */
    public Request tokens(IntBuffer ids) {
        tokens = Data.ints(ids);
        return this;
    }

    /** Skill weights instead of the router's. */
    public Request weights(float... weights) {
        this.weights = weights.clone();
        return this;
    }

    /** As above. The buffer is read when the request is submitted. */
    public Request weights(FloatBuffer weights) {
        this.weights = Data.floats(weights);
        return this;
    }

    /** MoR1E: the host's own scores of the prompt, one per expert, instead of those from its text. */
    public Request intuition(float... scores) {
        intuition = scores.clone();
        return this;
    }

    /** As above. The buffer is read when the request is submitted. */
    public Request intuition(FloatBuffer scores) {
        intuition = Data.floats(scores);
        return this;
    }

    /** Most tokens of the answer. */
    public Request maxTokens(int tokens) {
        maxTokens = tokens;
        return this;
    }

    /** 0 = greedy, the default. */
    public Request temperature(double temperature) {
        this.temperature = (float) temperature;
        return this;
    }

    /** Draw among the {@code k} likeliest tokens; 0 = off. */
    public Request topK(int k) {
        topK = k;
        return this;
    }

    /** Draw among the likeliest tokens that reach this probability together; 1 = off. */
    public Request topP(double probability) {
        topP = (float) probability;
        return this;
    }

    /** Divides the logits of tokens that have appeared; 1 = off. */
    public Request repetitionPenalty(double penalty) {
        repetitionPenalty = (float) penalty;
        return this;
    }

    /** Seed of the drawing; all 64 bits count. */
    public Request seed(long seed) {
        this.seed = seed;
        return this;
    }

    /** The answer ends before the first of these texts. */
    public Request stop(String... texts) {
        for (String text : texts) {
            stop.add(Objects.requireNonNull(text, "stop"));
        }
        return this;
    }

    /** Goes on after the end token (benchmarks). */
    public Request ignoreEos(boolean on) {
        ignoreEos = on;
        return this;
    }

    /**
     * How long after submitting the answer ends with what it has, in the state {@link Answer.State#EXPIRED}; never by default.
     *
     * @throws IllegalArgumentException when it is not positive
     */
    public Request timeout(Duration time) {
        if (time.isZero() || time.isNegative()) {
            throw new IllegalArgumentException("a timeout has to be positive, this one is " + time);
        }
        timeout = time.toNanos() / 1e9;
        return this;
    }

    /** Waiting requests of a higher priority come first; 0 by default. */
    public Request priority(int priority) {
        this.priority = priority;
        return this;
    }

    interface Use {
        void run(polyad_request_options options);
    }

    /** Fills the C struct for the length of a call. */
    void use(Use call) {
        polyad_request_options o = new polyad_request_options();
        try {
            o.setSkillset(skillset);
            o.setTask(task);
            boolean kept = o.set_prompt(prompt) != 0 && o.set_tokens(tokens) != 0 && o.set_weights(weights) != 0
                    && o.set_intuition(intuition) != 0;
            for (String text : stop) {
                kept = kept && o.add_stop(text) != 0;
            }
            if (!kept) {
                throw new OutOfMemoryError("no native memory for a request");
            }
            if (maxTokens != null) {
                o.setMax_tokens(maxTokens);
            }
            if (temperature != null) {
                o.setTemperature(temperature);
            }
            if (topK != null) {
                o.setTop_k(topK);
            }
            if (topP != null) {
                o.setTop_p(topP);
            }
            if (repetitionPenalty != null) {
                o.setRepetition_penalty(repetitionPenalty);
            }
            o.setSeed(seed);
            o.setIgnore_eos(ignoreEos ? 1 : 0);
            if (timeout != null) {
                o.setTimeout(timeout);
            }
            if (priority != null) {
                o.setPriority(priority);
            }
            call.run(o);
        } finally {
            o.delete();
        }
    }
}
