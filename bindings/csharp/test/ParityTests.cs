// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;

namespace Polyad.Tests
{
    /// <summary>The same fixture gives what tests/bindings/parity.c prints, bit for bit.</summary>
    public sealed class ParityTests
    {
        private static uint Bits(float value) => BitConverter.ToUInt32(BitConverter.GetBytes(value), 0);

        private static string Floats(string what, float[] values)
        {
            ulong hash = 0xcbf29ce484222325;
            foreach (float value in values)
            {
                for (int i = 0; i < 4; ++i) hash = unchecked((hash ^ (Bits(value) >> (8 * i) & 0xff)) * 0x100000001b3);
            }
            return $"{what} {values.Length} {Bits(values[0]):x8} {hash:x16}";
        }

        private static List<string> Ours()
        {
            var lines = new List<string>();
            using (Backbone model = Fixture.Model())
            using (Dataset tasks = Fixture.Tasks())
            using (var skills = new Skillset(model, tasks, Fixture.Method()))
            {
                using (Trainer trainer = Fixture.Trainer(skills, tasks))
                {
                    trainer.Run(new Told(p => lines.Add($"loss {p.Step} {BitConverter.DoubleToInt64Bits(p.Loss):x16}")));
                }
                lines.Add(Floats("parameters", skills.GetParameters()));
                int[] ids = model.Tokenize("Say up. c ->");
                lines.Add(Floats("logits", model.Logits(ids)));
                lines.Add(Floats("up", model.Logits(skills, "up", ids)));
                var lent = new float[model.VocabularySize + 10];
                model.CopyLogits(skills, "down", ids, new Span<float>(lent, 3, model.VocabularySize));
                var copy = new float[model.VocabularySize];
                Array.Copy(lent, 3, copy, 0, copy.Length);
                lines.Add(Floats("down", copy));
                using (Engine engine = new Engine(model, new EngineOptions { Manual = true }).Publish("words", skills))
                {
                    var answers = new List<Answer>();
                    foreach (string task in new[] { "up", "down" })
                    {
                        answers.Add(engine.Submit(new Request("words") { Task = task, Prompt = "c", MaxTokens = 12, IgnoreEos = true }));
                    }
                    answers.Add(engine.Submit(new Request
                    {
                        Tokens = ids, MaxTokens = 12, IgnoreEos = true, Temperature = 0.8, TopP = 0.9, Seed = 0xfedcba9876543210,
                    }));
                    while (engine.Step() > 0)
                    {
                    }
                    for (int i = 0; i < answers.Count; ++i) lines.Add($"tokens {i} [{string.Join(",", answers[i].Wait().Tokens)}]");
                }
            }
            return lines;
        }

        public void SameBitsAsTheCProgram()
        {
            string program = Path.Combine(Fixture.BuildFolder, "..", "parity", "bindings_parity");
            if (!File.Exists(program)) throw new SkipException(program + " was not built");
            string theirs = Child.Start(program, new[] { Fixture.ModelFile }).Right();
            Check.Equal(theirs.Trim(), string.Join("\n", Ours()));
        }
    }
}
