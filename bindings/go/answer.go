// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"strings"
	"sync"

	"polyad.dev/polyad/internal/native"
)

// AnswerState is where a request stands.
type AnswerState int

// The states of a request.
const (
	AnswerWaiting AnswerState = iota
	AnswerRunning
	AnswerFinished // end token, stop string, or as many tokens as allowed
	AnswerCancelled
	AnswerFailed
	AnswerExpired // its timeout passed
)

// Result is a finished answer.
type Result struct {
	Text         string  `json:"text"`
	Tokens       []int32 `json:"tokens"`
	FinishReason string  `json:"finish_reason"` // "end_token", "stop_string", "max_tokens", ...
	PromptTokens int     `json:"prompt_tokens"`
	CachedTokens int     `json:"cached_tokens"` // of the prompt, found in the prefix cache
	Seconds      float64 `json:"seconds"`       // from Submit to the end
}

// Answer is the answer to a request, while it is made and after. Any number of goroutines may read it; each sees all of it. It ends by
// itself, so closing it is not needed; closing an unfinished one cancels it.
type Answer struct {
	handle *handle
	ctx    context.Context

	mu      sync.Mutex
	changed *sync.Cond
	pieces  []string
	state   AnswerState
	result  *Result
	err     error
	done    chan struct{}
}

func newAnswer(ctx context.Context, handle *handle) *Answer {
	a := &Answer{handle: handle, ctx: ctx, state: AnswerWaiting, done: make(chan struct{})}
	a.changed = sync.NewCond(&a.mu)
	if ctx != nil && ctx.Done() != nil {
		go func() {
			select {
			case <-ctx.Done():
				a.Cancel()
			case <-a.done:
			}
		}()
	}
	return a
}

// poll takes what has become certain; true when the answer is complete. Only the stepping goroutine calls it.
func (a *Answer) poll() bool {
	var text uintptr
	var state int32
	if err := a.handle.use(func(request uintptr) uintptr { return native.Polyad_request_poll(request, &text, &state) }); err != nil {
		a.finish(AnswerCancelled, nil, err)
		return true
	}
	piece, now := takeText(text), AnswerState(state)
	a.mu.Lock()
	if piece != "" {
		a.pieces = append(a.pieces, piece)
	}
	if now < AnswerFinished {
		a.state = now
	}
	a.changed.Broadcast()
	a.mu.Unlock()
	if now < AnswerFinished {
		return false
	}
	var result Result
	json, err := a.handle.text(native.Polyad_request_result)
	if err = decode(json, err, &result); err != nil {
		a.finish(now, nil, err)
		return true
	}
	switch now {
	case AnswerCancelled:
		err = because(a.ctx, &Error{Code: Cancelled, Message: "the request was cancelled"})
	case AnswerExpired:
		err = &Error{Code: Cancelled, Message: "the request's timeout passed", cause: context.DeadlineExceeded}
	}
	a.finish(now, &result, err)
	return true
}

// finish ends the answer; the first end counts.
func (a *Answer) finish(state AnswerState, result *Result, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state >= AnswerFinished {
		return
	}
	a.state, a.result, a.err = state, result, err
	close(a.done)
	a.changed.Broadcast()
	a.handle.close()
}

// Done is closed when the answer has ended.
func (a *Answer) Done() <-chan struct{} {
	if a == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return a.done
}

// State is where the request stands.
func (a *Answer) State() AnswerState {
	if a == nil {
		return AnswerFailed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Text waits for the whole text. A cancelled or expired answer gives what it had, and ErrCancelled.
func (a *Answer) Text() (string, error) {
	result, err := a.Result()
	return result.Text, err
}

// Result waits for the end: the text with its token ids and why it ended.
func (a *Answer) Result() (Result, error) {
	if a == nil {
		return Result{}, invalid("nil: no such answer")
	}
	<-a.done
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result != nil {
		return *a.result, a.err
	}
	return Result{Text: strings.Join(a.pieces, "")}, a.err
}

// Next gives the piece at an index, waiting for it; false where the answer has ended before it.
func (a *Answer) Next(index int) (string, bool) {
	if a == nil || index < 0 {
		return "", false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for index >= len(a.pieces) && a.state < AnswerFinished {
		a.changed.Wait()
	}
	if index < len(a.pieces) {
		return a.pieces[index], true
	}
	return "", false
}

// Pieces streams the text as it is made, from the beginning, until the answer or the context ends; then the channel is closed and Err
// tells whether all of it came. A reader that stops early has to end the context.
func (a *Answer) Pieces(ctx context.Context) <-chan string {
	pieces := make(chan string)
	var stop <-chan struct{}
	if ctx != nil {
		stop = ctx.Done()
	}
	go func() {
		defer close(pieces)
		for i := 0; ; i++ {
			piece, more := a.Next(i)
			if !more {
				return
			}
			select {
			case pieces <- piece:
			case <-stop:
				return
			}
		}
	}()
	return pieces
}

// Err is why the answer ended early; nil while it is made and when it is whole.
func (a *Answer) Err() error {
	if a == nil {
		return invalid("nil: no such answer")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Cancel ends the request before its next token. Any goroutine, any time.
func (a *Answer) Cancel() {
	if a == nil {
		return
	}
	if ticket, err := a.handle.enter(); err == nil {
		native.Polyad_request_cancel(ticket)
		a.handle.leave()
	}
}

// Close cancels the request if it has not ended.
func (a *Answer) Close() error {
	a.Cancel()
	return nil
}
