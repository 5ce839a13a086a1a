// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Task-level mixture of experts: a router picks layer copies or low-rank experts by task (arXiv 2205.12701). */
public final class TaskMoe extends ScaledMethod<TaskMoe> {
    private TaskMoe() {
        super("task_moe");
    }

    /** Options with the library's defaults. */
    public static TaskMoe builder() {
        return new TaskMoe();
    }

    /** Experts are copies of a {@code layer} or {@code lora} skills. */
    public TaskMoe expertKind(String how) {
        return set("expert_kind", how);
    }

    /** Experts per layer. */
    public TaskMoe experts(int count) {
        return set("n_experts", count);
    }

    /** Of layer copies: size of the noise they start with. */
    public TaskMoe initEps(double value) {
        return set("init_eps", value);
    }

    /** Of layer copies: layers that are kept single. */
    public TaskMoe vanillaLayers(int... layers) {
        return set("vanilla_layers", layers);
    }

    /** Of layer copies: refused above this, with gradients and optimiser. */
    public TaskMoe expertMemoryGib(double value) {
        return set("expert_memory_gib", value);
    }

    /** {@code learned}, {@code average}, {@code instance_random}, {@code task_random}. */
    public TaskMoe routing(String how) {
        return set("routing", how);
    }

    /** Experts a task draws with {@code task_random}. */
    public TaskMoe randomExperts(int count) {
        return set("random_experts", count);
    }

    /**
     * Kind of the router: {@code linear}, {@code rnn}, {@code gru}, {@code lstm}, {@code transformer}, each also with {@code
     * _layer_specific}.
     */
    public TaskMoe router(String how) {
        return set("router", how);
    }

    /** Width of the router. */
    public TaskMoe routerHidden(int width) {
        return set("router_hidden", width);
    }

    /** Dropout of the transformer kinds. */
    public TaskMoe routerDropout(double value) {
        return set("router_dropout", value);
    }

    /** Where a task's vector comes from: {@code random}, {@code text}, {@code finetuned_text}, {@code fisher}. */
    public TaskMoe taskVectors(String how) {
        return set("task_vectors", how);
    }

    /** The vectors themselves, one per task. */
    public TaskMoe taskVectors(float[][] vectors) {
        return set("task_vectors", vectors);
    }

    /** Width of random task vectors. */
    public TaskMoe taskVectorDim(int width) {
        return set("task_vec_dim", width);
    }

    /** Whether training moves them. */
    public TaskMoe trainTaskVectors(boolean on) {
        return set("train_task_vectors", on);
    }

    /** {@code gumbel_softmax_st}, {@code gumbel_softmax}, {@code softmax}. */
    public TaskMoe select(String how) {
        return set("select", how);
    }

    /** When not training: {@code argmax}, {@code softmax}, {@code sample}. */
    public TaskMoe evalRoute(String how) {
        return set("eval_route", how);
    }

    /** Temperature of the selection at the start. */
    public TaskMoe tau(double value) {
        return set("tau", value);
    }

    /** How fast it falls per step. */
    public TaskMoe tauRate(double value) {
        return set("tau_rate", value);
    }

    /** Where it stops. */
    public TaskMoe tauMin(double value) {
        return set("tau_min", value);
    }

    /** Chance of a random route in training. */
    public TaskMoe exploration(double value) {
        return set("exploration", value);
    }

    /** That route: {@code one_hot} or {@code uniform}. */
    public TaskMoe explorationRoute(String how) {
        return set("exploration_route", how);
    }

    /** Weight of the loss on the distance between experts. */
    public TaskMoe expertRegularization(double value) {
        return set("expert_regularization", value);
    }

    /** Steps of router and experts in turns; 0 = together. */
    public TaskMoe alternateEvery(int count) {
        return set("alternate_every", count);
    }

    /** What training moves: {@code all}, {@code router}, {@code experts}, {@code uniform}. */
    public TaskMoe train(String how) {
        return set("train", how);
    }
}
