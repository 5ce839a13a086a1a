// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;
import java.util.Arrays;

/** X-LoRA: a head that reads the prompt scales several LoRAs (arXiv 2402.07148). */
public final class XLora extends ScaledMethod<XLora> {
    private XLora() {
        super("xlora");
    }

    /** Options with the library's defaults. */
    public static XLora builder() {
        return new XLora();
    }

    /** PEFT folders that become the experts. */
    public XLora adapters(Path... folders) {
        return set("adapters", Arrays.stream(folders).map(Path::toString).toList());
    }

    /** How many fresh experts there are, without {@link #adapters}. */
    public XLora experts(int count) {
        return set("n_experts", count);
    }

    /** Whether training moves the experts too. */
    public XLora useTrainableAdapters(boolean on) {
        return set("use_trainable_adapters", on);
    }

    /** Layers of the head. */
    public XLora depth(int layers) {
        return set("xlora_depth", layers);
    }

    /** Width of the head. */
    public XLora size(int width) {
        return set("xlora_size", width);
    }

    /** Dropout in the head, in training. */
    public XLora dropout(double value) {
        return set("xlora_dropout_p", value);
    }

    /** Whether every layer has scales of its own. */
    public XLora layerwiseScalings(boolean on) {
        return set("layerwise_scalings", on);
    }

    /** Whether the scales add to 1. */
    public XLora softmax(boolean on) {
        return set("enable_softmax", on);
    }

    /** Temperature of that. */
    public XLora softmaxTemperature(double value) {
        return set("softmax_temperature", value);
    }

    /** Experts in use; 0 = all. */
    public XLora topK(int count) {
        return set("top_k_lora", count);
    }

    /** Whether the scales of those in use add to 1. */
    public XLora softmaxTopK(boolean on) {
        return set("enable_softmax_topk", on);
    }

    /** Scale of every expert in the pass that the head reads. */
    public XLora scalingPassValue(double value) {
        return set("scaling_pass_value", value);
    }

    /** Factor on all scales. */
    public XLora globalScalingWeight(double value) {
        return set("global_scaling_weight", value);
    }

    /** Whether the answer keeps the scales of the {@code prompt} or each {@code token} has its own. */
    public XLora answerScalings(String how) {
        return set("answer_scalings", how);
    }
}
