// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * What the builders of methods with a scale have in common.
 *
 * @param <B> the builder itself
 */
public abstract class ScaledMethod<B extends ScaledMethod<B>> extends MethodConfig.Builder<B> {
    ScaledMethod(String method) {
        super(method);
    }

    /** What is added to a linear (an adapter, an expert, a mixture of them) is scaled by alpha / rank. */
    public B alpha(double value) {
        return set("alpha", value);
    }
}
