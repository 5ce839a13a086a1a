// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"sync"

	"polyad.dev/polyad/internal/native"
)

// LogLevel is how grave a message is.
type LogLevel int

// The levels of messages.
const (
	LogDebug LogLevel = iota
	LogInfo
	LogWarning
	LogError
)

var logging struct {
	sync.Mutex
	over chan struct{} // closed by the reading goroutine
}

// SetLog gives the program's messages to a function; nil silences (the default). It runs on a goroutine of its own: it may block, call
// this package, or panic, which is caught and only loses that message.
func SetLog(sink func(LogLevel, string)) error {
	if err := ready(); err != nil {
		return err
	}
	logging.Lock()
	defer logging.Unlock()
	if logging.over != nil {
		native.Polyad_binding_log_enable(0)
		<-logging.over
		logging.over = nil
	}
	if sink == nil {
		return nil
	}
	native.Polyad_binding_log_enable(1)
	over := make(chan struct{})
	logging.over = over
	go func() {
		defer close(over)
		for {
			var message uintptr
			level := native.Polyad_binding_log_next(&message)
			if level < 0 {
				return
			}
			text := native.Polyad_binding_log_text(message)
			native.Polyad_binding_log_free(message)
			tell(sink, LogLevel(level), text)
		}
	}()
	return nil
}

func tell(sink func(LogLevel, string), level LogLevel, text string) {
	defer func() { _ = recover() }()
	sink(level, text)
}
