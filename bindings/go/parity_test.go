// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func floatsLine(what string, values []float32) string {
	hash := uint64(0xcbf29ce484222325)
	for _, value := range values {
		bits := math.Float32bits(value)
		for i := 0; i < 4; i++ {
			hash = (hash ^ uint64(bits>>(8*i)&0xff)) * 0x100000001b3
		}
	}
	return fmt.Sprintf("%s %d %08x %016x\n", what, len(values), math.Float32bits(values[0]), hash)
}

// The same losses, parameters, logits and answers as tests/bindings/parity.c, bit for bit.
func TestParityWithC(t *testing.T) {
	program := os.Getenv("POLYAD_TEST_PARITY")
	if program == "" {
		t.Skip("skipped: POLYAD_TEST_PARITY names no program to compare with")
	}
	file := modelFile(t)
	want, err := exec.Command(program, file).Output()
	must(t, err)

	var got strings.Builder
	model, tasks := openModel(t), upAndDown(t)
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	must(t, Train(context.Background(), skills, tasks, training, func(p Progress) {
		fmt.Fprintf(&got, "loss %d %016x\n", p.Step, math.Float64bits(p.Loss))
	}))
	parameters, err := skills.Parameters()
	must(t, err)
	got.WriteString(floatsLine("parameters", parameters))
	info, err := model.Info()
	must(t, err)
	ids, err := model.Tokenize("Say up. c ->")
	must(t, err)
	logits := make([]float32, info.Vocab)
	must(t, model.Logits(nil, "", ids, logits))
	got.WriteString(floatsLine("logits", logits))
	for _, task := range []string{"up", "down"} {
		must(t, model.Logits(skills, task, ids, logits))
		got.WriteString(floatsLine(task, logits))
	}
	engine, err := NewEngine(model, &EngineOptions{StepByHand: true})
	must(t, err)
	defer engine.Close()
	must(t, engine.Publish("words", skills))
	requests := []Request{
		{Skillset: "words", Task: "up", Prompt: "c", MaxTokens: 12, IgnoreEOS: true},
		{Skillset: "words", Task: "down", Prompt: "c", MaxTokens: 12, IgnoreEOS: true},
		{Tokens: ids, MaxTokens: 12, IgnoreEOS: true, Temperature: 0.8, TopP: 0.9, Seed: 0xfedcba9876543210},
	}
	var answers []*Answer
	for _, request := range requests {
		answer, err := engine.Submit(context.Background(), request)
		must(t, err)
		answers = append(answers, answer)
	}
	for busy := 1; busy > 0; {
		busy, err = engine.Step()
		must(t, err)
	}
	for i, answer := range answers {
		result, err := answer.Result()
		must(t, err)
		fmt.Fprintf(&got, "tokens %d %s\n", i, strings.ReplaceAll(fmt.Sprint(result.Tokens), " ", ","))
	}
	if got.String() != string(want) {
		t.Fatalf("Go:\n%sC:\n%s", got.String(), want)
	}
}

func TestNumbersAreTheHeaders(t *testing.T) {
	for i, pair := range headerNumbers {
		if pair.here != pair.header {
			t.Errorf("entry %d: %d here, %d in polyad.h", i, pair.here, pair.header)
		}
	}
}
