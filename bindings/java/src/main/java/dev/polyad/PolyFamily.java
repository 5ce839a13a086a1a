// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/**
 * Options of methods that mix the factors of shared skills by a table over tasks.
 *
 * @param <B> the builder itself
 */
public abstract class PolyFamily<B extends PolyFamily<B>> extends ScaledMethod<B> {
    PolyFamily(String method) {
        super(method);
    }

    /** Blocks of rows and columns that are mixed apart; must divide every adapted width. */
    public B splits(int count) {
        return set("n_splits", count);
    }

    /** What is averaged: the factors or their products. */
    public B combine(String how) {
        return set("combine", how);
    }

    /** Noise on the routing in training: {@code relaxed_bernoulli} or {@code sigmoid} (none). */
    public B skillSampling(String how) {
        return set("skill_sampling", how);
    }

    /** Temperature of that noise. */
    public B tau(double temperature) {
        return set("tau", temperature);
    }

    /** Where routing tables differ: {@code finegrained} (each site), {@code blockwise}, {@code layerwise}, {@code coderwise}, {@code coarsegrained}. */
    public B routerGranularity(String granularity) {
        return set("router_granularity", granularity);
    }

    /** What training moves: {@code all}, {@code router}, {@code skills}, {@code uniform} (skills under an even mix). */
    public B train(String what) {
        return set("train", what);
    }
}
