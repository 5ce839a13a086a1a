// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tests need the shared library (POLYAD_LIBRARY) and the shared fixtures (POLYAD_TEST_SHARED).

func TestMain(m *testing.M) {
	if probe := os.Getenv("POLYAD_TEST_PROBE"); probe != "" {
		os.Exit(runProbe(probe))
	}
	os.Exit(m.Run())
}

func modelFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(os.Getenv("POLYAD_TEST_SHARED"), "fixtures", "gguf", "tiny_llama.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: the shared fixtures are not here (%s)", path)
	}
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openModel(t testing.TB) *Backbone {
	t.Helper()
	model, err := OpenBackbone(modelFile(t), &BackboneOptions{Precision: "fp32"})
	must(t, err)
	t.Cleanup(func() { model.Close() })
	return model
}

// upAndDown is the data of tests/bindings/parity.c.
func upAndDown(t testing.TB) *Dataset {
	t.Helper()
	var lines strings.Builder
	for _, task := range []string{"up", "down"} {
		for _, input := range []string{"a", "b", "c"} {
			split := "train"
			if input == "c" {
				split = "test"
			}
			fmt.Fprintf(&lines, "{\"task\": %q, \"instruction\": \"Say %s.\", \"input\": %q, \"outputs\": [%q], \"split\": %q}\n", task, task,
				input, task, split)
		}
	}
	tasks, err := OpenDatasetBytes([]byte(lines.String()), nil)
	must(t, err)
	t.Cleanup(func() { tasks.Close() })
	return tasks
}

var (
	method = Config{"method": "cpoly", "rank": 4, "common_skills": 2, "seed": 3,
		"prompt": Config{"style": "{instruction} {input} ->"}}
	training = Config{"max_steps": 6, "batch_size": 2, "learning_rate": 0.01, "seed": 5}
)

func trained(t testing.TB, model *Backbone, tasks *Dataset) *Skillset {
	t.Helper()
	skills, err := NewSkillset(model, tasks, method)
	must(t, err)
	t.Cleanup(func() { skills.Close() })
	must(t, Train(context.Background(), skills, tasks, training, nil))
	return skills
}

// refused checks an error's code, and that its text names what it is about.
func refused(t testing.TB, err error, code *Error, word string) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("got %v, wanted %v", err, code.Code)
	}
	var detail *Error
	if errors.As(err, &detail) && !strings.Contains(detail.Message+detail.Detail, word) {
		t.Fatalf("%v does not mention %q", err, word)
	}
}
