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
	sink    func(LogLevel, string)
	reading bool // a goroutine runs readLog
}

// SetLog gives the program's messages to a function; nil silences (the default). It runs on a goroutine of its own: it may block, call
// this package, SetLog included, or panic, which is caught and only loses that message. A call of the earlier function may still be
// running when SetLog returns.
func SetLog(sink func(LogLevel, string)) error {
	if err := ready(); err != nil {
		return err
	}
	logging.Lock()
	defer logging.Unlock()
	logging.sink = sink
	if sink == nil {
		native.Polyad_binding_log_enable(0)
		return nil
	}
	native.Polyad_binding_log_enable(1)
	if !logging.reading {
		logging.reading = true
		go readLog()
	}
	return nil
}

// readLog hands messages on until there is no sink and no message.
func readLog() {
	for {
		var message uintptr
		level := native.Polyad_binding_log_next(&message)
		text := ""
		if level >= 0 {
			text = native.Polyad_binding_log_text(message)
			native.Polyad_binding_log_free(message)
		}
		logging.Lock()
		sink := logging.sink
		if level < 0 && sink == nil {
			logging.reading = false
			logging.Unlock()
			return
		}
		logging.Unlock()
		if level >= 0 && sink != nil {
			tell(sink, LogLevel(level), text)
		}
	}
}

func tell(sink func(LogLevel, string), level LogLevel, text string) {
	defer func() { _ = recover() }()
	sink(level, text)
}
