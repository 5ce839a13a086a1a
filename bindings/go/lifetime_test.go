// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func residentBytes(t testing.TB) int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("skipped: no /proc/self/statm here")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	must(t, err)
	return pages * int64(os.Getpagesize())
}

// 100,000 objects made and closed do not let the memory grow.
func TestCreateAndCloseDoNotGrow(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	line := []byte(`{"task": "up", "input": "a", "output": "up"}` + "\n")
	engine, err := NewEngine(model, &EngineOptions{StepByHand: true})
	must(t, err)
	defer engine.Close()
	request := Request{Tokens: []int32{1, 2, 3}, Stop: []string{"one", "two"}, MaxTokens: 1}
	for _, kind := range []struct {
		name  string
		times int
		make  func() (io.Closer, error)
	}{
		{"datasets", 60000, func() (io.Closer, error) { return OpenDatasetBytes(line, nil) }},
		{"runtimes", 20000, func() (io.Closer, error) { return NewRuntime(RuntimeOptions{Threads: 1}) }},
		{"requests", 18000, func() (io.Closer, error) {
			answer, err := engine.Submit(context.Background(), request)
			if err == nil {
				answer.Cancel()
				_, err = engine.Step()
			}
			return answer, err
		}},
		{"skillsets", 2000, func() (io.Closer, error) { return NewSkillset(model, tasks, method) }},
	} {
		half := func() int64 {
			for i := 0; i < kind.times/2; i++ {
				made, err := kind.make()
				must(t, err)
				must(t, made.Close())
			}
			runtime.GC()
			return residentBytes(t)
		}
		before := half()
		if grown := half() - before; grown > 16<<20 {
			t.Errorf("%d bytes more after %d %s", grown, kind.times/2, kind.name)
		}
	}
}

// What nobody closes goes with the garbage collector, while others work.
func TestGarbageCollectorUnderStress(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	var group sync.WaitGroup
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < 20; i++ {
				skills, err := NewSkillset(model, tasks, method) // never closed
				if err != nil {
					t.Error(err)
					return
				}
				engine, err := NewEngine(model, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := engine.Publish("s", skills); err != nil {
					t.Error(err)
				}
				answer, err := engine.Submit(context.Background(), Request{Skillset: "s", Task: "up", Prompt: "c", MaxTokens: 2})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := answer.Text(); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					engine.Close()
				}
			}
		}()
	}
	group.Wait()
	close(stop)
}

func TestClosedTwiceUsedAfterAndParentsFirst(t *testing.T) {
	model, err := OpenBackbone(modelFile(t), nil)
	must(t, err)
	tasks := upAndDown(t)
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	must(t, model.Close()) // the skillset keeps it
	must(t, model.Close())
	if _, err := model.Info(); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrWrongState) {
		t.Fatalf("used after close: %v", err)
	}
	trainer, err := NewTrainer(skills, tasks, training)
	must(t, err)
	must(t, skills.Close())
	must(t, tasks.Close())
	progress, err := trainer.Step(context.Background())
	must(t, err)
	if progress.Step != 1 || progress.TotalSteps != 6 {
		t.Fatalf("%+v", progress)
	}
	must(t, trainer.Close())
	must(t, trainer.Close())
	if _, err := trainer.Step(context.Background()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	for _, closer := range []interface{ Close() error }{(*Backbone)(nil), (*Dataset)(nil), (*Skillset)(nil), (*Engine)(nil), (*Trainer)(nil),
		(*Evaluator)(nil), (*Answer)(nil), (*Runtime)(nil)} {
		must(t, closer.Close())
	}
	_, err = (*Backbone)(nil).Info()
	refused(t, err, ErrInvalidArgument, "nil")
	_, err = NewSkillset(nil, nil, nil)
	refused(t, err, ErrInvalidArgument, "nil")
	_, err = (*Trainer)(nil).Step(context.Background())
	refused(t, err, ErrInvalidArgument, "nil")
	_, err = (*Engine)(nil).Submit(context.Background(), Request{})
	refused(t, err, ErrInvalidArgument, "nil")
}

func TestManyGoroutinesOnOneBackboneAndSkillset(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills := trained(t, model, tasks)
	info, err := model.Info()
	must(t, err)
	ids, err := model.Tokenize("Say up. c ->")
	must(t, err)
	want := make([]float32, info.Vocab)
	must(t, model.Logits(skills, "up", ids, want))
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			got := make([]float32, info.Vocab)
			for round := 0; round < 5; round++ {
				if err := model.Logits(skills, "up", ids, got); err != nil {
					t.Error(err)
					return
				}
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("logit %d differs", i)
						return
					}
				}
			}
		}()
	}
	group.Wait()

	// Two callers of one trainer: one of them is told so, and nothing else happens.
	trainer, err := NewTrainer(skills, tasks, Config{"max_steps": 100000, "batch_size": 2})
	must(t, err)
	defer trainer.Close()
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < 10; round++ {
				if _, err := trainer.Step(context.Background()); err != nil && !errors.Is(err, ErrWrongState) {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
}

func TestCancelFromElsewhere(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	trainer, err := NewTrainer(skills, tasks, Config{"max_steps": 1000000, "batch_size": 2})
	must(t, err)
	defer trainer.Close()
	ctx, cancel := context.WithCancel(context.Background())
	steps := 0
	err = trainer.Run(ctx, func(Progress) {
		if steps++; steps == 3 {
			go cancel()
		}
	})
	if !errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := trainer.Step(context.Background()); err != nil { // and goes on
		t.Fatal(err)
	}
}

// Calls that fail in the middle of a training leave it and its checkpoint as they were.
func TestAFailingCallLosesNothing(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	want, err := trained(t, model, tasks).Parameters()
	must(t, err)
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	defer skills.Close()
	trainer, err := NewTrainer(skills, tasks, training)
	must(t, err)
	defer trainer.Close()
	step := func() {
		_, err := trainer.Step(context.Background())
		must(t, err)
	}
	step()
	step()
	path := filepath.Join(t.TempDir(), "checkpoint")
	must(t, trainer.SaveCheckpoint(path))
	before, err := os.ReadFile(path)
	must(t, err)
	refused(t, trainer.SaveCheckpoint(filepath.Join(t.TempDir(), "no", "such", "folder")), ErrIO, "folder")
	refused(t, trainer.SaveCheckpoint("a\x00b"), ErrInvalidArgument, "NUL")
	refused(t, trainer.Resume(filepath.Join(t.TempDir(), "nosuch")), ErrNotFound, "nosuch")
	refused(t, trainer.Resume(modelFile(t)), ErrBadFormat, "")
	after, err := os.ReadFile(path)
	must(t, err)
	if string(before) != string(after) {
		t.Fatal("the checkpoint changed")
	}
	step()
	must(t, trainer.Resume(path))
	must(t, trainer.Run(context.Background(), nil))
	got, err := skills.Parameters()
	must(t, err)
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("parameter %d is %v, without the failing calls %v", i, got[i], want[i])
		}
	}
	_, err = trainer.Step(context.Background())
	refused(t, err, ErrWrongState, "")
}
