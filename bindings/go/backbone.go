// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"sync"

	"polyad.dev/polyad/internal/native"
)

// Runtime holds thread and device settings of what is opened through it. Most programs need none: nil everywhere means one with the
// library's defaults, shared by the whole program.
type Runtime struct{ handle *handle }

// RuntimeOptions are the settings of a Runtime.
type RuntimeOptions struct {
	Threads      int    // worker threads of one call; 0 = the library's choice
	Device       string // "cpu", "cuda" or "cuda:N"; "" = "cpu"
	MemoryBudget uint64 // bytes of a CUDA device; 0 = all that is free
}

// NewRuntime makes a runtime of its own.
func NewRuntime(options RuntimeOptions) (*Runtime, error) {
	if err := ready(); err != nil {
		return nil, err
	}
	threads, err := int32Of("Threads", options.Threads)
	if err != nil {
		return nil, err
	}
	raw := native.NewPolyad_context_options()
	defer native.DeletePolyad_context_options(raw)
	raw.SetThreads(threads)
	device, err := checked("Device", options.Device)
	if err != nil {
		return nil, err
	}
	if device != "" {
		raw.SetDevice(device)
	}
	raw.SetMemory_budget(options.MemoryBudget)
	var ticket uintptr
	if err := check(native.Polyad_context_create(raw, &ticket)); err != nil {
		return nil, err
	}
	return &Runtime{newHandle(ticket, native.Polyad_context_release)}, nil
}

// Close gives the runtime up; what was opened through it goes on.
func (r *Runtime) Close() error {
	if r != nil {
		r.handle.close()
	}
	return nil
}

var shared struct {
	sync.Mutex
	runtime *Runtime
}

// runtimeOf gives the runtime to open something with, the program's own where none is named.
func runtimeOf(r *Runtime) (*handle, error) {
	if err := ready(); err != nil {
		return nil, err
	}
	if r != nil {
		return r.handle, nil
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.runtime == nil {
		made, err := NewRuntime(RuntimeOptions{})
		if err != nil {
			return nil, err
		}
		shared.runtime = made
	}
	return shared.runtime.handle, nil
}

func int32Of(what string, value int) (int, error) {
	if int64(value) != int64(int32(value)) {
		return 0, invalid("%s: %d is outside 32 bits", what, value)
	}
	return value, nil
}

// Backbone is a frozen base model. Immutable: any number of goroutines may use it at once.
type Backbone struct{ handle *handle }

// BackboneOptions say how to open a model; nil or zero fields leave the choice to the library.
type BackboneOptions struct {
	Precision string   `json:"precision,omitempty"` // "auto", "fp32" or "bf16"
	Weights   string   `json:"weights,omitempty"`   // "auto", "packed" or "expanded"
	Runtime   *Runtime `json:"-"`
}

// OpenBackbone opens a GGUF file or a Hugging Face folder. Errors: ErrNotFound, ErrIO, ErrBadFormat, ErrUnsupported, ErrInvalidConfig.
func OpenBackbone(path string, options *BackboneOptions) (*Backbone, error) {
	path, err := named("path", path)
	if err != nil {
		return nil, err
	}
	return openBackbone(options, func(runtime uintptr, config string, out *uintptr) uintptr {
		return native.Polyad_backbone_open(runtime, path, config, out)
	})
}

// OpenBackboneBytes opens a GGUF file in memory; the bytes are copied.
func OpenBackboneBytes(gguf []byte, options *BackboneOptions) (*Backbone, error) {
	return openBackbone(options, func(runtime uintptr, config string, out *uintptr) uintptr {
		return native.Polyad_backbone_open_memory(runtime, notEmpty(gguf), config, out)
	})
}

// notEmpty keeps the library from taking nothing for a missing pointer.
func notEmpty(bytes []byte) []byte {
	if len(bytes) == 0 {
		return make([]byte, 0, 1)
	}
	return bytes
}

func openBackbone(options *BackboneOptions, call func(runtime uintptr, config string, out *uintptr) uintptr) (*Backbone, error) {
	var wanted *Runtime
	if options != nil {
		wanted = options.Runtime
	}
	opened, err := openWith(wanted, options, native.Polyad_backbone_release, call)
	if err != nil {
		return nil, err
	}
	return &Backbone{opened}, nil
}

// openWith opens something through a runtime (nil: the program's own) with options as JSON.
func openWith(wanted *Runtime, options any, release func(uintptr), call func(runtime uintptr, config string, out *uintptr) uintptr) (*handle, error) {
	config, err := configText(options)
	if err != nil {
		return nil, err
	}
	runtime, err := runtimeOf(wanted)
	if err != nil {
		return nil, err
	}
	var ticket uintptr
	if err := runtime.use(func(r uintptr) uintptr { return call(r, config, &ticket) }); err != nil {
		return nil, err
	}
	return newHandle(ticket, release), nil
}

func (b *Backbone) inner() *handle {
	if b == nil {
		return nil
	}
	return b.handle
}

// Close gives the model up. What was made from it keeps it alive.
func (b *Backbone) Close() error {
	b.inner().close()
	return nil
}

// Site is one adapted place of a model: a linear.
type Site struct {
	Path  string `json:"path"`
	Layer int    `json:"layer"`
	DIn   int    `json:"d_in"`
	DOut  int    `json:"d_out"`
}

// BackboneInfo describes a model.
type BackboneInfo struct {
	Name        string `json:"name"`
	Family      string `json:"family"`
	Fingerprint string `json:"fingerprint"`
	Layers      int    `json:"layers"`
	Width       int    `json:"width"`
	Vocab       int    `json:"vocab"`
	Context     int    `json:"context"`
	Parameters  int64  `json:"parameters"`
	Precision   string `json:"precision"`
	Weights     string `json:"weights"`
	Sites       []Site `json:"sites"`
}

// Info describes the model.
func (b *Backbone) Info() (BackboneInfo, error) {
	var info BackboneInfo
	text, err := b.inner().text(native.Polyad_backbone_info)
	err = decode(text, err, &info)
	return info, err
}

// Tokenize gives a text's token ids, without BOS or EOS. Errors: ErrBadData (invalid UTF-8), ErrUnsupported (no tokenizer).
func (b *Backbone) Tokenize(text string) ([]int32, error) {
	if text == "" {
		return []int32{}, nil
	}
	ids := make([]int32, len(text)/2+8)
	for {
		var count uint64
		err := b.inner().use(func(ticket uintptr) uintptr { return native.Polyad_backbone_tokenize(ticket, text, ids, &count) })
		if err != nil {
			return nil, err
		}
		if count <= uint64(len(ids)) {
			return ids[:count], nil
		}
		ids = make([]int32, count)
	}
}

// Detokenize gives the text of token ids. Errors: ErrInvalidArgument (an id outside the vocabulary).
func (b *Backbone) Detokenize(ids []int32, skipSpecial bool) (string, error) {
	return b.inner().text(func(ticket uintptr, out *uintptr) uintptr {
		return native.Polyad_backbone_detokenize(ticket, ids, number(skipSpecial), out)
	})
}

func number(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant"
	Content string `json:"content"`
}

// Chat renders the model's chat template.
func (b *Backbone) Chat(messages []Message, addGenerationPrompt bool) (string, error) {
	text, err := configText(messages)
	if err != nil {
		return "", err
	}
	return b.inner().text(func(ticket uintptr, out *uintptr) uintptr {
		return native.Polyad_backbone_chat(ticket, text, number(addGenerationPrompt), out)
	})
}

// Logits fills `logits` (as long as the vocabulary) with what follows the ids, under a task of a skillset; nil and "" = the model
// alone. Errors: ErrInvalidArgument, ErrContextOverflow, ErrUnknownTask.
func (b *Backbone) Logits(skills *Skillset, task string, ids []int32, logits []float32) error {
	task, err := checked("task", task)
	if err != nil {
		return err
	}
	return use2(b.inner(), skills.inner(), true, func(model, skillset uintptr) uintptr {
		return native.Polyad_backbone_logits(model, skillset, task, ids, logits)
	})
}
