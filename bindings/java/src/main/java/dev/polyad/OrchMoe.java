// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** OrchMoE: latent tasks read from the prompt choose and mix shared skills (arXiv 2401.10559). */
public final class OrchMoe extends ScaledMethod<OrchMoe> {
    private OrchMoe() {
        super("orchmoe");
    }

    /** Options with the library's defaults. */
    public static OrchMoe builder() {
        return new OrchMoe();
    }

    /** How many skills there are. */
    public OrchMoe skills(int count) {
        return set("n_skills", count);
    }

    /** How many latent tasks the router tells apart. */
    public OrchMoe latentTasks(int count) {
        return set("n_latent_tasks", count);
    }

    /** Blocks of rows and columns that are mixed apart; must divide every adapted width. */
    public OrchMoe splits(int count) {
        return set("n_splits", count);
    }

    /** What is averaged: {@code factors} or their {@code products}. */
    public OrchMoe combine(String how) {
        return set("combine", how);
    }

    /** {@code latent_tasks}, or {@code softmax_gate} (the ablation). */
    public OrchMoe router(String how) {
        return set("router", how);
    }

    /** Whether each {@code layer} routes for itself or the {@code model} once. */
    public OrchMoe routerScope(String how) {
        return set("router_scope", how);
    }

    /** Whether the prompt attends to the latent tasks. */
    public OrchMoe taskAttention(boolean on) {
        return set("task_attention", on);
    }

    /** How a prompt becomes one vector: {@code mean}, {@code last}, {@code first}, {@code none}. */
    public OrchMoe taskPool(String how) {
        return set("task_pool", how);
    }

    /** Of the latent tasks: {@code softmax}, {@code sigmoid_norm}, {@code none}, {@code st_gumbel}. */
    public OrchMoe taskActivation(String how) {
        return set("task_activation", how);
    }

    /** Temperature of {@code st_gumbel}. */
    public OrchMoe taskTau(double value) {
        return set("task_tau", value);
    }

    /** What is read: {@code prompt}, {@code causal}, or {@code all} (encoders only). */
    public OrchMoe routeSpan(String how) {
        return set("route_span", how);
    }

    /** Noise on the skills in training: {@code relaxed_bernoulli}, {@code sigmoid} (none), {@code softmax}. */
    public OrchMoe skillSampling(String how) {
        return set("skill_sampling", how);
    }

    /** Temperature of that noise. */
    public OrchMoe tau(double value) {
        return set("tau", value);
    }

    /** Start of the latent tasks: {@code normal} or {@code uniform}. */
    public OrchMoe taskInit(String how) {
        return set("task_init", how);
    }

    /** Start of the table of skills: {@code uniform} or {@code normal}. */
    public OrchMoe tableInit(String how) {
        return set("table_init", how);
    }

    /** What training moves: {@code all}, {@code router}, {@code table}. */
    public OrchMoe train(String how) {
        return set("train", how);
    }
}
