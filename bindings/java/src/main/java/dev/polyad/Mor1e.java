// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;

/** Intuition-MoR1E: rank-one experts mixed per token, led by the intuition of the whole prompt (arXiv 2404.08985). */
public final class Mor1e extends MethodConfig.Builder<Mor1e> {
    private Mor1e() {
        super("mor1e");
    }

    /** Options with the library's defaults. */
    public static Mor1e builder() {
        return new Mor1e();
    }

    /** {@code rank1_flex} ({@link #r1} x {@link #r2} experts) or {@code rank1} ({@link #rank} experts). */
    public Mor1e variant(String how) {
        return set("variant", how);
    }

    /** Of {@code rank1_flex}: vectors on the input side. */
    public Mor1e r1(int count) {
        return set("r1", count);
    }

    /** Of {@code rank1_flex}: vectors on the output side. */
    public Mor1e r2(int count) {
        return set("r2", count);
    }

    /** Weight of what the router says of a token. */
    public Mor1e tokenWeight(double value) {
        return set("c_tok", value);
    }

    /** Weight of the intuition. */
    public Mor1e taskWeight(double value) {
        return set("c_task", value);
    }

    /** Factor on the gates. */
    public Mor1e gateFactor(double value) {
        return set("gate_factor", value);
    }

    /** {@code none}, or what is left out: {@code intuition}, {@code router}. */
    public Mor1e ablation(String how) {
        return set("ablation", how);
    }

    /** Where the scores of a prompt come from; without it they are 0 unless a request brings its own. */
    public Mor1e intuition(Intuition source) {
        return set("intuition", source);
    }

    /** Clusters of sentence vectors: what a prompt scores against them is its intuition. */
    public static final class Intuition extends Options<Intuition> {
        private Intuition() {}

        /** From a folder with a BERT sentence encoder. */
        public static Intuition encoder(Path folder) {
            return new Intuition().set("encoder", folder.toString());
        }

        /** {@code spherical_kmeans} or {@code kmeans}. */
        public Intuition cluster(String how) {
            return set("cluster", how);
        }

        /** How many clusters; as many as there are experts. */
        public Intuition clusters(int count) {
            return set("clusters", count);
        }

        /** Whether the centres have length 1. */
        public Intuition normalizeCentroids(boolean on) {
            return set("normalize_centroids", on);
        }

        /** Tokens of a text that are read. */
        public Intuition maxTokens(int tokens) {
            return set("max_tokens", tokens);
        }

        /** At most so many rows are clustered; 0 = all. */
        public Intuition maxInstances(int count) {
            return set("max_instances", count);
        }
    }
}
