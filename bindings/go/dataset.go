// SPDX-License-Identifier: Apache-2.0

package polyad

import "polyad.dev/polyad/internal/native"

// Split is a part of a dataset.
type Split int

// The splits of a dataset.
const (
	TrainSplit Split = iota
	ValidationSplit
	TestSplit
)

// Dataset holds named tasks with examples. Immutable: any number of goroutines may use it at once.
type Dataset struct{ handle *handle }

// DatasetOptions say how to read tasks; nil means the defaults.
type DatasetOptions struct {
	OnBadRow           string   `json:"on_bad_row,omitempty"` // "error" or "skip"
	ValidationFraction *float64 `json:"validation_fraction,omitempty"`
	TestFraction       *float64 `json:"test_fraction,omitempty"`
	Seed               *uint64  `json:"seed,omitempty"`
	MaxExamplesPerTask int      `json:"max_examples_per_task,omitempty"`
	Tasks              []string `json:"tasks,omitempty"` // only these
	Runtime            *Runtime `json:"-"`
}

// OpenDataset reads a Super-NaturalInstructions task file, a JSON Lines file, or a folder of either.
// Errors: ErrNotFound, ErrBadData (file and line), ErrInvalidConfig.
func OpenDataset(path string, options *DatasetOptions) (*Dataset, error) {
	path, err := named("path", path)
	if err != nil {
		return nil, err
	}
	return openDataset(options, func(runtime uintptr, config string, out *uintptr) uintptr {
		return native.Polyad_dataset_open(runtime, path, config, out)
	})
}

// OpenDatasetBytes reads JSON Lines in memory: {"task", "instruction", "input", "output" | "outputs", "split"}.
func OpenDatasetBytes(lines []byte, options *DatasetOptions) (*Dataset, error) {
	return openDataset(options, func(runtime uintptr, config string, out *uintptr) uintptr {
		return native.Polyad_dataset_open_memory(runtime, notEmpty(lines), config, out)
	})
}

func openDataset(options *DatasetOptions, call func(runtime uintptr, config string, out *uintptr) uintptr) (*Dataset, error) {
	var wanted *Runtime
	if options != nil {
		wanted = options.Runtime
	}
	opened, err := openWith(wanted, options, native.Polyad_dataset_release, call)
	if err != nil {
		return nil, err
	}
	return &Dataset{opened}, nil
}

func (d *Dataset) inner() *handle {
	if d == nil {
		return nil
	}
	return d.handle
}

// Close gives the dataset up.
func (d *Dataset) Close() error {
	d.inner().close()
	return nil
}

// TaskInfo describes one task of a dataset.
type TaskInfo struct {
	Name        string   `json:"name"`
	Category    string   `json:"category"`
	Instruction string   `json:"instruction"`
	Labels      []string `json:"labels"`
	Train       int      `json:"train"` // numbers of examples
	Validation  int      `json:"validation"`
	Test        int      `json:"test"`
}

// Tasks describes every task.
func (d *Dataset) Tasks() ([]TaskInfo, error) {
	var info struct {
		Tasks []TaskInfo `json:"tasks"`
	}
	text, err := d.inner().text(native.Polyad_dataset_info)
	err = decode(text, err, &info)
	return info.Tasks, err
}

// Example is one row of a task.
type Example struct {
	ID      string   `json:"id"`
	Input   string   `json:"input"`
	Outputs []string `json:"outputs"`
}

// Example reads one row. Errors: ErrUnknownTask, ErrInvalidArgument (index, with the count).
func (d *Dataset) Example(task string, split Split, index int) (Example, error) {
	var example Example
	task, err := named("task", task)
	if err != nil {
		return example, err
	}
	text, err := d.inner().text(func(ticket uintptr, out *uintptr) uintptr {
		return native.Polyad_dataset_example(ticket, task, int(split), int64(index), out)
	})
	err = decode(text, err, &example)
	return example, err
}
