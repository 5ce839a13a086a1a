// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.function.Consumer;

/**
 * Where a trainer or an evaluator stands.
 *
 * @param step steps done; of an evaluator: examples scored
 * @param totalSteps steps there are
 * @param epoch epochs finished, with fraction
 * @param loss mean negative log likelihood per answer token of the last step
 * @param learningRate of the skills
 * @param gradientNorm before clipping
 * @param validationLoss last measured; NaN before the first
 * @param bestValidationLoss best measured; NaN before the first
 * @param tokens real tokens processed so far
 * @param tokensPerSecond recent
 * @param secondsLeft an estimate; NaN while unknown
 * @param truncatedRows prompts that were cut on the left
 * @param done nothing is left to do
 * @param stoppedEarly validation stopped improving
 */
public record Progress(
        long step,
        long totalSteps,
        double epoch,
        double loss,
        double learningRate,
        double gradientNorm,
        double validationLoss,
        double bestValidationLoss,
        long tokens,
        double tokensPerSecond,
        double secondsLeft,
        long truncatedRows,
        boolean done,
        boolean stoppedEarly) {

    /** Runs a step that fills the C struct. */
    static Progress of(Consumer<polyad_progress> step) {
        polyad_progress p = new polyad_progress();
        try {
            step.accept(p);
            return new Progress(
                    p.getStep(),
                    p.getTotal_steps(),
                    p.getEpoch(),
                    p.getLoss(),
                    p.getLearning_rate(),
                    p.getGradient_norm(),
                    p.getValidation_loss(),
                    p.getBest_validation_loss(),
                    p.getTokens(),
                    p.getTokens_per_second(),
                    p.getSeconds_left(),
                    p.getTruncated_rows(),
                    p.getDone() != 0,
                    p.getStopped_early() != 0);
        } finally {
            p.delete();
        }
    }
}
