// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTextsThatCannotBe(t *testing.T) {
	_, err := OpenBackbone("", nil)
	refused(t, err, ErrInvalidArgument, "path")
	_, err = OpenBackbone("a\x00b", nil)
	refused(t, err, ErrInvalidArgument, "NUL")
	_, err = OpenBackbone(filepath.Join(t.TempDir(), "nothing.gguf"), nil)
	refused(t, err, ErrNotFound, "nothing.gguf")
	_, err = OpenBackboneBytes(nil, nil)
	refused(t, err, ErrBadFormat, "")
	_, err = OpenBackboneBytes([]byte("no model at all"), nil)
	refused(t, err, ErrBadFormat, "")
	_, err = OpenDatasetBytes([]byte("{\"task\": 1}\n"), nil)
	refused(t, err, ErrBadData, "1")
	_, err = OpenDataset(strings.Repeat("x", 1<<20), nil)
	if err == nil {
		t.Fatal("a path of a MiB was opened")
	}

	model, tasks := openModel(t), upAndDown(t)
	_, err = model.Tokenize("\xff\xfe")
	refused(t, err, ErrBadData, "")
	ids, err := model.Tokenize("")
	if err != nil || len(ids) != 0 {
		t.Fatal(ids, err)
	}
	ids, err = model.Tokenize("a\x00b") // a text may hold one
	if err != nil || len(ids) == 0 {
		t.Fatal(ids, err)
	}
	huge := strings.Repeat("up ", 1<<16)
	if ids, err = model.Tokenize(huge); err != nil || len(ids) < 1000 {
		t.Fatal(len(ids), err)
	}
	refused(t, model.Logits(nil, "", ids, make([]float32, 1)), ErrInvalidArgument, "1")
	_, err = model.Detokenize([]int32{-1}, false)
	refused(t, err, ErrInvalidArgument, "-1")

	_, err = NewSkillset(model, tasks, Config{"method": "cpoly", "rnk": 8})
	refused(t, err, ErrInvalidConfig, "rnk")
	_, err = NewSkillset(model, tasks, `{"method": `)
	refused(t, err, ErrInvalidConfig, "")
	_, err = NewSkillset(model, tasks, Config{"method": math.Inf(1)})
	refused(t, err, ErrInvalidConfig, "JSON")
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	defer skills.Close()
	_, err = skills.TaskWeights("sideways")
	refused(t, err, ErrUnknownTask, "sideways")
	refused(t, skills.SetParameters([]float32{1, 2}), ErrInvalidArgument, "2")
	refused(t, skills.Save(""), ErrInvalidArgument, "path")
	_, err = LoadSkillsetBytes(model, []byte("no bundle"))
	refused(t, err, ErrBadFormat, "")
	_, err = ImportPEFTSet(model, nil, nil)
	refused(t, err, ErrInvalidArgument, "")
	_, err = ImportPEFTSet(model, []string{"nosuch", "neither"}, nil)
	refused(t, err, ErrNotFound, "nosuch")
	_, err = tasks.Example("up", TrainSplit, 99)
	refused(t, err, ErrInvalidArgument, "2")

	engine, err := NewEngine(model, nil)
	must(t, err)
	defer engine.Close()
	must(t, engine.Publish("words", skills))
	ctx := context.Background()
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: "c", Weights: []float32{1}})
	refused(t, err, ErrInvalidArgument, "1")
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up\x00", Prompt: "c"})
	refused(t, err, ErrInvalidArgument, "NUL")
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: "\xff"})
	refused(t, err, ErrBadData, "")
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: "c", MaxTokens: math.MaxInt})
	refused(t, err, ErrInvalidArgument, "MaxTokens")
	_, err = engine.Submit(ctx, Request{Tokens: []int32{-5}})
	refused(t, err, ErrInvalidArgument, "-5")
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: "c", Stop: []string{"a\x00"}})
	refused(t, err, ErrInvalidArgument, "NUL")
	for _, prompt := range []string{"", "a\x00b"} { // a prompt may be empty, and may hold one
		answer, err := engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: prompt, MaxTokens: 2, IgnoreEOS: true})
		must(t, err)
		result, err := answer.Result()
		must(t, err)
		if len(result.Tokens) != 2 {
			t.Errorf("prompt %q: %v", prompt, result.Tokens)
		}
	}
	name := strings.Repeat("x", 1<<24)
	refused(t, engine.Retire(name), ErrNotFound, "")
	refused(t, engine.Retire(""), ErrInvalidArgument, "")
	_, err = skills.TaskWeights(name)
	refused(t, err, ErrUnknownTask, "")
	_, err = OpenBackbone(modelFile(t), &BackboneOptions{Precision: name})
	refused(t, err, ErrInvalidConfig, "precision")
	if known, err := HasFeature(name); known || err != nil {
		t.Error(known, err)
	}
	_, err = engine.Submit(ctx, Request{Skillset: "words", Task: "up", Prompt: huge})
	refused(t, err, ErrContextOverflow, "")
}

func TestArraysOfTheWrongLength(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	defer skills.Close()
	parameters, err := skills.Parameters()
	must(t, err)
	count := len(parameters)
	for _, wrong := range []int{0, 1, count - 1, count + 1} {
		refused(t, skills.SetParameters(make([]float32, wrong)), ErrInvalidArgument, strconv.Itoa(count))
	}
	info, err := model.Info()
	must(t, err)
	for _, wrong := range []int{0, info.Vocab - 1} {
		refused(t, model.Logits(nil, "", []int32{1}, make([]float32, wrong)), ErrInvalidArgument, "")
	}
	refused(t, model.Logits(nil, "", nil, make([]float32, info.Vocab)), ErrInvalidArgument, "")
	refused(t, model.Logits(nil, "", []int32{1 << 30}, make([]float32, info.Vocab)), ErrInvalidArgument, "")
}

// A sink that panics loses its message, not the program; one that calls the package works.
func TestLogSinkMayPanic(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	must(t, SetLog(func(level LogLevel, text string) {
		mu.Lock()
		seen = append(seen, text)
		mu.Unlock()
		if _, err := Version(); err != nil {
			t.Error(err)
		}
		panic("the host's own trouble")
	}))
	model, tasks := openModel(t), upAndDown(t)
	skills, err := NewSkillset(model, tasks, Config{"method": "cpoly", "rank": 2, "common_skills": 2,
		"prompt": Config{"style": "{instruction} {input} ->"}})
	must(t, err)
	must(t, Train(context.Background(), skills, tasks, Config{"max_steps": 40, "batch_size": 2, "validation_every": 1,
		"early_stop_patience": 1, "learning_rate": 1.0}, nil))
	_, err = OpenDatasetBytes([]byte("{\"task\": \"up\", \"input\": \"a\", \"output\": \"up\"}\nno row\n"), &DatasetOptions{OnBadRow: "skip"})
	must(t, err)
	for i := 0; i < 100; i++ {
		mu.Lock()
		some := len(seen)
		mu.Unlock()
		if some > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	must(t, SetLog(nil))
	mu.Lock()
	defer mu.Unlock()
	if len(seen) == 0 {
		t.Fatal("no message came")
	}
}

// A sink may take itself away, and another may come.
func TestLogSinkMaySilenceItself(t *testing.T) {
	for i := 0; i < 20; i++ {
		told := make(chan string, 1)
		must(t, SetLog(func(level LogLevel, text string) {
			if err := SetLog(nil); err != nil {
				t.Error(err)
			}
			told <- text
		}))
		tasks, err := OpenDatasetBytes([]byte("{\"task\": \"up\", \"input\": \"a\", \"output\": \"up\"}\nno row\n"), &DatasetOptions{OnBadRow: "skip"})
		must(t, err)
		tasks.Close()
		select {
		case text := <-told:
			if !strings.Contains(text, "skipped 1 bad row") {
				t.Fatal(text)
			}
		case <-time.After(time.Minute):
			t.Fatal("no message came")
		}
	}
}

func TestDevices(t *testing.T) {
	devices, err := Devices()
	if err != nil || !strings.Contains(devices, "cpu") {
		t.Fatal(devices, err)
	}
	_, err = NewRuntime(RuntimeOptions{Device: "abacus"})
	refused(t, err, ErrInvalidConfig, "abacus")
	runtime, err := NewRuntime(RuntimeOptions{Device: "cpu", Threads: 1})
	must(t, err)
	must(t, runtime.Close())
}

func TestErrorsHaveCodes(t *testing.T) {
	err := error(&Error{Code: UnknownTask, Message: "unknown task 'x'", Detail: "task x"})
	var detail *Error
	if !errors.Is(err, ErrUnknownTask) || errors.Is(err, ErrNotFound) || !errors.As(err, &detail) || detail.Detail != "task x" {
		t.Fatal(err)
	}
	if UnknownTask.String() != "unknown_task" || Code(12345).String() != "code 12345" {
		t.Fatal(UnknownTask, Code(12345))
	}
}

func TestBundlesAreInspectedAndCarryMetadata(t *testing.T) {
	model, tasks := openModel(t), upAndDown(t)
	skills := trained(t, model, tasks)
	must(t, skills.SetMetadata("owner", Config{"name": "somebody"}))
	path := filepath.Join(t.TempDir(), "words.polyad")
	must(t, skills.Save(path))
	json, err := InspectBundle(path)
	must(t, err)
	for _, word := range []string{`"cpoly"`, `"somebody"`, `"up"`, `"down"`} {
		if !strings.Contains(string(json), word) {
			t.Errorf("%s is missing", word)
		}
	}
	loaded, err := LoadSkillset(model, path)
	must(t, err)
	defer loaded.Close()
	names, err := loaded.TaskNames()
	if err != nil || strings.Join(names, " ") != "up down" && strings.Join(names, " ") != "down up" {
		t.Fatal(names, err)
	}
	bytes, err := loaded.Bytes()
	must(t, err)
	file, err := os.ReadFile(path)
	must(t, err)
	if len(bytes) != len(file) {
		t.Fatalf("%d bytes in memory, %d in the file", len(bytes), len(file))
	}
	evaluator, err := NewEvaluator(model, loaded, tasks, Config{"split": "test", "max_tokens": 4})
	must(t, err)
	defer evaluator.Close()
	_, err = evaluator.Result()
	refused(t, err, ErrWrongState, "")
	must(t, evaluator.Run(context.Background(), nil))
	result, err := evaluator.Result()
	must(t, err)
	if !strings.Contains(string(result), "rouge") {
		t.Fatal(string(result))
	}
	_, err = loaded.Routing(nil, nil)
	must(t, err)
	must(t, loaded.ExportPEFT("up", filepath.Join(t.TempDir(), "up"), nil))
	refused(t, loaded.ExportGGUF("sideways", filepath.Join(t.TempDir(), "x.gguf"), nil), ErrUnknownTask, "sideways")
}
