// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"encoding/json"
	"strings"

	"polyad.dev/polyad/internal/native"
)

// Skillset is skills, their router, the task table and the method's configuration: what is trained, saved and published. Reading calls
// may come from many goroutines at once; changing calls and a trainer's step hold it exclusively (ErrWrongState otherwise).
type Skillset struct{ handle *handle }

func skillsetOf(owner *handle, call func(owner uintptr, out *uintptr) uintptr) (*Skillset, error) {
	var ticket uintptr
	if err := owner.use(func(o uintptr) uintptr { return call(o, &ticket) }); err != nil {
		return nil, err
	}
	return &Skillset{newHandle(ticket, native.Polyad_skillset_release)}, nil
}

// NewSkillset makes fresh skills for a dataset's tasks. config: {"method": "lora" | "poly" | "cpoly" | ..., "rank", "target_modules",
// ...}, nil = plain LoRA with defaults. Errors: ErrInvalidConfig, naming the key and what is allowed.
func NewSkillset(model *Backbone, tasks *Dataset, config any) (*Skillset, error) {
	text, err := configText(config)
	if err != nil {
		return nil, err
	}
	data, err := tasks.inner().enter()
	if err != nil {
		return nil, err
	}
	defer tasks.inner().leave()
	return skillsetOf(model.inner(), func(m uintptr, out *uintptr) uintptr { return native.Polyad_skillset_create(m, data, text, out) })
}

// LoadSkillset reads a bundle. Errors: ErrBackboneMismatch (both names), ErrBadFormat (field and offset), ErrUnsupported, ErrNotFound.
func LoadSkillset(model *Backbone, path string) (*Skillset, error) {
	path, err := named("path", path)
	if err != nil {
		return nil, err
	}
	return skillsetOf(model.inner(), func(m uintptr, out *uintptr) uintptr { return native.Polyad_skillset_load(m, path, out) })
}

// LoadSkillsetBytes reads a bundle in memory.
func LoadSkillsetBytes(model *Backbone, bundle []byte) (*Skillset, error) {
	return skillsetOf(model.inner(), func(m uintptr, out *uintptr) uintptr {
		return native.Polyad_skillset_load_memory(m, notEmpty(bundle), out)
	})
}

// ImportPEFT makes a skillset of a Hugging Face PEFT folder. options: {"tasks": names, "prompt": {...}} or nil.
func ImportPEFT(model *Backbone, folder string, options any) (*Skillset, error) {
	text, err := configText(options)
	if err != nil {
		return nil, err
	}
	if folder, err = named("folder", folder); err != nil {
		return nil, err
	}
	return skillsetOf(model.inner(), func(m uintptr, out *uintptr) uintptr { return native.Polyad_skillset_import_peft(m, folder, text, out) })
}

// ImportPEFTSet makes one skillset of several LoRA folders: side by side ("combination": "set"), or merged ("linear", "cat", "ties",
// "dare_linear", "dare_ties", "magnitude_prune", with "weights" and "density").
func ImportPEFTSet(model *Backbone, folders []string, options any) (*Skillset, error) {
	text, err := configText(options)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if _, err := named("folders", folder); err != nil {
			return nil, err
		}
	}
	return skillsetOf(model.inner(), func(m uintptr, out *uintptr) uintptr {
		return native.Polyad_skillset_import_peft_set(m, strings.Join(folders, "\x00"), text, out)
	})
}

func (s *Skillset) inner() *handle {
	if s == nil {
		return nil
	}
	return s.handle
}

// Close gives the skillset up; an engine goes on serving what was published.
func (s *Skillset) Close() error {
	s.inner().close()
	return nil
}

// Save writes the bundle atomically: readers see the old file or the new one.
func (s *Skillset) Save(path string) error {
	path, err := named("path", path)
	if err != nil {
		return err
	}
	return s.inner().use(func(ticket uintptr) uintptr { return native.Polyad_skillset_save(ticket, path) })
}

// Bytes gives the bundle in memory.
func (s *Skillset) Bytes() ([]byte, error) {
	text, err := s.inner().text(native.Polyad_skillset_save_memory)
	if err != nil {
		return nil, err
	}
	return []byte(text), nil
}

// Info is JSON: the configuration with all defaults filled in, tasks, parameters, skills, sites, metadata.
func (s *Skillset) Info() (json.RawMessage, error) {
	text, err := s.inner().text(native.Polyad_skillset_info)
	return json.RawMessage(text), err
}

// TaskNames lists the tasks of the table.
func (s *Skillset) TaskNames() ([]string, error) {
	var info struct {
		Tasks []struct {
			Name string `json:"name"`
		} `json:"tasks"`
	}
	text, err := s.Info()
	if err = decode(string(text), err, &info); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(info.Tasks))
	for _, task := range info.Tasks {
		names = append(names, task.Name)
	}
	return names, nil
}

// AddTask adds a task of a dataset for few-shot training. start: "fresh" or "uniform".
func (s *Skillset) AddTask(tasks *Dataset, task, start string) error {
	task, err := named("task", task)
	if err != nil {
		return err
	}
	if start, err = checked("start", start); err != nil {
		return err
	}
	return use2(s.inner(), tasks.inner(), false, func(skills, data uintptr) uintptr {
		return native.Polyad_skillset_add_task(skills, data, task, start)
	})
}

// floats asks twice where the first buffer was too small.
func (s *Skillset) floats(call func(ticket uintptr, values []float32, count *uint64) uintptr) ([]float32, error) {
	values := make([]float32, 64)
	for {
		var count uint64
		if err := s.inner().use(func(ticket uintptr) uintptr { return call(ticket, values, &count) }); err != nil {
			return nil, err
		}
		if count <= uint64(len(values)) {
			return values[:count], nil
		}
		values = make([]float32, count)
	}
}

// TaskWeights gives the skill weights of a task in use, averaged over sites. Errors: ErrUnknownTask.
func (s *Skillset) TaskWeights(task string) ([]float32, error) {
	task, err := named("task", task)
	if err != nil {
		return nil, err
	}
	return s.floats(func(ticket uintptr, values []float32, count *uint64) uintptr {
		return native.Polyad_skillset_task_weights(ticket, task, values, count)
	})
}

// Derive makes a new skillset from parts of this one, which stays as it is. options: {"form": "copy" | "squeeze" | "second_stage" |
// "keep_moe_route" | "avg", "task", "changes"}. Errors: ErrInvalidConfig, ErrUnknownTask, ErrUnsupported (a method that has no such form).
func (s *Skillset) Derive(options any) (*Skillset, error) {
	text, err := configText(options)
	if err != nil {
		return nil, err
	}
	return skillsetOf(s.inner(), func(skills uintptr, out *uintptr) uintptr { return native.Polyad_skillset_derive(skills, text, out) })
}

// Routing is what the router has learned, as JSON: load per skill, dead skills, usage, entropy, per layer and task. Methods routed by
// task need no dataset (nil).
func (s *Skillset) Routing(tasks *Dataset, options any) (json.RawMessage, error) {
	text, err := configText(options)
	if err != nil {
		return nil, err
	}
	var out uintptr
	err = use2(s.inner(), tasks.inner(), true, func(skills, data uintptr) uintptr {
		return native.Polyad_skillset_routing(skills, data, text, &out)
	})
	if err != nil {
		return nil, err
	}
	return json.RawMessage(takeText(out)), nil
}

// SetEncoder gives MoR1E's intuition an opened sentence encoder. Errors: ErrBackboneMismatch, ErrUnsupported, ErrWrongState.
func (s *Skillset) SetEncoder(encoder *Backbone) error {
	return use2(s.inner(), encoder.inner(), false, native.Polyad_skillset_set_encoder)
}

// Intuition is what a prompt's text scores against MoR1E's clusters; empty when the skillset has none.
func (s *Skillset) Intuition(instruction, input string) ([]float32, error) {
	instruction, err := checked("instruction", instruction)
	if err != nil {
		return nil, err
	}
	if input, err = named("input", input); err != nil {
		return nil, err
	}
	return s.floats(func(ticket uintptr, values []float32, count *uint64) uintptr {
		return native.Polyad_skillset_intuition(ticket, instruction, input, values, count)
	})
}

// SetMetadata keeps a value of the host's own in the bundle.
func (s *Skillset) SetMetadata(key string, value any) error {
	text, err := configText(value)
	if err != nil {
		return err
	}
	if text == "" {
		text = "null"
	}
	if key, err = named("key", key); err != nil {
		return err
	}
	return s.inner().use(func(ticket uintptr) uintptr { return native.Polyad_skillset_set_metadata(ticket, key, text) })
}

// Parameters gives all trainable parameters as one flat buffer in bundle order.
func (s *Skillset) Parameters() ([]float32, error) {
	var count uint64
	if err := s.inner().use(func(ticket uintptr) uintptr { return native.Polyad_skillset_parameter_count(ticket, &count) }); err != nil {
		return nil, err
	}
	values := make([]float32, count)
	err := s.inner().use(func(ticket uintptr) uintptr { return native.Polyad_skillset_get_parameters(ticket, values) })
	if err != nil {
		return nil, err
	}
	return values, nil
}

// SetParameters replaces them. Errors: ErrInvalidArgument names both numbers when the length is not theirs.
func (s *Skillset) SetParameters(values []float32) error {
	return s.inner().use(func(ticket uintptr) uintptr { return native.Polyad_skillset_set_parameters(ticket, values) })
}

// ExportPEFT writes a Hugging Face PEFT folder: one task as plain LoRA, or ("") the whole skillset as PEFT's own kind.
func (s *Skillset) ExportPEFT(task, folder string, options any) error {
	return s.export(native.Polyad_skillset_export_peft, task, folder, options)
}

// ExportGGUF writes one GGUF file that llama.cpp takes as a LoRA.
func (s *Skillset) ExportGGUF(task, path string, options any) error {
	return s.export(native.Polyad_skillset_export_gguf, task, path, options)
}

func (s *Skillset) export(call func(uintptr, string, string, string) uintptr, task, path string, options any) error {
	text, err := configText(options)
	if err != nil {
		return err
	}
	if task, err = checked("task", task); err != nil {
		return err
	}
	if path, err = named("path", path); err != nil {
		return err
	}
	return s.inner().use(func(ticket uintptr) uintptr { return call(ticket, task, path, text) })
}

// InspectBundle tells what a bundle holds without its model, as JSON.
func InspectBundle(path string) (json.RawMessage, error) {
	path, err := named("path", path)
	if err != nil {
		return nil, err
	}
	runtime, err := runtimeOf(nil)
	if err != nil {
		return nil, err
	}
	text, err := runtime.text(func(ticket uintptr, out *uintptr) uintptr { return native.Polyad_bundle_inspect(ticket, path, out) })
	return json.RawMessage(text), err
}
