// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"

	"polyad.dev/polyad/internal/native"
)

// Progress tells how far a trainer or evaluator is.
type Progress struct {
	Step, TotalSteps                   int64 // an evaluator counts examples
	Epoch                              float64
	Loss                               float64 // mean negative log likelihood per answer token of the last step
	LearningRate                       float64 // of the skills group
	GradientNorm                       float64 // before clipping
	ValidationLoss, BestValidationLoss float64 // NaN before the first
	Tokens                             int64   // real tokens processed so far
	TokensPerSecond, SecondsLeft       float64 // recent; NaN while unknown
	TruncatedRows                      int64   // prompts that were cut on the left
	Done, StoppedEarly                 bool
}

func progressOf(raw native.Polyad_progress) Progress {
	return Progress{
		Step: raw.GetStep(), TotalSteps: raw.GetTotal_steps(), Epoch: raw.GetEpoch(), Loss: raw.GetLoss(),
		LearningRate: raw.GetLearning_rate(), GradientNorm: raw.GetGradient_norm(), ValidationLoss: raw.GetValidation_loss(),
		BestValidationLoss: raw.GetBest_validation_loss(), Tokens: raw.GetTokens(), TokensPerSecond: raw.GetTokens_per_second(),
		SecondsLeft: raw.GetSeconds_left(), TruncatedRows: raw.GetTruncated_rows(), Done: raw.GetDone() != 0,
		StoppedEarly: raw.GetStopped_early() != 0,
	}
}

// stepper is what a trainer and an evaluator have in common.
type stepper struct {
	handle *handle
	late   atomic.Bool // a cancel came when its step had just ended: it will hit the next one, which is not meant
	step   func(ticket uintptr, progress native.Polyad_progress) uintptr
	cancel func(ticket uintptr)
}

// next does one piece of work, cancelled when the context ends.
func (s *stepper) next(ctx context.Context) (Progress, error) {
	if s == nil || s.handle == nil {
		return Progress{}, invalid("nil: this value was never made")
	}
	if err := ended(ctx); err != nil {
		return Progress{}, err
	}
	raw := native.NewPolyad_progress()
	defer native.DeletePolyad_progress(raw)
	for {
		stop := s.cancelWith(ctx)
		err := s.handle.use(func(ticket uintptr) uintptr { return s.step(ticket, raw) })
		cancelled := stop()
		if err == nil {
			s.late.Store(cancelled)
			break
		}
		if errors.Is(err, ErrCancelled) && s.late.Swap(false) && !cancelled {
			continue
		}
		return Progress{}, because(ctx, err)
	}
	return progressOf(raw), nil
}

// run steps until everything is done.
func (s *stepper) run(ctx context.Context, report func(Progress)) error {
	for {
		progress, err := s.next(ctx)
		if err != nil {
			return err
		}
		if report != nil {
			report(progress)
		}
		if progress.Done {
			return nil
		}
	}
}

// stop cancels the step in progress, or the next one.
func (s *stepper) stop() {
	if s == nil {
		return
	}
	if ticket, err := s.handle.enter(); err == nil {
		s.cancel(ticket)
		s.handle.leave()
	}
}

// cancelWith watches the context while a call runs; what it returns ends the watch and tells whether it cancelled.
func (s *stepper) cancelWith(ctx context.Context) (stop func() (cancelled bool)) {
	if ctx == nil || ctx.Done() == nil {
		return func() bool { return false }
	}
	quit, over := make(chan struct{}), make(chan bool, 1)
	go func() {
		select {
		case <-ctx.Done():
			s.stop()
			over <- true
		case <-quit:
			over <- false
		}
	}()
	return func() bool {
		close(quit)
		return <-over
	}
}

func ended(ctx context.Context) error {
	if ctx == nil || ctx.Err() == nil {
		return nil
	}
	return &Error{Code: Cancelled, Message: ctx.Err().Error(), cause: ctx.Err()}
}

// because adds the context's own error to a cancellation.
func because(ctx context.Context, err error) error {
	if failed, ok := err.(*Error); ok && failed.Code == Cancelled && ctx != nil && ctx.Err() != nil {
		failed.cause = ctx.Err()
	}
	return err
}

// close gives it up; a step that runs ends first.
func (s *stepper) close() error {
	if s != nil {
		s.handle.close()
	}
	return nil
}

// Trainer trains a skillset on a dataset by steps. One caller at a time; Cancel and Close from any goroutine.
type Trainer struct{ work stepper }

// NewTrainer prepares training. config: {"epochs" | "max_steps", "batch_size", "learning_rate", ...} or nil.
// Errors: ErrInvalidConfig, ErrBadData (empty task, answer too long), ErrUnknownTask.
func NewTrainer(skills *Skillset, tasks *Dataset, config any) (*Trainer, error) {
	text, err := configText(config)
	if err != nil {
		return nil, err
	}
	var ticket uintptr
	err = use2(skills.inner(), tasks.inner(), false, func(s, data uintptr) uintptr {
		return native.Polyad_trainer_create(s, data, text, &ticket)
	})
	if err != nil {
		return nil, err
	}
	return &Trainer{stepper{handle: newHandle(ticket, native.Polyad_trainer_release), step: native.Polyad_trainer_step,
		cancel: native.Polyad_trainer_cancel}}, nil
}

// Train is the short form: a trainer, run to its end.
func Train(ctx context.Context, skills *Skillset, tasks *Dataset, config any, report func(Progress)) error {
	trainer, err := NewTrainer(skills, tasks, config)
	if err != nil {
		return err
	}
	defer trainer.Close()
	return trainer.Run(ctx, report)
}

func (t *Trainer) inner() *handle {
	if t == nil {
		return nil
	}
	return t.work.handle
}

func (t *Trainer) stepper() *stepper {
	if t == nil {
		return nil
	}
	return &t.work
}

// Step does one optimiser step; one that fails leaves the parameters as they were. When the context ends meanwhile, it is cancelled and gives ErrCancelled, which wraps the context's own error; the
// next Step goes on where it was.
func (t *Trainer) Step(ctx context.Context) (Progress, error) { return t.stepper().next(ctx) }

// Run steps until everything is done, telling each step's progress; `report` may be nil.
func (t *Trainer) Run(ctx context.Context, report func(Progress)) error {
	return t.stepper().run(ctx, report)
}

// Cancel makes the step in progress (or the next one) give ErrCancelled. Any goroutine, any time.
func (t *Trainer) Cancel() { t.stepper().stop() }

// Close gives it up; a step that runs ends first.
func (t *Trainer) Close() error { return t.stepper().close() }

// SaveCheckpoint writes everything needed to go on bit for bit. Atomic.
func (t *Trainer) SaveCheckpoint(path string) error {
	path, err := named("path", path)
	if err != nil {
		return err
	}
	return t.inner().use(func(ticket uintptr) uintptr { return native.Polyad_trainer_save_checkpoint(ticket, path) })
}

// Resume continues from a checkpoint of the same skillset configuration, data and training configuration.
func (t *Trainer) Resume(path string) error {
	path, err := named("path", path)
	if err != nil {
		return err
	}
	return t.inner().use(func(ticket uintptr) uintptr { return native.Polyad_trainer_resume(ticket, path) })
}

// Report is JSON: the configuration with all defaults, the history of losses.
func (t *Trainer) Report() (json.RawMessage, error) {
	text, err := t.inner().text(native.Polyad_trainer_report)
	return json.RawMessage(text), err
}

// Evaluator scores a skillset on a dataset. One caller at a time; Cancel and Close from any goroutine.
type Evaluator struct{ work stepper }

// NewEvaluator prepares scoring; skills nil = the model alone, with the same prompts. config: {"split", "mode", "max_tokens",
// "batch_size", "max_examples_per_task", ...} or nil.
func NewEvaluator(model *Backbone, skills *Skillset, tasks *Dataset, config any) (*Evaluator, error) {
	text, err := configText(config)
	if err != nil {
		return nil, err
	}
	data, err := tasks.inner().enter()
	if err != nil {
		return nil, err
	}
	defer tasks.inner().leave()
	var ticket uintptr
	err = use2(model.inner(), skills.inner(), true, func(m, s uintptr) uintptr {
		return native.Polyad_evaluator_create(m, s, data, text, &ticket)
	})
	if err != nil {
		return nil, err
	}
	return &Evaluator{stepper{handle: newHandle(ticket, native.Polyad_evaluator_release), step: native.Polyad_evaluator_step,
		cancel: native.Polyad_evaluator_cancel}}, nil
}

func (e *Evaluator) inner() *handle {
	if e == nil {
		return nil
	}
	return e.work.handle
}

func (e *Evaluator) stepper() *stepper {
	if e == nil {
		return nil
	}
	return &e.work
}

// Step does one batch of examples. When the context ends meanwhile, it is cancelled and gives ErrCancelled, which wraps the context's own error; the
// next Step goes on where it was.
func (e *Evaluator) Step(ctx context.Context) (Progress, error) { return e.stepper().next(ctx) }

// Run steps until everything is done, telling each step's progress; `report` may be nil.
func (e *Evaluator) Run(ctx context.Context, report func(Progress)) error {
	return e.stepper().run(ctx, report)
}

// Cancel makes the step in progress (or the next one) give ErrCancelled. Any goroutine, any time.
func (e *Evaluator) Cancel() { e.stepper().stop() }

// Close gives it up; a step that runs ends first.
func (e *Evaluator) Close() error { return e.stepper().close() }

// Result is JSON: exact match and ROUGE-L (0..100) overall, per category and per task. Errors: ErrWrongState before the end.
func (e *Evaluator) Result() (json.RawMessage, error) {
	text, err := e.inner().text(native.Polyad_evaluator_result)
	return json.RawMessage(text), err
}

// Table is the same as an aligned table for people.
func (e *Evaluator) Table() (string, error) { return e.inner().text(native.Polyad_evaluator_table) }
