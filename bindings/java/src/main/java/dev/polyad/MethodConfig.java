// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * A method and its options, for {@link Skillset#create}. Each method has a builder with its own options ({@link Lora}, {@link Poly},
 * {@link CPoly}, ...); {@link #named} reaches every method the library has.
 */
public final class MethodConfig {
    private final Json json;

    private MethodConfig(Json json) {
        this.json = json;
    }

    /** A method by its name in docs/configuration.md; {@link Polyad#buildInfo()} lists those of this build. */
    public static Named named(String method) {
        return new Named(method);
    }

    /** The configuration as the library reads it. */
    public Json json() {
        return json;
    }

    /** A method without a builder of its own. */
    public static final class Named extends Builder<Named> {
        private Named(String method) {
            super(method);
        }
    }

    /**
     * Options that every method has.
     *
     * @param <B> the builder itself
     */
    public abstract static class Builder<B extends Builder<B>> extends Options<B> {
        Builder(String method) {
            if (method == null) {
                throw new NullPointerException("method");
            }
            set("method", method);
        }

        /** Rank of one skill. */
        public B rank(int rank) {
            return set("rank", rank);
        }

        /** The last parts of the paths of the linears to adapt: {@code "q_proj", "v_proj"}. */
        public B targetModules(String... names) {
            return set("target_modules", names);
        }

        /** One regular expression on the whole path of the linears to adapt. */
        public B targetModulesMatching(String expression) {
            return set("target_modules", expression);
        }

        /** Distribution of the start values: {@code kaiming}, {@code gaussian}, {@code polytropon}, {@code peft_poly}, {@code molora}. */
        public B init(String distribution) {
            return set("init", distribution);
        }

        /** Seed of the start values. */
        public B seed(long seed) {
            return set("seed", seed);
        }

        /** How an example becomes text. */
        public B prompt(PromptFormat format) {
            return set("prompt", format);
        }

        /** The finished configuration. */
        public MethodConfig build() {
            return new MethodConfig(json());
        }
    }
}
