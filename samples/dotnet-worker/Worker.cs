// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Polyad;

/// <summary>
/// Reads requests from its standard input, one JSON object a line, and answers each with its task's skill, one line each, as they are
/// done: requests that come while others are answered join their batch. README.md has the format.
/// </summary>
internal static class Worker
{
    private const int MostAtOnce = 256;
    private static readonly string[] Known = { "id", "task", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop" };

    private static int Main(string[] arguments)
    {
        if (arguments.Length != 2)
        {
            Console.Error.WriteLine("usage: Worker MODEL.gguf BUNDLE.polyad <REQUESTS >ANSWERS");
            return 2;
        }
        using (var stop = new CancellationTokenSource())
        {
            Console.CancelKeyPress += (sender, e) =>
            {
                e.Cancel = true; // once: what runs is cancelled and answered as such
                stop.Cancel();
            };
            try
            {
                Work(arguments[0], arguments[1], stop.Token).GetAwaiter().GetResult();
                return stop.IsCancellationRequested ? 130 : 0;
            }
            catch (PolyadException e)
            {
                Console.Error.WriteLine($"{e.Code}: {e.Message} ({e.Detail})");
                return 1;
            }
        }
    }

    private static async Task Work(string modelFile, string bundle, CancellationToken stop)
    {
        var utf8 = new UTF8Encoding(false);
        using (var input = new StreamReader(Console.OpenStandardInput(), utf8))
        using (var output = new StreamWriter(Console.OpenStandardOutput(), utf8))
        using (var free = new SemaphoreSlim(MostAtOnce))
        using (Backbone model = await Backbone.OpenAsync(modelFile))
        using (Skillset skills = Skillset.Load(model, bundle))
        using (Engine engine = new Engine(model, new EngineOptions { MaxQueue = MostAtOnce }).Publish("skills", skills))
        {
            var running = new List<Task>();
            var writing = new object();
            string line;
            while (!stop.IsCancellationRequested && (line = await LineOrStop(input, stop)) != null)
            {
                if (line.Trim().Length == 0) continue;
                await free.WaitAsync(); // a full engine holds up the reading, and so whoever writes
                string taken = line;
                running.RemoveAll(task => task.IsCompleted);
                running.Add(Task.Run(async () =>
                {
                    Json answer = await Answered(engine, taken, stop);
                    free.Release();
                    lock (writing)
                    {
                        output.WriteLine(answer);
                        output.Flush();
                    }
                }));
            }
            await Task.WhenAll(running);
        }
    }

    /// <summary>The next line; null at the end and when the worker is told to stop.</summary>
    private static async Task<string> LineOrStop(StreamReader input, CancellationToken stop)
    {
        Task<string> line = Task.Run(() => input.ReadLine()); // a console cannot be read asynchronously
        var stopped = new TaskCompletionSource<string>();
        using (stop.Register(() => stopped.TrySetResult(null)))
        {
            return await await Task.WhenAny(line, stopped.Task);
        }
    }

    /// <summary>The answer to one line. Whatever is wrong with it becomes an answer too.</summary>
    private static async Task<Json> Answered(Engine engine, string line, CancellationToken stop)
    {
        object id = null;
        try
        {
            Json json = Json.Parse(line);
            if (json.Has("id")) id = json["id"];
            AnswerResult result = await engine.SubmitAsync(Read(json), stop);
            return Json.Of(new Dictionary<string, object>
            {
                ["id"] = id, ["text"] = result.Text, ["finish_reason"] = result.FinishReason, ["tokens"] = result.Tokens.Length,
            });
        }
        catch (PolyadException e)
        {
            return Refusal(id, e.Code.ToString(), e.Message + (e.Detail.Length == 0 ? "" : " (" + e.Detail + ")"));
        }
        catch (OperationCanceledException)
        {
            return Refusal(id, "Cancelled", "the worker was stopped");
        }
        catch (Exception e) when (e is FormatException || e is InvalidOperationException || e is ArgumentException || e is KeyNotFoundException)
        {
            return Refusal(id, "BadRequest", e.Message);
        }
    }

    private static Request Read(Json json)
    {
        string unknown = json.Keys.FirstOrDefault(key => !Known.Contains(key));
        if (unknown != null) throw new FormatException($"unknown key \"{unknown}\"; allowed: {string.Join(", ", Known)}");
        var request = new Request("skills") { Task = json["task"].AsString(), Prompt = json["prompt"].AsString() };
        if (json.Has("max_tokens")) request.MaxTokens = json["max_tokens"].AsInt();
        if (json.Has("temperature")) request.Temperature = json["temperature"].AsDouble();
        if (json.Has("top_p")) request.TopP = json["top_p"].AsDouble();
        if (json.Has("seed")) request.Seed = checked((ulong)json["seed"].AsLong());
        if (json.Has("stop")) request.Stop = json["stop"].Select(text => text.AsString()).ToList();
        return request;
    }

    private static Json Refusal(object id, string error, string message) =>
        Json.Of(new Dictionary<string, object> { ["id"] = id, ["error"] = error, ["message"] = message });
}
