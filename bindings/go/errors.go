// SPDX-License-Identifier: Apache-2.0

package polyad

import (
	"errors"
	"fmt"

	"polyad.dev/polyad/internal/native"
)

// Code says what kind of error it was. Codes are only ever added.
type Code int

// The codes of the library.
const (
	InvalidArgument  Code = 1  // an argument, option or id out of its allowed range
	InvalidConfig    Code = 2  // configuration: unknown key, wrong type, bad range
	NotFound         Code = 3  // a file, site, skillset or tensor that does not exist
	IOError          Code = 4  // the operating system refused to read or write
	BadFormat        Code = 5  // a damaged or hostile file
	Unsupported      Code = 6  // well-formed, but not something this build can do
	BackboneMismatch Code = 7  // a bundle made for another base model
	UnknownTask      Code = 8  // a task outside the task table
	BadData          Code = 9  // a dataset row or text that cannot be used
	ContextOverflow  Code = 10 // text longer than the model or the cache can hold
	NumericError     Code = 11 // NaN or infinity where training or scoring needs a number
	Cancelled        Code = 12 // stopped by a cancel, or by the end of a context
	WrongState       Code = 13 // not allowed now: finished, retired, used by another call at this moment
	OutOfMemory      Code = 14
	QueueFull        Code = 15 // the engine's queue is full: try again after some steps
	Internal         Code = 99 // a bug in Polyad: please report it
)

var codeNames = map[Code]string{
	InvalidArgument: "invalid_argument", InvalidConfig: "invalid_config", NotFound: "not_found", IOError: "io_error", BadFormat: "bad_format",
	Unsupported: "unsupported", BackboneMismatch: "backbone_mismatch", UnknownTask: "unknown_task", BadData: "bad_data",
	ContextOverflow: "context_overflow", NumericError: "numeric_error", Cancelled: "cancelled", WrongState: "wrong_state",
	OutOfMemory: "out_of_memory", QueueFull: "queue_full", Internal: "internal",
}

// String is the code's name, "unknown_task" for UnknownTask.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("code %d", int(c))
}

// Error is what the library said: what was wrong and what is allowed, and where.
type Error struct {
	Code    Code
	Message string
	Detail  string // file and offset, configuration key, tensor, task, row; may be ""
	cause   error  // a context's own error
}

func (e *Error) Error() string { return "polyad: " + e.Code.String() + ": " + e.Message }

// Is compares codes, so that errors.Is(err, ErrUnknownTask) holds for every unknown task.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// Unwrap gives the context's error where one ended the call: errors.Is(err, context.DeadlineExceeded) holds.
func (e *Error) Unwrap() error { return e.cause }

// One value per code, for errors.Is.
var (
	ErrInvalidArgument  = &Error{Code: InvalidArgument, Message: "invalid argument"}
	ErrInvalidConfig    = &Error{Code: InvalidConfig, Message: "invalid configuration"}
	ErrNotFound         = &Error{Code: NotFound, Message: "not found"}
	ErrIO               = &Error{Code: IOError, Message: "input or output failed"}
	ErrBadFormat        = &Error{Code: BadFormat, Message: "damaged file"}
	ErrUnsupported      = &Error{Code: Unsupported, Message: "unsupported"}
	ErrBackboneMismatch = &Error{Code: BackboneMismatch, Message: "made for another backbone"}
	ErrUnknownTask      = &Error{Code: UnknownTask, Message: "unknown task"}
	ErrBadData          = &Error{Code: BadData, Message: "unusable data"}
	ErrContextOverflow  = &Error{Code: ContextOverflow, Message: "longer than the model's context"}
	ErrNumeric          = &Error{Code: NumericError, Message: "not a finite number"}
	ErrCancelled        = &Error{Code: Cancelled, Message: "cancelled"}
	ErrWrongState       = &Error{Code: WrongState, Message: "not allowed now"}
	ErrOutOfMemory      = &Error{Code: OutOfMemory, Message: "out of memory"}
	ErrQueueFull        = &Error{Code: QueueFull, Message: "the queue is full"}
	ErrInternal         = &Error{Code: Internal, Message: "internal error"}
)

// ErrClosed is what a value gives that was closed; errors.Is(err, ErrWrongState) holds for it too.
var ErrClosed error = &closedError{}

type closedError struct{}

func (*closedError) Error() string { return "polyad: wrong_state: the value was closed" }
func (*closedError) Is(target error) bool {
	return target == error(ErrWrongState)
}

// ErrLibrary is wrapped by every failure to find or load the shared library, or one whose version does not fit.
var ErrLibrary = errors.New("polyad: the shared library cannot be used")

func invalid(format string, values ...any) error {
	return &Error{Code: InvalidArgument, Message: fmt.Sprintf(format, values...)}
}

// check turns a status of the library into an error and drops it.
func check(status uintptr) error {
	if status == 0 {
		return nil
	}
	err := &Error{
		Code:    Code(native.Polyad_status_code(status)),
		Message: native.Polyad_status_message(status),
		Detail:  native.Polyad_status_detail(status),
	}
	native.Polyad_status_release(status)
	return err
}
