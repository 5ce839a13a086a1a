// SPDX-License-Identifier: Apache-2.0
using System;
using System.Threading;
using System.Threading.Tasks;

namespace Polyad
{
    /// <summary>How to serve. What is null keeps the library's default.</summary>
    public sealed class EngineOptions
    {
        /// <summary>Rows decoded together.</summary>
        public int? MaxBatch { get; set; }

        /// <summary>Waiting requests before submitting is refused with <see cref="ErrorCode.QueueFull"/>.</summary>
        public int? MaxQueue { get; set; }

        /// <summary>Tokens one row may reach, prompt and answer; 0 = the model's limit, at most 4096.</summary>
        public int? MaxContext { get; set; }

        /// <summary>
        /// Bytes for published skillsets and cached keys and values together; 0 = skillsets unlimited, and <see cref="MaxBatch"/> rows
        /// of <see cref="MaxContext"/> tokens. Requests that find no room wait.
        /// </summary>
        public long? MemoryBudget { get; set; }

        /// <summary>Worker threads of this engine's steps; 0 = the context's.</summary>
        public int? Threads { get; set; }

        /// <summary>Whether prompts that begin alike, on the same skills, are computed once; on by default.</summary>
        public bool? PrefixCache { get; set; }

        /// <summary>
        /// Whether a task that is all the traffic for a while is merged into a copy of the weights: faster where weights are expanded,
        /// at that copy's memory; off by default.
        /// </summary>
        public bool? MergeHotTask { get; set; }

        /// <summary>True: the user calls <see cref="Engine.Step"/>, and nothing is answered otherwise.</summary>
        public bool Manual { get; set; }

        internal NativeHandle Create(Backbone model)
        {
            using (var o = new polyad_engine_options())
            {
                o.max_batch = MaxBatch ?? o.max_batch;
                o.max_queue = MaxQueue ?? o.max_queue;
                o.max_context = MaxContext ?? o.max_context;
                o.memory_budget = MemoryBudget ?? o.memory_budget;
                o.threads = Threads ?? o.threads;
                if (PrefixCache is bool prefixes) o.prefix_cache = prefixes ? 1 : 0;
                if (MergeHotTask is bool merge) o.merge_hot_task = merge ? 1 : 0;
                return model.Use(m => NativeObject.Make(
                    Native.polyad_engine_release, (out IntPtr made) => Native.polyad_engine_create(m, o, out made)));
            }
        }
    }

    /// <summary>
    /// Serves many requests over one backbone; every request of a batch may use another skillset, task or mix.
    /// </summary>
    /// <remarks>
    /// An engine steps by itself, on one thread that is there while there is something to do; <see cref="EngineOptions.Manual"/> makes
    /// one that is stepped by its user. Publish, retire, submit and stats may come from any thread at any time. Disposing of it cancels
    /// what is still being answered.
    /// </remarks>
    public sealed class Engine : NativeObject
    {
        private readonly EngineDriver driver;

        /// <summary>An engine over a backbone.</summary>
        public Engine(Backbone model, EngineOptions options = null)
            : base((options ?? new EngineOptions()).Create(NotNull(model, nameof(model))))
        {
            driver = new EngineDriver(Handle, options != null && options.Manual);
        }

        /// <summary>
        /// Makes a snapshot of a skillset answer to a name, in place of an earlier one: running requests finish on what they began with,
        /// new ones take the new.
        /// </summary>
        /// <returns>This engine.</returns>
        /// <exception cref="PolyadException">BackboneMismatch; OutOfMemory (the memory budget, with sizes).</exception>
        public Engine Publish(string name, Skillset skills)
        {
            NotNull(name, nameof(name));
            NotNull(skills, nameof(skills)).Use(s => Use(handle => Native.polyad_engine_publish(handle, name, s)));
            return this;
        }

        /// <summary>Takes a name away; running requests finish.</summary>
        /// <exception cref="PolyadException">NotFound.</exception>
        public void Retire(string name)
        {
            NotNull(name, nameof(name));
            Use(handle => Native.polyad_engine_retire(handle, name));
        }

        /// <summary>Puts a request into the queue.</summary>
        /// <exception cref="PolyadException">QueueFull, NotFound (no such skillset), UnknownTask, ContextOverflow, OutOfMemory (more
        /// than the memory budget), BadData, InvalidArgument.</exception>
        public Answer Submit(Request request)
        {
            NotNull(request, nameof(request));
            var answer = new Answer(this, Use(handle => Make(Native.polyad_request_release, (out IntPtr made) =>
            {
                IntPtr given = IntPtr.Zero;
                request.Use(options => Native.polyad_engine_submit(handle, options, out given));
                made = given;
            })));
            driver.Add(answer);
            return answer;
        }

        /// <summary>Puts a request into the queue and gives its whole answer. Cancelling the token cancels the request.</summary>
        /// <exception cref="PolyadException">As <see cref="Submit"/>, at once; what ended the answer, when awaited.</exception>
        /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
        public Task<AnswerResult> SubmitAsync(Request request, CancellationToken cancellationToken = default(CancellationToken))
        {
            NotNull(request, nameof(request));
            return cancellationToken.IsCancellationRequested
                ? Task.FromCanceled<AnswerResult>(cancellationToken)
                : Submit(request).WaitAsync(cancellationToken);
        }

        /// <summary>Of a manual engine: admits waiting requests and produces one token for every running one.</summary>
        /// <returns>How many requests are still waiting or running.</returns>
        /// <exception cref="PolyadException">WrongState when another thread is stepping.</exception>
        /// <exception cref="InvalidOperationException">The engine steps by itself.</exception>
        public int Step()
        {
            if (!driver.Manual) throw new InvalidOperationException("this engine steps by itself; EngineOptions.Manual makes one to step");
            return Use(handle =>
            {
                Native.polyad_engine_step(handle, out int busy);
                driver.Deliver();
                return busy;
            });
        }

        /// <summary>Published skillsets with versions, queue, rows, tokens, tokens per second, cache use.</summary>
        public Json Stats => AskJson(Native.polyad_engine_stats);

        internal void Wake() => driver.Wake();

        /// <summary>Cancels what is being answered and ends the engine's thread; a step in progress is waited for.</summary>
        internal override void Ending() => driver.Stop();
    }
}
