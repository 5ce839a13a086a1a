// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"encoding/json"
	"math"
	"sync"
	"time"

	"polyad.dev/polyad/internal/native"
)

// EngineOptions say how to serve; nil or zero fields mean the library's defaults.
type EngineOptions struct {
	MaxBatch      int   // rows decoded together
	MaxQueue      int   // waiting requests before Submit gives ErrQueueFull
	MaxContext    int   // tokens one row may reach, prompt and answer
	MemoryBudget  int64 // bytes for published skillsets and cached keys and values together
	Threads       int   // worker threads of the engine's steps
	NoPrefixCache bool  // compute every prompt from its beginning
	MergeHotTask  bool  // merge a task that is all the traffic into a copy of the weights
	StepByHand    bool  // the caller steps the engine; nothing is answered otherwise
}

// Engine serves many requests over one backbone; every request of a batch may use another skillset, task or mix. It steps by itself, on
// one goroutine that sleeps while there is nothing to do (StepByHand: the caller does). Any number of goroutines may use it at once.
type Engine struct {
	handle *handle
	byHand bool

	mu      sync.Mutex
	active  map[*Answer]struct{}
	running bool // a goroutine steps
	closed  bool
	idle    chan struct{} // closed when no goroutine steps any more
}

// NewEngine makes an engine. Errors: ErrInvalidArgument.
func NewEngine(model *Backbone, options *EngineOptions) (*Engine, error) {
	if err := ready(); err != nil {
		return nil, err
	}
	var o EngineOptions
	if options != nil {
		o = *options
	}
	raw := native.NewPolyad_engine_options()
	defer native.DeletePolyad_engine_options(raw)
	for _, field := range []struct {
		name  string
		value int
		set   func(int)
	}{
		{"MaxBatch", o.MaxBatch, raw.SetMax_batch},
		{"MaxQueue", o.MaxQueue, raw.SetMax_queue},
		{"MaxContext", o.MaxContext, raw.SetMax_context},
		{"Threads", o.Threads, raw.SetThreads},
	} {
		value, err := int32Of(field.name, field.value)
		if err != nil {
			return nil, err
		}
		if value != 0 {
			field.set(value)
		}
	}
	raw.SetMemory_budget(o.MemoryBudget)
	if o.NoPrefixCache {
		raw.SetPrefix_cache(0)
	}
	raw.SetMerge_hot_task(number(o.MergeHotTask))
	var ticket uintptr
	if err := model.inner().use(func(m uintptr) uintptr { return native.Polyad_engine_create(m, raw, &ticket) }); err != nil {
		return nil, err
	}
	return &Engine{handle: newHandle(ticket, native.Polyad_engine_release), byHand: o.StepByHand, active: map[*Answer]struct{}{}}, nil
}

func (e *Engine) inner() *handle {
	if e == nil {
		return nil
	}
	return e.handle
}

// Publish makes a snapshot of a skillset answer to a name, in place of an earlier version: running requests finish on what they began
// with. Errors: ErrBackboneMismatch, ErrOutOfMemory.
func (e *Engine) Publish(name string, skills *Skillset) error {
	name, err := named("name", name)
	if err != nil {
		return err
	}
	return use2(e.inner(), skills.inner(), false, func(engine, s uintptr) uintptr { return native.Polyad_engine_publish(engine, name, s) })
}

// Retire takes a name away; running requests finish. Errors: ErrNotFound.
func (e *Engine) Retire(name string) error {
	name, err := named("name", name)
	if err != nil {
		return err
	}
	return e.inner().use(func(engine uintptr) uintptr { return native.Polyad_engine_retire(engine, name) })
}

// Stats is JSON: published skillsets, queue, rows, tokens, memory.
func (e *Engine) Stats() (json.RawMessage, error) {
	text, err := e.inner().text(native.Polyad_engine_stats)
	return json.RawMessage(text), err
}

// Request is what to answer and how. Zero fields mean the library's defaults.
type Request struct {
	Skillset string    // published name; "" = the backbone alone
	Task     string    // required by methods that route by task unless Weights are given
	Prompt   string    // the example's input, put into the task's prompt
	Tokens   []int32   // or a finished prompt as token ids
	Weights  []float32 // explicit skill weights instead of the router's
	// Intuition is MoR1E's scores of the prompt where the host brings its own.
	Intuition         []float32
	MaxTokens         int     // 0 = 64
	Temperature       float32 // 0 = greedy
	TopK              int     // 0 = off
	TopP              float32 // 0 or 1 = off
	RepetitionPenalty float32 // 0 or 1 = off
	Seed              uint64
	Stop              []string // the answer ends before the first of these
	IgnoreEOS         bool     // go on after the end token
	Timeout           time.Duration
	Priority          int // higher ones come first
}

func (r *Request) fill(raw native.Polyad_request_options) error {
	ok := true
	for _, field := range []struct {
		name, value string
		set         func(string)
	}{{"Skillset", r.Skillset, raw.SetSkillset}, {"Task", r.Task, raw.SetTask}} {
		value, err := checked(field.name, field.value)
		if err != nil {
			return err
		}
		if value != "" {
			field.set(value)
		}
	}
	if r.Prompt != "" || len(r.Tokens) == 0 {
		ok = raw.Set_prompt(r.Prompt) != 0
	}
	if len(r.Tokens) > 0 {
		ok = ok && raw.Set_tokens(r.Tokens) != 0
	}
	if len(r.Weights) > 0 {
		ok = ok && raw.Set_weights(r.Weights) != 0
	}
	if len(r.Intuition) > 0 {
		ok = ok && raw.Set_intuition(r.Intuition) != 0
	}
	for _, stop := range r.Stop {
		stop, err := named("Stop", stop)
		if err != nil {
			return err
		}
		ok = ok && raw.Add_stop(stop) != 0
	}
	if !ok {
		return &Error{Code: OutOfMemory, Message: "no memory for the request"}
	}
	for _, field := range []struct {
		name  string
		value int
		set   func(int)
	}{{"MaxTokens", r.MaxTokens, raw.SetMax_tokens}, {"TopK", r.TopK, raw.SetTop_k}, {"Priority", r.Priority, raw.SetPriority}} {
		value, err := int32Of(field.name, field.value)
		if err != nil {
			return err
		}
		if value != 0 {
			field.set(value)
		}
	}
	raw.SetTemperature(r.Temperature)
	if r.TopP != 0 {
		raw.SetTop_p(r.TopP)
	}
	if r.RepetitionPenalty != 0 {
		raw.SetRepetition_penalty(r.RepetitionPenalty)
	}
	raw.SetSeed(r.Seed)
	raw.SetIgnore_eos(number(r.IgnoreEOS))
	if r.Timeout < 0 {
		return invalid("Timeout: %v is negative", r.Timeout)
	}
	raw.SetTimeout(math.Max(r.Timeout.Seconds(), 0))
	return nil
}

// Submit queues a request and gives its answer in the making. When the context ends, the request is cancelled.
// Errors: ErrQueueFull, ErrNotFound (skillset), ErrUnknownTask, ErrContextOverflow, ErrOutOfMemory, ErrBadData, ErrInvalidArgument.
func (e *Engine) Submit(ctx context.Context, request Request) (*Answer, error) {
	if e == nil {
		return nil, invalid("nil: this engine was never made")
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	raw := native.NewPolyad_request_options()
	defer native.DeletePolyad_request_options(raw)
	if err := request.fill(raw); err != nil {
		return nil, err
	}
	var ticket uintptr
	if err := e.handle.use(func(engine uintptr) uintptr { return native.Polyad_engine_submit(engine, raw, &ticket) }); err != nil {
		return nil, err
	}
	answer := newAnswer(ctx, newHandle(ticket, native.Polyad_request_release))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		answer.Cancel()
		answer.finish(AnswerCancelled, nil, ErrClosed)
		return nil, ErrClosed
	}
	e.active[answer] = struct{}{}
	if !e.byHand && !e.running {
		e.running = true
		e.idle = make(chan struct{})
		go e.serve()
	}
	return answer, nil
}

// Step of an engine that is stepped by hand: admits waiting requests and produces one token for every running one. Gives how many still
// wait or run. Errors: ErrWrongState (another goroutine steps, or the engine steps by itself).
func (e *Engine) Step() (int, error) {
	if e == nil {
		return 0, invalid("nil: this engine was never made")
	}
	if !e.byHand {
		return 0, &Error{Code: WrongState, Message: "this engine steps by itself; EngineOptions.StepByHand makes one that does not"}
	}
	return e.step()
}

func (e *Engine) step() (int, error) {
	var busy int32
	err := e.handle.use(func(engine uintptr) uintptr { return native.Polyad_engine_step(engine, &busy) })
	if err != nil {
		return 0, err
	}
	for _, answer := range e.answers() {
		if answer.poll() {
			e.forget(answer)
		}
	}
	return int(busy), nil
}

func (e *Engine) answers() []*Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*Answer, 0, len(e.active))
	for answer := range e.active {
		all = append(all, answer)
	}
	return all
}

func (e *Engine) forget(answer *Answer) {
	e.mu.Lock()
	delete(e.active, answer)
	e.mu.Unlock()
}

// serve steps while there is something to answer. A step that fails has answered nobody: everything in the making ends with its error.
func (e *Engine) serve() {
	for {
		_, err := e.step()
		if err != nil {
			for _, answer := range e.answers() {
				answer.Cancel()
				answer.finish(AnswerFailed, nil, err)
				e.forget(answer)
			}
		}
		e.mu.Lock()
		if e.closed || len(e.active) == 0 {
			e.running = false
			close(e.idle)
			e.mu.Unlock()
			return
		}
		e.mu.Unlock()
	}
}

// Close cancels what is being answered and gives the engine up; it waits for a step that runs.
func (e *Engine) Close() error {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	first, idle := !e.closed, e.idle
	e.closed = true
	e.mu.Unlock()
	if !first {
		return nil
	}
	for _, answer := range e.answers() {
		answer.Cancel()
	}
	if idle != nil {
		<-idle
	}
	for _, answer := range e.answers() {
		answer.finish(AnswerCancelled, nil, &Error{Code: Cancelled, Message: "the engine was closed"})
		e.forget(answer)
	}
	e.handle.close()
	return nil
}
