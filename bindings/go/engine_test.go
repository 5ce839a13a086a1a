// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAnswersStreamAndMix(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills := trained(t, model, tasks)
	engine, err := NewEngine(model, &EngineOptions{MaxBatch: 4})
	must(t, err)
	defer engine.Close()
	must(t, engine.Publish("words", skills))
	weights, err := skills.TaskWeights("up")
	must(t, err)
	alone := map[string]string{}
	for _, task := range []string{"up", "down"} {
		answer, err := engine.Submit(context.Background(), Request{Skillset: "words", Task: task, Prompt: "c", MaxTokens: 8, IgnoreEOS: true})
		must(t, err)
		alone[task], err = answer.Text()
		must(t, err)
	}
	var group sync.WaitGroup
	for i := 0; i < 24; i++ {
		task := []string{"up", "down"}[i%2]
		group.Add(1)
		go func(i int) {
			defer group.Done()
			request := Request{Skillset: "words", Task: task, Prompt: "c", MaxTokens: 8, IgnoreEOS: true}
			if i%8 == 7 {
				request.Weights = weights
			}
			answer, err := engine.Submit(context.Background(), request)
			if err != nil {
				t.Error(err)
				return
			}
			var streamed strings.Builder
			for piece := range answer.Pieces(context.Background()) {
				streamed.WriteString(piece)
			}
			text, err := answer.Text()
			if err != nil || answer.Err() != nil || answer.State() != AnswerFinished {
				t.Error(err, answer.Err(), answer.State())
			}
			if streamed.String() != text {
				t.Errorf("streamed %q, whole %q", streamed.String(), text)
			}
			if i%8 != 7 && text != alone[task] {
				t.Errorf("%s: %q in the batch, %q alone", task, text, alone[task])
			}
		}(i)
	}
	group.Wait()
}

func TestContextsEndRequests(t *testing.T) {
	model := openModel(t)
	engine, err := NewEngine(model, nil)
	must(t, err)
	defer engine.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ids, err := model.Tokenize("Say up.")
	must(t, err)
	answer, err := engine.Submit(ctx, Request{Tokens: ids, MaxTokens: 100, IgnoreEOS: true})
	must(t, err)
	cancel()
	if _, err := answer.Text(); err != nil && (!errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled)) {
		t.Fatal(err)
	}
	if _, err := engine.Submit(ctx, Request{Tokens: ids}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	late, err := engine.Submit(context.Background(), Request{Tokens: ids, MaxTokens: 100, IgnoreEOS: true, Timeout: time.Nanosecond})
	must(t, err)
	if _, err := late.Text(); !errors.Is(err, context.DeadlineExceeded) || late.State() != AnswerExpired {
		t.Fatal(err, late.State())
	}
	_, err = engine.Step()
	refused(t, err, ErrWrongState, "steps by itself")
}

func TestClosingAnEngineEndsItsAnswers(t *testing.T) {
	model := openModel(t)
	engine, err := NewEngine(model, nil)
	must(t, err)
	ids, err := model.Tokenize("Say up.")
	must(t, err)
	var answers []*Answer
	for i := 0; i < 8; i++ {
		answer, err := engine.Submit(context.Background(), Request{Tokens: ids, MaxTokens: 80, IgnoreEOS: true})
		must(t, err)
		answers = append(answers, answer)
	}
	var group sync.WaitGroup
	for i := 0; i < 3; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			engine.Close()
		}()
	}
	group.Wait()
	for _, answer := range answers {
		if _, err := answer.Text(); err != nil && !errors.Is(err, ErrCancelled) && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if _, err := engine.Submit(context.Background(), Request{Tokens: ids}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestFullQueueAndRetiredSkillset(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills := trained(t, model, tasks)
	engine, err := NewEngine(model, &EngineOptions{MaxQueue: 1, StepByHand: true})
	must(t, err)
	defer engine.Close()
	must(t, engine.Publish("words", skills))
	request := Request{Skillset: "words", Task: "up", Prompt: "c", MaxTokens: 2}
	first, err := engine.Submit(context.Background(), request)
	must(t, err)
	_, err = engine.Submit(context.Background(), request)
	refused(t, err, ErrQueueFull, "1")
	must(t, engine.Retire("words"))
	refused(t, engine.Retire("words"), ErrNotFound, "words")
	for busy := 1; busy > 0; { // what was submitted before still finishes
		busy, err = engine.Step()
		must(t, err)
	}
	_, err = first.Text()
	must(t, err)
	_, err = engine.Submit(context.Background(), request)
	refused(t, err, ErrNotFound, "words")
	must(t, engine.Publish("words", skills))
	request.Task = "sideways"
	_, err = engine.Submit(context.Background(), request)
	refused(t, err, ErrUnknownTask, "sideways")
}
