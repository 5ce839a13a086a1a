// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * What the builders of methods with a number of low-rank experts have in common.
 *
 * @param <B> the builder itself
 */
public abstract class ExpertMethod<B extends ExpertMethod<B>> extends ScaledMethod<B> {
    ExpertMethod(String method) {
        super(method);
    }

    /** How many experts there are; those of MOELoRA share the rank. */
    public B experts(int count) {
        return set("n_experts", count);
    }
}
