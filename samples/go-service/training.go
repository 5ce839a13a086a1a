// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"math"
	"sync"

	"polyad.dev/polyad"
)

const (
	stateRunning   = "running"
	stateDone      = "done"
	stateCancelled = "cancelled"
	stateFailed    = "failed"
)

// runStatus is how a training stands.
type runStatus struct {
	Version         int      `json:"version"`
	State           string   `json:"state"`
	Step            int64    `json:"step"`
	TotalSteps      int64    `json:"total_steps"`
	Loss            float64  `json:"loss"`
	TokensPerSecond float64  `json:"tokens_per_second"`
	SecondsLeft     *float64 `json:"seconds_left"`
	Error           string   `json:"error,omitempty"`
}

// trainingRun is one training in the background: its progress for whoever asks or waits, and at the end a new bundle.
type trainingRun struct {
	version int
	cancel  context.CancelFunc
	over    chan struct{} // closed at its end

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	now     runStatus
}

// startTraining starts it; the skillset and the rows are the run's own from here on, unless it fails.
func startTraining(version int, base *polyad.Skillset, rows *polyad.Dataset, file string, steps int, learningRate float64) (*trainingRun, error) {
	trainer, err := polyad.NewTrainer(base, rows, polyad.Config{"max_steps": steps, "batch_size": 8, "learning_rate": learningRate,
		"validation_examples": 0})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &trainingRun{version: version, cancel: cancel, over: make(chan struct{}), changed: make(chan struct{}),
		now: runStatus{Version: version, State: stateRunning, TotalSteps: int64(steps)}}
	go func() {
		defer close(run.over)
		defer rows.Close()
		defer base.Close()
		defer trainer.Close()
		err := trainer.Run(ctx, run.progress)
		if err == nil {
			err = base.Save(file) // readers see no file or a whole one
		}
		run.end(err)
	}()
	return run, nil
}

func (r *trainingRun) update(change func(*runStatus)) {
	r.mu.Lock()
	change(&r.now)
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
}

func (r *trainingRun) progress(p polyad.Progress) {
	r.update(func(now *runStatus) {
		now.Step, now.TotalSteps, now.Loss, now.TokensPerSecond = p.Step, p.TotalSteps, p.Loss, p.TokensPerSecond
		now.SecondsLeft = nil
		if !math.IsNaN(p.SecondsLeft) {
			now.SecondsLeft = &p.SecondsLeft
		}
	})
}

func (r *trainingRun) end(err error) {
	r.update(func(now *runStatus) {
		switch {
		case err == nil:
			now.State = stateDone
		case errors.Is(err, polyad.ErrCancelled):
			now.State = stateCancelled
		default:
			now.State, now.Error = stateFailed, err.Error()
		}
	})
}

func (r *trainingRun) status() runStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// next waits until there is something newer than a step, or the run or the context has ended.
func (r *trainingRun) next(ctx context.Context, seen int64) runStatus {
	for {
		r.mu.Lock()
		now, changed := r.now, r.changed
		r.mu.Unlock()
		if now.State != stateRunning || now.Step > seen || ctx.Err() != nil {
			return now
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
