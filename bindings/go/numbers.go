// SPDX-License-Identifier: Apache-2.0

package polyad

import "polyad.dev/polyad/internal/native"

// The constants of this package beside what polyad.h says; the tests compare them. (SWIG gives variables, Go wants constants.)
var headerNumbers = []struct{ here, header int }{
	{int(InvalidArgument), int(native.POLYAD_INVALID_ARGUMENT)},
	{int(InvalidConfig), int(native.POLYAD_INVALID_CONFIG)},
	{int(NotFound), int(native.POLYAD_NOT_FOUND)},
	{int(IOError), int(native.POLYAD_IO_ERROR)},
	{int(BadFormat), int(native.POLYAD_BAD_FORMAT)},
	{int(Unsupported), int(native.POLYAD_UNSUPPORTED)},
	{int(BackboneMismatch), int(native.POLYAD_BACKBONE_MISMATCH)},
	{int(UnknownTask), int(native.POLYAD_UNKNOWN_TASK)},
	{int(BadData), int(native.POLYAD_BAD_DATA)},
	{int(ContextOverflow), int(native.POLYAD_CONTEXT_OVERFLOW)},
	{int(NumericError), int(native.POLYAD_NUMERIC_ERROR)},
	{int(Cancelled), int(native.POLYAD_CANCELLED)},
	{int(WrongState), int(native.POLYAD_WRONG_STATE)},
	{int(OutOfMemory), int(native.POLYAD_OUT_OF_MEMORY)},
	{int(QueueFull), int(native.POLYAD_QUEUE_FULL)},
	{int(Internal), int(native.POLYAD_INTERNAL)},
	{int(LogDebug), int(native.POLYAD_LOG_DEBUG)},
	{int(LogInfo), int(native.POLYAD_LOG_INFO)},
	{int(LogWarning), int(native.POLYAD_LOG_WARNING)},
	{int(LogError), int(native.POLYAD_LOG_ERROR)},
	{int(TrainSplit), int(native.POLYAD_TRAIN)},
	{int(ValidationSplit), int(native.POLYAD_VALIDATION)},
	{int(TestSplit), int(native.POLYAD_TEST)},
	{int(AnswerWaiting), int(native.POLYAD_REQUEST_WAITING)},
	{int(AnswerRunning), int(native.POLYAD_REQUEST_RUNNING)},
	{int(AnswerFinished), int(native.POLYAD_REQUEST_FINISHED)},
	{int(AnswerCancelled), int(native.POLYAD_REQUEST_CANCELLED)},
	{int(AnswerFailed), int(native.POLYAD_REQUEST_FAILED)},
	{int(AnswerExpired), int(native.POLYAD_REQUEST_EXPIRED)},
}
