// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"encoding/json"
	"runtime"
	"strings"
	"sync"

	"polyad.dev/polyad/internal/native"
)

// handle owns one reference of the library. Calls hold it while they run, so Close may come at any time from any goroutine: the
// reference is dropped with the last call.
type handle struct {
	mu      sync.Mutex
	ticket  uintptr
	calls   int
	closed  bool
	release func(uintptr)
}

// newHandle takes the reference over; one that is never closed goes with the garbage collector.
func newHandle(ticket uintptr, release func(uintptr)) *handle {
	h := &handle{ticket: ticket, release: release}
	runtime.SetFinalizer(h, func(h *handle) { h.close() })
	return h
}

func (h *handle) enter() (uintptr, error) {
	if h == nil {
		return 0, invalid("nil: this value was never opened")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, ErrClosed
	}
	h.calls++
	return h.ticket, nil
}

func (h *handle) leave() {
	h.mu.Lock()
	h.calls--
	h.freeIfOver()
	h.mu.Unlock()
}

// close is what Close does; a second one does nothing.
func (h *handle) close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	h.closed = true
	h.freeIfOver()
	h.mu.Unlock()
}

func (h *handle) freeIfOver() {
	if h.closed && h.calls == 0 && h.ticket != 0 {
		runtime.SetFinalizer(h, nil)
		h.release(h.ticket)
		h.ticket = 0
	}
}

// use runs one call with the handle's ticket; it cannot be freed meanwhile.
func (h *handle) use(call func(ticket uintptr) uintptr) error {
	ticket, err := h.enter()
	if err != nil {
		return err
	}
	defer h.leave()
	return check(call(ticket))
}

// use2 holds two handles; the second may be nil where optional is true, and then counts as the library's NULL.
func use2(first, second *handle, optional bool, call func(first, second uintptr) uintptr) error {
	var other uintptr
	if second != nil || !optional {
		ticket, err := second.enter()
		if err != nil {
			return err
		}
		defer second.leave()
		other = ticket
	}
	return first.use(func(ticket uintptr) uintptr { return call(ticket, other) })
}

// takeText copies a text of the library and drops it.
func takeText(text uintptr) string {
	if text == 0 {
		return ""
	}
	defer native.Polyad_text_release(text)
	return native.Polyad_text_data(text)
}

func (h *handle) text(call func(ticket uintptr, out *uintptr) uintptr) (string, error) {
	var out uintptr
	if err := h.use(func(ticket uintptr) uintptr { return call(ticket, &out) }); err != nil {
		return "", err
	}
	return takeText(out), nil
}

// decode reads what the library says as JSON into a value.
func decode(text string, err error, value any) error {
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), value); err != nil {
		return &Error{Code: Internal, Message: "the library's JSON cannot be read: " + err.Error()}
	}
	return nil
}

// Config is a configuration as the library documents it (docs/configuration.md), checked there key by key.
type Config map[string]any

// configText accepts nil, a Config, any value encoding/json can write, or JSON text (string, []byte, json.RawMessage).
func configText(config any) (string, error) {
	switch value := config.(type) {
	case nil:
		return "", nil
	case string:
		return checked("configuration", value)
	case []byte:
		return checked("configuration", string(value))
	case json.RawMessage:
		return checked("configuration", string(value))
	case Config:
		if value == nil {
			return "", nil
		}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return "", &Error{Code: InvalidConfig, Message: "the configuration cannot be written as JSON: " + err.Error()}
	}
	if string(text) == "null" {
		return "", nil
	}
	return string(text), nil
}

// checked refuses what a C string cannot hold.
func checked(what, text string) (string, error) {
	if i := strings.IndexByte(text, 0); i >= 0 {
		return "", invalid("%s: a NUL byte at offset %d; names, paths and JSON must not hold one", what, i)
	}
	return text, nil
}

// named is checked, and not empty.
func named(what, text string) (string, error) {
	if text == "" {
		return "", invalid("%s: empty", what)
	}
	return checked(what, text)
}
