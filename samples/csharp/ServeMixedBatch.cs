// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Threading.Tasks;
using Polyad;

/// <summary>
/// Serves one batch in which every request names its own task, one brings its own skill weights, and one wants the backbone alone;
/// prints each answer piece by piece as it comes.
/// </summary>
internal static class ServeMixedBatch
{
    private static async Task<int> Serve(string[] arguments)
    {
        string prompt = arguments[2];
        using (Backbone model = await Backbone.OpenAsync(arguments[0]))
        using (Skillset skills = Skillset.Load(model, arguments[1]))
        using (Engine engine = new Engine(model).Publish("skills", skills))
        {
            var answers = new List<Answer>();
            for (int i = 3; i < arguments.Length; ++i)
            {
                answers.Add(engine.Submit(new Request("skills") { Task = arguments[i], Prompt = prompt, MaxTokens = 16 }));
            }
            // The last task's prompt with the first task's weights.
            answers.Add(engine.Submit(new Request("skills")
            {
                Task = arguments[arguments.Length - 1], Weights = skills.TaskWeights(arguments[3]), Prompt = prompt, MaxTokens = 16,
            }));
            answers.Add(engine.Submit(new Request { Prompt = prompt, MaxTokens = 16 }));
            for (int i = 0; i < answers.Count; ++i)
            {
                // C# 8: await foreach (string piece in answers[i]) ...
                AnswerReader reader = answers[i].GetAsyncEnumerator();
                while (await reader.MoveNextAsync()) Console.WriteLine($"{i}: {reader.Current}");
                AnswerResult result = await answers[i].Completion;
                Console.WriteLine($"{i}: {result.Text}, {result.Tokens.Length} tokens, {result.FinishReason}");
            }
        }
        return 0;
    }

    private static int Main(string[] arguments)
    {
        if (arguments.Length >= 4) return Serve(arguments).GetAwaiter().GetResult();
        Console.Error.WriteLine("usage: ServeMixedBatch MODEL.gguf BUNDLE.polyad PROMPT TASK...");
        return 2;
    }
}
